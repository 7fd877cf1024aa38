/** Receivers, their hosts and name servers: how long they take, what they answer, and when they are away. */
import type { FailureCode, Outcome } from "../../src/delivery/outcome.ts";

/** Times during which something is away, ms of virtual time. */
export type Outages = readonly (readonly [from: number, to: number])[];

export interface ModelHost {
  readonly origin: string;
  readonly outages: Outages;
  /** Of the servers that know its name. */
  readonly nameOutages: Outages;
  /** What a caller sees while it is away: nothing for the whole deadline, or a refusal at once. */
  readonly isRefusing: boolean;
}

export interface ModelEndpoint {
  readonly key: string;
  readonly host: ModelHost;
  readonly users: readonly string[];
  readonly outages: Outages;
  /** How long an answer takes. */
  durationMs(nowMs: number): number;
  /** The status of an answer, and its Retry-After. */
  answer(nowMs: number): { readonly status: number; readonly retryAfter?: string };
}

export const TIMEOUT_MS = 10_000;

const isIn = (outages: Outages, nowMs: number) => outages.some(([from, to]) => nowMs >= from && nowMs < to);
const failure = (code: FailureCode, durationMs: number): Outcome => ({ kind: "failure", code, durationMs });

/** What comes of a request that is sent now. */
export function outcomeOf(endpoint: ModelEndpoint, nowMs: number): Outcome {
  const { host } = endpoint;
  if (isIn(host.nameOutages, nowMs)) {
    // One server answers SERVFAIL after 3 s, another never, as their hosts differ in how they refuse.
    return host.isRefusing ? failure("dns", 3_000) : { kind: "fault", code: "resolver", durationMs: TIMEOUT_MS };
  }
  if (isIn(host.outages, nowMs) || isIn(endpoint.outages, nowMs)) {
    return host.isRefusing ? failure("connection_refused", 1) : failure("timeout", TIMEOUT_MS);
  }
  const durationMs = endpoint.durationMs(nowMs);
  if (durationMs >= TIMEOUT_MS) return failure("timeout", TIMEOUT_MS);
  const { status, retryAfter } = endpoint.answer(nowMs);
  return { kind: "response", status, retryAfter, durationMs };
}
