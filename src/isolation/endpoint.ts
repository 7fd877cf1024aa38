/**
 * What a worker knows of one endpoint and of the host it is on. Pure.
 */
import { isSilence, type Outcome } from "../delivery/outcome.ts";
import { Circuit, type Trial } from "./circuit.ts";
import { Limiter } from "./limiter.ts";
import { Schedule } from "./pacing.ts";
import { WaitingLine } from "./waiting-line.ts";

const SMOOTHING = 0.2; // weight of the newest duration in the average
const ASSUMED_MS = 20; // duration of an attempt before there was an answer
const QUICK_MS = 1000; // 1 s
const MAX_USERS = 64; // users of one host with a circuit of their own; a few hundred bytes each

/**
 * How far an endpoint is trusted, which decides how much of the worker it may fill: it answers within a second, it answers,
 * nobody has tried it yet, or it has not answered yet or not since its last silence.
 */
export type Standing = "quick" | "slow" | "untried" | "silent";

/** Attempts in flight, and the bytes of their bodies. */
export class Usage {
  attempts = 0;
  bytes = 0;

  add(attempts: 1 | -1, bytes: number): void {
    this.attempts += attempts;
    this.bytes += attempts * bytes;
  }
}

/** An origin. */
export class Host {
  readonly usage = new Usage();
  readonly circuit: Circuit;
  /** Circuits that are open, or may open, for one user alone. */
  readonly userCircuits = new Map<string, Circuit>();
  /** How many of its endpoints are remembered. */
  endpoints = 0;

  constructor(readonly origin: string) {
    this.circuit = new Circuit(origin, 2);
  }

  get allCircuits(): Circuit[] {
    return [this.circuit, ...this.userCircuits.values()];
  }

  /** The circuit of one user; undefined when more users are silent here than can be told apart. */
  circuitOf(user: string): Circuit | undefined {
    const known = this.userCircuits.get(user);
    if (known !== undefined || this.userCircuits.size >= MAX_USERS) return known;
    const circuit = new Circuit(this.origin);
    circuit.answeredAt = this.circuit.answeredAt; // whoever heard the host last
    this.userCircuits.set(user, circuit);
    return circuit;
  }
}

export class Endpoint<W extends { readonly user: string } = { readonly user: string }> {
  readonly usage = new Usage();
  readonly circuit: Circuit;
  readonly limiter: Limiter;
  /** Jobs that wait in the process. */
  readonly waiting = new WaitingLine<W>();
  /** Turns of jobs that are parked. */
  readonly schedule = new Schedule();
  #averageMs = 0; // of answers; 0 is unknown
  #progressAt = 0; // when an attempt last ended, or the first of those in flight began
  #isTried = false;

  /**
   * @param key   the whole URL, with its query
   * @param most  attempts in flight at most
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

  /** The circuits that an attempt of a user must pass: its host's are none of them while the endpoint answers. */
  circuits(user: string): Circuit[] {
    const own = this.host.userCircuits.get(user);
    if (this.circuit.isProven) return [this.circuit];
    return own === undefined ? [this.host.circuit, this.circuit] : [this.host.circuit, own, this.circuit];
  }

  started(nowMs: number): void {
    if (this.usage.attempts === 0) this.#progressAt = nowMs;
  }

  /**
   * Learn from an attempt's end. Faults of ours, but for a resolver that does not answer, and refused addresses say nothing.
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

  /** From one answer to the next when so many attempts are in flight: Little's law. */
  spacingMs(width: number): number {
    return (this.#averageMs || ASSUMED_MS) / Math.max(1, width);
  }

  /** How many attempts it can take by the time a parked job has its turn: a quick endpoint is on its way to its bound. */
  reach(most: number): number {
    return this.standing === "quick" ? most : this.limiter.limit;
  }

  /** How much longer it is likely to stay silent: as long as it has been, beyond what its answers take. */
  lullMs(nowMs: number): number {
    const silentMs = this.usage.attempts > 0 ? nowMs - this.#progressAt : 0;
    return Math.max(0, silentMs - (this.#averageMs || ASSUMED_MS));
  }
}
