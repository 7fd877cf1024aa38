/**
 * What a worker asks of the gate, and what the gate tells it.
 */
import type { Outcome } from "../delivery/outcome.ts";

/**
 * Why a job was parked: a circuit is open, its endpoint's limit is reached, its share of the worker is, the endpoint asked
 * for it by Retry-After, or the bodies in flight take all the memory they may.
 */
export type ParkReason = "circuit" | "limit" | "share" | "retry_after" | "memory";

/** A parked job as the queue knows it. */
export interface ParkedJob {
  readonly job: string;
  /** When it was to come back, epoch ms: a job that is due at another time was not parked by us, or not last. */
  readonly retryAt: number;
}

/** A job that asks for its turn. */
export interface Candidate {
  /** The whole URL with its query: endpoints are told apart by it. */
  readonly endpoint: string;
  /** The URL's origin. */
  readonly host: string;
  readonly user: string;
  /** Of the body. */
  readonly bytes: number;
  /** The job's id: with it the job can be called back early when it is parked. */
  readonly job?: string;
}

/** An attempt that may go; to be given back with {@link Gate.release}, once. */
export interface Permit {
  readonly kind: "go";
}

/** Go, or not before `retryAt` (epoch ms). */
export type Turn = Permit | { readonly kind: "park"; readonly retryAt: number; readonly reason: ParkReason };

/** A turn that will be known within 250 ms. It may well be none if the endpoint has not answered yet, or has been silent since. */
export interface Wait {
  readonly kind: "wait";
  readonly isProven: boolean;
  readonly turn: Promise<Turn>;
}

export interface Gate {
  /** Ask for a turn. */
  admit(candidate: Candidate): Turn | Wait;
  /**
   * Give an attempt back, with what came of it.
   *
   * @throws  Error when that was done before
   */
  release(permit: Permit, outcome: Outcome): void;
  /** How many circuits are open: of endpoints, of hosts, and of single users on a host. */
  readonly openCircuits: number;
  /** Their endpoints, without the query, and hosts. Looks at each: for a slow timer. */
  listOpen(): readonly string[];
}

export interface GateOptions {
  /** Young attempts at most. The worker sees to that, by {@link GateOptions.onExcused}. */
  readonly slots: number;
  /** Attempts in flight to one endpoint at most. */
  readonly endpointSlots: number;
  /** Of bodies in flight, in all; a single attempt always may go. */
  readonly maxBytes?: number;
  /** Endpoints to remember. */
  readonly capacity?: number;
  /** Called when it has changed how many of the jobs in hand need no slot: those of old attempts, and those that wait. */
  readonly onExcused?: (jobs: number) => void;
  /** Called when parked jobs should come back now, since their endpoints have room. */
  readonly onRoom?: (jobs: readonly ParkedJob[]) => void;
  /** Monotonic, ms. */
  readonly now?: () => number;
  /** The wall clock, epoch ms. */
  readonly epochNow?: () => number;
  /** In [0, 1). */
  readonly random?: () => number;
  /** Call a function once after so many ms. */
  readonly schedule?: (run: () => void, ms: number) => void;
}
