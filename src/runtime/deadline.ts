/**
 * A promise's value if it comes in time, else `fallback`; also when it fails. For questions whose answer must not hang,
 * such as probes: Valkey commands wait while Valkey is away.
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

const MIN_LOCK_MS = 15 * 1000; // 15 s: with a stall check every 5 s, a killed worker's jobs run again within 25 s

/**
 * How long a job's lock lasts without being renewed, ms: longer than an attempt, so that no attempt outlives it.
 *
 * @param timeoutMs  deadline of one attempt
 */
export function lockMsFor(timeoutMs: number): number {
  return Math.max(MIN_LOCK_MS, timeoutMs * 1.5);
}
