/**
 * Work that a process does again and again beside its main work.
 */

/**
 * Call a function at intervals, but never before its last call has ended: while Valkey is away, commands would queue up. What it
 * rejects with is ignored, since the next call tries again. Does not keep the process alive.
 *
 * @param periodMs  between the starts of two calls; the first comes after one period
 * @returns stops calling it
 */
export function repeatEvery(periodMs: number, work: () => Promise<void>): () => void {
  let isWorking = false;
  const timer = setInterval(async () => {
    if (isWorking) return;
    isWorking = true;
    await work().catch(() => {});
    isWorking = false;
  }, periodMs);
  timer.unref();
  return () => clearInterval(timer);
}
