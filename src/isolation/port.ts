/**
 * The gate's interface: what a worker asks of it, and what it answers.
 */
import type { Outcome } from "../delivery/outcome.ts";
import type { Holds } from "./holds.ts";

/**
 * Why a job was parked.
 *
 * - `circuit`      the circuit of its endpoint, its host, or its user on that host is open
 * - `limit`        the endpoint has as many attempts in flight as it can take
 * - `share`        the endpoint, host or user has used up its share of the worker
 * - `retry_after`  the endpoint asked for a pause
 * - `memory`       request bodies in flight have used up their memory budget
 * - `held`         an operator holds its host, endpoint or user
 * - `rate`         its endpoint is registered with a rate limit; not a reason of the gate
 */
export type ParkReason = "circuit" | "limit" | "share" | "retry_after" | "memory" | "held" | "rate";

/** A parked job, as the queue identifies it. */
export interface ParkedJob {
  readonly job: string;
  /** When it is due, epoch ms. A job with another due time has been rescheduled since, for example for a retry. */
  readonly retryAt: number;
}

/** A job that asks to be attempted. */
export interface Candidate {
  /** The full URL with its query, which identifies the endpoint. */
  readonly endpoint: string;
  /** The URL's origin. */
  readonly host: string;
  readonly user: string;
  /** Size of the body. */
  readonly bytes: number;
  /** The job's id. Without it, the job cannot be promoted once it is parked. */
  readonly job?: string;
  /** Whether it was parked or attempted before: it goes ahead of the user's jobs that come for the first time. */
  readonly hasWaited?: boolean;
  /** When the event expires, epoch ms: it is not parked for longer. */
  readonly expiresAt?: number | undefined;
  /** Set for an endpoint that the user has registered. */
  readonly registered?: Registered | undefined;
}

/** What the gate knows a registered endpoint by, whatever its URL. */
export interface Registered {
  /** Unique within the user. */
  readonly id: string;
  /** When it was switched on again, or got its URL, on one clock for all of them; 0 if it never was. */
  readonly began: number;
}

/** Permission to make one attempt. Release it exactly once, with {@link Gate.release}. */
export interface Permit {
  readonly kind: "go";
}

/** Make the attempt now, or park the job until `retryAt` (epoch ms). */
export type Decision = Permit | { readonly kind: "park"; readonly retryAt: number; readonly reason: ParkReason };

/** A decision that will be made within 250 ms. */
export interface Wait {
  readonly kind: "wait";
  /** Whether the endpoint has answered, and has not been silent since. If not, the job will probably be parked. */
  readonly isProven: boolean;
  readonly decision: Promise<Decision>;
}

export interface Gate {
  /** Ask whether a job may be attempted now. */
  admit(candidate: Candidate): Decision | Wait;
  /**
   * Release a permit once its attempt has ended, and learn from the outcome.
   *
   * @throws  Error when it was already released
   */
  release(permit: Permit, outcome: Outcome): void;
  /**
   * Registered endpoints of these users may have changed. A parked job of each is promoted, to be looked up anew: if its endpoint has been
   * switched on again, or got another URL, the others follow.
   *
   * @param users  undefined for all
   */
  changed(users?: ReadonlySet<string>): void;
  /** How many circuits are open: of endpoints, of hosts, and of single users on a host. */
  readonly openCircuits: number;
  /** The endpoints (without the query) and hosts whose circuits are open. Walks all of them, so call it from a slow timer. */
  listOpen(): readonly string[];
}

export interface GateOptions {
  /** Upper bound on young attempts. The worker enforces it: it takes a new job only while a slot is free. */
  readonly slots: number;
  /** Upper bound on attempts in flight to one endpoint. */
  readonly endpointSlots: number;
  /** Budget for request bodies in flight, in total. A single attempt may exceed it. */
  readonly maxBytes?: number;
  /** How many endpoints to remember. */
  readonly capacity?: number;
  /** Called when the number of jobs that occupy no slot changes: those with an old attempt, and those waiting in the gate. */
  readonly onExcused?: (jobs: number) => void;
  /** What operators hold; nothing by default. */
  readonly holds?: Pick<Holds, "isEmpty" | "until">;
  /** Called with parked jobs to promote, because their endpoints can take them now. */
  readonly onPromote?: (jobs: readonly ParkedJob[]) => void;
  /** Monotonic, ms. */
  readonly now?: () => number;
  /** The wall clock, epoch ms. */
  readonly epochNow?: () => number;
  /** In [0, 1). */
  readonly random?: () => number;
  /** Call a function once, after `ms`. */
  readonly schedule?: (run: () => void, ms: number) => void;
}
