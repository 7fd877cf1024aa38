/**
 * What operators did by hand, written on the jobs concerned.
 */
import type { Job, JobsOptions } from "bullmq";
import type { Valkey } from "../valkey/connection.ts";
import { keysOf } from "./layout.ts";
import type { Queue } from "./worker.ts";

/** The option that marks a test event's job. BullMQ keeps options that it does not know. */
export const TEST_MARK = { test: true } as JobsOptions;

/** Whether a job is a test event's. */
export const isTestJob = ({ opts }: Pick<Job, "opts">): boolean => (opts as { test?: unknown }).test === true;

/** Fields of a job's hash: when it was last, and when first redelivered by hand, epoch ms. */
export const REDELIVERED = "redelivered";
const FIRST_REDELIVERED = "firstRedelivered"; // absent when that was an older version, which writes only the last

/** Field of a job that a replay added anew: when that was, epoch ms. */
export const REPLAYED_FIELD = "replayed";
/** Fields that a replay sets, each to when it was, epoch ms: such a job counts as redelivered, too. */
export const REPLAY_FIELDS = [REPLAYED_FIELD, REDELIVERED, FIRST_REDELIVERED] as const;

/** KEYS: the job. ARGV: now, epoch ms. A job that is gone meanwhile stays so. */
const MARK = `
if redis.call("EXISTS", KEYS[1]) == 0 then return end
if redis.call("HEXISTS", KEYS[1], "${REDELIVERED}") == 0 then redis.call("HSET", KEYS[1], "${FIRST_REDELIVERED}", ARGV[1]) end
redis.call("HSET", KEYS[1], "${REDELIVERED}", ARGV[1])`;

const keyOf = (queue: Queue, jobId: string) => `${keysOf(queue).jobs}${jobId}`;

/** Write on a job that it was redelivered by hand. Throws when Valkey answers with an error; waits while it is away. */
export async function markRedelivered(queue: Queue, jobId: string, nowMs: number): Promise<void> {
  await (queue.opts.connection as Valkey).eval(MARK, 1, keyOf(queue, jobId), nowMs);
}

/** When a job was redelivered by hand, epoch ms. */
export interface Redelivered {
  readonly firstAt: number;
  readonly lastAt: number;
}

/**
 * When jobs were redelivered by hand. Jobs that never were, or that are gone, are left out. Throws like {@link markRedelivered}.
 */
export async function readRedelivered(
  queue: Queue,
  valkey: Valkey,
  jobIds: readonly string[],
): Promise<Map<string, Redelivered>> {
  const pipeline = valkey.pipeline();
  for (const jobId of jobIds) pipeline.hmget(keyOf(queue, jobId), REDELIVERED, FIRST_REDELIVERED);
  const found = new Map<string, Redelivered>();
  for (const [index, [error, reply]] of ((await pipeline.exec()) ?? []).entries()) {
    if (error) throw error;
    const [last, first] = reply as (string | null)[];
    const lastAt = Number(last);
    if (lastAt > 0) found.set(jobIds[index] as string, { lastAt, firstAt: Number(first) || lastAt });
  }
  return found;
}
