/**
 * Manual redelivery, for the board and the command.
 */
import { markRedelivered } from "../queue/marks.ts";
import { type OpenShards, shardOfJob } from "../queue/open-shard.ts";
import type { Queue } from "../queue/worker.ts";

/**
 * The result of a redelivery.
 *
 * - `queued`   it is delivered now: a finished job with its full retry schedule, a delayed one early
 * - `pending`  it is already waiting or active; of failed events, it is no longer failed
 * - `gone`     its job is no longer kept
 */
export type Redelivery = "queued" | "pending" | "gone";

const REDELIVERABLE = ["completed", "failed", "delayed"] as const;

/** Whether a job in this state can be redelivered. In any other it waits or is active already, or is gone. */
export const isRedeliverable = (state: string): state is (typeof REDELIVERABLE)[number] =>
  (REDELIVERABLE as readonly string[]).includes(state);

const IN_FLIGHT = 16; // parallel redeliveries: enough to hide the latency of Valkey, too few to slow its workers

/**
 * Redeliver an event with the same `id` and body, since both come from the job.
 *
 * Attempts count from 1 again. An event older than `WEBHOOK_MAX_AGE` gets one attempt.
 *
 * @param isFailedOnly  leave it alone unless it is failed
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function redeliver(queue: Queue, jobId: string, isFailedOnly = false): Promise<Redelivery> {
  const job = await queue.getJob(jobId);
  const state = await job?.getState();
  if (job === undefined || state === undefined || state === "unknown") return "gone";
  if (!isRedeliverable(state) || (isFailedOnly && state !== "failed")) return "pending";
  try {
    if (state === "delayed") await job.promote();
    else {
      const nowMs = Date.now(); // before a worker can start the attempt
      await job.retry(state, { resetAttemptsMade: true, resetAttemptsStarted: true });
      await markRedelivered(queue, jobId, nowMs).catch(() => {}); // it is queued all the same
    }
    return "queued";
  } catch (error) {
    // Lost a race with a worker, another operator or the job's removal.
    const now = await job.getState();
    if (now === state) throw error;
    return now === "unknown" ? "gone" : "pending";
  }
}

/** How to redeliver many events. */
export interface BulkOptions {
  /** Leave alone what is no longer failed: it was delivered, or redelivered by somebody else, since it was listed. */
  readonly isFailedOnly?: boolean;
  /** Start no further ones once it is aborted. */
  readonly signal?: AbortSignal;
}

/**
 * Redeliver many events in the given order, a few in parallel.
 *
 * @param names   of their jobs, as in `3/4711`
 * @param onDone  called after each, in the order of completion
 * @throws  like {@link redeliver}, for the first that fails; no further ones are started
 */
export async function redeliverAll(
  shards: OpenShards,
  names: readonly string[],
  onDone: (name: string, redelivery: Redelivery) => void,
  { isFailedOnly = false, signal }: BulkOptions = {},
): Promise<void> {
  const rest = names[Symbol.iterator](); // one, shared by all lanes
  let hasFailed = false;
  const lane = async (): Promise<void> => {
    for (const name of rest) {
      if (hasFailed || signal?.aborted) return;
      try {
        const job = shardOfJob(shards, name);
        onDone(name, job === undefined ? "gone" : await redeliver(job.shard.client, job.id, isFailedOnly));
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
