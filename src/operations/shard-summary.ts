/**
 * A summary of one shard of the queue: counts by state, recent deliveries and failures.
 */
import { setTimeout as pause } from "node:timers/promises";
import { jobData } from "../delivery/contract.ts";
import { JOB_STATES, keysOf, type ShownState } from "../queue/layout.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { countFinished, type FinishedJobs, readOldestWaitingMs } from "../queue/pulse.ts";
import { readStrayCount } from "../queue/stray-jobs.ts";
import type { Job, KeptJobs } from "../queue/worker.ts";
import { readFacts, type Valkey, type ValkeyFacts } from "../valkey/connection.ts";
import { holdPlacesOf, readAllHolds } from "./hold.ts";
import { endpointIdOf, type FilteredJob } from "./job-filter.ts";
import { maskSecrets } from "./mask.ts";
import { THRESHOLDS } from "./queue-problems.ts";

/** Minutes in {@link ShardSummary.minutes}. */
export const MINUTES = 30;
/** Minutes that {@link ShardSummary.completed} and {@link ShardSummary.failed} count. */
export const RECENT_MINUTES = THRESHOLDS.minutes;
const MINUTE_MS = 60 * 1000;
const SECOND_LOOK_MS = 1000; // 1 s
/** How many failures are listed. */
export const FAILURES = 6;
const SHOWN = 500; // characters of a name or reason; Bull Board shows all

/** How many jobs finished in a time span. `isLeast` if there may have been more, since the queue keeps only the newest. */
export interface Tally {
  readonly count: number;
  readonly isLeast: boolean;
}

/** A failed job. */
export interface Failure {
  /** Its name, with the shard's label. */
  readonly job: string;
  readonly event: string;
  /** Undefined when the job has no valid user. */
  readonly userId: string | undefined;
  /** Host of its endpoint, with its port unless it is the scheme's default; undefined when the job has no valid URL. */
  readonly host: string | undefined;
  /** The id of the registered endpoint that the job names in place of a URL. */
  readonly endpointId: string | undefined;
  /** BullMQ's failure reason without secrets; its first 500 characters. */
  readonly reason: string;
  /** Epoch ms. */
  readonly failedAt: number;
}

export interface ShardSummary {
  /** Of the shard, as in `3/`; empty when there is only one. */
  readonly label: string;
  /** The queue's name in BullMQ. */
  readonly queue: string;
  /** Jobs by where they are; `waiting` holds the prioritized ones, too. */
  readonly counts: Readonly<Record<ShownState, number>>;
  /** How many failed jobs a shard keeps. */
  readonly keepFailed: number;
  readonly isPaused: boolean;
  /** Connected workers; undefined when Valkey does not report them. */
  readonly workers: number | undefined;
  /** Jobs in none of the queue's lists, as last counted; undefined without a recent count. */
  readonly strays: number | undefined;
  /** How long the next job has been waiting for a worker, ms; undefined when none is waiting. */
  readonly oldestWaitingMs: number | undefined;
  /** In the last 5 minutes. Not only deliveries: an event that no endpoint wants or that is kept as missed completes, too. */
  readonly completed: Tally;
  /** Failed in the last 5 minutes, without those redelivered since. */
  readonly failed: Tally;
  /** In the last 5 minutes, or in as much of them as is known of both, to compare the two. */
  readonly finished: FinishedJobs;
  /** The last 30 minutes, oldest first. */
  readonly minutes: readonly { readonly completed: Tally; readonly failed: Tally }[];
  /** The latest {@link FAILURES}, newest first. */
  readonly failures: readonly Failure[];
  /** Undefined when Valkey does not tell. */
  readonly valkey: ValkeyFacts | undefined;
}

/**
 * Read the summary of a shard.
 *
 * @param all  with those where holds are
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readShardSummary(
  shard: OpenShard,
  all: OpenShards,
  nowMs: number,
  kept: KeptJobs,
): Promise<ShardSummary> {
  const { client: queue, valkey } = shard;
  const keys = keysOf(queue);
  const [counts, oldestWaitingMs, perMinute, lately, workers] = await Promise.all([
    queue.getJobCounts(...JOB_STATES),
    readAge(shard, all, nowMs),
    Promise.all([
      readFinished(valkey, keys.completed, kept.keepCompleted, nowMs),
      readFinished(valkey, keys.failed, kept.keepFailed, nowMs),
    ]),
    readLately(shard, nowMs, kept),
    queue.getWorkersCount().catch(() => undefined), // some hosted Valkeys do not allow CLIENT LIST
  ]);
  const of = (state: (typeof JOB_STATES)[number]) => counts[state] ?? 0;
  const [completed, lost] = perMinute;
  return {
    label: shard.label,
    queue: queue.name,
    counts: {
      waiting: of("waiting") + of("prioritized"),
      active: of("active"),
      delayed: of("delayed"),
      completed: of("completed"),
      failed: of("failed"),
    },
    keepFailed: kept.keepFailed,
    workers,
    oldestWaitingMs,
    completed: total(completed.slice(-RECENT_MINUTES)),
    failed: total(lost.slice(-RECENT_MINUTES)),
    minutes: completed.map((tally, index) => ({ completed: tally, failed: lost[index] as Tally })),
    ...lately,
  };
}

type Lately = Pick<ShardSummary, "isPaused" | "strays" | "finished" | "failures" | "valkey">;

async function readLately({ client: queue, valkey, label }: OpenShard, nowMs: number, kept: KeptJobs): Promise<Lately> {
  const [isPaused, strays, finished, failures, facts] = await Promise.all([
    queue.isPaused(),
    readStrayCount(queue.name, valkey),
    countFinished(queue, valkey, RECENT_MINUTES * MINUTE_MS, nowMs, kept),
    queue.getJobs(["failed"], 0, FAILURES - 1).catch(() => []),
    readFacts(valkey).catch(() => undefined), // some hosted Valkeys do not allow INFO
  ]);
  const shown = failures.filter((job) => job != null).map((job) => describeFailure(job, label));
  return { isPaused, strays, finished, failures: shown, valkey: facts };
}

/**
 * How long the next job has been waiting. A long wait is read again a second later: an event that returned for a retry is old, but
 * a worker takes it at once. Of an event that was held, only the time since the last hold ended is known to be a wait.
 */
async function readAge(
  { client: queue, valkey }: OpenShard,
  all: OpenShards,
  nowMs: number,
): Promise<number | undefined> {
  const read = (atMs: number) => readOldestWaitingMs(queue, valkey, atMs).catch(() => undefined); // it may be unreadable
  const ageMs = await read(nowMs);
  if (ageMs === undefined || ageMs <= THRESHOLDS.lateMs) return ageMs;
  const [holds] = await Promise.all([readAllHolds(holdPlacesOf(all)), pause(SECOND_LOOK_MS)]);
  const secondMs = await read(nowMs + SECOND_LOOK_MS);
  if (secondMs === undefined) return undefined;
  const endedAt = Math.max(0, ...holds.map(({ until }) => until).filter((until) => until <= nowMs));
  return Math.min(ageMs, secondMs, nowMs - endedAt);
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

/** Add up tallies. */
export function total(tallies: readonly Tally[]): Tally {
  return {
    count: tallies.reduce((sum, { count }) => sum + count, 0),
    isLeast: tallies.some(({ isLeast }) => isLeast),
  };
}

function describeFailure(job: Job, label: string): Failure {
  const data = job.data as { userId?: unknown; endpoint?: { url?: unknown } | null } | null;
  const { host = "" } = URL.parse(String(data?.endpoint?.url)) ?? {};
  const masked = maskSecrets([job.name, job.failedReason ?? "", host], { about: job.data }) as unknown[];
  const [event = "", reason = "", shownHost = ""] = masked.map((text) => String(text).slice(0, SHOWN)); // mask before cutting: half a secret would not be recognized
  const userId = jobData.shape.userId.safeParse(data?.userId);
  return {
    job: label + job.id,
    event,
    userId: userId.data,
    host: shownHost === "" ? undefined : shownHost,
    endpointId: endpointIdOf(job as FilteredJob)?.slice(0, SHOWN),
    reason,
    failedAt: job.finishedOn ?? job.timestamp,
  };
}
