/**
 * Putting events on the queue, each under its id, and saying what was found under it.
 */
import { Job, type JobsOptions, type RedisQueueBackend } from "bullmq";
import type { Valkey } from "../valkey/connection.ts";
import type { Queue } from "./worker.ts";

/**
 * What came of enqueueing an event.
 *
 * - `new`     it was queued: there was no event with its id
 * - `known`   nothing was queued: an event with its id waits, is under way, or was delivered and is still kept
 * - `failed`  it was queued in place of an event with its id that had failed
 */
export type EnqueueStatus = "new" | "known" | "failed";

/** A job to add; its `jobId` is the event's id. */
export interface NewJob {
  readonly name: string;
  readonly data: object;
  readonly opts: JobsOptions & { readonly jobId: string; readonly timestamp: number };
}

/**
 * Makes room for a job under its id, in the transaction that adds it.
 *
 * KEYS: the job, failed, wait, active, paused, then sorted sets in which a job may be. ARGV: the id, and the timestamp of the
 * job that is added if it may have been added by an earlier try, else an empty text. Returns an {@link EnqueueStatus}.
 *
 * What is left of a job whose data is gone (its id in a list, a hash without a timestamp), and a job that is in no list, would
 * keep their id from ever being delivered: they are removed. Lists longer than 10,000 are not searched for them, since that
 * would hold up everybody.
 */
const CLAIM = `
local job, failed, wait, active, paused, id = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[1]
local function has(list) return redis.call("LLEN", list) > 10000 or redis.call("LPOS", list, id) end
local function forget()
  for _, list in ipairs({wait, active, paused}) do
    if redis.call("LLEN", list) <= 10000 then redis.call("LREM", list, 0, id) end
  end
  for i = 6, #KEYS do redis.call("ZREM", KEYS[i], id) end
  for _, part in ipairs({"", ":lock", ":logs", ":dependencies", ":processed", ":failed", ":unsuccessful"}) do
    redis.call("DEL", job .. part)
  end
end
local timestamp = redis.call("HGET", job, "timestamp")
if not timestamp then
  forget()
  return "new"
end
if timestamp == ARGV[2] then return "new" end
if redis.call("ZSCORE", failed, id) then
  redis.call("HSET", job, "timestamp", timestamp) -- refused while memory is full, as the job would be: the failed one stays
  redis.call("ZREM", failed, id)
  forget()
  return "failed"
end
for i = 6, #KEYS do if redis.call("ZSCORE", KEYS[i], id) then return "known" end end
if has(active) or has(wait) or has(paused) then return "known" end
forget()
return "new"`;

const SETS = ["delayed", "prioritized", "completed", "waiting-children"];

type Claim = (job: string, failed: string, ...rest: string[]) => unknown;

/**
 * Add jobs, each unless an event with its id is there: one transaction, so that it is decided and added in one moment.
 *
 * @param isAgain  an earlier try may have come through: a job that it added counts as `new`
 * @returns what came of each, in order
 * @throws  when Valkey refuses; then none was added
 */
export async function addJobs(
  queue: Queue,
  valkey: Valkey,
  jobs: readonly NewJob[],
  isAgain: boolean,
): Promise<EnqueueStatus[]> {
  if (!("claimEventId" in valkey)) valkey.defineCommand("claimEventId", { numberOfKeys: 5 + SETS.length, lua: CLAIM });
  const client = await (queue.backend as RedisQueueBackend).client;
  const transaction = client.multi() as ReturnType<typeof client.multi> & { claimEventId: Claim };
  const lists = ["failed", "wait", "active", "paused", ...SETS].map((name) => queue.toKey(name)) as [string];
  for (const { name, data, opts } of jobs) {
    const { jobId, timestamp } = opts;
    transaction.claimEventId(queue.toKey(jobId), ...lists, jobId, isAgain ? String(timestamp) : "");
    new Job(queue, name, data, opts, jobId).addJob(transaction); // returns at once: it is sent with the transaction
  }
  const replies = (await transaction.exec().catch(throwCause)) ?? [];
  return replies.flatMap(([error, reply], index) => {
    if (error) throw error;
    return index % 2 === 0 ? [reply as EnqueueStatus] : [];
  });
}

/** A transaction of which a command was refused is discarded: what matters is why that was. */
function throwCause(error: Error & { readonly previousErrors?: readonly Error[] }): never {
  throw error.previousErrors?.[0] ?? error;
}
