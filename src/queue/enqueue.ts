/**
 * Enqueues events under their ids, and reports what was found under each id.
 */
import { Job, type JobsOptions, type RedisQueueBackend } from "bullmq";
import type { Valkey } from "../valkey/connection.ts";
import { codeOf } from "../valkey/refusals.ts";
import { FLOW_SUFFIXES, JOB_LISTS, JOB_SETS, keysOf, LOCK_SUFFIX, LOGS_SUFFIX } from "./layout.ts";
import type { Queue } from "./worker.ts";

/**
 * The result of enqueueing an event.
 *
 * - `new`     queued: there was no event with its id
 * - `known`   not queued: an event with its id is waiting, active, delayed, or completed and still kept
 * - `failed`  queued, replacing a failed event with its id
 */
export type EnqueueStatus = "new" | "known" | "failed";

/** A job to add; its `jobId` is the event's id. */
export interface NewJob {
  readonly name: string;
  readonly data: object;
  readonly opts: JobsOptions & { readonly jobId: string; readonly timestamp: number };
}

/** Where a job may be, in the order in which the script gets their keys: behind its own. */
const PLACES = [...JOB_LISTS, "failed", ...JOB_SETS.filter((name) => name !== "failed")] as const;
/** What the keys of a job end with. */
export const OWN_KEYS = ["", LOCK_SUFFIX, LOGS_SUFFIX, ...FLOW_SUFFIXES];
const FIRST_SET = JOB_LISTS.length + 3; // in KEYS, 1-based, behind the job, the lists and failed

/**
 * Frees a job's id, in the transaction that adds the job.
 *
 * KEYS: the job, the lists, failed, then the other sorted sets in which a job may be. ARGV: the id, and the timestamp of the
 * job that is added if it may have been added by an earlier try, else an empty text. Returns an {@link EnqueueStatus}.
 *
 * Remains of a job without data (its id in a list, a hash without a timestamp), and jobs that are in no list, would block
 * their id forever, so they are removed. Lists longer than 10,000 are not searched, since that would block Valkey.
 */
const CLAIM = `
local job, id, ${JOB_LISTS.join(", ")}, failed = KEYS[1], ARGV[1], unpack(KEYS, 2)
local function has(list) return redis.call("LLEN", list) > 10000 or redis.call("LPOS", list, id) end
local function forget()
  for _, list in ipairs({wait, active, paused}) do
    if redis.call("LLEN", list) <= 10000 then redis.call("LREM", list, 0, id) end
  end
  for i = ${FIRST_SET}, #KEYS do redis.call("ZREM", KEYS[i], id) end
  for _, part in ipairs({${OWN_KEYS.map((suffix) => `"${suffix}"`).join(", ")}}) do
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
  redis.call("HSET", job, "timestamp", timestamp) -- fails while memory is full, as adding the job would: then the failed one stays
  redis.call("ZREM", failed, id)
  forget()
  return "failed"
end
for i = ${FIRST_SET}, #KEYS do if redis.call("ZSCORE", KEYS[i], id) then return "known" end end
if has(active) or has(wait) or has(paused) then return "known" end
forget()
return "new"`;

type Claim = (job: string, failed: string, ...rest: string[]) => unknown;

/**
 * Add jobs, except those with the id of an existing event. One transaction checks and adds atomically.
 *
 * @param isAgain  an earlier try may have been executed: a job that it added counts as `new`
 * @returns the status of each, in order
 * @throws  when Valkey refuses. With `NOSCRIPT` some may have been added, and the connection is replaced: try again. With any
 *          other error none was added
 */
export async function addJobs(
  queue: Queue,
  valkey: Valkey,
  jobs: readonly NewJob[],
  isAgain: boolean,
): Promise<EnqueueStatus[]> {
  if (!("claimEventId" in valkey))
    valkey.defineCommand("claimEventId", { numberOfKeys: PLACES.length + 1, lua: CLAIM });
  const client = await (queue.backend as RedisQueueBackend).client;
  const transaction = client.multi() as ReturnType<typeof client.multi> & { claimEventId: Claim };
  const keys = keysOf(queue);
  const places = PLACES.map((name) => keys[name]) as [string];
  for (const { name, data, opts } of jobs) {
    const { jobId, timestamp } = opts;
    transaction.claimEventId(`${keys.jobs}${jobId}`, ...places, jobId, isAgain ? String(timestamp) : "");
    new Job(queue, name, data, opts, jobId).addJob(transaction); // returns at once: it is sent with the transaction
  }
  const { stream } = valkey;
  const replies = (await transaction.exec().catch(throwCause)) ?? [];
  return replies.flatMap(([error, reply], index) => {
    // ioredis sends a script in full once per connection, even if Valkey refuses or later forgets it, and cannot send it again
    // within a transaction. The next connection begins anew.
    if (error && codeOf(error) === "NOSCRIPT") stream.destroy();
    if (error) throw error;
    return index % 2 === 0 ? [reply as EnqueueStatus] : [];
  });
}

/** A transaction is discarded when one of its commands is refused: report that refusal. */
function throwCause(error: Error & { readonly previousErrors?: readonly Error[] }): never {
  throw error.previousErrors?.[0] ?? error;
}
