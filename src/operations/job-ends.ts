/**
 * Ends jobs of a queue while workers process others.
 */
import { FLOW_SUFFIXES, isJobList, JOB_FIELDS, keysOf, LOCK_SUFFIX, LOGS_SUFFIX } from "../queue/layout.ts";
import { DEFAULT_KEPT, type Queue } from "../queue/worker.ts";
import type { Valkey } from "../valkey/connection.ts";
import type { Piece, StoredJob } from "./job-pages.ts";

const BATCH = 200; // jobs ended per script: about 2 ms of Valkey, plus 4 ms in the middle of a million jobs
const SLACK = 500; // positions that a waiting job may have moved since its page was read

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
  local stored, parent, scheduler = unpack(redis.call("HMGET", key, "timestamp", "parentKey", "${JOB_FIELDS.repeatJobKey}"))
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
  local deduplication = redis.call("HGET", key, "${JOB_FIELDS.deduplicationId}")
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
