/**
 * Whether an attempt may go now: what keeps slow, silent and busy endpoints, hosts and users from slowing the others.
 *
 * In the process, without a round trip. Four things decide in turn: what the endpoint asked for by Retry-After, the circuits of
 * its host and its own, its limit, and the bulkheads. A job that cannot go waits here if it can expect room within 250 ms;
 * otherwise it is parked. An attempt takes a slot for its first tenth of a second only. docs/isolation.md has the picture.
 */
import type { Outcome } from "../delivery/outcome.ts";
import { Bulkheads, type Load, OLD_PER_SLOT } from "./bulkheads.ts";
import type { Circuit, Trial } from "./circuit.ts";
import { Endpoint } from "./endpoint.ts";
import { Memory } from "./memory.ts";
import { Parking } from "./parking.ts";
import type { Candidate, Gate, GateOptions, ParkReason, Permit, Turn, Wait } from "./port.ts";

export type { Candidate, Gate, GateOptions, ParkedJob, Permit, Turn, Wait } from "./port.ts";

const YOUNG_MS = 100; // a tenth of a second
const MAX_WAIT_MS = 250; // parking takes two scripts in Valkey, and is not worth it for less
const ROOM = 256; // jobs that wait here
const TICK_MS = 10; // timers fire no more often
const CAPACITY = 50_000; // endpoints, a kilobyte each
const MAX_BYTES = 64 * 1024 * 1024; // 64 MiB; with copies and garbage a worker then stays below 700 MiB, as measured

interface Attempt extends Permit, Load, Trial {
  readonly isSuspect: boolean;
  isReleased: boolean;
}

interface Waiter extends Load {
  readonly since: number;
  readonly resolve: (turn: Turn) => void;
}

/** The gate of a worker. */
export class AdmissionGate implements Gate {
  readonly #options: Required<GateOptions>;
  readonly bulkheads: Bulkheads;
  readonly memory: Memory<Endpoint<Waiter>>;
  readonly #parking: Parking;
  readonly #young = new Set<Attempt>(); // oldest first
  readonly #waiters = new Set<Waiter>(); // oldest first
  #waitingBytes = 0; // of their bodies
  readonly #crowded = new Set<Endpoint<Waiter>>(); // endpoints that some wait for
  readonly #open = new Set<Circuit>();
  #excused = 0;
  #tickAt = Number.POSITIVE_INFINITY;

  constructor(options: GateOptions) {
    this.#options = {
      maxBytes: MAX_BYTES,
      capacity: CAPACITY,
      onExcused: () => {},
      onRoom: () => {},
      now: () => performance.now(),
      epochNow: Date.now,
      random: Math.random,
      schedule: (run, ms) => void setTimeout(run, ms).unref(),
      ...options,
    };
    const { slots, endpointSlots, maxBytes, capacity, random } = this.#options;
    this.bulkheads = new Bulkheads(slots, maxBytes);
    this.#parking = new Parking(endpointSlots, random);
    this.memory = new Memory(
      capacity,
      (key, host) => new Endpoint(key, host, endpointSlots),
      (endpoint, host) => {
        this.#parking.forget(endpoint);
        for (const circuit of [endpoint.circuit, ...(host?.allCircuits ?? [])]) this.#open.delete(circuit);
      },
    );
  }

  get openCircuits(): number {
    return this.#open.size;
  }

  listOpen(): readonly string[] {
    return [...new Set([...this.#open].map(({ name }) => name.replace(/\?.*/s, "")))];
  }

  admit({ endpoint: key, host, user, bytes, job }: Candidate): Turn | Wait {
    const nowMs = this.#options.now();
    const endpoint = this.memory.recall(key, host);
    const load: Load = { endpoint, user, bytes, job };
    const reason = this.obstacle(load, nowMs);
    if (reason === undefined) return this.#start(load, nowMs);
    if (this.#mayWait(endpoint, load, reason, nowMs)) return this.#wait({ ...load, endpoint }, nowMs);
    return this.#park(load, reason, nowMs);
  }

  release(permit: Permit, outcome: Outcome): void {
    const attempt = permit as Attempt;
    if (attempt.isReleased) throw new Error("expected a permit to be released once");
    attempt.isReleased = true;
    const nowMs = this.#options.now();
    this.bulkheads.giveBack(attempt, attempt.isSuspect);
    this.#young.delete(attempt);
    this.#learn(attempt, outcome, nowMs);
    this.#age(nowMs);
    this.#serve(nowMs);
    this.#excuse();
  }

  /** What keeps a job from going now; undefined when nothing does. */
  obstacle(load: Load, nowMs: number): ParkReason | undefined {
    const { endpoint, user } = load;
    if (endpoint.limiter.heldUntil > nowMs) return "retry_after";
    if (this.#blockingCircuit(endpoint, user, nowMs) !== undefined) return "circuit";
    if (endpoint.usage.attempts >= endpoint.limiter.limit) return "limit";
    return this.bulkheads.shortage(load);
  }

  #blockingCircuit(endpoint: Endpoint, user: string, nowMs: number): Circuit | undefined {
    if (endpoint.circuit.isProven) return undefined;
    return endpoint.circuits(user).find((circuit) => !circuit.admits(user, nowMs));
  }

  #start(load: Load, nowMs: number): Permit {
    const { endpoint, user, bytes, job } = load;
    endpoint.started(nowMs);
    const isSuspect = this.bulkheads.take(load);
    const attempt: Attempt = { kind: "go", endpoint, user, bytes, job, startedAt: nowMs, isSuspect, isReleased: false };
    if (this.#open.size > 0) for (const circuit of endpoint.circuits(user)) circuit.started(attempt);
    this.#young.add(attempt);
    this.#tickBy(nowMs + YOUNG_MS, nowMs);
    return attempt;
  }

  /** Whether a job may wait here: one endpoint's have at most half of the places left, and beyond that each user's first. */
  #mayWait(endpoint: Endpoint<Waiter>, { user, bytes }: Load, reason: ParkReason, nowMs: number): boolean {
    if (reason === "circuit" || reason === "retry_after") return false;
    const { waiting, usage } = endpoint;
    const places = ROOM - this.#waiters.size;
    if (usage.attempts === 0 || places === 0 || this.#waitingBytes + bytes > this.#options.maxBytes) return false;
    const own = waiting.sizeOf(user);
    if (waiting.size >= places / 2 && own > 0) return false;
    const rounds = (own + 1) * (waiting.users + (own === 0 ? 1 : 0));
    return endpoint.lullMs(nowMs) + rounds * endpoint.spacingMs(usage.attempts) <= MAX_WAIT_MS;
  }

  #wait(load: Load & { endpoint: Endpoint<Waiter> }, nowMs: number): Wait {
    const { endpoint } = load;
    const turn = new Promise<Turn>((resolve) => {
      const waiter: Waiter = { ...load, since: nowMs, resolve };
      endpoint.waiting.enter(waiter);
      this.#waiters.add(waiter);
      this.#waitingBytes += waiter.bytes;
    });
    this.#crowded.add(endpoint);
    this.#tickBy(nowMs + MAX_WAIT_MS, nowMs);
    this.#excuse();
    return { kind: "wait", isProven: endpoint.circuit.isProven, turn };
  }

  #park(load: Load, reason: ParkReason, nowMs: number): Turn {
    const { endpoint, user } = load;
    const circuit = reason === "circuit" ? this.#blockingCircuit(endpoint, user, nowMs) : undefined;
    const dueAt = this.#parking.dueAt(load, reason, circuit, nowMs);
    const retryAt = Math.ceil(this.#options.epochNow() + dueAt - nowMs);
    this.#parking.add(load, dueAt, retryAt, nowMs);
    this.#tickBy(this.#parking.callAt, nowMs);
    return { kind: "park", retryAt, reason };
  }

  #learn(attempt: Attempt, outcome: Outcome, nowMs: number): void {
    const endpoint = attempt.endpoint as Endpoint<Waiter>;
    if (outcome.kind === "response") this.memory.answered(endpoint);
    for (const circuit of endpoint.learn(attempt, outcome, nowMs, this.#options.epochNow())) {
      if (circuit.isOpen) this.#open.add(circuit);
      else if (this.#open.size > 0) this.#open.delete(circuit);
    }
  }

  /** Let those who wait go as far as they may now, and park those behind a circuit or a Retry-After. */
  #serve(nowMs: number): void {
    if (this.#crowded.size === 0) return;
    for (const endpoint of [...this.#crowded]) {
      for (let isMoving = true; isMoving; ) {
        isMoving = false;
        for (const waiter of endpoint.waiting.heads()) {
          const reason = this.obstacle(waiter, nowMs);
          if (reason === "limit" || reason === "share" || reason === "memory") continue;
          isMoving = true;
          this.#dismiss(waiter, reason, nowMs);
        }
      }
    }
  }

  #dismiss(waiter: Waiter, reason: ParkReason | undefined, nowMs: number): void {
    const endpoint = waiter.endpoint as Endpoint<Waiter>;
    endpoint.waiting.leave(waiter, reason === undefined);
    this.#waiters.delete(waiter);
    this.#waitingBytes -= waiter.bytes;
    if (endpoint.waiting.size === 0) this.#crowded.delete(endpoint);
    waiter.resolve(reason === undefined ? this.#start(waiter, nowMs) : this.#park(waiter, reason, nowMs));
  }

  /** What is due: attempts grow old, jobs that waited for long enough are parked, and parked ones called. */
  #tick(atMs: number): void {
    if (atMs !== this.#tickAt) return; // an earlier one was asked for since
    const nowMs = this.#options.now();
    this.#tickAt = Number.POSITIVE_INFINITY;
    this.#age(nowMs);
    for (const waiter of this.#waiters) {
      if (waiter.since + MAX_WAIT_MS > nowMs) break;
      this.#dismiss(waiter, this.obstacle(waiter, nowMs), nowMs);
    }
    this.#serve(nowMs);
    const jobs = this.#parking.call(nowMs, this.bulkheads, (load) => this.obstacle(load, nowMs));
    if (jobs.length > 0) this.#options.onRoom(jobs);
    this.#excuse();
    const [[youngest], [first]] = [this.#young, this.#waiters];
    if (youngest !== undefined) this.#tickBy(youngest.startedAt + YOUNG_MS, nowMs);
    if (first !== undefined) this.#tickBy(first.since + MAX_WAIT_MS, nowMs);
    this.#tickBy(this.#parking.callAt, nowMs);
  }

  /** Attempts that have lasted a tenth of a second are old, as far as there may be old ones. */
  #age(nowMs: number): void {
    for (const attempt of this.#young) {
      if (attempt.startedAt + YOUNG_MS > nowMs || this.#old >= this.#options.slots * OLD_PER_SLOT) return;
      this.#young.delete(attempt);
    }
  }

  #tickBy(atMs: number | undefined, nowMs: number): void {
    const tickAt = Math.max(atMs ?? Number.POSITIVE_INFINITY, nowMs + TICK_MS);
    if (tickAt >= this.#tickAt) return;
    this.#tickAt = tickAt;
    this.#options.schedule(() => this.#tick(tickAt), tickAt - nowMs);
  }

  get #old(): number {
    return this.bulkheads.all.attempts - this.#young.size;
  }

  #excuse(): void {
    const excused = this.#old + this.#waiters.size;
    if (excused === this.#excused) return;
    this.#excused = excused;
    this.#options.onExcused(excused);
  }
}

/** Make the gate of a worker. */
export const createGate = (options: GateOptions): Gate => new AdmissionGate(options);
