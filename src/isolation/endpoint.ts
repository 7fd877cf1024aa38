/**
 * What a worker knows about an endpoint and its host. Pure.
 */
import { isSilence, type Outcome } from "../delivery/outcome.ts";
import { Circuit, type Trial } from "./circuit.ts";
import { Limiter } from "./limiter.ts";
import { Schedule } from "./pacing.ts";
import { type InQueue, RoundRobinQueue } from "./round-robin-queue.ts";

const SMOOTHING = 0.2; // weight of the newest duration in the average
const ASSUMED_MS = 20; // duration assumed before the first answer
const QUICK_MS = 1000; // 1 s
const MAX_USERS = 64; // users with a circuit of their own on one host; a few hundred bytes each

/**
 * How much an endpoint is trusted, which decides how much of the worker it may use.
 *
 * - `quick`    answers within a second on average
 * - `slow`     answers, but takes longer
 * - `untried`  has not been attempted yet
 * - `silent`   has not answered yet, or not since it was last silent
 */
export type Standing = "quick" | "slow" | "untried" | "silent";

/** Attempts in flight, and the total size of their bodies. */
export class Usage {
  attempts = 0;
  bytes = 0;

  add(attempts: 1 | -1, bytes: number): void {
    this.attempts += attempts;
    this.bytes += attempts * bytes;
  }
}

/** The origin that one or more endpoints share. */
export class Host {
  readonly usage = new Usage();
  readonly circuit: Circuit;
  /** Circuits that hold back a single user; one is created at the user's first silence. */
  readonly userCircuits = new Map<string, Circuit>();
  /** How many of its endpoints are remembered. */
  endpoints = 0;

  constructor(readonly origin: string) {
    this.circuit = new Circuit(origin, 2);
  }

  get allCircuits(): Circuit[] {
    return [this.circuit, ...this.userCircuits.values()];
  }

  /** A user's circuit, created if needed; undefined when too many users have one already. */
  circuitOf(user: string): Circuit | undefined {
    const known = this.userCircuits.get(user);
    if (known !== undefined || this.userCircuits.size >= MAX_USERS) return known;
    const circuit = new Circuit(this.origin);
    circuit.answeredAt = this.circuit.answeredAt;
    this.userCircuits.set(user, circuit);
    return circuit;
  }
}

export class Endpoint<W extends InQueue = InQueue> {
  readonly usage = new Usage();
  readonly circuit: Circuit;
  readonly limiter: Limiter;
  /** Jobs that wait in the process. */
  readonly waiting = new RoundRobinQueue<W>();
  /** Return times of parked jobs. */
  readonly schedule = new Schedule();
  #averageMs = 0; // moving average of the time to answer; 0 before the first answer
  #progressAt = 0; // when an attempt last ended, or the first of those in flight started
  #isTried = false;
  #began = 0; // the newest `began` of the registered endpoints that have this URL
  #user: string | undefined; // the only one so far
  #isShared = false;

  /**
   * @param key   the full URL, with its query
   * @param most  upper bound on attempts in flight
   */
  constructor(
    readonly key: string,
    readonly host: Host,
    most: number,
  ) {
    this.circuit = new Circuit(key);
    this.limiter = new Limiter(most);
  }

  get standing(): Standing {
    if (this.circuit.isProven) return this.#averageMs <= QUICK_MS ? "quick" : "slow";
    return this.#isTried || this.usage.attempts > 0 ? "silent" : "untried";
  }

  get isIdle(): boolean {
    return this.usage.attempts === 0 && this.waiting.size === 0;
  }

  /** The circuits that an attempt of a user must pass. While the endpoint answers, those of its host are not among them. */
  circuits(user: string): Circuit[] {
    const own = this.host.userCircuits.get(user);
    if (this.circuit.isProven) return [this.circuit];
    return own === undefined ? [this.host.circuit, this.circuit] : [this.host.circuit, own, this.circuit];
  }

  /**
   * A user is about to use it.
   *
   * @param began  see {@link Registered}
   * @returns whether it was switched on again since it was last used: then it is as good as new. Users who share it take nothing from each
   *          other by that: while it answers, it keeps what speaks for it
   */
  renewed(user: string, began: number, nowMs: number): boolean {
    this.#isShared ||= this.#user !== undefined && this.#user !== user;
    this.#user ??= user;
    if (began <= this.#began) return false;
    this.#began = began;
    const isKept = this.#isShared && this.circuit.isProven;
    this.limiter.renew(nowMs, isKept);
    if (isKept) return true;
    this.circuit.renew(nowMs);
    this.#averageMs = 0;
    this.#isTried = false;
    return true;
  }

  started(nowMs: number): void {
    if (this.usage.attempts === 0) this.#progressAt = nowMs;
  }

  /**
   * Learn from a finished attempt. Blocked URLs, and faults of ours except `resolver`, say nothing about the endpoint.
   *
   * @param epochMs  the wall clock, for a Retry-After that is a date
   * @returns the circuits that may have opened or closed
   */
  learn(attempt: Trial, outcome: Outcome, nowMs: number, epochMs: number): Circuit[] {
    this.limiter.learn(outcome, attempt.startedAt, nowMs, epochMs);
    this.#progressAt = nowMs;
    this.#isTried ||= outcome.kind === "response" || isSilence(outcome);
    const { host, circuit } = this;
    if (outcome.kind === "response") {
      const previousMs = this.#averageMs || outcome.durationMs;
      this.#averageMs = Math.max(1, previousMs + SMOOTHING * (outcome.durationMs - previousMs));
      const circuits = [circuit, ...host.allCircuits];
      for (const each of circuits) each.answered(nowMs);
      host.userCircuits.clear();
      return circuits;
    }
    const isSilent = isSilence(outcome);
    const own = isSilent ? host.circuitOf(attempt.user) : host.userCircuits.get(attempt.user);
    const circuits = own === undefined ? [circuit, host.circuit] : [circuit, host.circuit, own];
    for (const each of circuits) {
      if (isSilent) each.silent(attempt, each === circuit ? attempt : this.key, nowMs);
      else each.undecided(attempt);
    }
    return circuits;
  }

  /** Average time between answers with `inFlight` attempts in flight (Little's law). */
  spacingMs(inFlight: number): number {
    return (this.#averageMs || ASSUMED_MS) / Math.max(1, inFlight);
  }

  /** The limit to expect when a parked job returns: a quick endpoint will have reached its upper bound by then. */
  expectedLimit(most: number): number {
    return this.standing === "quick" ? most : this.limiter.limit;
  }

  /** How much longer it will probably stay silent: as long as its attempts are overdue already. */
  expectedSilenceMs(nowMs: number): number {
    const silentMs = this.usage.attempts > 0 ? nowMs - this.#progressAt : 0;
    return Math.max(0, silentMs - (this.#averageMs || ASSUMED_MS));
  }
}
