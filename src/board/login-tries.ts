/**
 * Wrong passwords by where they come from, and how long the next one has to wait. Pure: the clock is handed in.
 */

const FREE = 10; // wrong tries that cost nothing: slips of the finger, and a page whose parts are all asked for at once
const FIRST_DELAY_MS = 1000; // 1 s, doubled by each further wrong try
const MAX_DELAY_MS = 60 * 1000; // 1 min: 1,440 tries a day
const FORGET_MS = 15 * 60 * 1000; // 15 min without a wrong try
const MAX_PLACES = 10_000; // remembered, some 2 MB: beyond it, the one that has been quiet for longest is forgotten

interface Tries {
  count: number;
  /** When the last wrong one came, ms. */
  lastAt: number;
  /** What it was. */
  last: string;
}

/** Counts wrong tries of each place by itself: whoever guesses delays nobody elsewhere, and takes no more memory than a list's. */
export class LoginTries {
  /** By place; the one with the oldest try first. */
  readonly #places = new Map<string, Tries>();

  /** @param now  ms of a clock that never goes back */
  constructor(private readonly now: () => number) {}

  /** How long this place has to wait before its next try is looked at, ms; 0 when it need not. */
  waitMs(place: string): number {
    const tries = this.#find(place);
    if (tries === undefined || tries.count < FREE) return 0;
    const delayMs = Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** (tries.count - FREE));
    return Math.max(0, tries.lastAt + delayMs - this.now());
  }

  /**
   * Count a wrong try. The same one again counts as one: that is no guessing but a program with an old password, and must not keep
   * out the people beside it.
   *
   * @param attempt  tells tries apart, without being one: a digest
   */
  add(place: string, attempt: string): void {
    const tries = this.#find(place) ?? { count: 0, lastAt: 0, last: "" };
    if (tries.last === attempt) return;
    this.#places.delete(place);
    this.#places.set(place, { count: tries.count + 1, lastAt: this.now(), last: attempt });
    if (this.#places.size > MAX_PLACES) this.#places.delete(this.#places.keys().next().value as string);
  }

  /** Whether this is what the place tried last, and was wrong. */
  isRepeated(place: string, attempt: string): boolean {
    return this.#find(place)?.last === attempt;
  }

  #find(place: string): Tries | undefined {
    const tries = this.#places.get(place);
    if (tries === undefined || this.now() - tries.lastAt < FORGET_MS) return tries;
    this.#places.delete(place);
    return undefined;
  }
}
