/**
 * A simulation: workers that run the real gate, over a model of the queue, against a world of receivers, in virtual time. The
 * same seed gives the same run. After every step the judges look.
 */

import { isDelivered, type Outcome } from "../../src/delivery/outcome.ts";
import { retryAfterMs } from "../../src/delivery/retry.ts";
import { AdmissionGate, type Decision } from "../../src/isolation/gate.ts";
import type { Chance } from "../support/chance.ts";
import { demand, Judge, type Limits } from "./judge.ts";
import { type Job, QueueModel } from "./queue-model.ts";
import { Timeline } from "./timeline.ts";
import { type ModelEndpoint, outcomeOf } from "./world.ts";

const ROUND_TRIP_MS = 0.2;
const AT_ONCE = 16; // jobs taken with one round trip
const START_MS = 0.06; // of a worker's core for an attempt, from the job to the request
const END_MS = 0.04; // and for its end
const PARK_MS = 0.04;
const STALLED_MS = 25_000; // until a dead worker's jobs run again
const LOOK_AFTER = 64; // jobs taken in a row
const LOOK_AFTER_HELD = 32; // jobs that may not go
const TROUBLE = 4; // of them one user's within a second
const RETRY_MS = [5_000, 60_000, 300_000];
const OUR_FAULT_MS = 5_000;
const MAX_STEPS = 5_000_000;
const HOLDING = [429, 503];
const EPOCH_OF_GATES = 5_000; // ms on their monotonic clocks at the start

export interface SimulationOptions extends Limits {
  readonly chance: Chance;
  readonly workers: number;
  /** How many endpoints there are, for the judges. */
  readonly endpoints: number;
  /** Whether a round trip and a worker's core cost time: runs at random are about order, not about time. */
  readonly isCostly?: boolean;
  /** How often a worker takes the outcome for a fault of its own. */
  readonly faultShare?: number;
  /** Gates that are broken on purpose read another clock. */
  readonly isOnWallClock?: boolean;
}

/** An attempt that reached its receiver in time to count. */
export interface Delivery {
  readonly job: Job;
  readonly latencyMs: number;
}

export class Simulation {
  readonly timeline = new Timeline();
  readonly queue = new QueueModel(this.timeline);
  readonly deliveries: Delivery[] = [];
  readonly workers: ModelWorker[];
  /** Turns that are promised: their callbacks run between two steps. */
  promised = 0;
  parked = 0;
  /** What was thrown where nobody catches it. */
  failure: unknown;
  #jobs = 0;

  constructor(readonly options: SimulationOptions) {
    this.workers = Array.from({ length: options.workers }, () => new ModelWorker(this));
    this.queue.onJobs = () => {
      for (const worker of this.workers) worker.wake();
    };
  }

  get nowMs(): number {
    return this.timeline.nowMs;
  }

  /** Enqueue events. */
  add(jobs: readonly { endpoint: ModelEndpoint; user: string; bytes?: number; mark?: string }[]): void {
    const made = jobs.map(({ endpoint, user, bytes = 500, mark = "" }): Job => {
      this.#jobs += 1;
      const counted = { attempts: 0, sent: 0, dueAt: 0, backAt: 0, tag: 0 };
      return { id: `job-${this.#jobs}`, endpoint, user, bytes, mark, addedAt: this.nowMs, state: "new", ...counted };
    });
    if (this.options.isCostly) this.queue.script(0.025 * jobs.length);
    this.queue.add(made);
  }

  /** Replace a worker, as after a crash: what it had in hand stalls. */
  restart(index: number): void {
    const dead = this.workers[index] as ModelWorker;
    dead.die();
    this.workers[index] = new ModelWorker(this);
    this.workers[index]?.wake();
  }

  /** Let time pass, until nothing happens any more or that moment has come. */
  async run(untilMs = Number.POSITIVE_INFINITY): Promise<void> {
    const { timeline } = this;
    while (timeline.nextAt <= Math.min(untilMs, Number.MAX_VALUE)) {
      timeline.step();
      if (timeline.steps >= MAX_STEPS) demand(false, `no end after ${MAX_STEPS} steps`);
      if (this.promised > 0) await null; // for those whose turn has come
      if (this.failure !== undefined) throw this.failure;
      for (const worker of this.workers) worker.check();
    }
  }

  /** All is done, and nothing is left. */
  finished(): void {
    const { queue } = this;
    demand(
      queue.size === 0 && queue.delayed.size === 0,
      `${queue.size} jobs wait and ${queue.delayed.size} are delayed`,
    );
    demand(
      this.workers.every(({ inHand }) => inHand.size === 0),
      "jobs are in hand at the end",
    );
    for (const { judge } of this.workers) judge.finished();
  }
}

export class ModelWorker {
  readonly gate: AdmissionGate;
  readonly judge: Judge;
  readonly inHand = new Set<Job>();
  readonly #parked = new Map<string, Job>();
  #excused = 0;
  #busyUntil = 0;
  #isFetching = false;
  #isAlive = true;
  #inRow = 0;
  #hasFetched = false;
  readonly #heldBy = new Map<string, number>();
  #held = 0;
  #lullAt = 0;

  constructor(private readonly simulation: Simulation) {
    const { options, timeline, queue } = simulation;
    this.gate = new AdmissionGate({
      ...options,
      now: () => (options.isOnWallClock ? queue.epochMs : timeline.nowMs + EPOCH_OF_GATES),
      epochNow: () => queue.epochMs,
      random: () => options.chance.between(0, 1),
      schedule: (run, ms) => timeline.after(ms, () => this.#isAlive && run()),
      onExcused: (jobs) => {
        this.#excused = jobs;
        this.wake();
      },
      onPromote: (jobs) => {
        queue.script();
        for (const { job, retryAt } of jobs) {
          const parked = this.#parked.get(job);
          if (parked === undefined) continue;
          this.judge.called(parked, timeline.nowMs);
          queue.recall(parked, retryAt);
        }
      },
    });
    this.judge = new Judge(this.gate, options, options.endpoints);
  }

  /** Take jobs, if there are any and there is room. */
  wake(): void {
    if (this.#isFetching || !this.#isAlive || !this.#hasRoom || this.simulation.queue.size === 0) return;
    const { timeline, queue, options } = this.simulation;
    this.#isFetching = true;
    const startAt = options.isCostly ? Math.max(this.#busyUntil, queue.busyUntil) : timeline.nowMs;
    timeline.at(Math.max(startAt, timeline.nowMs) + ROUND_TRIP_MS, () => this.#fetch());
  }

  die(): void {
    this.#isAlive = false;
    const { timeline, queue } = this.simulation;
    for (const job of this.inHand) timeline.after(STALLED_MS, () => queue.stalled(job));
    this.inHand.clear();
  }

  get #hasRoom(): boolean {
    return this.inHand.size < this.simulation.options.slots + this.#excused;
  }

  #fetch(): void {
    const { queue } = this.simulation;
    this.#isFetching = false;
    if (!this.#isAlive) return;
    for (let taken = 0; taken < AT_ONCE && this.#hasRoom; taken++) {
      const job = queue.take();
      if (job === undefined) break;
      queue.script();
      this.#inRow += 1;
      this.inHand.add(job);
      this.#process(job);
    }
    if (queue.size === 0) this.#inRow = 0;
    if (this.#inRow >= LOOK_AFTER || (this.#inRow > 0 && this.#held >= LOOK_AFTER_HELD)) {
      queue.look(
        this.#inRow,
        [...this.#heldBy].filter(([, times]) => times >= TROUBLE).map(([user]) => user),
      );
      this.#inRow = 0;
      this.#held = 0;
    }
    this.wake();
    this.#hasFetched = true;
  }

  /** After a step: what the judge looks at, and that no slot is free while jobs wait. */
  check(): void {
    this.judge.check();
    if (!this.#hasFetched) return;
    this.#hasFetched = false;
    const { nowMs, queue, options } = this.simulation;
    const needed = this.inHand.size - this.judge.oldAt(nowMs) - this.judge.waiting;
    const isIdle = !this.#isFetching && queue.size > 0 && needed < options.slots;
    if (isIdle) demand(false, `${queue.size} jobs wait, and only ${needed} of ${options.slots} slots are in use`);
  }

  #process(job: Job): void {
    const { simulation, gate, judge } = this;
    const { endpoint, user, bytes, id } = job;
    const { nowMs, queue } = simulation;
    judge.returned(job, nowMs, queue.wallMs);
    for (const worker of simulation.workers) worker.judge.taken(job);
    this.#parked.delete(id);
    const hasWaited = job.dueAt > 0;
    const answer = gate.admit({ endpoint: endpoint.key, host: endpoint.host.origin, user, bytes, job: id, hasWaited });
    if (answer.kind !== "wait") {
      this.#decided(job, answer);
      return;
    }
    judge.waits(job, nowMs);
    if (!answer.isProven) this.#hold(job);
    simulation.promised += 1;
    answer.decision.then((decided) => {
      simulation.promised -= 1;
      try {
        if (this.#isAlive) this.#decided(job, decided);
      } catch (error) {
        simulation.failure = error;
      }
    });
  }

  #decided(job: Job, decision: Decision): void {
    const { simulation, gate, judge } = this;
    const { timeline, queue, options, nowMs } = simulation;
    judge.decided(job, decision, nowMs, queue.epochMs, queue.wallMs);
    if (decision.kind === "park") {
      simulation.parked += 1;
      this.#hold(job);
      this.#spend(PARK_MS);
      queue.script();
      this.#parked.set(job.id, job);
      this.inHand.delete(job);
      queue.delay(job, decision.retryAt);
      this.wake();
      return;
    }
    this.#spend(START_MS);
    const isFault = options.chance.between(0, 1) < (options.faultShare ?? 0);
    const fault: Outcome = { kind: "fault", code: "resources", durationMs: 1 };
    const outcome = isFault ? fault : outcomeOf(job.endpoint, nowMs);
    const sentAt = options.isCostly ? Math.max(nowMs, this.#busyUntil) : nowMs;
    if (isDelivered(outcome)) simulation.deliveries.push({ job, latencyMs: sentAt - job.addedAt });
    timeline.at(sentAt + outcome.durationMs, () => {
      if (!this.#isAlive) return;
      // Before the gate is told: what it lets go meanwhile is judged by what is known then.
      const { nowMs } = simulation;
      const isHolding = outcome.kind === "response" && HOLDING.includes(outcome.status);
      const holdMs = isHolding ? retryAfterMs(outcome.status, outcome.retryAfter, queue.epochMs) : 0;
      gate.release(decision, outcome);
      judge.ended(job, outcome, nowMs, holdMs);
      this.#spend(END_MS);
      queue.script();
      this.inHand.delete(job);
      this.#settle(job, outcome);
      this.wake();
    });
  }

  #settle(job: Job, outcome: Outcome): void {
    const { queue, options } = this.simulation;
    const isCharged = outcome.kind !== "fault";
    if (isCharged) {
      job.attempts += 1;
      job.sent += 1;
    }
    demand(job.attempts === job.sent, `${job.id} was charged ${job.attempts} attempts for ${job.sent} requests`);
    if (isDelivered(outcome) || job.attempts > RETRY_MS.length) {
      queue.finish(job);
      return;
    }
    const delayMs = isCharged ? (RETRY_MS[job.attempts - 1] as number) : OUR_FAULT_MS;
    queue.delay(job, Math.ceil(queue.epochMs + delayMs * options.chance.between(0.8, 1.2)));
  }

  /** As the fair queue is told. */
  #hold({ user }: Job): void {
    const { nowMs } = this.simulation;
    if (nowMs - this.#lullAt > 1_000) {
      this.#heldBy.clear();
      this.#held = 0;
      this.#lullAt = nowMs;
    }
    this.#held += 1;
    this.#heldBy.set(user, (this.#heldBy.get(user) ?? 0) + 1);
  }

  #spend(ms: number): void {
    this.#busyUntil = Math.max(this.#busyUntil, this.simulation.nowMs) + ms;
  }
}
