/**
 * Polyfill for `TracingChannel.hasSubscribers`, which Node has since version 22 and Bun 1.4 lacks. Without it ioredis formats
 * every command and its arguments for a channel without subscribers: a tenth of a delivery's cost.
 */
import { type TracingChannel, tracingChannel } from "node:diagnostics_channel";

const EVENTS = ["start", "end", "asyncStart", "asyncEnd", "error"] as const;

const prototype = Object.getPrototypeOf(tracingChannel("fluxhook"));
if (!("hasSubscribers" in prototype)) {
  Object.defineProperty(prototype, "hasSubscribers", {
    get(this: TracingChannel): boolean {
      return EVENTS.some((event) => this[event].hasSubscribers);
    },
  });
}
