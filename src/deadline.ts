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
