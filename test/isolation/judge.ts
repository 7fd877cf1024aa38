/**
 * What must hold at every step. It keeps books of its own, from what goes in and out of a gate, and knows nothing of how the
 * gate comes to its decisions.
 */

import { isDelivered, isSilence, type Outcome } from "../../src/delivery/outcome.ts";
import type { AdmissionGate, Decision } from "../../src/isolation/gate.ts";
import type { Job } from "./queue-model.ts";

const SLACK_MS = 25; // timers come late by a tick
const MAX_WAIT_MS = 250;
const MAX_PARKED_MS = 5_000; // once there is room
const YOUNG_MS = 100;
const OLD_PER_SLOT = 8;
const ROOM = 256;
const MAX_RETURN_MS = 5 * 60 * 1000 * 1.1 + 60_000; // five minutes, jitter, and how late a great many may be
const MAX_PROBE_PAUSE_MS = 60_000;
const OVERLOADED = [429, 502, 503, 504];

export interface Limits {
  readonly slots: number;
  readonly endpointSlots: number;
  readonly maxBytes: number;
  readonly capacity: number;
}

/** An attempt as the judge knows it. */
interface Sent {
  readonly job: Job;
  readonly startedAt: number;
  /** Of the endpoint's circuit, and of the host's, while this is their probe. */
  readonly probes: readonly string[];
}

class EndpointBook {
  inFlight = 0;
  answeredAt = -1;
  silentInRow = 0;
  isProven = false;
  limit: number;
  halvedAt = -1;
  heldUntil = 0;
  heldUntilEpoch = 0;
  lastEndedAt = 0;
  /** Since when it would have taken another; undefined when it would not. */
  roomSince: number | undefined;
  readonly waiting = new Map<Job, number>();
  lastGranted = "";
  lastGrantedAt = 0;

  constructor(endpointSlots: number) {
    this.limit = Math.min(5, endpointSlots);
  }
}

class HostBook {
  answeredAt = -1;
  inFlight = 0;
  lastEndedAt = 0;
  silent = new Map<string, Set<string>>(); // endpoints silent since the last answer, and whose
  readonly silentOf = new Map<string, Set<string>>(); // by user
}

/** Watches one worker. */
export class Judge {
  readonly #endpoints = new Map<string, EndpointBook>();
  readonly #hosts = new Map<string, HostBook>();
  readonly #sent = new Map<Job, Sent>();
  readonly #parkedAt = new Map<Job, { at: number; book: EndpointBook; wallMs: number; reason: string }>();
  #bytes = 0;
  #waiting = 0;
  #peak = 0; // of jobs in flight or waiting
  #shortAt = 0; // when the worker as a whole last had too little
  /** With less memory than endpoints, the gate may know less than the judge. */
  readonly #isForgetful: boolean;

  constructor(
    private readonly gate: AdmissionGate,
    private readonly limits: Limits,
    endpoints: number,
  ) {
    this.#isForgetful = limits.capacity < endpoints;
  }

  get inFlight(): number {
    return this.#sent.size;
  }

  /** Jobs that wait in the process. */
  get waiting(): number {
    return this.#waiting;
  }

  /** Attempts that must count as old by now, and so need no slot. */
  oldAt(nowMs: number): number {
    let old = 0;
    for (const { startedAt } of this.#sent.values()) {
      if (startedAt + YOUNG_MS + SLACK_MS > nowMs) break;
      old += 1;
    }
    return Math.min(old, this.limits.slots * OLD_PER_SLOT);
  }

  /** A job is in hand again: it was not parked for longer than it may be. */
  returned(job: Job, nowMs: number, wallMs: number): void {
    const parked = this.#parkedAt.get(job);
    if (parked === undefined) return;
    this.#parkedAt.delete(job);
    this.#look(job, parked.book, nowMs);
    const { roomSince } = parked.book;
    // Room for a small body need not be room for this one.
    const isLarge = job.bytes > 1_000 && this.limits.maxBytes < 100_000_000;
    if (parked.reason === "memory" || isLarge) return;
    if (roomSince === undefined || wallMs < parked.wallMs) return; // the queue goes by the wall clock, which was set back
    const waited = job.backAt - Math.max(parked.at, roomSince, this.#shortAt);
    demand(
      waited <= MAX_PARKED_MS + 100,
      `${job.id} was parked for ${Math.round(waited)} ms after its endpoint had room`,
    );
  }

  /** A parked job was called: what room there is now is given to it. */
  called(job: Job, nowMs: number): void {
    const book = this.#endpoint(job);
    if (book.roomSince !== undefined) book.roomSince = nowMs;
  }

  /** Another worker has the job. */
  taken(job: Job): void {
    this.#parkedAt.delete(job);
  }

  waits(job: Job, nowMs: number): void {
    this.#waiting += 1;
    demand(this.#waiting <= ROOM, `${this.#waiting} jobs wait`);
    this.#endpoint(job).waiting.set(job, nowMs);
  }

  decided(job: Job, turn: Decision, nowMs: number, epochMs: number, wallMs: number): void {
    const book = this.#endpoint(job);
    const since = book.waiting.get(job);
    if (since !== undefined) {
      this.#waiting -= 1;
      book.waiting.delete(job);
      demand(nowMs - since <= MAX_WAIT_MS + SLACK_MS, `${job.id} waited for ${nowMs - since} ms`);
    }
    if (turn.kind === "go") this.#started(job, book, since, nowMs);
    else this.#parked(job, book, turn, nowMs, epochMs, wallMs);
    this.#look(job, book, nowMs);
  }

  #started(job: Job, book: EndpointBook, since: number | undefined, nowMs: number): void {
    const host = this.#host(job);
    const { slots, endpointSlots, maxBytes } = this.limits;
    book.inFlight += 1;
    host.inFlight += 1;
    this.#bytes += job.bytes;
    demand(book.inFlight <= endpointSlots, `${book.inFlight} attempts to ${job.endpoint.key}`);
    demand(this.#sent.size < slots * (OLD_PER_SLOT + 1), `${this.#sent.size + 1} attempts in flight`);
    demand(this.#bytes <= maxBytes || this.#sent.size === 0, `${this.#bytes} bytes in flight`);
    if (!this.#isForgetful) {
      demand(book.inFlight <= book.limit, `${book.inFlight} attempts to ${job.endpoint.key}, limit ${book.limit}`);
      demand(nowMs >= book.heldUntil, `${job.endpoint.key} asked for a pause until ${book.heldUntil}, and got none`);
    }
    if (since !== undefined && maxBytes > 100_000_000) this.#checkTurn(job, book, since, nowMs);
    this.#sent.set(job, { job, startedAt: nowMs, probes: this.#probesOf(job, book) });
  }

  /** One probe per open circuit: an endpoint that answers needs none for its host. */
  #probesOf(job: Job, book: EndpointBook): string[] {
    if (this.#isForgetful) return [];
    const isProbe = book.silentInRow >= 5 && this.#known(job).circuit.isOpen;
    const probes = isProbe ? [job.endpoint.key] : [];
    for (const sent of this.#sent.values()) {
      for (const probe of probes) demand(!sent.probes.includes(probe), `two probes of ${probe}`);
    }
    return probes;
  }

  /** Users take turns: nobody goes twice while another has waited. */
  #checkTurn(job: Job, book: EndpointBook, since: number, nowMs: number): void {
    if (book.lastGranted === job.user && book.lastGrantedAt >= since) {
      const heads = new Set<string>(); // users whose first job was seen: their others wait for that
      for (const [other, from] of book.waiting) {
        if (heads.has(other.user)) continue;
        heads.add(other.user);
        const isPassedOver = other.user !== job.user && from < book.lastGrantedAt;
        demand(!isPassedOver, `${job.user} went twice at ${job.endpoint.key} while ${other.user} waited`);
      }
    }
    book.lastGranted = job.user;
    book.lastGrantedAt = nowMs;
  }

  #parked(job: Job, book: EndpointBook, turn: Decision, nowMs: number, epochMs: number, wallMs: number): void {
    if (turn.kind !== "park") return;
    const { retryAt, reason } = turn;
    const { slots, maxBytes, endpointSlots } = this.limits;
    demand(retryAt >= epochMs, `${job.id} was parked until a time that is over (${reason})`);
    if (reason !== "retry_after")
      demand(retryAt - epochMs <= MAX_RETURN_MS, `${job.id} parked for ${retryAt - epochMs} ms`);
    this.#parkedAt.set(job, { at: nowMs, book, wallMs, reason });
    if (reason === "share")
      demand(this.#sent.size >= (6 * slots - 8) / 9, `parked by share with ${this.#sent.size} in flight`);
    if (reason === "memory")
      demand(this.#bytes + job.bytes > maxBytes / 20, `parked by memory, ${this.#bytes} in flight`);
    if (this.#isForgetful) return;
    if (reason === "limit") {
      const limit = Math.min(book.limit, endpointSlots);
      demand(book.inFlight >= limit, `parked by limit, ${book.inFlight} of ${limit} in flight`);
    }
    if (reason === "retry_after") {
      demand(book.heldUntil > nowMs, `${job.endpoint.key} asked for no pause`);
      demand(retryAt - epochMs >= book.heldUntil - nowMs - 1, `${job.id} comes back before its endpoint asked for it`);
    }
    if (reason === "circuit") this.#checkCircuit(job, book, nowMs);
  }

  /** A circuit is in the way only after enough silence, and never for longer than until the next probe. */
  #checkCircuit(job: Job, book: EndpointBook, nowMs: number): void {
    const host = this.#host(job);
    demand(!book.isProven, `${job.endpoint.key} answers, and is held by a circuit`);
    const isOwn = book.silentInRow >= 5;
    const users = new Set([...host.silent.values()].flatMap((of) => [...of]));
    const isHosts = host.silent.size >= 5 && users.size >= 2;
    const isUsers = (host.silentOf.get(job.user)?.size ?? 0) >= 5;
    demand(isOwn || isHosts || isUsers, `${job.endpoint.key} is held for ${job.user} without enough silence`);
    const isTried = host.inFlight > 0 || nowMs - host.lastEndedAt <= MAX_PROBE_PAUSE_MS + MAX_PARKED_MS;
    demand(isTried || book.inFlight > 0, `nobody has probed ${job.endpoint.key} for ${nowMs - host.lastEndedAt} ms`);
  }

  ended(job: Job, outcome: Outcome, nowMs: number, holdMs: number): void {
    const { startedAt } = this.#sent.get(job) as Sent;
    this.#sent.delete(job);
    const [book, host] = [this.#endpoint(job), this.#host(job)];
    book.inFlight -= 1;
    host.inFlight -= 1;
    this.#bytes -= job.bytes;
    book.lastEndedAt = nowMs;
    host.lastEndedAt = nowMs;
    if (outcome.kind === "response") this.#answered(book, host, nowMs);
    else if (isSilence(outcome)) this.#silent(job, book, host, startedAt);
    const isOverloaded = outcome.kind === "response" && OVERLOADED.includes(outcome.status);
    if (isDelivered(outcome)) book.limit = Math.min(this.limits.endpointSlots, book.limit + 1);
    else if ((isSilence(outcome) || isOverloaded) && startedAt > book.halvedAt) {
      book.limit = Math.max(1, Math.floor(book.limit / 2));
      book.halvedAt = nowMs;
    }
    if (holdMs > 0) book.heldUntil = Math.max(book.heldUntil, nowMs + holdMs);
    this.#afterEnd(job, book, outcome, nowMs);
  }

  #answered(book: EndpointBook, host: HostBook, nowMs: number): void {
    book.answeredAt = nowMs;
    book.silentInRow = 0;
    book.isProven = true;
    host.answeredAt = nowMs;
    host.silent.clear();
    host.silentOf.clear();
  }

  #silent(job: Job, book: EndpointBook, host: HostBook, startedAt: number): void {
    const { key } = job.endpoint;
    if (startedAt >= book.answeredAt) {
      book.silentInRow += 1;
      book.isProven = false;
    }
    if (startedAt >= host.answeredAt) {
      host.silent.set(key, (host.silent.get(key) ?? new Set()).add(job.user));
      host.silentOf.set(job.user, (host.silentOf.get(job.user) ?? new Set()).add(key));
    }
  }

  #afterEnd(job: Job, book: EndpointBook, outcome: Outcome, nowMs: number): void {
    if (!this.#isForgetful && outcome.kind === "response") {
      demand(!this.#known(job).circuit.isOpen, `${job.endpoint.key} answered, and its circuit is open`);
    }
    this.#look(job, book, nowMs);
  }

  /** After a step, when all whose turn has come know of it. */
  check(): void {
    const { attempts, bytes } = this.gate.bulkheads.all;
    this.#peak = Math.max(this.#peak, this.#sent.size + this.#waiting);
    const { size } = this.gate.memory;
    const isFull = size > this.limits.capacity + this.#peak + 1; // none that is busy is forgotten
    if (attempts === this.#sent.size && bytes === this.#bytes && !isFull) return; // most of the time: no text is written
    demand(attempts === this.#sent.size, `${attempts} slots are taken by ${this.#sent.size} attempts`);
    demand(bytes === this.#bytes, `${bytes} bytes are taken by ${this.#bytes}`);
    demand(!isFull, `${size} endpoints are remembered`);
  }

  /** Whether the endpoint has room now, and none of those who wait for it could go. */
  #look(job: Job, book: EndpointBook, nowMs: number): void {
    if (this.#isForgetful) return;
    const endpoint = this.#known(job);
    const reason = this.gate.obstacle({ endpoint, user: job.user, bytes: job.bytes }, nowMs);
    if (reason === "share" || reason === "memory") this.#shortAt = nowMs;
    const isOpen = endpoint.circuits(job.user).some((circuit) => circuit.isOpen);
    if (reason !== undefined || isOpen) book.roomSince = undefined;
    else book.roomSince ??= Math.max(nowMs, book.heldUntil);
    for (const head of endpoint.waiting.heads()) {
      const hinders = this.gate.obstacle(head, nowMs);
      demand(hinders !== undefined, `${head.user} waits for ${job.endpoint.key}, and nothing hinders it`);
    }
  }

  /** At the end, nothing is left. */
  finished(): void {
    demand(
      this.#sent.size === 0 && this.#waiting === 0,
      `${this.#sent.size} in flight, ${this.#waiting} waiting at the end`,
    );
    demand(this.gate.bulkheads.all.attempts === 0, "slots are taken at the end");
  }

  /** What the gate knows of a job's endpoint. */
  #known(job: Job) {
    return this.gate.memory.recall(job.endpoint.key, job.endpoint.host.origin);
  }

  #endpoint(job: Job): EndpointBook {
    const { key } = job.endpoint;
    const book = this.#endpoints.get(key) ?? new EndpointBook(this.limits.endpointSlots);
    this.#endpoints.set(key, book);
    return book;
  }

  #host(job: Job): HostBook {
    const { origin } = job.endpoint.host;
    const book = this.#hosts.get(origin) ?? new HostBook();
    this.#hosts.set(origin, book);
    return book;
  }
}

/** A broken promise. */
export class Violation extends Error {
  override readonly name = "Violation";
}

export function demand(holds: boolean, otherwise: string): void {
  if (!holds) throw new Violation(otherwise);
}
