/**
 * A user's log as the page shows it: attempts grouped by event, with the state of its job.
 */

import { eventIdOf } from "../delivery/request.ts";
import { DELAYED_SCORE_PER_MS, keysOf, type ShownState } from "../queue/layout.ts";
import { readRedeliveredAt } from "../queue/marks.ts";
import type { Job, Queue } from "../queue/worker.ts";
import type { Valkey } from "../valkey/connection.ts";
import type { Attempt, AttemptLog } from "./attempts.ts";

/** Where a job is; `gone` when it is not kept any more, or is another event's by now. */
export type JobState = ShownState | "gone";

/** An event's attempts and its job. */
export interface Delivery {
  /** The event's id. */
  readonly id: string;
  /** The event type. */
  readonly event: string;
  /** A URL without its query. */
  readonly endpoint: string;
  /** The job's id; undefined in log entries of older versions. */
  readonly job: string | undefined;
  readonly state: JobState;
  /** When its next attempt is due, epoch ms; undefined unless it is delayed. */
  readonly nextAt: number | undefined;
  /** Whether it is a test event. */
  readonly isTest: boolean;
  /** When it was last redelivered by hand, epoch ms; undefined when it never was, or its job is gone. */
  readonly redeliveredAt: number | undefined;
  /** Newest first, at least one. */
  readonly attempts: readonly [Attempt, ...Attempt[]];
}

export interface DeliverySources {
  readonly queue: Queue;
  readonly valkey: Valkey;
  readonly log: Pick<AttemptLog, "list">;
}

/**
 * A user's last attempts, grouped by event, the event with the newest attempt first.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readDeliveries(
  { queue, valkey, log }: DeliverySources,
  userId: string,
  nowMs: number,
): Promise<Delivery[]> {
  const groups = new Map<string, [Attempt, ...Attempt[]]>();
  for (const attempt of await log.list(userId, nowMs)) {
    const group = `${attempt.id} ${attempt.job}`;
    const attempts = groups.get(group);
    if (attempts === undefined) groups.set(group, [attempt]);
    else attempts.push(attempt);
  }
  return await Promise.all(
    [...groups.values()].map(async (attempts): Promise<Delivery> => {
      const { id, event, endpoint } = attempts[0];
      const job = attempts[0].job as string | undefined;
      const state = job === undefined ? "gone" : await readState(queue, job, userId, id);
      const score = state === "delayed" ? await valkey.zscore(keysOf(queue).delayed, job as string) : null;
      const nextAt = score === null ? undefined : Math.floor(Number(score) / DELAYED_SCORE_PER_MS);
      const isTest = attempts[0].test === true;
      const redeliveredAt = state === "gone" ? undefined : await readRedeliveredAt(queue, valkey, job as string);
      return { id, event, endpoint, job, state, nextAt, isTest, redeliveredAt, attempts };
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
