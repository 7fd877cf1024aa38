/**
 * Decides whether a job may be attempted now, so that slow, silent and busy endpoints, hosts and users do not slow the others.
 *
 * It decides within the process, without a round trip, and checks in order: holds by operators, the endpoint's Retry-After, the
 * circuits of its host and its own, its concurrency limit, and the bulkheads. A job that is not admitted waits here if it can expect to be within
 * 250 ms; otherwise it is parked. An attempt is young, and occupies a slot, for its first 100 ms; after that it is old, and
 * occupies only a connection. docs/isolation.md has a diagram.
 */

import type { Outcome } from "../delivery/outcome.ts";
import { MIN_LOCK_SLACK_MS } from "../runtime/deadline.ts";
import { invariant } from "../runtime/invariant.ts";
import { Bulkheads, type Load, OLD_PER_SLOT } from "./bulkheads.ts";
import type { Circuit, Trial } from "./circuit.ts";
import { Endpoint } from "./endpoint.ts";
import { Holds } from "./holds.ts";
import { Memory } from "./memory.ts";
import { MAX_PROMOTED, Parking } from "./parking.ts";
import type { Candidate, Decision, Gate, GateOptions, ParkReason, Permit, Wait } from "./port.ts";
import type { InQueue } from "./round-robin-queue.ts";

export type { Candidate, Decision, Gate, GateOptions, ParkedJob, Permit, Wait } from "./port.ts";

const YOUNG_MS = 100;
const MAX_WAIT_MS = 250; // parking costs two Valkey scripts, too much for a shorter wait
const MAX_WAITERS = 256; // jobs waiting in the process
const MIN_TICK_MS = 10; // between two timer runs
const CAPACITY = 50_000; // endpoints, about 1 KB each
const MAX_BYTES = 64 * 1024 * 1024; // 64 MiB; a worker was measured to stay below 700 MiB then, copies and garbage included

invariant(MIN_TICK_MS < YOUNG_MS && YOUNG_MS < MAX_WAIT_MS, "timers to be finer than the intervals they measure");
invariant(MAX_WAIT_MS < MIN_LOCK_SLACK_MS / 2, "a job that waited to keep its lock for its whole attempt");

interface Attempt extends Permit, Load, Trial {
  readonly isSuspect: boolean;
  isReleased: boolean;
}

/** A job that asks to wait in the process. */
interface Waiting extends Load, InQueue {
  readonly endpoint: Endpoint<Waiter>;
}

/** A job that waits in the process. */
interface Waiter extends Waiting {
  readonly since: number;
  readonly resolve: (decision: Decision) => void;
}

/** A worker's gate. Tests and the simulator inspect its parts; everything else uses {@link Gate}. */
export class AdmissionGate implements Gate {
  readonly #options: Required<GateOptions>;
  readonly bulkheads: Bulkheads;
  readonly memory: Memory<Endpoint<Waiter>>;
  readonly #parking: Parking;
  readonly #young = new Set<Attempt>(); // oldest first
  readonly #waiters = new Set<Waiter>(); // oldest first
  #waitingBytes = 0; // total body size of the waiters
  readonly #awaited = new Set<Endpoint<Waiter>>(); // endpoints with waiters
  readonly #open = new Set<Circuit>();
  #excused = 0; // as last reported to onExcused
  #tickAt = Number.POSITIVE_INFINITY;

  constructor(options: GateOptions) {
    this.#options = {
      maxBytes: MAX_BYTES,
      capacity: CAPACITY,
      onExcused: () => {},
      onPromote: () => {},
      holds: new Holds(),
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

  admit(candidate: Candidate): Decision | Wait {
    const { endpoint: key, host, user, bytes, job, expiresAt, registered, hasWaited = false } = candidate;
    const nowMs = this.#options.now();
    const endpoint = this.memory.recall(key, host);
    const load: Load = { endpoint, user, bytes, job, expiresAt, registered };
    if (endpoint.renewed(user, registered?.began ?? 0, nowMs)) {
      this.#open.delete(endpoint.circuit);
      this.#parking.follow(load);
    }
    const reason = this.obstacle(load, nowMs);
    if (reason === undefined) return this.#start(load, nowMs);
    const waiting = { ...load, endpoint, hasWaited };
    if (this.#mayWait(waiting, reason, nowMs)) return this.#wait(waiting, nowMs);
    return this.#park(load, reason, nowMs);
  }

  release(permit: Permit, outcome: Outcome): void {
    const attempt = permit as Attempt;
    if (attempt.isReleased) throw new Error("expected a permit to be released once");
    attempt.isReleased = true;
    const nowMs = this.#options.now();
    this.bulkheads.release(attempt, attempt.isSuspect);
    this.#young.delete(attempt);
    this.#learn(attempt, outcome, nowMs);
    this.#ageAttempts(nowMs);
    this.#settleWaiters(nowMs);
    this.#reportExcused();
  }

  changed(users?: ReadonlySet<string>): void {
    this.#parking.changed(users);
  }

  /** Why a job may not be attempted now; undefined when it may. */
  obstacle(load: Load, nowMs: number): ParkReason | undefined {
    const { endpoint, user } = load;
    if (!this.#options.holds.isEmpty && this.#heldUntil(load) > 0) return "held";
    if (endpoint.limiter.heldUntil > nowMs) return "retry_after";
    if (this.#blockingCircuit(endpoint, user, nowMs) !== undefined) return "circuit";
    if (endpoint.usage.attempts >= endpoint.limiter.limit) return "limit";
    return this.bulkheads.shortage(load);
  }

  /** Until when operators hold a job, epoch ms; 0 when they do not. */
  #heldUntil({ endpoint, user }: Load): number {
    const { holds, epochNow } = this.#options;
    return holds.until({ endpoint: endpoint.key, host: endpoint.host.origin, user }, epochNow());
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

  /**
   * Whether a job may wait in the process. One endpoint's jobs may fill half of the remaining places; beyond that, only the first
   * job of each user is let in.
   */
  #mayWait(job: Waiting, reason: ParkReason, nowMs: number): boolean {
    if (reason === "circuit" || reason === "retry_after" || reason === "held") return false;
    const { endpoint, user, bytes } = job;
    const { waiting, usage } = endpoint;
    const places = MAX_WAITERS - this.#waiters.size;
    if (usage.attempts === 0 || places === 0 || this.#waitingBytes + bytes > this.#options.maxBytes) return false;
    if (waiting.size >= places / 2 && waiting.has(user)) return false;
    const aheadMs = waiting.turnsUntil(job) * endpoint.spacingMs(usage.attempts);
    return endpoint.expectedSilenceMs(nowMs) + aheadMs <= MAX_WAIT_MS;
  }

  #wait(job: Waiting, nowMs: number): Wait {
    const { endpoint } = job;
    const decision = new Promise<Decision>((resolve) => {
      const waiter: Waiter = { ...job, since: nowMs, resolve };
      endpoint.waiting.add(waiter);
      this.#waiters.add(waiter);
      this.#waitingBytes += waiter.bytes;
    });
    this.#awaited.add(endpoint);
    this.#tickBy(nowMs + MAX_WAIT_MS, nowMs);
    this.#reportExcused();
    return { kind: "wait", isProven: endpoint.circuit.isProven, decision };
  }

  #park(load: Load, reason: ParkReason, nowMs: number): Decision {
    const { endpoint, user } = load;
    const circuit = reason === "circuit" ? this.#blockingCircuit(endpoint, user, nowMs) : undefined;
    const epochMs = this.#options.epochNow();
    const dueAt =
      reason === "held"
        ? this.#parking.heldDueAt(Math.max(0, this.#heldUntil(load) - epochMs), nowMs)
        : this.#parking.dueAt(load, reason, circuit, nowMs);
    const retryAt = Math.min(Math.ceil(epochMs + dueAt - nowMs), load.expiresAt ?? Number.POSITIVE_INFINITY);
    this.#parking.add(load, dueAt, retryAt, nowMs);
    this.#tickBy(this.#parking.promoteAt, nowMs);
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

  /** Start each waiter that may be attempted now, and park those held up by a circuit, a Retry-After or an operator. */
  #settleWaiters(nowMs: number): void {
    if (this.#awaited.size === 0) return;
    for (const endpoint of [...this.#awaited]) {
      for (let isMoving = true; isMoving; ) {
        isMoving = false;
        for (const waiter of endpoint.waiting.heads()) {
          const reason = this.obstacle(waiter, nowMs);
          if (reason === "limit" || reason === "share" || reason === "memory") continue;
          isMoving = true;
          this.#settle(waiter, reason, nowMs);
        }
      }
    }
  }

  #settle(waiter: Waiter, reason: ParkReason | undefined, nowMs: number): void {
    const { endpoint } = waiter;
    endpoint.waiting.remove(waiter, reason === undefined);
    this.#waiters.delete(waiter);
    this.#waitingBytes -= waiter.bytes;
    if (endpoint.waiting.size === 0) this.#awaited.delete(endpoint);
    waiter.resolve(reason === undefined ? this.#start(waiter, nowMs) : this.#park(waiter, reason, nowMs));
  }

  /** Do what is due: age attempts, settle waiters whose time is up, and promote parked jobs. */
  #tick(atMs: number): void {
    if (atMs !== this.#tickAt) return; // superseded by an earlier tick
    const nowMs = this.#options.now();
    this.#tickAt = Number.POSITIVE_INFINITY;
    this.#ageAttempts(nowMs);
    for (const waiter of this.#waiters) {
      if (waiter.since + MAX_WAIT_MS > nowMs) break;
      this.#settle(waiter, this.obstacle(waiter, nowMs), nowMs);
    }
    this.#settleWaiters(nowMs);
    const jobs = this.#parking.promote(nowMs, this.bulkheads, (load) => this.obstacle(load, nowMs));
    for (let at = 0; at < jobs.length; at += MAX_PROMOTED) this.#options.onPromote(jobs.slice(at, at + MAX_PROMOTED));
    this.#reportExcused();
    const [[oldestYoung], [oldestWaiter]] = [this.#young, this.#waiters];
    if (oldestYoung !== undefined) this.#tickBy(oldestYoung.startedAt + YOUNG_MS, nowMs);
    if (oldestWaiter !== undefined) this.#tickBy(oldestWaiter.since + MAX_WAIT_MS, nowMs);
    this.#tickBy(this.#parking.promoteAt, nowMs);
  }

  /** Turn young attempts old once they have lasted 100 ms, while the limit on old attempts allows it. */
  #ageAttempts(nowMs: number): void {
    for (const attempt of this.#young) {
      if (attempt.startedAt + YOUNG_MS > nowMs || this.#old >= this.#options.slots * OLD_PER_SLOT) return;
      this.#young.delete(attempt);
    }
  }

  #tickBy(atMs: number | undefined, nowMs: number): void {
    const tickAt = Math.max(atMs ?? Number.POSITIVE_INFINITY, nowMs + MIN_TICK_MS);
    if (tickAt >= this.#tickAt) return;
    this.#tickAt = tickAt;
    this.#options.schedule(() => this.#tick(tickAt), tickAt - nowMs);
  }

  get #old(): number {
    return this.bulkheads.all.attempts - this.#young.size;
  }

  #reportExcused(): void {
    const excused = this.#old + this.#waiters.size;
    if (excused === this.#excused) return;
    this.#excused = excused;
    this.#options.onExcused(excused);
  }
}

/** Create a worker's gate. */
export const createGate = (options: GateOptions): Gate => new AdmissionGate(options);
