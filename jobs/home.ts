/**
 * Keeps jobs that name no URL to the shard that has their user's endpoints.
 */
import { type Job, Parked } from "../src/queue/worker.ts";
import { EndpointsMoved } from "../src/registry/refusals.ts";

/**
 * Forward a job to the shard that has its user's endpoints, if that is another.
 *
 * @param movedTo  the queue of that shard, if it was found that this one had the endpoints before; otherwise it is the user's home
 * @returns the job's result; undefined when its endpoints are in this shard
 * @throws  Parked while the other shard cannot be reached, or is not known
 */
export type Forward = (userId: string, job: Job, movedTo?: string) => Promise<string | undefined> | undefined;

const UNKNOWN_MS = 5 * 1000; // 5 s: by then a worker that knows the shard may take the job

/** Locate a job's endpoint in the shard that has it, or forward the job there. Returns and throws like `locate`, or {@link Forward}. */
export async function atHome<T>(
  userId: string,
  job: Job,
  forward: Forward | undefined,
  locate: () => Promise<T | string>,
): Promise<T | string> {
  try {
    const forwarded = forward?.(userId, job);
    return (forwarded && (await forwarded)) ?? (await locate());
  } catch (error) {
    if (!(error instanceof EndpointsMoved)) throw error;
    const result = await forward?.(userId, job, error.queue);
    if (result !== undefined) return result;
    throw new Parked(Date.now() + UNKNOWN_MS);
  }
}
