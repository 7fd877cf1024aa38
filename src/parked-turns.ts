/**
 * When an endpoint's parked jobs have their turns: a few spans of time, between which others' jobs lie. Pure.
 */

/** From the first to the last of some turns, epoch ms. */
export interface Span {
  readonly first: number;
  readonly last: number;
}

const GAP_MS = 1000; // 1 s: spans that are nearer to each other than that are one
const MAX_SPANS = 8; // of an endpoint; the last two become one when there are more

export class ParkedTurns {
  #spans: readonly Span[] = []; // in order, apart from each other

  /** Turns were given out. Those whose time has come make room for them: their jobs are back by themselves. */
  add(span: Span, nowMs: number): void {
    const ahead = this.#spans.filter(({ last }) => last >= nowMs);
    const rest = ahead.map(({ first, last }) => ({ first: Math.max(first, nowMs), last }));
    const spans: Span[] = [];
    for (const next of [...rest, span].sort((a, b) => a.first - b.first)) {
      const previous = spans.at(-1);
      const isNear = previous !== undefined && (next.first <= previous.last + GAP_MS || spans.length === MAX_SPANS);
      if (isNear) spans.push(join(spans.pop() as Span, next));
      else spans.push(next);
    }
    this.#spans = spans;
  }

  /** The first span that ends after a time; undefined when there is none. */
  after(ms: number): Span | undefined {
    return this.#spans.find(({ last }) => last > ms);
  }

  /** Forget a span that {@link ParkedTurns.after} gave. */
  drop(span: Span): void {
    this.#spans = this.#spans.filter((other) => other !== span);
  }
}

function join(a: Span, b: Span): Span {
  return { first: a.first, last: Math.max(a.last, b.last) };
}
