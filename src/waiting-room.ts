/**
 * Where jobs wait for a moment, in the order in which they came, until their endpoint has room for them.
 */

/** One that waits in the line of `K`. */
export interface Waiter<K> {
  readonly line: K;
}

export class WaitingRoom<K, W extends Waiter<K>> {
  readonly #all = new Map<W, number>(); // oldest first, and since when, on the clock of performance.now()
  readonly #lines = new Map<K, Set<W>>(); // the same by line
  #sweeper: Timer | undefined;

  /**
   * @param maxWaitMs  how long one may wait
   * @param expired    called with each that has waited for so long and has left for that
   */
  constructor(
    private readonly maxWaitMs: number,
    private readonly expired: (waiter: W) => void,
  ) {}

  /** How many wait. */
  get size(): number {
    return this.#all.size;
  }

  /** How many wait in a line. */
  sizeOf(line: K): number {
    return this.#lines.get(line)?.size ?? 0;
  }

  /** Those in a line, in order; they may leave meanwhile. */
  lineOf(line: K): Iterable<W> {
    return this.#lines.get(line) ?? [];
  }

  enter(waiter: W): void {
    this.#all.set(waiter, performance.now());
    const line = this.#lines.get(waiter.line);
    if (line === undefined) this.#lines.set(waiter.line, new Set([waiter]));
    else line.add(waiter);
    this.#sweeper ??= setTimeout(this.#sweep, this.maxWaitMs);
  }

  leave(waiter: W): void {
    this.#all.delete(waiter);
    const line = this.#lines.get(waiter.line);
    line?.delete(waiter);
    if (line?.size === 0) this.#lines.delete(waiter.line);
  }

  /** One timer for all, since the first has waited for longest. */
  readonly #sweep = (): void => {
    this.#sweeper = undefined;
    for (const [waiter, since] of this.#all) {
      const leftMs = since + this.maxWaitMs - performance.now();
      if (leftMs > 0) {
        this.#sweeper = setTimeout(this.#sweep, leftMs);
        return;
      }
      this.leave(waiter);
      this.expired(waiter);
    }
  };
}
