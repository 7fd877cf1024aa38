/**
 * Putting events on the queue, each under its id, and saying what was found under it.
 */
import { Job, type JobsOptions, type RedisQueueBackend } from "bullmq";
import type { Valkey } from "../valkey/connection.ts";
import { FLOW_SUFFIXES, JOB_LISTS, JOB_SETS, keysOf, LOCK_SUFFIX, LOGS_SUFFIX } from "./layout.ts";
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

/** Where a job may be, in the order in which the script gets their keys: behind its own. */
const PLACES = [...JOB_LISTS, "failed", ...JOB_SETS.filter((name) => name !== "failed")] as const;
/** What the keys of a job end with. */
const OWN_KEYS = ["", LOCK_SUFFIX, LOGS_SUFFIX, ...FLOW_SUFFIXES];
const FIRST_SET = JOB_LISTS.length + 3; // in KEYS, 1-based, behind the job, the lists and failed

/**
 * Makes room for a job under its id, in the transaction that adds it.
 *
 * KEYS: the job, the lists, failed, then the other sorted sets in which a job may be. ARGV: the id, and the timestamp of the
 * job that is added if it may have been added by an earlier try, else an empty text. Returns an {@link EnqueueStatus}.
 *
 * What is left of a job whose data is gone (its id in a list, a hash without a timestamp), and a job that is in no list, would
 * keep their id from ever being delivered: they are removed. Lists longer than 10,000 are not searched for them, since that
 * would hold up everybody.
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
  redis.call("HSET", job, "timestamp", timestamp) -- refused while memory is full, as the job would be: the failed one stays
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
