/**
 * Retention and timing constants for BullMQ, and the worker that applies the retry policy to jobs of any client.
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
import type { Budget } from "./budget.ts";
import { describeLength, ExactJob, isTooLong } from "./exact-jobs.ts";
import { createHolders, givesBack, type Holders } from "./holders.ts";
import { queueKey } from "./layout.ts";
import { type Confirm, type Notes, setNotes, watchPickUps } from "./pick-ups.ts";
import { FAN_FIELD, keepsPins, PINNED_FIELD, pinFields, pinOf, writePin } from "./pin.ts";
import { tolerant } from "./tolerant-backend.ts";
import { LoopWorker, type QueueWatch } from "./worker-loop.ts";

export { openQueue } from "./exact-jobs.ts";
export type { Job, Queue };
export { DelayedError };

const HOUR_SECONDS = 60 * 60;
const COMPLETED: KeepJobs = { count: 1_000, age: 24 * HOUR_SECONDS }; // 1,000 or 1 day, whichever is less
const FAILED: KeepJobs = { count: 10_000, age: 7 * 24 * HOUR_SECONDS }; // 10,000 or 7 days

/** How many finished jobs a queue keeps. Named like the settings. */
export interface KeptJobs {
  readonly keepCompleted: number;
  readonly keepFailed: number;
}

export const DEFAULT_KEPT: KeptJobs = {
  keepCompleted: COMPLETED.count as number,
  keepFailed: FAILED.count as number,
};

const STALL_CHECK_MS = 5 * 1000; // 5 s, and a job must be seen twice
invariant(2 * STALL_CHECK_MS < MIN_LOCK_MS, "jobs of a dead worker to be found within a lock after its lock is gone");
const RECONNECT_PAUSE_MS = 1000; // 1 s between tries of a queue command while Valkey is away (BullMQ: 15 s)
const UNEXPECTED_DELAY_MS = 5 * 1000; // 5 s before the next attempt after an unexpected error
const SUSPECT_STALLS = 3; // after this many crashes or hangs of workers that held a job, it may be the cause
const STRATEGY = "fluxhook";
const UNCONFIRMED: Confirm = () => () => undefined;

/**
 * A failed attempt. BullMQ stores the message as the job's failure reason and calls {@link backoff} for the delay.
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

/** The job may not be attempted yet: it is delayed unchanged until `retryAt` (epoch ms), without using an attempt. */
export class Parked extends Error {
  override readonly name = "Parked";
  constructor(readonly retryAt: number) {
    super("not yet");
  }
}

/**
 * The delay until a job's next attempt, ms; -1 fails the job. Unexpected errors, ours or Valkey's, must not lose the event, so
 * they are retried while attempts remain. Never throws: BullMQ would leave the job active until it stalls.
 */
function backoff(_attempt: number, _type?: string, error?: Error): number {
  return error instanceof AttemptFailed ? (error.retryInMs ?? -1) : UNEXPECTED_DELAY_MS;
}

/** Make one attempt of a job. Returns its result, or throws {@link AttemptFailed}, {@link Parked} or {@link DelayedError}. */
export type Process = (job: Job, token: string, policy: RetryPolicy) => Promise<string>;

export interface DeliveryWorkerOptions extends Partial<KeptJobs> {
  readonly queue: string;
  readonly valkey: Valkey;
  readonly concurrency: number;
  /** Shared with the workers of other shards in this process. */
  readonly budget?: Budget | undefined;
  /** Deadline of one attempt, in ms; the job lock outlasts it, so that an attempt never outlives its lock. */
  readonly timeoutMs: number;
  readonly policy: RetryPolicy;
  /** Notified of each job taken, and when none was waiting. */
  readonly watch?: QueueWatch | undefined;
  /** Maximum length of a job's data to parse, in characters. No limit by default. */
  readonly maxDataLength?: number | undefined;
  /** See src/queue/pick-ups.ts. */
  readonly confirm?: Confirm | undefined;
  /** Makes the attempts of jobs that workers died or hung with. Without it, they are processed like others. */
  readonly suspects?: { attempt(job: Job, token: string): Promise<string> } | undefined;
  /** Called for a repeatable job of BullMQ 4 or 5: this is its last run, since BullMQ 6 does not repeat it. */
  readonly unrepeated?: ((job: Job) => void) | undefined;
  /** Tracing, when it is on. */
  readonly telemetry?: WorkerOptions["telemetry"] | undefined;
}

/**
 * A BullMQ worker that gives every job a retry policy.
 *
 * Clients in other languages store `attempts: 0` and `backoff: null`, plain ones nothing. A producer's own options win. The
 * policy is not stored, so a new `WEBHOOK_RETRY_DELAYS` applies to waiting jobs too.
 */
export class DeliveryWorker extends LoopWorker {
  /** How many jobs are being processed. */
  active = 0;
  readonly holders: Holders;
  readonly #process: Process;
  readonly #notes: Map<string, Notes>; // of jobs that were just picked up, by their ids
  readonly #options: DeliveryWorkerOptions;

  constructor(process: Process, options: DeliveryWorkerOptions) {
    const { queue, valkey, concurrency, timeoutMs, policy, watch, telemetry, suspects } = options;
    const { keepCompleted, keepFailed } = { ...DEFAULT_KEPT, ...options };
    const lockMs = lockMsFor(timeoutMs);
    const workerOptions: WorkerOptions = {
      connection: valkey,
      concurrency,
      autorun: false,
      lockDuration: lockMs,
      stalledInterval: STALL_CHECK_MS,
      // Only a process that runs nothing else can tell whether a job causes crashes: see suspects.ts.
      maxStalledCount: Number.MAX_SAFE_INTEGER,
      runRetryDelay: RECONNECT_PAUSE_MS,
      removeOnComplete: { ...COMPLETED, count: keepCompleted },
      removeOnFail: { ...FAILED, count: keepFailed },
      settings: { backoffStrategy: backoff },
      telemetry,
    };
    // Two parameters on purpose: with three, BullMQ creates an AbortController for every job.
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
    const noted = new Map<string, Notes>();
    const note = (id: string, notes: Notes) => void noted.set(id, notes);
    super(queue, processJob, workerOptions, (...given) => {
      const backend = watchPickUps(tolerant(createRedisBackend(...given)), options.confirm ?? UNCONFIRMED, note);
      return givesBack(keepsPins(backend), holders, valkey, prefix);
    });
    this.#notes = noted;
    this.holders = holders;
    // Short, for Valkey; the process is named already, and runs few workers.
    if (holders.prefix !== "") this.tokenPrefix = `${holders.prefix}${this.id.slice(0, 6)}:`;
    this.watch = watch;
    if (options.budget !== undefined) this.shareBudget(options.budget);
    this.#process = process;
    this.#options = options;
  }

  protected override get Job(): typeof Job {
    return ExactJob;
  }

  override async processJob(...given: Parameters<Worker["processJob"]>): Promise<Job | undefined> {
    const [job] = given;
    const { opts, repeatJobKey } = job;
    this.#giveNotes(job);
    if (repeatJobKey !== undefined) this.#tellUnrepeated(job, repeatJobKey);
    // null, which some clients store, and invalid values would make BullMQ's script fail after the request was sent.
    if (!isRetention(opts.removeOnComplete)) delete opts.removeOnComplete;
    if (!isRetention(opts.removeOnFail)) delete opts.removeOnFail;
    return (await super.processJob(...given)) as Job | undefined;
  }

  #giveNotes(job: Job): void {
    const notes = this.#notes.get(job.id as string);
    if (notes === undefined) return;
    this.#notes.delete(job.id as string);
    setNotes(job, notes);
  }

  async #tellUnrepeated(job: Job, key: string): Promise<void> {
    const schedulers = await this.jobScheduler;
    // Rejects for a key that only older clients write.
    await schedulers.getScheduler(key).catch(() => this.#options.unrepeated?.(job));
  }

  /** Delay a parked job, mark it as parked, and fetch the next in one script, for which BullMQ needs two. */
  protected override async handleFailed(...given: Parameters<Worker["handleFailed"]>): Promise<Job> {
    const [error, job, token, mayTakeNext] = given;
    if (!(error instanceof Parked)) {
      const pinned = pinOf(job);
      if (pinned !== undefined) writePin(this.opts.connection as Valkey, this.toKey(job.id as string), token, pinned);
      return await super.handleFailed(...given);
    }
    const nowMs = Date.now();
    const next = await this.backend.moveToDelayed(job.id as string, nowMs, Math.max(0, error.retryAt - nowMs), token, {
      skipAttempt: true,
      fieldsToUpdate: { parked: error.retryAt, ...pinFields(job) },
      fetchNext: mayTakeNext?.() && !this.closing && !this.paused,
    });
    const [stored, id] = next as [JobJson?, string?];
    return await this.nextJobFromJobData(stored, id, token);
  }

  /** Data that is not JSON violates the contract. It is stored as a JSON string, so that the board can list it. */
  protected override createJob(stored: JobJson, jobId: string): Job<unknown, string> {
    const { maxDataLength = Number.POSITIVE_INFINITY, suspects } = this.#options;
    if (stored.data?.length > maxDataLength) return this.#createTooLong(stored, jobId, maxDataLength);
    if (suspects !== undefined && stored.stalledCounter >= SUSPECT_STALLS) {
      return super.createJob({ ...stored, data: "null" }, jobId); // parsed in a separate process
    }
    try {
      return super.createJob(stored, jobId);
    } catch {
      const job = super.createJob({ ...stored, data: JSON.stringify(stored.data) }, jobId);
      job.updateData(stored.data).catch(() => {});
      return job;
    }
  }

  /** A job that is too long to be parsed, and will be rejected. */
  #createTooLong(stored: JobJson, jobId: string, maxLength: number): Job<unknown, string> {
    const { length } = stored.data;
    const job = super.createJob({ ...stored, data: "null" }, jobId);
    // Thousands of these, kept as failed, would fill Valkey, and no setting allows delivering them.
    if (isTooLong(stored.data)) job.updateData(`${describeLength(length)}: not kept`).catch(() => {});
    job.data = new UnreadData(length, maxLength);
    return job;
  }

  /**
   * Make one attempt of a job that another process holds by this token and will acknowledge.
   *
   * @throws  like {@link Process}
   */
  async attempt(jobId: string, token: string): Promise<string> {
    const stored = await this.backend.getJobData(jobId);
    if (stored === undefined) throw new DelayedError(); // it was removed
    const valkey = this.opts.connection as Valkey;
    const [to, fan] = await valkey.hmget(this.toKey(jobId), PINNED_FIELD, FAN_FIELD);
    const job = this.createJob(stored, jobId) as Job;
    setNotes(job, { pinnedTo: to ?? undefined, isFannedOut: fan !== null });
    job.token = token;
    try {
      return await this.#process(job, token, impose(this.#options.policy, job));
    } finally {
      const pinned = pinOf(job);
      if (pinned !== undefined) writePin(valkey, this.toKey(jobId), token, pinned);
    }
  }
}

/** A job that is too long is never parsed, so it cannot crash a worker. */
function isSuspect({ stalledCounter, data }: Job): boolean {
  return stalledCounter >= SUSPECT_STALLS && !(data instanceof UnreadData);
}

/**
 * Set a job's policy in its options, for BullMQ. Only when the job is processed: when BullMQ fetches a job scheduler's job, it
 * copies the options to the next one, and those must stay as the producer wrote them.
 */
function impose(fallback: RetryPolicy, { opts }: Job): RetryPolicy {
  const policy = policyOf(opts, fallback);
  Object.assign(opts, { attempts: policy.attempts, backoff: { type: STRATEGY }, stackTraceLimit: 0 });
  return policy;
}

/** Whether a value is a valid `removeOnComplete`: a boolean, a count, or an object. */
function isRetention(value: unknown): boolean {
  const isCount = (count: unknown) => Number.isSafeInteger(count) && (count as number) >= 0;
  if (typeof value !== "object" || value === null) return typeof value === "boolean" || isCount(value);
  const { age, count, limit } = value as Record<string, unknown>;
  return [age, count, limit].every((part) => part === undefined || isCount(part));
}
