/**
 * Redelivery by hand: what the board's page and the command do when an operator says "again".
 */
import { markRedelivered } from "../queue/marks.ts";
import type { Job, Queue } from "../queue/worker.ts";

/**
 * What came of asking for a redelivery.
 *
 * - `queued`   it goes now: a finished job with its whole schedule again, a delayed one ahead of its time
 * - `pending`  it waits or is under way already
 * - `gone`     its job is not kept any more
 */
export type Redelivery = "queued" | "pending" | "gone";

const REDELIVERABLE = ["completed", "failed", "delayed"] as const;

/** Whether a job in this state can be redelivered. In any other it waits or is active already, or is gone. */
export const isRedeliverable = (state: string): state is (typeof REDELIVERABLE)[number] =>
  (REDELIVERABLE as readonly string[]).includes(state);

/** Which failed jobs to look for; what is left out matches all. */
export interface FailedFilter {
  /** Failed at or after, epoch ms. */
  readonly sinceMs?: number | undefined;
  readonly userId?: string | undefined;
  /** The event type. */
  readonly event?: string | undefined;
}

const IN_FLIGHT = 16; // redeliveries asked for at once: enough to hide the way to Valkey, too few to hold up its workers
const PAGE = 200; // jobs read at once, with their data: up to some 50 MB when all are as large as may be

/**
 * Deliver an event again: the same `id` and the same body, since both come from the job.
 *
 * Attempts count from 1 again. An event older than `WEBHOOK_MAX_AGE` gets one attempt.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function redeliver(queue: Queue, jobId: string): Promise<Redelivery> {
  const job = await queue.getJob(jobId);
  const state = await job?.getState();
  if (job === undefined || state === undefined || state === "unknown") return "gone";
  if (!isRedeliverable(state)) return "pending";
  try {
    if (state === "delayed") await job.promote();
    else {
      await job.retry(state, { resetAttemptsMade: true, resetAttemptsStarted: true });
      await markRedelivered(queue, jobId, Date.now()).catch(() => {}); // it is queued all the same
    }
    return "queued";
  } catch (error) {
    // Somebody else was faster: a worker, another operator, or the end of its time.
    const now = await job.getState();
    if (now === state) throw error;
    return now === "unknown" ? "gone" : "pending";
  }
}

/**
 * Deliver many events again, some at a time, in the given order.
 *
 * @param onDone  called after each, in the order in which they are done
 * @throws  like {@link redeliver}, for the first that fails; those before it are done, and none after it is begun
 */
export async function redeliverAll(
  queue: Queue,
  jobIds: readonly string[],
  onDone: (jobId: string, redelivery: Redelivery) => void,
): Promise<void> {
  const rest = jobIds[Symbol.iterator](); // one, shared by all lanes
  let hasFailed = false;
  const lane = async (): Promise<void> => {
    for (const jobId of rest) {
      if (hasFailed) return;
      try {
        onDone(jobId, await redeliver(queue, jobId));
      } catch (error) {
        hasFailed = true;
        throw error;
      }
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: IN_FLIGHT }, lane));
  const failure = lanes.find((result) => result.status === "rejected");
  if (failure !== undefined) throw failure.reason;
}

/**
 * The failed jobs that match, newest first. Read page by page: collect what is to be changed before changing it, since a
 * job that leaves the set moves all behind it.
 */
export async function* findFailed(queue: Queue, { sinceMs = 0, userId, event }: FailedFilter): AsyncGenerator<Job> {
  for (let start = 0; ; start += PAGE) {
    const jobs = await queue.getJobs(["failed"], start, start + PAGE - 1);
    for (const job of jobs) {
      if (job == null) continue; // gone since the set was read
      if ((job.finishedOn ?? 0) < sinceMs) return; // the set is in order of failure
      const isTheirs = userId === undefined || (job.data as { userId?: unknown } | null)?.userId === userId;
      if (isTheirs && (event === undefined || job.name === event)) yield job;
    }
    if (jobs.length < PAGE) return;
  }
}
