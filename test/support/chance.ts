/** Chance that can be repeated. */

export interface Chance {
  between(from: number, to: number): number;
  pick<T>(items: readonly T[]): T;
}

/** The same for the same seed (mulberry32). */
export function createChance(seed: number): Chance {
  let state = seed >>> 0;
  /** In [0, 1). */
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let bits = Math.imul(state ^ (state >>> 15), state | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    between: (from, to) => from + next() * (to - from),
    pick: (items) => items[Math.floor(next() * items.length)] as (typeof items)[number],
  };
}
