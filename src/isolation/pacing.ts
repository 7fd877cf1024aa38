/**
 * Pacing: when jobs that may not go have their turns. Virtual scheduling, as in GCRA: turns follow each other at
 * the endpoint's pace, on average. Pure, on the monotonic clock.
 */
const MAX_USERS = 64; // with turns of their own; the others share theirs

/** The turns of one endpoint's jobs, of which its users have equal parts. */
export class Schedule {
  readonly #nextAt = new Map<string, number>(); // by user: when the next turn may be

  /**
   * The next turn of a user.
   *
   * @param fromMs     not before
   * @param spacingMs  from one turn to the next, on average over all users
   * @param latestMs   not after
   * @returns undefined when that would be later than `latestMs`
   */
  next(user: string, fromMs: number, spacingMs: number, latestMs: number): number | undefined {
    for (const [other, at] of this.#nextAt) if (at <= fromMs) this.#nextAt.delete(other);
    const key = this.#nextAt.has(user) || this.#nextAt.size < MAX_USERS ? user : "";
    const turn = this.#nextAt.get(key) ?? fromMs + spacingMs * this.#nextAt.size;
    if (turn > latestMs) return undefined;
    const users = this.#nextAt.size + (this.#nextAt.has(key) ? 0 : 1);
    this.#nextAt.set(key, turn + spacingMs * users);
    return turn;
  }
}

/** Spreads jobs whose turns cannot be known: so many of them a second come back to be looked at again. */
export class Revisits {
  #nextAt = 0;

  constructor(private readonly spacingMs: number) {}

  /** How much later than wanted the next of them comes. */
  lagMs(nowMs: number): number {
    const at = Math.max(this.#nextAt, nowMs);
    this.#nextAt = at + this.spacingMs;
    return at - nowMs;
  }
}
