/**
 * The queue that a backend adds jobs to, opened on first use.
 */
import { openQueue, type Queue } from "../queue/worker.ts";
import { within } from "../runtime/deadline.ts";
import type { Valkey } from "../valkey/connection.ts";

const CLOSE_MS = 1000;

/** A queue opened on first use. If the connection is cut while it opens, it stays unusable, so the next use opens another. */
export function createLazyQueue(name: string, valkey: Valkey) {
  let opened: Queue | undefined;
  return {
    async use<T>(work: (queue: Queue) => Promise<T>): Promise<T> {
      const queue = opened ?? openQueue(name, valkey);
      if (opened === undefined) queue.on("error", () => {}); // the failing call reports it
      opened = queue;
      try {
        await queue.waitUntilReady();
      } catch (error) {
        if (opened === queue) opened = undefined;
        throw error;
      }
      return await work(queue);
    },
    async close(): Promise<void> {
      if (opened !== undefined) await within(CLOSE_MS, opened.close(), undefined);
    },
  };
}
