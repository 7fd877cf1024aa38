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
  type Worker,
  type WorkerOptions,
} from "bullmq";
import { UnreadData } from "../delivery/request.ts";
import { policyOf, type RetryPolicy } from "../delivery/retry.ts";
import { lockMsFor, MIN_LOCK_MS } from "../runtime/deadline.ts";
import { invariant } from "../runtime/invariant.ts";
import type { Valkey } from "../valkey/connection.ts";
import { describeLength, ExactJob, isTooLong } from "./exact-jobs.ts";
import { createHolders, givesBack, type Holders } from "./holders.ts";
import { queueKey } from "./layout.ts";
import { tolerant } from "./tolerant-backend.ts";
import { LoopWorker, type QueueWatch } from "./worker-loop.ts";

export { openQueue } from "./exact-jobs.ts";
export type { Job, Queue };
export { DelayedError };

const HOUR_SECONDS = 60 * 60;
export const COMPLETED: KeepJobs = { count: 1_000, age: 24 * HOUR_SECONDS }; // 1,000 or 1 day, whichever is less
export const FAILED: KeepJobs = { count: 10_000, age: 7 * 24 * HOUR_SECONDS }; // 10,000 or 7 days

const STALL_CHECK_MS = 5 * 1000; // 5 s, and a job must be seen twice
invariant(2 * STALL_CHECK_MS < MIN_LOCK_MS, "jobs of a dead worker to be found within a lock after its lock is gone");
const RECONNECT_PAUSE_MS = 1000; // 1 s between tries of a queue command while Valkey is away (BullMQ: 15 s)
const UNFORESEEN_DELAY_MS = 5 * 1000; // 5 s before the next attempt after an error that nobody foresaw
const SUSPECT_STALLS = 3; // crashes or hangs of workers that had a job in hand: from then on it may be their cause
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

/** Do one attempt of a job. Returns its result, or throws {@link AttemptFailed}, {@link Parked} or {@link DelayedError}. */
export type Process = (job: Job, token: string, policy: RetryPolicy) => Promise<string>;

export interface DeliveryWorkerOptions {
  readonly queue: string;
  readonly valkey: Valkey;
  readonly concurrency: number;
  /** Deadline of one attempt, in ms; the job lock outlasts it, so that an attempt never outlives its lock. */
  readonly timeoutMs: number;
  readonly policy: RetryPolicy;
  /** Told of each job that is taken, and when none was waiting. */
  readonly watch?: QueueWatch | undefined;
  /** The longest text of a job's data that is parsed, in characters. Unless given, there is no limit. */
  readonly maxDataLength?: number | undefined;
  /** Makes the attempts of jobs that workers died or hung with. Without it, they are jobs like others. */
  readonly suspects?: { attempt(job: Job, token: string): Promise<string> } | undefined;
  /** Told of a repeated job of BullMQ 4 or 5: this is its last run, since BullMQ 6 makes no more. */
  readonly unrepeated?: ((job: Job) => void) | undefined;
  /** Tracing, when it is on. */
  readonly telemetry?: WorkerOptions["telemetry"] | undefined;
}

/**
 * A BullMQ worker that gives every job a retry policy.
 *
 * Clients of other languages store `attempts: 0` and `backoff: null`, plain ones nothing; what a producer did set stays.
 * Nothing of it is stored, so a new `WEBHOOK_RETRY_DELAYS` counts for waiting jobs too.
 */
export class DeliveryWorker extends LoopWorker {
  /** How many jobs are being processed. */
  active = 0;
  readonly holders: Holders;
  readonly #process: Process;
  readonly #options: DeliveryWorkerOptions;

  constructor(process: Process, options: DeliveryWorkerOptions) {
    const { queue, valkey, concurrency, timeoutMs, policy, watch, telemetry, suspects } = options;
    const lockMs = lockMsFor(timeoutMs);
    const workerOptions: WorkerOptions = {
      connection: valkey,
      concurrency,
      autorun: false,
      lockDuration: lockMs,
      stalledInterval: STALL_CHECK_MS,
      // Whose fault the crashes were, only a process that runs nothing else can say: see suspects.ts.
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
        const imposed = impose(policy, job);
        if (suspects !== undefined && isSuspect(job)) return await suspects.attempt(job, token as string);
        return await process(job, token as string, imposed);
      } finally {
        this.active -= 1;
      }
    };
    const prefix = queueKey(queue);
    const holders = createHolders(valkey, prefix);
    super(queue, processJob, workerOptions, (...given) =>
      givesBack(tolerant(createRedisBackend(...given)), holders, valkey, prefix),
    );
    this.holders = holders;
    this.tokenPrefix = holders.prefix + this.tokenPrefix;
    this.watch = watch;
    this.#process = process;
    this.#options = options;
  }

  protected override get Job(): typeof Job {
    return ExactJob;
  }

  override async processJob(...given: Parameters<Worker["processJob"]>): Promise<Job | undefined> {
    const [job] = given;
    const { opts, repeatJobKey } = job;
    if (repeatJobKey !== undefined) this.#tellUnrepeated(job, repeatJobKey);
    // null, as some clients store, and nonsense would make BullMQ's script fail halfway, after the request was sent.
    if (!isRetention(opts.removeOnComplete)) delete opts.removeOnComplete;
    if (!isRetention(opts.removeOnFail)) delete opts.removeOnFail;
    return (await super.processJob(...given)) as Job | undefined;
  }

  async #tellUnrepeated(job: Job, key: string): Promise<void> {
    const schedulers = await this.jobScheduler;
    // Rejects for a key that only older clients write.
    await schedulers.getScheduler(key).catch(() => this.#options.unrepeated?.(job));
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
    const [stored, id] = next as [JobJson?, string?];
    return await this.nextJobFromJobData(stored, id, token);
  }

  /** Data that is not JSON breaks the contract like any other: it becomes a text, in Valkey too, or the board could not list it. */
  protected override createJob(stored: JobJson, jobId: string): Job<unknown, string> {
    const { maxDataLength = Number.POSITIVE_INFINITY, suspects } = this.#options;
    if (stored.data?.length > maxDataLength) return this.#createTooLong(stored, jobId, maxDataLength);
    if (suspects !== undefined && stored.stalledCounter >= SUSPECT_STALLS) {
      return super.createJob({ ...stored, data: "null" }, jobId); // parsed in the other process
    }
    try {
      return super.createJob(stored, jobId);
    } catch {
      const job = super.createJob({ ...stored, data: JSON.stringify(stored.data) }, jobId);
      job.updateData(stored.data).catch(() => {});
      return job;
    }
  }

  /** Refused before it is parsed. */
  #createTooLong(stored: JobJson, jobId: string, maxLength: number): Job<unknown, string> {
    const { length } = stored.data;
    const job = super.createJob({ ...stored, data: "null" }, jobId);
    // Thousands of these, kept as failed, would fill Valkey; and no setting lets them be delivered.
    if (isTooLong(stored.data)) job.updateData(`${describeLength(length)}: not kept`).catch(() => {});
    job.data = new UnreadData(length, maxLength);
    return job;
  }

  /**
   * One attempt of a job that another process holds by this token, and acknowledges.
   *
   * @throws  like {@link Process}
   */
  async attempt(jobId: string, token: string): Promise<string> {
    const stored = await this.backend.getJobData(jobId);
    if (stored === undefined) throw new DelayedError(); // it was removed
    const job = this.createJob(stored, jobId) as Job;
    return await this.#process(job, token, impose(this.#options.policy, job));
  }
}

/** A job too long to be parsed ends nothing. */
function isSuspect({ stalledCounter, data }: Job): boolean {
  return stalledCounter >= SUSPECT_STALLS && !(data instanceof UnreadData);
}

/**
 * The policy of a job, which BullMQ is made to follow. Not before the job is processed: at pick-up BullMQ copies the options
 * of a job scheduler's job to the next one, and these must stay as their producer wrote them.
 */
function impose(fallback: RetryPolicy, { opts }: Job): RetryPolicy {
  const policy = policyOf(opts, fallback);
  Object.assign(opts, { attempts: policy.attempts, backoff: { type: STRATEGY }, stackTraceLimit: 0 });
  return policy;
}

/** How many finished jobs to keep: a boolean, a count, or counts. */
function isRetention(value: unknown): boolean {
  const isCount = (count: unknown) => Number.isSafeInteger(count) && (count as number) >= 0;
  if (typeof value !== "object" || value === null) return typeof value === "boolean" || isCount(value);
  const { age, count, limit } = value as Record<string, unknown>;
  return [age, count, limit].every((part) => part === undefined || isCount(part));
}
