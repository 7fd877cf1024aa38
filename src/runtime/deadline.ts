/**
 * A promise's value if it resolves in time; `fallback` if it is late or rejects. For probes and the like, which must not
 * hang: Valkey commands wait while Valkey is away.
 */
export async function within<T, F>(timeoutMs: number, promise: Promise<T>, fallback: F): Promise<T | F> {
  let timer: Timer | undefined;
  const deadline = new Promise<F>((resolve) => {
    timer = setTimeout(() => resolve(fallback), timeoutMs);
  });
  try {
    return await Promise.race([promise, deadline]);
  } catch {
    return fallback;
  } finally {
    clearTimeout(timer);
  }
}

/** The shortest lock, in ms. */
export const MIN_LOCK_MS = 15 * 1000; // 15 s: with a stall check every 5 s, a killed worker's jobs run again within 25 s
const LOCK_FACTOR = 1.5; // times the deadline of an attempt

/**
 * By how much a lock outlasts an attempt at the least, in ms, whatever the deadline. Half of it is for the job's way from Valkey to
 * the worker, half for what may hold up its attempt there: none of that may take longer.
 */
export const MIN_LOCK_SLACK_MS = MIN_LOCK_MS - MIN_LOCK_MS / LOCK_FACTOR;

/**
 * How long a job's lock lasts without renewal, ms: longer than an attempt, so that no attempt outlives its lock.
 *
 * @param timeoutMs  deadline of one attempt
 */
export function lockMsFor(timeoutMs: number): number {
  return Math.max(MIN_LOCK_MS, timeoutMs * LOCK_FACTOR);
}
