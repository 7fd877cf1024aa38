/**
 * An AIMD limiter: how many attempts an endpoint may have in flight. It rises by one with each 2xx and is halved by silence
 * and by the statuses of an overloaded server, once for all attempts that were in flight together. Pure.
 */
import { isDelivered, isSilence, type Outcome } from "../delivery/outcome.ts";
import { retryAfterMs } from "../delivery/retry.ts";

const START_LIMIT = 5; // as many attempts as it takes to open a circuit
const OVERLOADED = new Set([429, 502, 503, 504]);
const HOLDING = new Set([429, 503]); // whose Retry-After is about the whole endpoint (RFC 6585, RFC 9110 section 15.6.4)

export class Limiter {
  /** Attempts in flight at most; 1 or more. */
  limit: number;
  /** No attempt goes before, on the monotonic clock: the endpoint asked for it. */
  heldUntil = 0;
  #halvedAt = Number.NEGATIVE_INFINITY;

  /** @param most  what the limit never exceeds */
  constructor(private readonly most: number) {
    this.limit = Math.min(START_LIMIT, most);
  }

  /**
   * @param startedAt  of the attempt, on the monotonic clock as `nowMs`
   * @param epochMs    the wall clock, for a Retry-After that is a date
   */
  learn(outcome: Outcome, startedAt: number, nowMs: number, epochMs: number): void {
    const status = outcome.kind === "response" ? outcome.status : 0;
    if (isDelivered(outcome)) this.limit = Math.min(this.most, this.limit + 1);
    else if ((isSilence(outcome) || OVERLOADED.has(status)) && startedAt > this.#halvedAt) {
      this.limit = Math.max(1, Math.floor(this.limit / 2));
      this.#halvedAt = nowMs;
    }
    if (outcome.kind === "response" && HOLDING.has(status)) {
      this.heldUntil = Math.max(this.heldUntil, nowMs + retryAfterMs(status, outcome.retryAfter, epochMs));
    }
  }
}
