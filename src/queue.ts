/**
 * Everything about BullMQ that is a constant, and the worker that applies the retry policy to jobs of any client.
 */
import {
  createRedisBackend,
  DelayedError,
  type Job,
  type JobJson,
  type KeepJobs,
  type Queue,
  type RedisQueueBackend,
  Worker,
  type WorkerOptions,
} from "bullmq";
import { lockMsFor } from "./deadline.ts";
import { ExactJob } from "./exact-jobs.ts";
import { policyOf, type RetryPolicy } from "./retry.ts";
import { tolerant } from "./tolerant-backend.ts";
import type { Valkey } from "./valkey.ts";

export { openQueue } from "./exact-jobs.ts";
export type { Job, Queue };
export { DelayedError };

const HOUR_SECONDS = 60 * 60;
export const COMPLETED: KeepJobs = { count: 1_000, age: 24 * HOUR_SECONDS }; // 1,000 or 1 day, whichever is less
export const FAILED: KeepJobs = { count: 10_000, age: 7 * 24 * HOUR_SECONDS }; // 10,000 or 7 days

const STALL_CHECK_MS = 5 * 1000; // 5 s, and a job must be seen twice
const RECONNECT_PAUSE_MS = 1000; // 1 s between tries of a queue command while Valkey is away (BullMQ: 15 s)
const UNFORESEEN_DELAY_MS = 5 * 1000; // 5 s before the next attempt after an error that nobody foresaw
const FEW = 3; // jobs that wait; beyond them more are asked for at once
const MOST_AT_ONCE = 64; // jobs asked for at once: more than can go soon would wait here, and keep others out
const STRATEGY = "fluxhook";

/**
 * A failed attempt, for BullMQ: it reads the message as the job's failure reason and asks {@link backoff} for the delay.
 */
export class AttemptFailed extends Error {
  override readonly name = "AttemptFailed";
  /** @param retryInMs  > 0; undefined gives up */
  constructor(
    message: string,
    readonly retryInMs?: number,
  ) {
    super(message);
  }
}

/** An attempt that did not come to be: the job may not go yet. It goes back as it was, until `retryAt` (epoch ms). */
export class Parked extends Error {
  override readonly name = "Parked";
  constructor(readonly retryAt: number) {
    super("not yet");
  }
}

/**
 * -1 ends the job. An error that nobody foresaw, ours or Valkey's, is no reason to lose the event: it is tried again while
 * it has attempts. Never throws: BullMQ would leave the job active until it counts as stalled.
 */
function backoff(_attempt: number, _type?: string, error?: Error): number {
  return error instanceof AttemptFailed ? (error.retryInMs ?? -1) : UNFORESEEN_DELAY_MS;
}

const POLICY = Symbol("policy");

/** A job that was given its policy at pick-up. */
type PolicedJob = Job<unknown, string> & { [POLICY]?: RetryPolicy };

/** Of BullMQ's insides (version pinned in package.json). */
interface MainLoop {
  /** What is under way; null before it runs. */
  readonly mainLoopQueue: { numTotal(): number; add(work: Promise<undefined>): void } | null;
  /** The next job, which may be long in coming; undefined when none came after all. */
  _getNextJob(token: string, options: object): Promise<Job | undefined>;
  updateDelays(limitMs?: number, delayUntil?: number): void;
}

/** Do one attempt of a job. Returns its result, or throws {@link AttemptFailed}, {@link Parked} or {@link DelayedError}. */
export type Process = (job: Job, token: string, policy: RetryPolicy) => Promise<string>;

export interface DeliveryWorkerOptions {
  readonly queue: string;
  readonly valkey: Valkey;
  readonly concurrency: number;
  /** Deadline of one attempt, in ms; the job lock outlasts it, so that an attempt never outlives its lock. */
  readonly timeoutMs: number;
  readonly policy: RetryPolicy;
  /** Tracing, when it is on. */
  readonly telemetry?: WorkerOptions["telemetry"] | undefined;
}

/**
 * A BullMQ worker that gives every job a retry policy at pick-up.
 *
 * Clients of other languages store `attempts: 0` and `backoff: null`, plain ones nothing; what a producer did set stays.
 * Nothing of it is stored, so a new `WEBHOOK_RETRY_DELAYS` counts for waiting jobs too.
 */
export class DeliveryWorker extends Worker<unknown, string, string, RedisQueueBackend> {
  /** Epoch ms at which this worker last took a job, or was made. */
  lastPickUpAt = Date.now();
  /** How many jobs are being processed. */
  active = 0;
  /** Take one job after the other, although many wait: one endpoint's are just being moved out of the way. */
  isHeldBack = false;
  readonly #policy: RetryPolicy;
  readonly #loop: MainLoop;
  #comeInRow = 0;

  constructor(process: Process, { queue, valkey, concurrency, timeoutMs, policy, telemetry }: DeliveryWorkerOptions) {
    const lockMs = lockMsFor(timeoutMs);
    const options: WorkerOptions = {
      connection: valkey,
      concurrency,
      autorun: false,
      lockDuration: lockMs,
      stalledInterval: STALL_CHECK_MS,
      // A crash is never the job's fault: however often workers die, the event is tried again.
      maxStalledCount: Number.MAX_SAFE_INTEGER,
      runRetryDelay: RECONNECT_PAUSE_MS,
      removeOnComplete: COMPLETED,
      removeOnFail: FAILED,
      settings: { backoffStrategy: backoff },
      telemetry,
    };
    // Two parameters, on purpose: BullMQ makes an AbortController for every job of a processor with three.
    const processJob = async (job: Job, token?: string): Promise<string> => {
      this.active += 1;
      try {
        // Valkey may have frozen just after it gave us the job, until the lock was gone: another may be at it by now.
        // Half of what the lock outlasts an attempt by: the other half is for its wait in the gate.
        const isLate = Date.now() - (job.processedOn ?? Date.now()) > (lockMs - timeoutMs) / 2;
        if (isLate && !(await job.extendLock(token as string, lockMs))) throw new DelayedError();
        return await process(job, token as string, (job as PolicedJob)[POLICY] ?? policy);
      } finally {
        this.active -= 1;
      }
    };
    super(queue, processJob, options, (...given) => tolerant(createRedisBackend(...given)));
    this.#policy = policy;
    this.#loop = this as unknown as MainLoop;
    const take = this.#loop._getNextJob.bind(this);
    this.#loop._getNextJob = async (token, given) => {
      const job = await take(token, given);
      if (job !== undefined) this.#loop.mainLoopQueue?.add(this.#work(token, job));
      return undefined;
    };
  }

  protected override get Job(): typeof Job {
    return ExactJob;
  }

  protected override createJob(stored: JobJson, jobId: string): Job<unknown, string> {
    this.lastPickUpAt = Date.now();
    const job: PolicedJob = this.#read(stored, jobId);
    const policy = policyOf(job.opts, this.#policy);
    job[POLICY] = policy;
    job.opts.attempts = policy.attempts;
    job.opts.backoff = { type: STRATEGY };
    job.opts.stackTraceLimit = 0;
    // null, as some clients store, and nonsense would make BullMQ's script fail halfway, after the request was sent.
    if (!isRetention(job.opts.removeOnComplete)) delete job.opts.removeOnComplete;
    if (!isRetention(job.opts.removeOnFail)) delete job.opts.removeOnFail;
    return job;
  }

  /**
   * Do a job, and those that come after it, one with each acknowledgement.
   *
   * BullMQ's main loop takes jobs one after the other and begins none before it has as many as it may, or all there are:
   * where hundreds wait, the first would wait for as many round trips. So it is told that none came, each begins here at
   * once, and while there are more than a few, each that comes has two more asked for.
   */
  async #work(token: string, taken?: Job): Promise<undefined> {
    const mayGoOn = () => (this.#loop.mainLoopQueue?.numTotal() ?? 0) <= this.concurrency;
    try {
      let job: Awaited<ReturnType<Worker["processJob"]>> = taken ?? (await this.moveToActive(token, this.opts.name));
      while (job) job = await this.processJob(job, token, mayGoOn);
    } catch (error) {
      this.emit("error", error as Error);
    }
  }

  /** BullMQ puts a job off in one script and asks for the next in another: this does both in one, and notes that it is parked. */
  protected override async handleFailed(...given: Parameters<Worker["handleFailed"]>): Promise<Job> {
    const [error, job, token, mayTakeNext] = given;
    if (!(error instanceof Parked)) return await super.handleFailed(...given);
    const nowMs = Date.now();
    const next = await this.backend.moveToDelayed(job.id as string, nowMs, Math.max(0, error.retryAt - nowMs), token, {
      skipAttempt: true,
      fieldsToUpdate: { parked: error.retryAt },
      fetchNext: mayTakeNext?.() && !this.closing && !this.paused,
    });
    const [stored, id, limitMs, delayUntil] = next as [JobJson?, string?, number?, number?];
    this.#loop.updateDelays(limitMs, delayUntil);
    return await this.nextJobFromJobData(stored, id, token);
  }

  /** BullMQ asks for the job that woke it although it was told to stop meanwhile: that wakes another worker instead. */
  protected override async moveToActive(token: string, name?: string): Promise<Job> {
    if (this.closing) {
      await (this.opts.connection as Valkey).zadd(this.toKey("marker"), 0, "0");
      return undefined as unknown as Job;
    }
    const job = await super.moveToActive(token, name);
    this.#comeInRow = job === undefined ? 0 : this.#comeInRow + 1;
    if (this.#comeInRow > FEW && !this.isHeldBack) this.take(2);
    return job;
  }

  /** Ask for so many jobs side by side, as far as there is room. */
  take(jobs: number): void {
    const hand = this.#loop.mainLoopQueue;
    if (hand === null || this.closing || this.paused) return;
    const free = Math.min(jobs, MOST_AT_ONCE, this.concurrency - hand.numTotal());
    for (let asked = 0; asked < free; asked++) hand.add(this.#work(crypto.randomUUID()));
  }

  /** BullMQ drops a job whose schedule cannot go on, and so leaves it active, stalling for ever: it goes without one. */
  protected override async nextJobFromJobData(stored?: JobJson, jobId?: string, token?: string): Promise<Job> {
    const job = await super.nextJobFromJobData(stored, jobId, token);
    if (job !== undefined || !stored) return job;
    const opts = { ...stored.opts, repeatJobKey: undefined };
    return await super.nextJobFromJobData({ ...stored, opts, repeatJobKey: undefined }, jobId, token);
  }

  /** Data that is not JSON breaks the contract like any other: it becomes a text, in Valkey too, or the board could not list it. */
  #read(stored: JobJson, jobId: string): Job<unknown, string> {
    try {
      return super.createJob(stored, jobId);
    } catch {
      const job = super.createJob({ ...stored, data: JSON.stringify(stored.data) }, jobId);
      job.updateData(stored.data).catch(() => {});
      return job;
    }
  }
}

/** How many finished jobs to keep: a boolean, a count, or counts. */
function isRetention(value: unknown): boolean {
  const isCount = (count: unknown) => Number.isSafeInteger(count) && (count as number) >= 0;
  if (typeof value !== "object" || value === null) return typeof value === "boolean" || isCount(value);
  const { age, count, limit } = value as Record<string, unknown>;
  return [age, count, limit].every((part) => part === undefined || isCount(part));
}

/** The prefix of a queue's keys in Valkey. */
export const queueKey = (name: string): string => `bull:${name}`;
