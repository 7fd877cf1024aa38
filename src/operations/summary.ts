/**
 * A summary of the queue: counts by state, recent deliveries and failures, hosts that do not respond.
 */
import { jobData } from "../delivery/contract.ts";
import { readCircuits } from "../isolation/open-circuits.ts";
import { JOB_STATES, keysOf, type ShownState } from "../queue/layout.ts";
import { readStrayCount } from "../queue/stray-jobs.ts";
import { COMPLETED, FAILED, type Job, type Queue } from "../queue/worker.ts";
import type { Valkey } from "../valkey/connection.ts";
import { maskSecrets } from "./mask.ts";

/** Minutes in {@link Summary.minutes}. */
export const MINUTES = 30;
/** Minutes that {@link Summary.delivered} and {@link Summary.failed} count. */
export const RECENT_MINUTES = 5;
const MINUTE_MS = 60 * 1000;
const FAILURES = 6;
const SHOWN = 500; // characters of a name or reason; Bull Board shows all

/** How many jobs finished in a time span. `isLeast` if there may have been more, since the queue keeps only the newest. */
export interface Tally {
  readonly count: number;
  readonly isLeast: boolean;
}

/** A failed job. */
export interface Failure {
  readonly job: string;
  readonly event: string;
  /** Undefined when the job has no valid user. */
  readonly userId: string | undefined;
  /** BullMQ's failure reason without secrets; its first 500 characters. */
  readonly reason: string;
  /** Epoch ms. */
  readonly failedAt: number;
}

export interface Summary {
  /** Jobs by where they are; `waiting` holds the prioritized ones, too. */
  readonly counts: Readonly<Record<ShownState, number>>;
  readonly isPaused: boolean;
  /** Connected workers; undefined when Valkey does not report them. */
  readonly workers: number | undefined;
  /** Jobs in none of the queue's lists, as last counted; undefined without a recent count. */
  readonly strays: number | undefined;
  /** How long the next job has been waiting for a worker, ms; undefined when none is waiting. */
  readonly oldestWaitingMs: number | undefined;
  /** In the last 5 minutes. */
  readonly delivered: Tally;
  /** Failed in the last 5 minutes, without those redelivered since. */
  readonly failed: Tally;
  /** The last 30 minutes, oldest first. */
  readonly minutes: readonly { readonly delivered: Tally; readonly failed: Tally }[];
  /** Hosts with an open circuit in at least one worker. */
  readonly circuits: readonly string[];
  /** The latest, newest first. */
  readonly failures: readonly Failure[];
}

/**
 * Read the summary in a few round trips, at a cost that does not grow with the queue.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readSummary(queue: Queue, valkey: Valkey, nowMs: number): Promise<Summary> {
  const [counts, isPaused, workers, oldest, delivered, failed, circuits, failures, strays] = await Promise.all([
    queue.getJobCounts(...JOB_STATES),
    queue.isPaused(),
    queue.getWorkersCount().catch(() => undefined), // some hosted Valkeys do not allow CLIENT LIST
    queue.getJobs(["waiting"], 0, 0, true).catch(() => []),
    readFinished(valkey, keysOf(queue).completed, COMPLETED.count ?? 0, nowMs),
    readFinished(valkey, keysOf(queue).failed, FAILED.count ?? 0, nowMs),
    readCircuits(valkey, queue.name, nowMs),
    queue.getJobs(["failed"], 0, FAILURES - 1).catch(() => []),
    readStrayCount(queue.name, valkey),
  ]);
  const of = (state: (typeof JOB_STATES)[number]) => counts[state] ?? 0;
  const oldestAt = oldest[0]?.timestamp;
  return {
    counts: {
      waiting: of("waiting") + of("prioritized"),
      active: of("active"),
      delayed: of("delayed"),
      completed: of("completed"),
      failed: of("failed"),
    },
    isPaused,
    workers,
    strays,
    oldestWaitingMs: oldestAt === undefined ? undefined : Math.max(0, nowMs - oldestAt),
    delivered: total(delivered.slice(-RECENT_MINUTES)),
    failed: total(failed.slice(-RECENT_MINUTES)),
    minutes: delivered.map((tally, index) => ({ delivered: tally, failed: failed[index] as Tally })),
    circuits,
    failures: failures.filter((job) => job != null).map(describeFailure),
  };
}

/**
 * Finished jobs per minute, oldest first, from a set scored by finish time (epoch ms).
 *
 * @param kept  maximum size of the set: a full one says nothing about the time before its oldest job
 */
async function readFinished(valkey: Valkey, key: string, kept: number, nowMs: number): Promise<Tally[]> {
  const starts = Array.from({ length: MINUTES }, (_, index) => nowMs - (MINUTES - index) * MINUTE_MS);
  const pipeline = valkey.pipeline().zcard(key).zrange(key, "0", "0", "WITHSCORES");
  for (const start of starts) pipeline.zcount(key, `(${start}`, `${start + MINUTE_MS}`);
  const replies = (await pipeline.exec()) ?? [];
  const [size, oldest, ...tallies] = replies.map(([error, reply]) => {
    if (error) throw error;
    return reply;
  });
  const oldestAt = Number((oldest as string[])[1] ?? 0);
  const isFull = (size as number) >= kept;
  return starts.map((start, index) => ({ count: tallies[index] as number, isLeast: isFull && oldestAt > start }));
}

function total(tallies: readonly Tally[]): Tally {
  return {
    count: tallies.reduce((sum, { count }) => sum + count, 0),
    isLeast: tallies.some(({ isLeast }) => isLeast),
  };
}

function describeFailure(job: Job): Failure {
  const masked = maskSecrets([job.name, job.failedReason ?? ""], { about: job.data }) as unknown[];
  const [event = "", reason = ""] = masked.map((text) => String(text).slice(0, SHOWN)); // mask before cutting: half a secret would not be recognized
  const userId = jobData.shape.userId.safeParse((job.data as { userId?: unknown } | null)?.userId);
  return {
    job: String(job.id),
    event,
    userId: userId.data,
    reason,
    failedAt: job.finishedOn ?? job.timestamp,
  };
}
