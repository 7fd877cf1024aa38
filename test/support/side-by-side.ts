/** Tests that may run next to each other: what each opens is its own, and ends with it. */

import { test } from "bun:test";
import { AsyncLocalStorage } from "node:async_hooks";

interface Stoppable {
  stop(): unknown;
}

const PATIENCE_MS = 90_000; // they share a core, on a machine that may be busy

const opened = new AsyncLocalStorage<Stoppable[]>();

/** Stop this at the end of the test that opened it; the last one first. */
export function keep<T extends Stoppable>(it: T): T {
  const own = opened.getStore();
  if (own === undefined) throw new Error("expected keep to be called within a test of sideBySide or alone");
  own.push(it);
  return it;
}

/** A test that mostly waits: it runs beside those next to it that are such, too. */
export const sideBySide = keeping(test.concurrent);

/** A test that keeps a core busy, or whose figures would suffer from others. */
export const alone = keeping(test);

function keeping(define: (title: string, run: () => Promise<void>, timeoutMs: number) => void) {
  return (title: string, run: () => Promise<unknown>, timeoutMs = PATIENCE_MS): void => {
    const within = () =>
      opened.run([], async () => {
        try {
          await run();
        } finally {
          for (const it of (opened.getStore() ?? []).reverse()) await it.stop();
        }
      });
    define(title, within, timeoutMs);
  };
}
