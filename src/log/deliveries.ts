/**
 * A user's log as the page shows it: attempts grouped by event, with the state of its job.
 */

import { eventIdOf } from "../delivery/request.ts";
import { DELAYED_SCORE_PER_MS, keysOf, type ShownState } from "../queue/layout.ts";
import { type Redelivered, readRedelivered } from "../queue/marks.ts";
import { type OpenShard, type OpenShards, shardOfJob } from "../queue/open-shard.ts";
import type { Job, Queue } from "../queue/worker.ts";
import type { Attempt } from "./attempts.ts";

const SKEW_MS = 1000; // 1 s between the clocks of a worker and of who redelivers

/** Where a job is; `gone` when it is not kept any more, or is another event's by now. */
export type JobState = ShownState | "gone";

/** An attempt, and whether an operator asked for it. */
export interface LoggedAttempt extends Attempt {
  /** It was made after the event was redelivered by hand. */
  readonly isRedelivery: boolean;
}

/** An event's attempts in the log. */
export interface LoggedEvent {
  /** The event's id. */
  readonly id: string;
  /** The event type. */
  readonly event: string;
  /** A URL without its query. */
  readonly endpoint: string;
  /** The id under which the endpoint is registered. */
  readonly endpointId: string | undefined;
  /** The job's name, with its shard's label; undefined in log entries of older versions. */
  readonly job: string | undefined;
  /** Whether it is a test event. */
  readonly isTest: boolean;
  /** When it was last redelivered by hand, epoch ms; undefined when it never was, or its job is gone. */
  readonly redeliveredAt: number | undefined;
  /** Newest first, at least one. */
  readonly attempts: readonly [LoggedAttempt, ...LoggedAttempt[]];
}

/** An event's attempts and its job. */
export interface Delivery extends LoggedEvent {
  readonly state: JobState;
  /** When its next attempt is due, epoch ms; undefined unless it is delayed. */
  readonly nextAt: number | undefined;
}

/**
 * Group a user's attempts by event, the event with the newest attempt first.
 *
 * @param shards  those that are there; of events of others it is not known whether they were redelivered
 * @param attempts  newest first, as the log lists them
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function groupByEvent(shards: OpenShards, attempts: readonly Attempt[]): Promise<LoggedEvent[]> {
  const groups = new Map<string, [Attempt, ...Attempt[]]>();
  const names = new Set<string>();
  for (const attempt of attempts) {
    const job = nameJob(shards, attempt);
    const group = `${attempt.id} ${job}`;
    const known = groups.get(group);
    if (known === undefined) groups.set(group, [attempt]);
    else known.push(attempt);
    if (typeof job === "string") names.add(job);
  }
  const redelivered = await readAllRedelivered(shards, names);
  return [...groups.values()].map((group): LoggedEvent => {
    const [{ id, event, endpoint, endpoint_id: endpointId, test }] = group;
    const job = nameJob(shards, group[0]);
    const marked = job === undefined ? undefined : redelivered.get(job);
    const isTest = test === true;
    const marks = markRedeliveries(group, marked) as [LoggedAttempt, ...LoggedAttempt[]];
    return { id, event, endpoint, endpointId, job, isTest, redeliveredAt: marked?.lastAt, attempts: marks };
  });
}

/** The name of an attempt's job. From the time when there was one shard, names have no label. */
function nameJob(shards: OpenShards, { job }: Attempt): string | undefined {
  const found = typeof job === "string" ? shardOfJob(shards, job) : undefined;
  return found === undefined ? job : found.shard.label + found.id;
}

/** When jobs were redelivered, by their names. */
async function readAllRedelivered(shards: OpenShards, names: ReadonlySet<string>): Promise<Map<string, Redelivered>> {
  const ids = new Map<OpenShard, string[]>();
  for (const name of names) {
    const { shard, id } = shardOfJob(shards, name) ?? {};
    if (shard !== undefined) ids.set(shard, [...(ids.get(shard) ?? []), id as string]);
  }
  const read = [...ids].map(async ([{ client, valkey, label }, jobs]) => {
    const marks = await readRedelivered(client, valkey, jobs);
    return [...marks].map(([id, mark]) => [label + id, mark] as const);
  });
  return new Map((await Promise.all(read)).flat());
}

/**
 * Tell which attempts were made after a redelivery. The job says when that was; once it is gone, attempt numbers that start again
 * do. A number that repeats does only near a redelivery: a worker that dies just after an attempt repeats it, too.
 */
function markRedeliveries(attempts: readonly Attempt[], marked: Redelivered | undefined): LoggedAttempt[] {
  const firstAt = marked?.firstAt ?? Number.POSITIVE_INFINITY;
  let isRedelivery = false;
  let before = 0;
  const oldestFirst = attempts.toReversed().map((attempt) => {
    const startedAt = Date.parse(attempt.timestamp);
    const isNear = startedAt >= firstAt - SKEW_MS;
    isRedelivery ||= startedAt >= firstAt || attempt.attempt < before || (isNear && attempt.attempt === before);
    before = attempt.attempt;
    return { ...attempt, isRedelivery };
  });
  return oldestFirst.reverse();
}

/**
 * Look up the jobs of logged events, in the same order.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readDeliveries(
  shards: OpenShards,
  userId: string,
  events: readonly LoggedEvent[],
): Promise<Delivery[]> {
  return await Promise.all(
    events.map(async (logged): Promise<Delivery> => {
      const { job, id } = logged;
      const at = job === undefined ? undefined : shardOfJob(shards, job);
      const state = at === undefined ? "gone" : await readState(at.shard.client, at.id, userId, id);
      const score = at && state === "delayed" ? await readScore(at.shard, at.id) : null;
      const nextAt = score === null ? undefined : Math.floor(Number(score) / DELAYED_SCORE_PER_MS);
      return { ...logged, state, nextAt, redeliveredAt: state === "gone" ? undefined : logged.redeliveredAt };
    }),
  );
}

const readScore = ({ client, valkey }: OpenShard, jobId: string) => valkey.zscore(keysOf(client).delayed, jobId);

/**
 * Find a user's job while it is kept. Job ids repeat after a queue is emptied and across queues, so an id from the log must
 * not lead to another event.
 *
 * @param eventId  the event's id; any event of the user when absent
 * @returns also undefined for a job whose data cannot be read
 */
export async function findUsersJob(
  queue: Queue,
  jobId: string,
  userId: string,
  eventId?: string,
): Promise<Job | undefined> {
  try {
    const job = await queue.getJob(jobId);
    const data = job?.data as { userId?: unknown; id?: string } | null | undefined;
    if (job === undefined || data?.userId !== userId) return undefined;
    return eventId === undefined || eventIdOf(job, data.id) === eventId ? job : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

async function readState(queue: Queue, jobId: string, userId: string, eventId: string): Promise<JobState> {
  const state = await (await findUsersJob(queue, jobId, userId, eventId))?.getState();
  if (state === undefined || state === "unknown") return "gone";
  return state === "active" || state === "delayed" || state === "completed" || state === "failed" ? state : "waiting";
}
