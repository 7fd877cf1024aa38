/**
 * How long a worker takes no jobs after Valkey refused one of its commands. Pure, apart from the monotonic clock.
 */

const MIN_PAUSE_MS = 500; // after a refusal; doubled each time
const MAX_PAUSE_MS = 5 * 1000; // 5 s: how long after Valkey's recovery we may notice

/** After a refusal, nothing is taken for a while, longer each time, then one job at a time until one is acknowledged. */
export class RefusalPause {
  /** How many error replies there were. */
  count = 0;
  #pauseMs = 0; // 0 while Valkey accepts
  #until = 0; // in terms of performance.now()

  /** Whether nothing was acknowledged since the last refusal. */
  get isRecent(): boolean {
    return this.#pauseMs > 0;
  }

  /** How much of the pause is left, ms; 0 or less when it is over. */
  get leftMs(): number {
    return this.#until - performance.now();
  }

  /** Valkey answered with an error. */
  refused(): void {
    this.count += 1;
    const nowMs = performance.now();
    if (nowMs < this.#until) return;
    this.#pauseMs = Math.min(MAX_PAUSE_MS, Math.max(MIN_PAUSE_MS, 2 * this.#pauseMs));
    this.#until = nowMs + this.#pauseMs;
  }

  /** A job was acknowledged, without a refusal meanwhile. */
  accepted(): void {
    this.#pauseMs = 0;
  }
}
