/**
 * The scripts that read and change a user's endpoints. Each makes one change in one step, for everybody who reads them. All times
 * are Valkey's.
 */
import { TELLING } from "./changes.ts";
import { beganField, MOVED_FIELD, VERSION_FIELD } from "./endpoint.ts";
import { HEALTH_FIELDS } from "./health.ts";
import { NOW } from "./script-time.ts";

const MAX_PAUSES = 20; // remembered for each endpoint
const MAX_DELETED = 200; // remembered for each user
const KEPT_MS = 30 * 24 * 60 * 60 * 1000; // 30 days: no event is older, so none depends on a pause or deletion before

/** Expects `key`, the user's endpoints, and `now`. Where another shard has them, a script returns which one, and has done nothing. */
const HERE = `
local moved = redis.call("HGET", key, "${MOVED_FIELD}")
if moved then return { "moved", now, string.match(moved, "^%S+") } end
`;

/**
 * `now`, epoch ms; `reply`, what a script returns; `trim`, which forgets old deletions; `index`, see endpoint-index.ts; `change`,
 * which gives all endpoints a new version.
 *
 * KEYS begins with: the user's endpoints and their health, the index and those in it that are off, the shard's changes. ARGV ends with the
 * endpoint's name in the index.
 */
const SHARED = `${NOW}${TELLING}local key, member = KEYS[1], ARGV[#ARGV]
${HERE}
local function reply(status, id)
  return { status, now, redis.call("HMGET", key, id, id .. "/state", id .. "/pauses") }
end

local function trim()
  local fields, deleted = redis.call("HGETALL", key), {}
  for i = 1, #fields, 2 do
    local at = string.match(fields[i], "/state$") and string.match(fields[i + 1], "^deleted (%d+)$")
    if at then deleted[#deleted + 1] = { field = fields[i], at = tonumber(at) } end
  end
  table.sort(deleted, function(a, b) return a.at > b.at end)
  for i, one in ipairs(deleted) do
    if i > ${MAX_DELETED} or one.at < now - ${KEPT_MS} then redis.call("HDEL", key, one.field) end
  end
end

-- What was told of the streak stays: its first 2xx ends it.
local function forgetStreak(health, id)
  redis.pcall("HDEL", health, id .. ".since", id .. ".n")
end

-- Workers forget how it answered before.
local function begin(id)
  redis.call("HSET", key, id .. "${beganField("")}", string.format("%.0f", now))
end

-- Entries that cannot be written are left to reindexEndpoints.
local function index(state)
  local at = string.format("%.0f", now)
  redis.pcall("ZADD", KEYS[3], at, member)
  if state == "enabled" then redis.pcall("ZREM", KEYS[4], member)
  elseif state then redis.pcall("ZADD", KEYS[4], at, member) end
end

-- Ahead of all else that is written.
local function change(version)
  tell(KEYS[5], version, string.match(member, "^%S+"))
  redis.call("HSET", key, "${VERSION_FIELD}", version)
end

local function versionOf(stored)
  return stored and string.match(stored, "^%S+") or ""
end
`;

/**
 * KEYS: a user's endpoints and their health. ARGV: fields. Returns the time, their values and all of the health; without ARGV all fields and
 * values in place of theirs. A health that cannot be read is empty.
 */
export const READ = `${NOW}local key = KEYS[1]
${HERE}
local health = redis.pcall("HGETALL", KEYS[2])
if health.err then health = {} end
return { now, #ARGV == 0 and redis.call("HGETALL", KEYS[1]) or redis.call("HMGET", KEYS[1], unpack(ARGV)), health }`;

/**
 * Write an endpoint's document, if it is still the one on which the change is based. A Valkey that is full refuses the whole script.
 *
 * ARGV: the endpoint's id, the version on which the change is based (empty for none: it is created), the new one, the document as JSON,
 * how many endpoints a user may have, 1 if its URL is another one: it begins anew. Returns status, time
 * and the endpoint's fields. `written` also if that version is there already; otherwise `changed` or `full`, and nothing was done.
 */
export const WRITE = `${SHARED}
local id, from, version, document, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local current = versionOf(redis.call("HGET", key, id))
if current == version then return reply("written", id) end
if current ~= from then return reply("changed", id) end
if from == "" then
  local count = 0
  for i, field in ipairs(redis.call("HGETALL", key)) do
    if i % 2 == 1 and not string.find(field, "/", 1, true) then count = count + 1 end
  end
  if count >= most then return reply("full", id) end
end
change(version)
redis.call("HSET", key, id, version .. " " .. document)
local wasDeleted = from == "" and redis.call("HDEL", key, id .. "/state", id .. "/pauses") > 0
if ARGV[6] == "1" then forgetStreak(KEYS[2], id) end
if ARGV[6] == "1" and (from ~= "" or wasDeleted) then begin(id) end
index(from == "" and "enabled")
trim()
return reply("written", id)`;

/**
 * Change an endpoint's state, also in a Valkey that is full.
 *
 * A pause that ends is remembered. Beyond ${MAX_PAUSES}, the oldest two become one, which includes the time between them: an event never expires
 * early.
 *
 * An endpoint that is enabled again begins anew, without a streak of failures.
 *
 * ARGV: the endpoint's id; the version that it must have, or empty; the new one of all endpoints; the action: `pause`, `resume`, `enable`
 * or `disable`; of `disable` the reason, otherwise anything. Returns status, time and the endpoint's fields: `done`, also
 * when it had that state; otherwise `missing`, `changed` or `disabled`, and nothing was done.
 */
export const CHANGE_STATE = `${SHARED}
local id, ifVersion, version, action, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local stored = redis.call("HGET", key, id)
if not stored then return reply("missing", id) end
if ifVersion ~= "" and versionOf(stored) ~= ifVersion then return reply("changed", id) end
local state = redis.call("HGET", key, id .. "/state") or "enabled"
local kind = string.match(state, "^%a+")
local target = ({ pause = "paused", resume = "enabled", enable = "enabled", disable = "disabled" })[action]
if kind == target then return reply("done", id) end
if kind == "disabled" and action ~= "enable" then return reply("disabled", id) end

makeRoom(KEYS[5])
change(version)
redis.call("HDEL", key, id .. "/state")
if kind == "paused" then
  local from, spans = tonumber(string.match(state, "%d+")), {}
  for first, last in string.gmatch(redis.call("HGET", key, id .. "/pauses") or "", "(%d+)-(%d+)") do
    if tonumber(last) >= now - ${KEPT_MS} then spans[#spans + 1] = { first, last } end
  end
  spans[#spans + 1] = { string.format("%.0f", from), string.format("%.0f", math.max(from, now)) }
  while #spans > ${MAX_PAUSES} do
    spans[2][1] = spans[1][1]
    table.remove(spans, 1)
  end
  for i, span in ipairs(spans) do spans[i] = span[1] .. "-" .. span[2] end
  redis.call("HSET", key, id .. "/pauses", table.concat(spans, " "))
end
local since = string.format("%.0f", now)
if target == "enabled" then forgetStreak(KEYS[2], id) end
if kind == "disabled" then begin(id) end
if target == "paused" then redis.call("HSET", key, id .. "/state", "paused " .. since) end
if target == "disabled" then redis.call("HSET", key, id .. "/state", "disabled " .. reason .. " " .. since) end
index(target)
trim()
return reply("done", id)`;

/**
 * Delete an endpoint with what it missed, its log and its health. That it was there is remembered for 30 days.
 *
 * KEYS goes on with: the endpoint's log, the two keys of what it missed, the three of its rate limit. ARGV: the endpoint's id; the version that it must have, or empty;
 * the new one of all endpoints. Returns `done`, also when it was deleted before; otherwise `missing` or `changed`.
 */
export const DELETE = `${SHARED}
local id, ifVersion, version = ARGV[1], ARGV[2], ARGV[3]
local stored = redis.call("HGET", key, id)
if not stored then
  local isDeleted = string.match(redis.call("HGET", key, id .. "/state") or "", "^deleted ")
  return { isDeleted and "done" or "missing" }
end
if ifVersion ~= "" and versionOf(stored) ~= ifVersion then return { "changed" } end
makeRoom(KEYS[5])
change(version)
redis.call("HDEL", key, id, id .. "/pauses", id .. "${beganField("")}")
redis.call("HSET", key, id .. "/state", "deleted " .. string.format("%.0f", now))
redis.call("DEL", unpack(KEYS, 6))
redis.pcall("ZREM", KEYS[3], member)
redis.pcall("ZREM", KEYS[4], member)
redis.pcall("HDEL", KEYS[2], ${HEALTH_FIELDS.map((field) => `id .. ".${field}"`).join(", ")})
trim()
return { "done" }`;
