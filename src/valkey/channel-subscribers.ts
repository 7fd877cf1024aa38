/**
 * `hasSubscribers` of a tracing channel, which Node has since 22 and Bun 1.4 has not. Without it ioredis describes every
 * command, all of its arguments as text, to a channel that nobody listens to: a tenth of a delivery's cost.
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
