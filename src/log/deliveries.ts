/**
 * A user's log as the page shows it: attempts grouped by event, with the state of its job.
 */

import { eventIdOf } from "../delivery/request.ts";
import { DELAYED_SCORE_PER_MS, keysOf, type ShownState } from "../queue/layout.ts";
import { type Redelivered, readRedelivered } from "../queue/marks.ts";
import type { Job, Queue } from "../queue/worker.ts";
import type { Valkey } from "../valkey/connection.ts";
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
  /** The job's id; undefined in log entries of older versions. */
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

/** Where events and the marks on their jobs are read. */
export interface DeliverySources {
  readonly queue: Queue;
  readonly valkey: Valkey;
}

/**
 * Group a user's attempts by event, the event with the newest attempt first.
 *
 * @param attempts  newest first, as the log lists them
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function groupByEvent(
  { queue, valkey }: DeliverySources,
  attempts: readonly Attempt[],
): Promise<LoggedEvent[]> {
  const groups = new Map<string, [Attempt, ...Attempt[]]>();
  for (const attempt of attempts) {
    const group = `${attempt.id} ${attempt.job}`;
    const known = groups.get(group);
    if (known === undefined) groups.set(group, [attempt]);
    else known.push(attempt);
  }
  const jobs = new Set(attempts.flatMap(({ job }) => (typeof job === "string" ? [job] : [])));
  const redelivered = jobs.size === 0 ? new Map() : await readRedelivered(queue, valkey, [...jobs]);
  return [...groups.values()].map((group): LoggedEvent => {
    const [{ id, event, endpoint, test }] = group;
    const job = group[0].job as string | undefined;
    const marked = job === undefined ? undefined : redelivered.get(job);
    const isTest = test === true;
    const marks = markRedeliveries(group, marked) as [LoggedAttempt, ...LoggedAttempt[]];
    return { id, event, endpoint, job, isTest, redeliveredAt: marked?.lastAt, attempts: marks };
  });
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
  { queue, valkey }: DeliverySources,
  userId: string,
  events: readonly LoggedEvent[],
): Promise<Delivery[]> {
  return await Promise.all(
    events.map(async (logged): Promise<Delivery> => {
      const { job, id } = logged;
      const state = job === undefined ? "gone" : await readState(queue, job, userId, id);
      const score = state === "delayed" ? await valkey.zscore(keysOf(queue).delayed, job as string) : null;
      const nextAt = score === null ? undefined : Math.floor(Number(score) / DELAYED_SCORE_PER_MS);
      return { ...logged, state, nextAt, redeliveredAt: state === "gone" ? undefined : logged.redeliveredAt };
    }),
  );
}

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
