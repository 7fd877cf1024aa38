/**
 * A queue as BullMQ keeps one: jobs wait in a list, then in `prioritized`, are delayed until a moment of the wall clock, are
 * active, or done. A job that is not where it should be is an error.
 */
import { type FairOrder, yieldPlaces } from "./fair-order.ts";
import type { Timeline } from "./timeline.ts";
import type { ModelEndpoint } from "./world.ts";

export interface Job {
  readonly id: string;
  readonly user: string;
  readonly endpoint: ModelEndpoint;
  readonly bytes: number;
  /** What the job counts as in a scenario. */
  readonly mark: string;
  readonly addedAt: number;
  state: "new" | "waiting" | "prioritized" | "delayed" | "active" | "done";
  /** Attempts used up. */
  attempts: number;
  /** Requests sent on its behalf that count as attempts. */
  sent: number;
  /** Epoch ms at which it comes back while it is delayed. */
  dueAt: number;
  /** When it last came back from there, ms of virtual time. */
  backAt: number;
  /** Where its start tag puts it while it is prioritized. */
  tag: number;
}

/** Of Valkey's one thread, ms. */
const SCRIPT_MS = 0.05;
const LOOK_MS = 0.0025; // a job looked at for fairness

export class QueueModel {
  readonly waiting: Job[] = []; // next job last, as in BullMQ
  readonly prioritized: Job[] = []; // lowest tag last
  readonly delayed = new Set<Job>();
  readonly order: FairOrder = { tags: new Map() };
  /** When Valkey has done all that it was asked for. */
  busyUntil = 0;
  /** Called when jobs wait. */
  onJobs: () => void = () => {};
  /** How far the wall clock is from the timeline, ms. */
  wallMs = 1_760_000_000_000;

  constructor(private readonly timeline: Timeline) {}

  get epochMs(): number {
    return this.timeline.nowMs + this.wallMs;
  }

  get size(): number {
    return this.waiting.length + this.prioritized.length;
  }

  /** The clock steps: what is due by then comes. */
  stepClock(byMs: number): void {
    this.wallMs += byMs;
    for (const job of this.delayed) this.#comeIfDue(job);
  }

  /** Valkey runs one script more. */
  script(ms = SCRIPT_MS): void {
    this.busyUntil = Math.max(this.busyUntil, this.timeline.nowMs) + ms;
  }

  add(jobs: readonly Job[]): void {
    for (const job of jobs) {
      move(job, "new", "waiting");
    }
    this.waiting.unshift(...jobs.toReversed());
    this.onJobs();
  }

  take(): Job | undefined {
    const job = this.waiting.pop() ?? this.prioritized.pop();
    if (job !== undefined) move(job, job.state === "prioritized" ? "prioritized" : "waiting", "active");
    return job;
  }

  finish(job: Job): void {
    move(job, "active", "done");
  }

  /** Until an epoch ms. */
  delay(job: Job, dueAt: number): void {
    move(job, "active", "delayed");
    job.dueAt = dueAt;
    this.delayed.add(job);
    this.#comeAt(job);
  }

  /** A dead worker's job goes to the head of the line. */
  stalled(job: Job): void {
    move(job, "active", "waiting");
    this.waiting.push(job);
    this.onJobs();
  }

  /** Call jobs back that are delayed until that moment, and no other. */
  recall(job: Job, retryAt: number): void {
    if (job.state !== "delayed" || job.dueAt !== retryAt) return;
    job.dueAt = this.epochMs;
    this.#comeIfDue(job);
  }

  /** One look at the line, for fairness. Returns whether another is worth it. */
  look(jobs: number): boolean {
    const { seen, moved } = yieldPlaces(this, jobs);
    this.script(SCRIPT_MS + seen * LOOK_MS);
    return moved > seen / 10;
  }

  #comeAt(job: Job): void {
    const { dueAt } = job;
    this.timeline.at(dueAt - this.wallMs, () => {
      if (job.state !== "delayed" || job.dueAt !== dueAt) return;
      if (this.epochMs >= dueAt) this.#comeIfDue(job);
      else this.#comeAt(job); // the clock was set back
    });
  }

  #comeIfDue(job: Job): void {
    if (job.dueAt > this.epochMs) return;
    move(job, "delayed", "waiting");
    job.backAt = this.timeline.nowMs;
    this.delayed.delete(job);
    this.waiting.unshift(job);
    this.onJobs();
  }
}

function move(job: Job, from: Job["state"], to: Job["state"]): void {
  if (job.state !== from) throw new Error(`job ${job.id} was to go from ${from} to ${to}, and is ${job.state}`);
  job.state = to;
}

/** For {@link yieldPlaces}: a job goes from one line to the other. */
export function moveToPrioritized(job: Job, tag: number): void {
  move(job, "waiting", "prioritized");
  job.tag = tag;
}

/** For {@link yieldPlaces}: a job is given back to the line. */
export function moveToWaiting(job: Job): void {
  move(job, "prioritized", "waiting");
}
