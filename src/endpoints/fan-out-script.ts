/**
 * The script that makes the deliveries of an event for several endpoints, as BullMQ's `Queue.add` would make their jobs. The layout
 * of the queue is described in queue/layout.ts.
 *
 * The event's job keeps in its field `fan` what was made, so that it is made once, whatever was trimmed meanwhile:
 * `<attempts started>:<stalled counter>:<processed on> <0, or 1 once it was redelivered> <done> <added> <missed> <endpoint id> …`. The
 * first three tell why the job runs again. After a worker's death, each start but the first was one of a stalled job, and what is
 * there counts. Otherwise it had ended, and was retried by hand: its deliveries are made again, for the same endpoints.
 */
import { KEEPING, KEPT } from "../missed/missed-scripts.ts";
import { FINDING, MAX_EVENTS, replayKeys } from "../missed/replay-scripts.ts";
import { JOB_FIELDS, LOCK_SUFFIX, MARKER, PRIORITY_SCORE } from "../queue/layout.ts";
import { REPLAY_FIELDS } from "../queue/marks.ts";
import { FAN_FIELD } from "../queue/pin.ts";
import { flowTagsKey, TURNS } from "../queue/turns.ts";
import { ADDRESSING } from "../registry/addressing.ts";
import { stateField, VERSION_FIELD } from "../registry/endpoint.ts";

const MAX_BYTES = 8 * 1024 * 1024; // 8 MiB, of the jobs that one script adds; the next one goes on

/** What came of one script. */
export const FANNED = {
  /** All is made. */
  done: 1,
  /** Call it again: the rest was too large for one script. */
  more: 0,
  /** Another worker has the job: nothing was done. */
  lost: -1,
  /** The user's endpoints are not those any more that were looked up: nothing was done. */
  changed: -2,
} as const;

/** The keys of {@link FAN_OUT} of the queue with this prefix, behind the job and the user's endpoints. */
export const fanOutKeys = (prefix: string): string[] => [...replayKeys(prefix), flowTagsKey(prefix)];

const names = ["name", "data", "opts", "timestamp", "priority"] as const satisfies (keyof typeof JOB_FIELDS)[];
const states = ["attemptsStarted", "stalledCounter", "processedOn"] as const satisfies (keyof typeof JOB_FIELDS)[];
const READ = [...names, ...states].map((name) => `"${JOB_FIELDS[name]}"`).join(", ");
const MARKS = REPLAY_FIELDS.map((field) => `"${field}", now`).join(", ");

/** `plan`, `done`, `added`, `missed`, `isAgain` and `run`: what is to be made, what was, and in which run of the job. */
const PLANNING = `
local name, data, opts, timestamp, priority, starts, stalls, processed, fan = unpack(redis.call("HMGET", job, ${READ}, "${FAN_FIELD}"))
if not (name and data and timestamp) then return { ${FANNED.lost} } end
starts, stalls, processed = tonumber(starts) or 0, tonumber(stalls) or 0, processed or ""
local run = starts .. ":" .. stalls .. ":" .. processed
local plan, done, added, missed, isAgain = {}, 0, 0, 0, false
if fan then
  local began, stalled, since, again, made, one, other, rest = string.match(fan, "^(%d+):(%d+):(%d*) (%d) (%d+) (%d+) (%d+)(.*)$")
  for endpoint in string.gmatch(rest or "", "%S+") do plan[#plan + 1] = endpoint end
  done, added, missed, isAgain = tonumber(made) or 0, tonumber(one) or 0, tonumber(other) or 0, again == "1"
  local later = starts - (tonumber(began) or 0)
  local isSame = since == processed or (later > 0 and later == stalls - (tonumber(stalled) or 0))
  if done == #plan and not isSame then done, added, missed, isAgain = 0, 0, 0, true end
else
  if (redis.call("HGET", endpoints, "${VERSION_FIELD}") or "") ~= version then return { ${FANNED.changed} } end
  for i = FIRST, #ARGV do plan[#plan + 1] = ARGV[i] end
end
if done >= #plan then return { ${FANNED.done}, added, missed, isAgain and 1 or 0, 0, 0, 0, 0 } end`;

/** `optsOf(child)`: the options of the event's job, with the child's id where the job's own is; `dataOf(endpoint)`. */
const BUILDING = `
opts = given ~= "" and given or opts or "{}"
local optsHead, optsTail = nil, opts
for _, own in ipairs({ quoted, (string.gsub(quoted, "/", "\\\\/")) }) do
  local from, to = string.find(opts, '"jobId":' .. own, 1, true)
  if from and not optsHead then optsHead, optsTail = string.sub(opts, 1, to - 1) .. ".", string.sub(opts, to) end
end
local dataHead, dataTail = splitData(data, event)
if not dataHead then return { ${FANNED.lost} } end
local function optsOf(endpoint) return optsHead and optsHead .. endpoint .. optsTail or opts end
local function dataOf(endpoint) return dataHead .. endpoint .. dataTail end`;

/** `add(endpoint)` adds a child, unless its job is there already; `arrange()` puts the new ones into the queue, in their order. */
const ADDING = `
local function makeRoom(child) -- rare: its functions are made only here
  ${FINDING}
  local place = placeOf(child)
  if place == "live" or place == "active" then return false end
  if place == "finished" and not isAgain and not redis.call("ZSCORE", failed, child) then return false end
  forget(child)
  return true
end
local new = {}
local isPaused, most, maxEvents = unpack(redis.call("HMGET", meta, "paused", "concurrency", "opts.maxLenEvents"))
maxEvents = maxEvents or ${MAX_EVENTS}
local function add(endpoint)
  local child = id .. "." .. endpoint
  if redis.call("EXISTS", prefix .. child) == 1 and not makeRoom(child) then return end
  redis.call("HSET", prefix .. child, "${JOB_FIELDS.name}", name, "${JOB_FIELDS.data}", dataOf(endpoint), "${JOB_FIELDS.opts}", optsOf(endpoint),
    "${JOB_FIELDS.timestamp}", timestamp, "${JOB_FIELDS.delay}", 0, "${JOB_FIELDS.priority}", priority)
  if isAgain then redis.call("HSET", prefix .. child, ${MARKS}) end
  redis.call("XADD", events, "*", "event", "added", "jobId", child, "name", name)
  redis.call("XADD", events, "MAXLEN", "~", maxEvents, "*", "event", "waiting", "jobId", child)
  new[#new + 1] = child
end
local function arrange()
  if #new == 0 then return end
  local rank = tonumber(priority) or 0
  local tag = rank == 0 and startTag(user, #new)
  if rank == 0 and not tag then
    local last = {}
    for i = #new, 1, -1 do last[#last + 1] = new[i] end
    redis.call("RPUSH", wait, unpack(last))
  else
    for i, child in ipairs(new) do
      local score = tag and tag + i - 1 or rank * ${PRIORITY_SCORE}
      redis.call("ZADD", prioritized, string.format("%.0f", score), child)
    end
  end
  if isPaused or (most and redis.call("LLEN", active) >= tonumber(most)) then return end
  redis.call("ZADD", marker, ${MARKER.score}, "${MARKER.member}")
end`;

/**
 * Make the deliveries of an event: a job for each endpoint, in the place of the event's own; for one that is disabled, it is kept as
 * missed. Nothing is made unless the worker still has the lock of the event's job.
 *
 * KEYS: the event's job, the user's endpoints, then {@link fanOutKeys}. ARGV: the prefix of job keys; the job's id; the same as
 * JSON; the token of its lock; the user's id; the event's id, empty if the job's data has one; the event's id;
 * the version of the user's endpoints; how many missed events an endpoint may keep; what the names of the keys of missed events and of
 * their data begin with; options in place of the job's own, or nothing; then the endpoints' ids, which count unless the job has a plan.
 *
 * Returns {@link FANNED}, how many jobs it has in all, how many were missed, 1 if it was redelivered, and of this script
 * how many jobs it added, how many missed events were kept, dropped, and dropped for want of memory.
 */
export const FAN_OUT = `
local job, endpoints = KEYS[1], KEYS[2]
local wait, paused, active, delayed, prioritized, children, completed, failed, marker, meta, events, pc, tags = unpack(KEYS, 3)
local prefix, id, quoted, token, user, event, eventId, version = unpack(ARGV, 1, 8)
local maxMissed, missedPrefix, dataPrefix, given = tonumber(ARGV[9]), ARGV[10], ARGV[11], ARGV[12]
if redis.call("GET", job .. "${LOCK_SUFFIX}") ~= token then return { ${FANNED.lost} } end
${PLANNING.replace("FIRST", "13")}
local now -- known once it is needed
local function readTime()
  local time = redis.call("TIME")
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
if isAgain then readTime() end
${ADDRESSING}${TURNS}${BUILDING}${ADDING}
priority = priority or "0"
timestamp = string.match(timestamp, "%S+") or "0"
local kept, dropped, refused = 0, 0, 0
local canKeep, keepMissed, removeMissed
local function openMissed()
  if keepMissed then return end
  readTime()
  local function open()
    ${KEEPING}
    return canKeep, keepMissed, removeMissed
  end
  canKeep, keepMissed, removeMissed = open()
end
local function keep(endpoint)
  openMissed()
  local set, entries = missedPrefix .. endpoint, dataPrefix .. endpoint
  if not canKeep(set, entries) then return false end
  local child = id .. "." .. endpoint
  local status, lost = keepMissed(set, entries, child, "disabled", eventId, name, optsOf(endpoint), timestamp, dataOf(endpoint))
  if status == ${KEPT.kept} then kept = kept + 1 end
  if status == ${KEPT.noMemory} then refused = refused + lost else dropped = dropped + lost end
  return true
end
local fields, bytes = {}, 0
for i, endpoint in ipairs(plan) do fields[i] = endpoint .. "${stateField("")}" end
local endpointStates = redis.call("HMGET", endpoints, unpack(fields))
while done < #plan and bytes < ${MAX_BYTES} do
  done = done + 1
  local endpoint, state = plan[done], string.match(endpointStates[done] or "", "^%l*")
  if state == "disabled" and keep(endpoint) then
    missed = missed + 1
  elseif state ~= "deleted" then
    if isAgain then openMissed() end
    if isAgain then removeMissed(missedPrefix .. endpoint, dataPrefix .. endpoint, id .. "." .. endpoint) end
    add(endpoint)
    added = added + 1
  end
  bytes = bytes + #dataHead + #dataTail + #opts
end
arrange()
local counts = done .. " " .. added .. " " .. missed
redis.call("HSET", job, "${FAN_FIELD}", run .. " " .. (isAgain and 1 or 0) .. " " .. counts .. " " .. table.concat(plan, " "))
return { done < #plan and ${FANNED.more} or ${FANNED.done}, added, missed, isAgain and 1 or 0, #new, kept, dropped, refused }`;
