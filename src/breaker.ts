/**
 * The circuit of one endpoint: opens after attempts without an answer, half-opens for one probe at a time.
 *
 * Only silence counts (timeouts, refused and reset connections, names that do not resolve, or that no resolver answers
 * for). An endpoint that answers, be it with 500, holds no slot for long, and its events should use the schedule they were
 * promised.
 */
import type { Line } from "./line.ts";

const FAILURES_TO_OPEN = 5; // in a row
const FIRST_OPEN_MS = 5 * 1000; // 5 s until the first probe; then twice as long each time
const MAX_OPEN_MS = 60 * 1000; // 1 min: how late we may notice that an endpoint is back
const MAX_PARK_MS = 10 * 60 * 1000; // 10 min

export class Breaker {
  #failures = 0;
  #openedAt = 0;
  /** 0 while the circuit is closed. */
  #openUntil = 0;
  #openMs = 0;
  /** The probe under way; 0 when there is none. */
  #probe = 0;
  #probes = 0; // so far
  #hasProber = false;

  get isOpen(): boolean {
    return this.#openUntil > 0;
  }

  /**
   * Ask for the probe of an open circuit.
   *
   * @returns the probe's number, to be given back with what came of it; 0 when none may go
   */
  admit(nowMs: number): number {
    if (nowMs < this.#openUntil || this.#probe > 0) return 0;
    this.#probes += 1;
    this.#probe = this.#probes;
    return this.#probe;
  }

  /**
   * The line of those who wait. The first comes back when the probe is due; the others spread over as long as the endpoint
   * has been away already, 10 min at most, so that each is parked once per doubling of the outage.
   */
  line(nowMs: number): Line {
    const startAt = Math.max(this.#openUntil, nowMs);
    const horizonAt = startAt + Math.min(MAX_PARK_MS, Math.max(this.#openMs, nowMs - this.#openedAt));
    const from = this.#hasProber || this.#probe > 0 ? horizonAt + 1 : startAt;
    const joined = (count: number) => {
      // The first of them is the prober, unless the circuit has opened anew since.
      if (count > 0 && startAt >= this.#openUntil) this.#hasProber = true;
    };
    return { owner: this, startAt, from, spacingMs: horizonAt - startAt, horizonAt, joined };
  }

  /** An answer, of whichever attempt: the endpoint is back. */
  succeeded(): void {
    this.#failures = 0;
    this.#openUntil = 0;
    this.#probe = 0;
  }

  /** @param probe  the attempt's number as a probe; 0 when it was none */
  failed(nowMs: number, probe = 0): void {
    this.#failures += 1;
    if (this.isOpen) {
      if (probe === 0 || probe !== this.#probe) return; // sent before the circuit opened
      this.#openMs = Math.min(this.#openMs * 2, MAX_OPEN_MS);
    } else {
      if (this.#failures < FAILURES_TO_OPEN) return;
      this.#openedAt = nowMs;
      this.#openMs = FIRST_OPEN_MS;
    }
    this.#openUntil = nowMs + this.#openMs;
    this.#probe = 0;
    this.#hasProber = false;
  }

  /** The attempt ended without saying anything about the endpoint. */
  undecided(probe = 0): void {
    if (probe === this.#probe) this.#probe = 0;
  }
}
