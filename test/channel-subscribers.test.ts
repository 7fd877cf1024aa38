import { expect, test } from "bun:test";
import { tracingChannel } from "node:diagnostics_channel";
import "../src/valkey/channel-subscribers.ts";

test("a tracing channel says whether somebody listens, and to whichever of its events", () => {
  for (const event of ["start", "end", "asyncStart", "asyncEnd", "error"] as const) {
    const channel = tracingChannel(`test:${event}`) as ReturnType<typeof tracingChannel> & { hasSubscribers: boolean };
    expect(channel.hasSubscribers).toBe(false);
    const listener = (): void => {};
    channel[event].subscribe(listener);
    expect(channel.hasSubscribers).toBe(true);
    channel[event].unsubscribe(listener);
    expect(channel.hasSubscribers).toBe(false);
  }
});
