/**
 * A summary of the queue: counts by state, recent deliveries and failures, hosts that do not respond.
 */
import { setTimeout as pause } from "node:timers/promises";
import { jobData } from "../delivery/contract.ts";
import { readHolds } from "../isolation/hold-store.ts";
import { readCircuits } from "../isolation/open-circuits.ts";
import { type AttemptTally, readAttemptTally } from "../log/attempt-tally.ts";
import { JOB_STATES, keysOf, type ShownState } from "../queue/layout.ts";
import { countFinished, type FinishedJobs, readOldestWaitingMs } from "../queue/pulse.ts";
import { readStrayCount } from "../queue/stray-jobs.ts";
import { DEFAULT_KEPT, type Job, type KeptJobs, type Queue } from "../queue/worker.ts";
import { readFacts, type Valkey, type ValkeyFacts } from "../valkey/connection.ts";
import { maskSecrets } from "./mask.ts";
import { THRESHOLDS } from "./queue-problems.ts";

/** Minutes in {@link Summary.minutes}. */
export const MINUTES = 30;
/** Minutes that {@link Summary.delivered} and {@link Summary.failed} count. */
export const RECENT_MINUTES = THRESHOLDS.minutes;
const MINUTE_MS = 60 * 1000;
const SECOND_LOOK_MS = 1000; // 1 s
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
  /** Host of its endpoint, with its port unless it is the scheme's default; undefined when the job has no valid URL. */
  readonly host: string | undefined;
  /** BullMQ's failure reason without secrets; its first 500 characters. */
  readonly reason: string;
  /** Epoch ms. */
  readonly failedAt: number;
}

export interface Summary {
  /** Jobs by where they are; `waiting` holds the prioritized ones, too. */
  readonly counts: Readonly<Record<ShownState, number>>;
  /** How many failed jobs the queue keeps. */
  readonly keepFailed: number;
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
  /** In the last 5 minutes, or in as much of them as is known of both, to compare the two. */
  readonly finished: FinishedJobs;
  /** In the last 5 minutes, in all workers. */
  readonly attempts: AttemptTally;
  /** The last 30 minutes, oldest first. */
  readonly minutes: readonly { readonly delivered: Tally; readonly failed: Tally }[];
  /** Hosts with an open circuit in at least one worker. */
  readonly circuits: readonly string[];
  /** The latest, newest first. */
  readonly failures: readonly Failure[];
  /** Undefined when Valkey does not tell. */
  readonly valkey: ValkeyFacts | undefined;
}

/**
 * Read the summary in a few round trips, at a cost that does not grow with the queue. Takes a second longer while events wait for
 * a long time, see {@link readAge}.
 *
 * @param kept  how many jobs the queue keeps; the settings' defaults when absent
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readSummary(
  queue: Queue,
  valkey: Valkey,
  nowMs: number,
  kept: KeptJobs = DEFAULT_KEPT,
): Promise<Summary> {
  const { completed, failed } = keysOf(queue);
  const [counts, oldestWaitingMs, perMinute, lately, workers] = await Promise.all([
    queue.getJobCounts(...JOB_STATES),
    readAge(queue, valkey, nowMs),
    Promise.all([
      readFinished(valkey, completed, kept.keepCompleted, nowMs),
      readFinished(valkey, failed, kept.keepFailed, nowMs),
    ]),
    readLately(queue, valkey, nowMs, kept),
    queue.getWorkersCount().catch(() => undefined), // some hosted Valkeys do not allow CLIENT LIST
  ]);
  const of = (state: (typeof JOB_STATES)[number]) => counts[state] ?? 0;
  const [delivered, lost] = perMinute;
  return {
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
    delivered: total(delivered.slice(-RECENT_MINUTES)),
    failed: total(lost.slice(-RECENT_MINUTES)),
    minutes: delivered.map((tally, index) => ({ delivered: tally, failed: lost[index] as Tally })),
    ...lately,
  };
}

type Lately = Pick<Summary, "isPaused" | "strays" | "finished" | "attempts" | "circuits" | "failures" | "valkey">;

async function readLately(queue: Queue, valkey: Valkey, nowMs: number, kept: KeptJobs): Promise<Lately> {
  const [isPaused, strays, finished, attempts, circuits, failures, facts] = await Promise.all([
    queue.isPaused(),
    readStrayCount(queue.name, valkey),
    countFinished(queue, valkey, RECENT_MINUTES * MINUTE_MS, nowMs, kept),
    readAttemptTally(valkey, queue.name, RECENT_MINUTES, nowMs),
    readCircuits(valkey, queue.name, nowMs),
    queue.getJobs(["failed"], 0, FAILURES - 1).catch(() => []),
    readFacts(valkey).catch(() => undefined), // some hosted Valkeys do not allow INFO
  ]);
  const shown = failures.filter((job) => job != null).map(describeFailure);
  return { isPaused, strays, finished, attempts, circuits, failures: shown, valkey: facts };
}

/**
 * How long the next job has been waiting. A long wait is read again a second later: an event that returned for a retry is old, but
 * a worker takes it at once. Of an event that was held, only the time since the last hold ended is known to be a wait.
 */
async function readAge(queue: Queue, valkey: Valkey, nowMs: number): Promise<number | undefined> {
  const read = (atMs: number) => readOldestWaitingMs(queue, valkey, atMs).catch(() => undefined); // it may be unreadable
  const ageMs = await read(nowMs);
  if (ageMs === undefined || ageMs <= THRESHOLDS.lateMs) return ageMs;
  const [holds] = await Promise.all([readHolds(valkey, queue.name), pause(SECOND_LOOK_MS)]);
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

function total(tallies: readonly Tally[]): Tally {
  return {
    count: tallies.reduce((sum, { count }) => sum + count, 0),
    isLeast: tallies.some(({ isLeast }) => isLeast),
  };
}

function describeFailure(job: Job): Failure {
  const data = job.data as { userId?: unknown; endpoint?: { url?: unknown } | null } | null;
  const { host = "" } = URL.parse(String(data?.endpoint?.url)) ?? {};
  const masked = maskSecrets([job.name, job.failedReason ?? "", host], { about: job.data }) as unknown[];
  const [event = "", reason = "", shownHost = ""] = masked.map((text) => String(text).slice(0, SHOWN)); // mask before cutting: half a secret would not be recognized
  const userId = jobData.shape.userId.safeParse(data?.userId);
  return {
    job: String(job.id),
    event,
    userId: userId.data,
    host: shownHost === "" ? undefined : shownHost,
    reason,
    failedAt: job.finishedOn ?? job.timestamp,
  };
}
