/**
 * An AIMD concurrency limiter: how many attempts an endpoint may have in flight. Each 2xx raises the limit by one; silence and the
 * statuses of an overloaded server halve it, once per batch of attempts that were in flight together. Pure.
 */
import { isDelivered, isSilence, type Outcome } from "../delivery/outcome.ts";
import { retryAfterMs } from "../delivery/retry.ts";

const START_LIMIT = 5; // the number of silent attempts that open a circuit
const OVERLOADED = new Set([429, 502, 503, 504]);
const HOLDING = new Set([429, 503]); // Retry-After applies to the whole endpoint (RFC 6585, RFC 9110 section 15.6.4)

export class Limiter {
  /** Upper bound on attempts in flight; 1 or more. */
  limit: number;
  /** Until when the endpoint asked not to be called, on the monotonic clock. */
  heldUntil = 0;
  #halvedAt = Number.NEGATIVE_INFINITY;

  /** @param most  upper bound of the limit */
  constructor(private readonly most: number) {
    this.limit = Math.min(START_LIMIT, most);
  }

  /**
   * Forget what was learned. Attempts in flight say nothing against the endpoint any more.
   *
   * @param isOnlyRaised  keep a limit above the initial one
   */
  renew(nowMs: number, isOnlyRaised: boolean): void {
    this.limit = Math.max(isOnlyRaised ? this.limit : 0, Math.min(START_LIMIT, this.most));
    this.heldUntil = 0;
    this.#halvedAt = nowMs;
  }

  /**
   * @param startedAt  when the attempt started, on the monotonic clock like `nowMs`
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
