/**
 * Pacing: when parked jobs return, so that they arrive at the pace of their endpoint. Virtual scheduling, as in GCRA. Pure, on the
 * monotonic clock.
 */
const MAX_USERS = 64; // users with a schedule of their own; all others share as many

/** Assigns return times to one endpoint's parked jobs. All its users get equal shares. */
export class Schedule {
  readonly #nextAt = new Map<string, number>(); // by user, or by shared schedule: the earliest free return time

  /**
   * Reserve a user's next return time.
   *
   * @param fromMs     earliest return time
   * @param spacingMs  average time between two returns, over all users
   * @param latestMs   latest return time
   * @returns undefined when the next one is later than `latestMs`
   */
  next(user: string, fromMs: number, spacingMs: number, latestMs: number): number | undefined {
    for (const [other, nextAt] of this.#nextAt) if (nextAt <= fromMs) this.#nextAt.delete(other);
    const isOwn = this.#nextAt.has(user) || this.#nextAt.size < MAX_USERS;
    const key = isOwn ? user : `shared ${Bun.hash.crc32(user) % MAX_USERS}`;
    const at = this.#nextAt.get(key) ?? fromMs + spacingMs * this.#nextAt.size;
    if (at > latestMs) return undefined;
    const users = this.#nextAt.size + (this.#nextAt.has(key) ? 0 : 1);
    this.#nextAt.set(key, at + spacingMs * users);
    return at;
  }
}

/** Rate-limits the return of jobs whose return time cannot be computed, and which come back only to be checked again. */
export class Revisits {
  #nextAt = 0;

  constructor(private readonly spacingMs: number) {}

  /** Reserve the next return. Returns how much later than asked for it is. */
  lagMs(nowMs: number): number {
    const at = Math.max(this.#nextAt, nowMs);
    this.#nextAt = at + this.spacingMs;
    return at - nowMs;
  }
}
