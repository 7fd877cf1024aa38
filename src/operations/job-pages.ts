/**
 * Reads the jobs of a queue page by page in bounded memory, and ends jobs while workers process others.
 */

import { MAX_BODY_BYTES } from "../delivery/limits.ts";
import { FLOW_SUFFIXES, isJobList, type JobPlace, keysOf, LOCK_SUFFIX, LOGS_SUFFIX } from "../queue/layout.ts";
import { DEFAULT_KEPT, type Queue } from "../queue/worker.ts";
import type { Valkey } from "../valkey/connection.ts";
import { type FilteredJob, parseObject } from "./job-filter.ts";

const PAGE = 100; // ids read at once
const SCANNED = 1_000; // keys per SCAN: at most 1 ms of Valkey
const PAGE_BYTES = 1024 * 1024; // data per script: about 1 ms of Valkey; a single job may be larger
const MAX_DATA_BYTES = 4 * MAX_BODY_BYTES; // 64 MiB; larger data is not read
const BATCH = 200; // jobs ended per script: about 2 ms of Valkey, plus 4 ms in the middle of a million jobs
const SLACK = 500; // positions that a waiting job may have moved since its page was read

/** A job as it is stored. */
export interface StoredJob extends FilteredJob {
  readonly id: string;
  /** As stored. Together with the id, it distinguishes a job from a later one with the same id. */
  readonly timestamp: string;
  /** Why its last attempt failed; undefined when none has. */
  readonly failedReason: string | undefined;
}

/** A range of a list. */
export interface Piece {
  readonly list: JobPlace;
  /** Position of its first job, counted from the end at which jobs are added. */
  readonly from: number;
  /** Position after its last job. */
  readonly to: number;
}

/** Adjacent jobs of a list. */
export interface JobPage extends Piece {
  readonly jobs: readonly StoredJob[];
}

/**
 * ARGV: prefix of job keys, maximum bytes to read, maximum size of a job's data, job ids. Returns the fields of as
 * many jobs as fit; false for keys that are not jobs.
 */
const READ = `
local prefix, budget, largest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local bytes, jobs = 0, {}
for i = 4, #ARGV do
  local key = prefix .. ARGV[i]
  local size = redis.pcall("HSTRLEN", key, "data")
  if type(size) ~= "number" then
    jobs[#jobs + 1] = false
  elseif size > largest then
    jobs[#jobs + 1] = redis.call("HMGET", key, "name", "timestamp", "failedReason")
  else
    bytes = bytes + size
    if bytes > budget and i > 4 then break end
    jobs[#jobs + 1] = redis.call("HMGET", key, "name", "timestamp", "failedReason", "data")
  end
end
return jobs`;

type Text = string | null;
type Fields = readonly [name: Text, timestamp: Text, failedReason: Text, data?: Text] | null;

/** Read the jobs with these ids, or as many as fit in a page. Undefined for ids without a job. */
async function read(queue: Queue, valkey: Valkey, ids: readonly string[]): Promise<(StoredJob | undefined)[]> {
  const args = [keysOf(queue).jobs, PAGE_BYTES, MAX_DATA_BYTES, ...ids];
  const stored = (await valkey.eval(READ, 0, ...args)) as Fields[];
  return stored.map((fields, index) => {
    const [name, timestamp, failedReason, data = null] = fields ?? [null, null, null];
    if (timestamp === null) return undefined;
    const id = ids[index] as string;
    return { id, name: name ?? "", timestamp, failedReason: failedReason ?? undefined, data: parseObject(data) };
  });
}

/** Read jobs by their ids, skipping those that no longer exist. */
export async function* readJobs(queue: Queue, valkey: Valkey, ids: readonly string[]): AsyncGenerator<StoredJob> {
  for (let start = 0; start < ids.length; ) {
    const jobs = await read(queue, valkey, ids.slice(start, start + PAGE));
    for (const job of jobs) if (job !== undefined) yield job;
    start += jobs.length;
  }
}

/** At most `count` job ids of a list, newest first, after the first `from`. */
export async function readIds(
  queue: Queue,
  valkey: Valkey,
  list: JobPlace,
  from: number,
  count: number,
): Promise<string[]> {
  const key = keysOf(queue)[list];
  const to = from + count - 1;
  return isJobList(list) ? await valkey.lrange(key, from, to) : await valkey.zrevrange(key, from, to);
}

/**
 * Visit all jobs of a list, newest first: workers take jobs from the other end, which does not shift those still to be
 * visited. Jobs added to the list meanwhile may be missed, and a job may be visited twice.
 *
 * @param visit  resolves to how many jobs of this and earlier pages it removed from the list
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function visitJobs(
  queue: Queue,
  valkey: Valkey,
  list: JobPlace,
  visit: (page: JobPage) => Promise<number>,
): Promise<void> {
  for (let from = 0; ; ) {
    const ids = await readIds(queue, valkey, list, from, PAGE);
    for (let start = 0; start < ids.length; ) {
      const jobs = await read(queue, valkey, ids.slice(start));
      const taken = await visit({ list, from, to: from + jobs.length, jobs: jobs.filter((job) => job !== undefined) });
      start += jobs.length;
      from += jobs.length - taken;
    }
    if (ids.length < PAGE) return;
  }
}

/**
 * Visit all stored jobs, in any list or in none, in no particular order. Every job that exists throughout is visited, some
 * twice. Scans the names of all keys in the database.
 *
 * @throws  like {@link visitJobs}
 */
export async function* scanJobs(queue: Queue, valkey: Valkey): AsyncGenerator<StoredJob> {
  const { jobs: prefix } = keysOf(queue);
  let cursor = "0";
  do {
    const [next, keys] = await valkey.scan(cursor, "MATCH", `${prefix}*`, "COUNT", SCANNED, "TYPE", "hash");
    cursor = next;
    yield* readJobs(
      queue,
      valkey,
      keys.map((key) => key.slice(prefix.length)),
    );
  } while (cursor !== "0");
}

/**
 * The result of ending a job.
 *
 * - `ended`      it was removed from the list
 * - `taken`      a worker holds it, and its attempt continues
 * - `moved`      it is in another list by now, or gone
 * - `scheduled`  it belongs to a job scheduler, which has to be removed instead
 * - `flow`       it has a parent or children
 * - `full`       it should be kept as failed, but no more failed jobs can be kept
 */
export type Fate = "ended" | "taken" | "moved" | "scheduled" | "flow" | "full";

/**
 * KEYS: the list, failed, events, meta, schedulers. ARGV: prefix of job keys; the list's name; the failure reason, or an empty
 * text to remove the jobs; now, epoch ms; the range of the list to search (start, length), or -1 for a sorted set; how many
 * failed jobs to keep, since BullMQ would remove those beyond it in a single script; then each job's id and timestamp. Returns
 * their fates.
 *
 * LREM scans the list once per job. Instead, the jobs' positions are overwritten, which is cheap in a quicklist, and one LREM
 * from the nearer end removes them all.
 */
const END = `
local list, failed, events, meta, schedulers = unpack(KEYS)
local prefix, name, reason, now, from, size = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local isKept, TAKEN_OUT = reason ~= "", ""
local fates, wanted = {}, {}
-- When memory is full, Valkey refuses commands that add unless the script has already written, and that is when people cancel.
redis.call("ZREM", failed, TAKEN_OUT)
local room = tonumber(ARGV[7]) - redis.call("ZCARD", failed)

local function obstacle(id, timestamp)
  local key = prefix .. id
  local stored, parent, scheduler = unpack(redis.call("HMGET", key, "timestamp", "parentKey", "rjk"))
  if stored ~= timestamp then return "moved" end
  if redis.call("EXISTS", key .. "${LOCK_SUFFIX}") == 1 then return "taken" end
  local due = scheduler and redis.call("ZSCORE", schedulers, scheduler)
  if due and id == "repeat:" .. scheduler .. ":" .. due then return "scheduled" end
  local children = redis.call("EXISTS", ${FLOW_SUFFIXES.map((suffix) => `key .. "${suffix}"`).join(", ")})
  if children > 0 or (parent and parent ~= "") then return "flow" end
  if isKept and room <= 0 then return "full" end
  room = room - 1
end

local function finish(id)
  local key = prefix .. id
  local deduplication = redis.call("HGET", key, "deid")
  if deduplication and redis.call("GET", prefix .. "de:" .. deduplication) == id then
    redis.call("DEL", prefix .. "de:" .. deduplication, prefix .. "dn:" .. deduplication)
  end
  local length = redis.call("HGET", meta, "opts.maxLenEvents") or 10000
  if isKept then
    redis.call("HSET", key, "finishedOn", now, "failedReason", reason)
    redis.call("HDEL", key, "parked")
    redis.call("ZADD", failed, now, id)
    redis.call("XADD", events, "MAXLEN", "~", length, "*", "event", "failed", "jobId", id, "failedReason", reason, "prev", name)
  else
    redis.call("UNLINK", key, key .. "${LOGS_SUFFIX}")
    redis.call("XADD", events, "MAXLEN", "~", length, "*", "event", "removed", "jobId", id, "prev", name)
  end
end

for i = 8, #ARGV, 2 do
  local id, n = ARGV[i], (i - 6) / 2
  local fate = obstacle(id, ARGV[i + 1])
  if not fate and from < 0 then fate = redis.call("ZREM", list, id) == 1 and "ended" or "moved" end
  if not fate then wanted[id], fate = n, "moved" end
  fates[n] = fate
end
if next(wanted) then
  local first, count = math.max(0, from - ${SLACK}), 0
  for i, id in ipairs(redis.call("LRANGE", list, first, from + size + ${SLACK})) do
    local n = wanted[id]
    if n then
      redis.call("LSET", list, first + i - 1, TAKEN_OUT)
      fates[n], wanted[id], count = "ended", nil, count + 1
    end
  end
  local isFar = from > redis.call("LLEN", list) / 2
  if count > 0 then redis.call("LREM", list, isFar and -count or count, TAKEN_OUT) end
end
for n, fate in ipairs(fates) do if fate == "ended" then finish(ARGV[2 * n + 6]) end end
return fates`;

/**
 * End jobs that no worker holds: remove them, or keep them as failed with a reason, so that they can be redelivered. Each job is
 * ended atomically or left unchanged.
 *
 * @param reason  the failure reason, as the board shows it; undefined removes the jobs
 * @param keepFailed  as `WEBHOOK_KEEP_FAILED`
 * @returns the fate of each
 * @throws  like {@link visitJobs}; earlier jobs stay ended
 */
export async function endJobs(
  queue: Queue,
  valkey: Valkey,
  { list, from, to }: Piece,
  jobs: readonly StoredJob[],
  reason?: string,
  keepFailed = DEFAULT_KEPT.keepFailed,
): Promise<Fate[]> {
  const fates: Fate[] = [];
  const { jobs: prefix, ...places } = keysOf(queue);
  const keys = [places[list], places.failed, places.events, places.meta, places.repeat];
  for (let start = 0; start < jobs.length; start += BATCH) {
    const batch = jobs.slice(start, start + BATCH);
    const place = isJobList(list) ? [from, to - from] : [-1, 0];
    const named = batch.flatMap(({ id, timestamp }) => [id, timestamp]);
    const args = [prefix, list, reason ?? "", Date.now(), ...place, keepFailed, ...named];
    fates.push(...((await valkey.eval(END, keys.length, ...keys, ...args)) as Fate[]));
  }
  return fates;
}
