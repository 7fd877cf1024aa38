/** A steady load of events. */
import { bounded } from "./stack.ts";

/**
 * Enqueue so many events a second until the returned function is called, which resolves once Valkey has taken them all.
 *
 * @param limitMs  how long that may take
 * @param atEnd    gets what ends the load, if the test ends before
 */
export function startLoad(
  perSecond: number,
  enqueue: () => Promise<unknown>,
  { limitMs, atEnd }: { readonly limitMs: number; readonly atEnd: (end: () => void) => void },
): () => Promise<void> {
  const pending: Promise<unknown>[] = [];
  const since = performance.now();
  const timer = setInterval(() => {
    while (pending.length < ((performance.now() - since) / 1000) * perSecond) pending.push(enqueue());
  }, 10);
  const stop = (): void => clearInterval(timer);
  atEnd(stop);
  return async () => {
    stop();
    await bounded(Promise.all(pending), () => `Valkey to take ${pending.length} events`, limitMs);
  };
}
