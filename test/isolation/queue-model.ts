/**
 * A queue as BullMQ keeps one: jobs wait in a list, then in `prioritized`, are delayed until a moment of the wall clock, are
 * active, or done. A job that is not where it should be is an error.
 */
import { lookAt } from "./fair-model.ts";
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

const FIRST_PIECE = 128; // jobs that a look begins with
const LAST_PIECE = 1_024;

export class QueueModel {
  readonly delayed = new Set<Job>();
  #waiting: Job[] = []; // next job last, as in BullMQ
  #prioritized: Job[] = []; // next job last, too
  #tags: ReadonlyMap<string, number> = new Map();
  readonly #jobs = new Map<string, Job>();
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
    return this.#waiting.length + this.#prioritized.length;
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
      this.#jobs.set(job.id, job);
    }
    this.#waiting.unshift(...jobs.toReversed());
    this.onJobs();
  }

  take(): Job | undefined {
    const job = this.#waiting.pop() ?? this.#prioritized.pop();
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
    this.#waiting.push(job);
    this.onJobs();
  }

  /** Call jobs back that are delayed until that moment, and no other. */
  recall(job: Job, retryAt: number): void {
    if (job.state !== "delayed" || job.dueAt !== retryAt) return;
    job.dueAt = this.epochMs;
    this.#comeIfDue(job);
  }

  /** Look at the line, for fairness between users, a piece after the other, as src/isolation/fair-queue.ts does. */
  look(taken: number, troubled: readonly string[]): void {
    const giveBack = Math.floor(taken / 16);
    let behind = "";
    for (let size = FIRST_PIECE; ; size = Math.min(LAST_PIECE, size * 2)) {
      const looked = lookAt(
        {
          wait: this.#waiting.map(({ id }) => id),
          prioritized: new Map(this.#prioritized.map(({ id, tag }) => [id, tag])),
          tags: this.#tags,
        },
        (id) => {
          const { user, endpoint } = this.#job(id);
          return { user, url: endpoint.key, bytes: 300 };
        },
        { size, behind, giveBack, troubled },
      );
      this.script(SCRIPT_MS + looked.seen * LOOK_MS);
      this.#tags = looked.tags;
      this.#sort(looked.wait, looked.prioritized);
      if (!looked.goesOn) return;
      behind = looked.last;
    }
  }

  #sort(wait: readonly string[], prioritized: ReadonlyMap<string, number>): void {
    for (const id of wait) {
      const job = this.#job(id);
      if (job.state === "prioritized") move(job, "prioritized", "waiting");
    }
    for (const [id, tag] of prioritized) {
      const job = this.#job(id);
      if (job.state === "waiting") move(job, "waiting", "prioritized");
      job.tag = tag;
    }
    const count = this.#waiting.length + this.#prioritized.length;
    this.#waiting = wait.map((id) => this.#job(id));
    this.#prioritized = [...prioritized.keys()].map((id) => this.#job(id));
    this.#prioritized.sort((a, b) => b.tag - a.tag || (a.id < b.id ? 1 : -1));
    if (this.size !== count) throw new Error(`a look found ${count} jobs, and left ${this.size}`);
  }

  #job(id: string): Job {
    return this.#jobs.get(id) as Job;
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
    this.#waiting.unshift(job);
    this.onJobs();
  }
}

function move(job: Job, from: Job["state"], to: Job["state"]): void {
  if (job.state !== from) throw new Error(`job ${job.id} was to go from ${from} to ${to}, and is ${job.state}`);
  job.state = to;
}
