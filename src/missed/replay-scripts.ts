/**
 * The scripts that replay what an endpoint missed: they add its jobs anew, as BullMQ's `Queue.add` does. The layout of the queue is
 * described in queue/layout.ts, that of what was missed in missed.ts.
 */
import { OWN_KEYS } from "../queue/enqueue.ts";
import { JOB_FIELDS, MARKER, PRIORITY_SCORE, queueKeys } from "../queue/layout.ts";
import { REPLAY_FIELDS, REPLAYED_FIELD } from "../queue/marks.ts";
import { stateField } from "../registry/endpoint.ts";
import { NOW } from "../registry/script-time.ts";
import { READING, REMOVING } from "./missed-scripts.ts";

const MAX_SEARCHED = 10_000; // jobs in a list; in a longer one, a job that is in no set counts as waiting
/** How many job events are kept in their stream, unless the queue says otherwise. */
export const MAX_EVENTS = 10_000;

/**
 * KEYS: the endpoint's data. ARGV: job ids. Returns the time, then for each entry that can be read its timestamp and its options, as
 * texts; false for others.
 */
export const READ_OPTIONS = `${READING}${NOW}local read = { now }
for _, id in ipairs(ARGV) do
  local entry = readMissed(redis.call("HGET", KEYS[1], "id:" .. id))
  read[#read + 1] = entry and { entry.timestamp, entry.opts } or false
end
return read`;

const PLACES = [
  ...["wait", "paused", "active", "delayed", "prioritized", "waiting-children", "completed", "failed"],
  ...["marker", "meta", "events", "pc"],
] as const satisfies (keyof ReturnType<typeof queueKeys>)[];

/** The keys of {@link REPLAY}, behind the user's endpoints and the endpoint's two, of the queue with this prefix. */
export const replayKeys = (prefix: string): string[] => PLACES.map((place) => queueKeys(prefix)[place]);

/** Lua functions: `placeOf(id)`, where a job is; and `forget(id)`, which removes one that is not waiting, delayed or active. */
export const FINDING = `
local function isIn(list, id) return redis.call("LLEN", list) > ${MAX_SEARCHED} or redis.call("LPOS", list, id) end
local function placeOf(id)
  if redis.call("ZSCORE", completed, id) or redis.call("ZSCORE", failed, id) then return "finished" end
  for _, set in ipairs({ delayed, prioritized, children }) do
    if redis.call("ZSCORE", set, id) then return "live" end
  end
  if redis.call("HEXISTS", prefix .. id, "${JOB_FIELDS.timestamp}") == 0 then return "nowhere" end
  if isIn(active, id) then return "active" end
  if isIn(wait, id) or isIn(paused, id) then return "live" end
  return "nowhere" -- left behind in no list
end
local function forget(id)
  for _, list in ipairs({ wait, paused, active }) do
    if redis.call("LLEN", list) <= ${MAX_SEARCHED} then redis.call("LREM", list, 0, id) end
  end
  for _, set in ipairs({ delayed, prioritized, children, completed, failed }) do redis.call("ZREM", set, id) end
  for _, part in ipairs({ ${OWN_KEYS.map((suffix) => `"${suffix}"`).join(", ")} }) do redis.call("DEL", prefix .. id .. part) end
end`;

const MARKS = REPLAY_FIELDS.map((field) => `"${field}", now`).join(", ");

/** `add(id, entry, opts, priority)`: what BullMQ does. */
const ADDING = `
local attributes = redis.call("HMGET", meta, "paused", "concurrency", "opts.maxLenEvents")
local isResting = attributes[1] or (attributes[2] and redis.call("LLEN", active) >= tonumber(attributes[2]))
local function add(id, entry, opts, priority)
  redis.call("HSET", prefix .. id, "${JOB_FIELDS.name}", entry.name, "${JOB_FIELDS.data}", entry.data, "${JOB_FIELDS.opts}", opts,
    "${JOB_FIELDS.timestamp}", entry.timestamp, "${JOB_FIELDS.delay}", 0, "${JOB_FIELDS.priority}", priority, ${MARKS})
  redis.call("XADD", events, "*", "event", "added", "jobId", id, "name", entry.name)
  if priority == "0" then
    redis.call("LPUSH", wait, id)
  else
    local score = tonumber(priority) * ${PRIORITY_SCORE} + redis.call("INCR", pc) % ${PRIORITY_SCORE}
    redis.call("ZADD", prioritized, string.format("%.0f", score), id)
  end
  if not isResting then redis.call("ZADD", marker, ${MARKER.score}, "${MARKER.member}") end
  redis.call("XADD", events, "MAXLEN", "~", attributes[3] or ${MAX_EVENTS}, "*", "event", "waiting", "jobId", id)
end`;

/**
 * Add jobs anew, each in one step with the removal of its entry and of a finished job with its id. Adds none whose job is waiting,
 * delayed or active.
 *
 * KEYS: the user's endpoints, the endpoint's two keys, then {@link replayKeys}. ARGV: the endpoint's id; the prefix of job keys; when the
 * replay began, epoch ms; now, the same; 1 to change nothing, or 0; then for each its job's id, options and priority.
 *
 * Returns `missing` or `disabled` when the endpoint is; else for each 1 if it was added, also earlier in this replay, 0 if its
 * job is there, 2 if it is active, and -1 if there is no such entry any more.
 */
export const REPLAY = `${REMOVING}${READING}
local endpoints, set, data = KEYS[1], KEYS[2], KEYS[3]
local wait, paused, active, delayed, prioritized, children, completed, failed, marker, meta, events, pc = unpack(KEYS, 4)
local endpoint, prefix, began, now, isDry = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5] == "1"
if redis.call("HEXISTS", endpoints, endpoint) == 0 then return { "missing" } end
if string.find(redis.call("HGET", endpoints, endpoint .. "${stateField("")}") or "", "^disabled ") then return { "disabled" } end
${FINDING}${ADDING}
local function replay(id, opts, priority)
  local entry = redis.call("ZSCORE", set, id) and readMissed(redis.call("HGET", data, "id:" .. id))
  if not entry then
    local at = tonumber(redis.call("HGET", prefix .. id, "${REPLAYED_FIELD}") or "")
    return at and at >= began and 1 or -1
  end
  local place = placeOf(id)
  if place == "active" then return 2 end
  if place == "live" then return 0 end
  if isDry then return 1 end
  forget(id)
  add(id, entry, opts, priority)
  removeMissed(set, data, id)
  return 1
end
local replies = { "done" }
for i = 6, #ARGV, 3 do replies[#replies + 1] = replay(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
return replies`;
