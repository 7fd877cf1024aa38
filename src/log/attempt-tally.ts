/**
 * Shows the board how attempts have been going: each worker adds what it counted to a tally per minute in Valkey, since the board
 * is another process, and a queue keeps only the newest of the jobs it delivered.
 */

import { attemptsKey } from "../queue/own-keys.ts";
import type { Queue } from "../queue/worker.ts";
import { within } from "../runtime/deadline.ts";
import { repeatEvery } from "../runtime/repeat.ts";
import type { Valkey } from "../valkey/connection.ts";

const MINUTE_MS = 60 * 1000; // 1 min
const PUBLISH_MS = 2 * 1000; // 2 s
const KEPT_MS = 10 * MINUTE_MS; // 10 min

/** How attempts have been going in the last minutes. */
export interface AttemptTally {
  /** Finished attempts. */
  readonly made: number;
  /** Those of them that were not answered with 2xx. */
  readonly failed: number;
  /** Jobs waiting or delayed at the beginning; undefined when no worker ran then. */
  readonly pendingBefore: number | undefined;
}

/** What a process has counted since it started. */
export type Totals = Pick<AttemptTally, "made" | "failed">;

/**
 * Key: `webhooks:attempts:<queue>:<minute>`, a hash. `made` and `failed`: the attempts that ended in this minute, in all workers;
 * `pending`: jobs waiting or delayed in it. The minute counts from the epoch. Expires after 10 minutes.
 *
 * @see AttemptTally
 */
const keyAt = (queue: string, nowMs: number) => attemptsKey(queue, Math.floor(nowMs / MINUTE_MS));

export interface TallyOptions {
  readonly valkey: Valkey;
  /** Under whose name it is published. */
  readonly queue: Queue;
  /** The other shards' queues, whose jobs count too. */
  readonly others?: readonly Queue[];
  readonly totals: () => Totals;
  /** Between two publications, ms. */
  readonly periodMs?: number;
}

/**
 * Publish attempts every 2 s when there were any, and the number of pending jobs once a minute. Costs a delivery nothing. What
 * Valkey did not take is published with the next lot.
 *
 * @returns stops publishing
 */
export function publishAttempts({
  valkey,
  queue,
  others = [],
  totals,
  periodMs = PUBLISH_MS,
}: TallyOptions): () => void {
  let published: Totals = { made: 0, failed: 0 };
  let lastKey = "";
  return repeatEvery(periodMs, async () => {
    const key = keyAt(queue.name, Date.now());
    const { made, failed } = totals();
    if (made === published.made && key === lastKey) return;
    const pipeline = valkey.multi();
    pipeline.hincrby(key, "made", made - published.made).hincrby(key, "failed", failed - published.failed);
    const pending = key === lastKey ? undefined : await countPending(queue, others);
    if (pending !== undefined) pipeline.hset(key, "pending", pending);
    await pipeline.pexpire(key, KEPT_MS).exec();
    published = { made, failed };
    lastKey = key;
  });
}

/** Undefined while a shard does not answer: a part of the jobs would look like fewer jobs, and like a growing backlog later. */
async function countPending(queue: Queue, others: readonly Queue[]): Promise<number | undefined> {
  const count = (one: Queue) => one.getJobCountByTypes("waiting", "prioritized", "delayed");
  if (others.length === 0) return await count(queue);
  const counts = await within(PUBLISH_MS, Promise.all([queue, ...others].map(count)), undefined);
  return counts?.reduce((sum, jobs) => sum + jobs);
}

/**
 * Read the tally of the last minutes, of all workers.
 *
 * @param minutes  whole minutes, besides the one that has begun
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readAttemptTally(
  valkey: Valkey,
  queue: string,
  minutes: number,
  nowMs: number,
): Promise<AttemptTally> {
  const pipeline = valkey.pipeline();
  for (let ago = minutes; ago >= 0; ago--) {
    pipeline.hmget(keyAt(queue, nowMs - ago * MINUTE_MS), "made", "failed", "pending");
  }
  const replies = (await pipeline.exec()) ?? [];
  const rows = replies.map(([error, reply]) => {
    if (error) throw error;
    return reply as (string | null)[];
  });
  const sum = (column: number) => rows.reduce((total, row) => total + Number(row[column] ?? 0), 0);
  const before = rows[0]?.[2] ?? null;
  return { made: sum(0), failed: sum(1), pendingBefore: before === null ? undefined : Number(before) };
}
