/**
 * The scripts that keep what an endpoint missed, and read it. The keys are described in missed.ts.
 */
import { JOB_FIELDS, LOCK_SUFFIX } from "../queue/layout.ts";
import { ADDRESSING } from "../registry/addressing.ts";
import { MOVED_FIELD, stateField } from "../registry/endpoint.ts";
import { NOW } from "../registry/script-time.ts";

const MAX_BYTES = 4 * 1024 * 1024; // 4 MiB, of an endpoint's entries
const KEPT_MS = 7 * 24 * 60 * 60 * 1000; // 7 days
const MAX_MEMORY_SHARE = 0.8; // of maxmemory; above it nothing is kept

/** What became of an event that was to be kept. */
export const KEPT = {
  /** The endpoint was deleted, or was to be disabled and is not any more: nothing was done. */
  notWanted: 0,
  kept: 1,
  /** It was kept before: the entry was written anew. */
  known: 2,
  /** Valkey has too little memory: it was only counted. */
  noMemory: 3,
  /** It alone would exceed the bounds: it was only counted. */
  tooLarge: 4,
  /** The job is not the worker's any more: whoever has it keeps the event. */
  notOurs: 5,
  /** A key has the wrong type. */
  unreadable: 6,
} as const;

/** Lua function `removeMissed(set, data, id)`: remove an entry. Returns the bytes that are left; nil if there was no such entry. */
export const REMOVING = `
local function removeMissed(set, data, id)
  if redis.pcall("ZREM", set, id) ~= 1 then return nil end
  local size = redis.call("HSTRLEN", data, "id:" .. id)
  redis.call("HDEL", data, "id:" .. id)
  local left = redis.call("HINCRBY", data, "bytes", -size)
  if left <= 0 then redis.call("HDEL", data, "bytes") end -- it was the last one
  return left
end`;

/** Lua function `readMissed(entry)`: the fields of an entry; nil if it is damaged. */
export const READING = `
local function readMissed(entry)
  local timestamp, at, cause, sizes, from = string.match(entry or "", "^(%S+) (%d+) ([%l_]+) (%d+ %d+ %d+)\\n()")
  if not from then return nil end
  local parts = {}
  for size in string.gmatch(sizes, "%d+") do
    parts[#parts + 1] = string.sub(entry, from, from + size - 1)
    from = from + size
  end
  return { timestamp = timestamp, at = tonumber(at), cause = cause, name = parts[1], opts = parts[2], event = parts[3], data = string.sub(entry, from) }
end`;

/**
 * Lua function `keepMissed(set, data, id, cause, event, name, opts, timestamp, text)` for scripts that keep events, and in the same
 * step make or end their jobs.
 *
 * Expects `now`, epoch ms, and `maxMissed`, how many events an endpoint may keep. Parameters: the endpoint's keys; the job's id; why
 * it is kept; the event's id; the job's name, options, timestamp and data, as texts. Returns {@link KEPT}, and how many events
 * are not kept on account of this one.
 *
 * It first removes, so that a Valkey whose memory is full refuses nothing of the rest: then the event is counted.
 *
 * Lua function `canKeep(set, data)`: whether the endpoint's keys have the right types. Call it before.
 */
export const KEEPING = `${REMOVING}${READING}
local isMemoryShort -- asked once a script, and only if there is something to keep
local function lacksMemory()
  if isMemoryShort == nil then
    local info = redis.pcall("INFO", "memory") -- an optional right
    info = type(info) == "string" and info or ""
    local used, most = string.match(info, "used_memory:(%d+)"), string.match(info, "maxmemory:(%d+)")
    isMemoryShort = most ~= nil and tonumber(most) > 0 and tonumber(used) > tonumber(most) * ${MAX_MEMORY_SHARE}
  end
  return isMemoryShort
end

local touched = {} -- the sets that this script has written to

local function isOld(set, data)
  local oldest = redis.call("ZRANGE", set, 0, 0)[1]
  local entry = oldest and readMissed(redis.call("HGET", data, "id:" .. oldest))
  return entry and entry.at < now - ${KEPT_MS}
end

-- Removes the oldest events beyond the bounds, and returns how many.
local function trimMissed(set, data, bytes)
  local count, dropped = redis.call("ZCARD", set), 0
  while count > 0 and (count > maxMissed or bytes > ${MAX_BYTES} or (not touched[set] and isOld(set, data))) do
    bytes, count, dropped = removeMissed(set, data, redis.call("ZRANGE", set, 0, 0)[1]), count - 1, dropped + 1
  end
  return dropped
end

local function canKeep(set, data)
  for key, kind in pairs({ [set] = "zset", [data] = "hash" }) do
    local found = redis.call("TYPE", key).ok
    if found ~= "none" and found ~= kind then return false end
  end
  return true
end

local function keepMissed(set, data, id, cause, event, name, opts, timestamp, text)
  local sizes = #name .. " " .. #opts .. " " .. #event
  local head = timestamp .. " " .. string.format("%.0f", now) .. " " .. cause .. " " .. sizes
  local entry = head .. "\\n" .. name .. opts .. event .. text
  local status, dropped = ${KEPT.kept}, 0
  if not touched[set] then redis.call("HDEL", data, "id:") end
  if #entry > ${MAX_BYTES} or maxMissed == 0 then
    status, dropped = ${KEPT.tooLarge}, 1
  elseif lacksMemory() then
    if redis.call("ZSCORE", set, id) then return ${KEPT.known}, 0 end
    status, dropped = ${KEPT.noMemory}, 1
  else
    if removeMissed(set, data, id) then status = ${KEPT.known} end
    redis.call("ZADD", set, tonumber(string.match(timestamp, "^%d+")) or now, id)
    redis.call("HSET", data, "id:" .. id, entry)
    dropped = trimMissed(set, data, redis.call("HINCRBY", data, "bytes", #entry))
  end
  if dropped > 0 and redis.call("HINCRBY", data, "dropped", dropped) == dropped then
    redis.call("HSET", data, "droppedSince", string.format("%.0f", now))
  end
  if not touched[set] then
    redis.call("PEXPIRE", set, ${KEPT_MS})
    redis.call("PEXPIRE", data, ${KEPT_MS})
  end
  touched[set] = true
  return status, dropped
end`;

const JOB = [JOB_FIELDS.name, JOB_FIELDS.data, JOB_FIELDS.opts, JOB_FIELDS.timestamp].map((field) => `"${field}"`);

/**
 * Keep the events of jobs that a worker holds. The jobs' own texts are copied, so that they come back byte for byte.
 *
 * With the job's lock in another's hands, nothing is done: as when the script is resent after the acknowledgement.
 *
 * KEYS: for each event, the user's endpoints, the endpoint's two keys, and the job. ARGV: how many events an endpoint may keep; then
 * for each event its job's id, its endpoint's id, the worker's token, the cause, the event's id, and 1 if the
 * job's data names no endpoint: then it is put in. Returns for each {@link KEPT}, and how many are not kept on account of it.
 */
export const KEEP = `${NOW}
local maxMissed = tonumber(ARGV[1])
${KEEPING}${ADDRESSING}
local states = {} -- of endpoints, by their sets; false for those that were deleted
local function stateOf(endpoints, set, data, endpoint)
  if states[set] == nil then
    local state = redis.call("HGET", endpoints, endpoint .. "${stateField("")}") or "enabled"
    local isHere = redis.call("HEXISTS", endpoints, endpoint) == 1 or redis.call("HEXISTS", endpoints, "${MOVED_FIELD}") == 1
    states[set] = isHere and string.match(state, "^%a+") -- what is missed after a move follows it
    if not canKeep(set, data) then states[set] = "unreadable" end
  end
  return states[set]
end

local function keep(endpoints, set, data, job, id, endpoint, token, cause, event, isNameless)
  if redis.call("GET", job .. "${LOCK_SUFFIX}") ~= token then return ${KEPT.notOurs}, 0 end
  local state = stateOf(endpoints, set, data, endpoint)
  if not state or (cause == "disabled" and (state == "enabled" or state == "paused")) then return ${KEPT.notWanted}, 0 end
  local name, text, opts, timestamp = unpack(redis.call("HMGET", job, ${JOB.join(", ")}))
  if not (name and text and timestamp) then return ${KEPT.notOurs}, 0 end
  if state == "unreadable" then return ${KEPT.unreadable}, 0 end
  if isNameless == "1" then
    local head, tail = splitData(text, "")
    text = head and head .. endpoint .. tail or text
  end
  return keepMissed(set, data, id, cause, event, name, opts or "{}", string.match(timestamp, "%S+") or "0", text)
end
local replies = {}
for i = 1, #KEYS / 4 do
  local key, arg = 4 * i - 3, 6 * i - 4
  local endpoints, set, data, job = unpack(KEYS, key, key + 3)
  local status, dropped = keep(endpoints, set, data, job, unpack(ARGV, arg, arg + 5))
  replies[2 * i - 1], replies[2 * i] = status, dropped
end
return replies`;

/** KEYS: for each endpoint its two keys. Returns for each: kept, dropped, since when, bytes, the times of the oldest and the newest. */
export const COUNT = `
local counts = {}
for i = 1, #KEYS, 2 do
  local set, data = KEYS[i], KEYS[i + 1]
  local dropped, since, bytes = unpack(redis.call("HMGET", data, "dropped", "droppedSince", "bytes"))
  local oldest, newest = redis.call("ZRANGE", set, 0, 0, "WITHSCORES")[2], redis.call("ZREVRANGE", set, 0, 0, "WITHSCORES")[2]
  counts[#counts + 1] = { redis.call("ZCARD", set), dropped or 0, since, bytes or 0, oldest, newest }
end
return counts`;

/**
 * A page of entries, newest first, without their data. Events of the same millisecond are in the order of their jobs' ids.
 *
 * KEYS: the endpoint's. ARGV: how many; the time and the job's id behind which to begin, or nothing. Returns whether there
 * are more, then for each entry its job's id, the event's id, the name, timestamp, cause, when it was kept, and its bytes.
 */
export const LIST = `${READING}
local set, data, limit, before, last = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local rank = before and redis.call("ZCOUNT", set, "(" .. ARGV[2], "+inf") or 0
local found = { 0 }
while true do
  local page = redis.call("ZREVRANGE", set, rank, rank + limit, "WITHSCORES")
  for i = 1, #page, 2 do
    local id, score = page[i], tonumber(page[i + 1])
    if not before or score < before or id < last then
      if #found > limit then
        found[1] = 1
        return found
      end
      local entry = redis.call("HGET", data, "id:" .. id)
      local one = readMissed(entry) or { event = id, name = "", timestamp = page[i + 1], cause = "", at = 0 }
      found[#found + 1] = { id, one.event, one.name, one.timestamp, one.cause, one.at, #(entry or "") }
    end
  end
  if #page == 0 then return found end
  rank = rank + limit + 1
end`;
