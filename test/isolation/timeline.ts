/** Virtual time: things that happen, in order; those of one moment in the order in which they were asked for. */
export class Timeline {
  /** Ms since the start. */
  nowMs = 0;
  /** Things that have happened. */
  steps = 0;
  readonly #at: number[] = []; // a binary heap in three arrays
  readonly #order: number[] = [];
  readonly #what: (() => void)[] = [];
  #asked = 0;

  at(ms: number, what: () => void): void {
    const [at, order, whats] = [this.#at, this.#order, this.#what];
    const when = Math.max(ms, this.nowMs);
    const number = this.#asked++;
    let i = at.length;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if ((at[parent] as number) <= when) break; // what was asked for earlier comes first
      at[i] = at[parent] as number;
      order[i] = order[parent] as number;
      whats[i] = whats[parent] as () => void;
      i = parent;
    }
    at[i] = when;
    order[i] = number;
    whats[i] = what;
  }

  after(ms: number, what: () => void): void {
    this.at(this.nowMs + ms, what);
  }

  /** When the next thing happens; infinite when nothing will. */
  get nextAt(): number {
    return this.#at[0] ?? Number.POSITIVE_INFINITY;
  }

  /** Let the next thing happen. */
  step(): void {
    const [at, order, whats] = [this.#at, this.#order, this.#what];
    const what = whats[0] as () => void;
    this.nowMs = at[0] as number;
    this.steps += 1;
    const [lastAt, lastOrder, last] = [at.pop() as number, order.pop() as number, whats.pop() as () => void];
    if (at.length > 0) this.#sink(lastAt, lastOrder, last);
    what();
  }

  #sink(lastAt: number, lastOrder: number, last: () => void): void {
    const [at, order, whats] = [this.#at, this.#order, this.#what];
    const isBefore = (a: number, b: number) =>
      at[a] === at[b] ? (order[a] as number) < (order[b] as number) : (at[a] as number) < (at[b] as number);
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= at.length) break;
      if (child + 1 < at.length && isBefore(child + 1, child)) child += 1;
      const isSettled = at[child] === lastAt ? (order[child] as number) > lastOrder : (at[child] as number) > lastAt;
      if (isSettled) break;
      at[i] = at[child] as number;
      order[i] = order[child] as number;
      whats[i] = whats[child] as () => void;
      i = child;
    }
    at[i] = lastAt;
    order[i] = lastOrder;
    whats[i] = last;
  }
}
