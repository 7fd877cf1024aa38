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

/** Field of a job's hash: when it was last redelivered by hand, epoch ms. */
const REDELIVERED = "redelivered";

/** KEYS: the job. ARGV: now, epoch ms. A job that is gone meanwhile stays so. */
const MARK = `if redis.call("EXISTS", KEYS[1]) == 1 then redis.call("HSET", KEYS[1], "${REDELIVERED}", ARGV[1]) end`;

const keyOf = (queue: Queue, jobId: string) => `${keysOf(queue).jobs}${jobId}`;

/** Write on a job that it was redelivered by hand. Throws when Valkey answers with an error; waits while it is away. */
export async function markRedelivered(queue: Queue, jobId: string, nowMs: number): Promise<void> {
  await (queue.opts.connection as Valkey).eval(MARK, 1, keyOf(queue, jobId), nowMs);
}

/** When a job was last redelivered by hand, epoch ms; undefined when it never was. Throws like {@link markRedelivered}. */
export async function readRedeliveredAt(queue: Queue, valkey: Valkey, jobId: string): Promise<number | undefined> {
  return Number(await valkey.hget(keyOf(queue, jobId), REDELIVERED)) || undefined;
}
