/** Epoch ms with fractions: Date.now() is too coarse for latencies of a few ms. */
export const epochMs = (): number => performance.timeOrigin + performance.now();

/**
 * The value below which a share of all values lies.
 *
 * @param share  in [0, 1]: 0.99 is the 99th percentile
 * @returns NaN when there are none
 */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

/** The middle value, or the mean of the two in the middle. NaN when there are none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.slice(Math.floor((sorted.length - 1) / 2), Math.floor(sorted.length / 2) + 1);
  return middle.reduce((sum, value) => sum + value, 0) / middle.length;
}
