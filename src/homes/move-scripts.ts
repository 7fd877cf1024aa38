/**
 * The scripts that move a user's endpoints from one shard to another. Two shards are never changed by one script, so each does its part,
 * and can be run again. The order of their parts is described in move.ts.
 */
import { READING, REMOVING } from "../missed/missed-scripts.ts";
import { TELLING } from "../registry/changes.ts";
import { MOVED_FIELD, VERSION_FIELD } from "../registry/endpoint.ts";

const REMEMBERED_MS = 30 * 24 * 60 * 60 * 1000; // 30 days: how long the old shard knows that a user has moved
const KEPT_MS = 7 * 24 * 60 * 60 * 1000; // 7 days, as in missed/missed.ts
const MAX_BYTES = 1024 * 1024; // 1 MiB: read at once of what was missed

/** The field of a user's hash in a shard that they left: the ids of endpoints of which more is to be moved. */
export const LEFT_FIELD = "/left";
/** That in the shard that they came to: the move's id. */
const ARRIVED_FIELD = "/arrived";

/** `idOf(field)`, the endpoint that a field is of, and `isKnown(field)`, whether it is not copied. */
const FIELDS = `
local function idOf(field) return string.match(field, "^[^/]+") end
local function isKnown(field)
  return field == "${VERSION_FIELD}" or field == "${MOVED_FIELD}" or field == "${LEFT_FIELD}" or field == "${ARRIVED_FIELD}"
end
`;

/**
 * Stop serving a user here: from now on nothing changes but by the scripts below.
 *
 * KEYS: the user's endpoints and their health, the shard's changes. ARGV: the queue of the shard to move to; a new id for the move; the
 * user's id. Returns one of
 *
 * - `leaving`, the move's id, all fields of the endpoints, the fields of their health: there may be none
 * - `gone` and the ids of endpoints of which more is to be moved, separated by blanks
 * - `elsewhere`, the queue of the shard that they moved to before, and 1 while that move has not ended
 * - `unreadable`, when the key is no hash
 */
export const LEAVE = `${TELLING}${FIELDS}
local key, to = KEYS[1], ARGV[1]
local moved = redis.pcall("HGET", key, "${MOVED_FIELD}")
if type(moved) == "table" then return { "unreadable" } end
local place, move = string.match(moved or "", "^(%S+) ?(%S*)$")
if place and place ~= to then return { "elsewhere", place, move == "" and 0 or 1 } end
if place and move == "" then return { "gone", redis.call("HGET", key, "${LEFT_FIELD}") or "" } end
makeRoom(KEYS[3])
if not place then
  move = ARGV[2]
  tell(KEYS[3], move, ARGV[3])
  redis.call("HSET", key, "${MOVED_FIELD}", to .. " " .. move)
end
redis.call("HDEL", key, "${VERSION_FIELD}")
local found, fields = redis.call("HGETALL", key), {}
for i = 1, #found, 2 do
  if not isKnown(found[i]) then
    fields[#fields + 1], fields[#fields + 2] = found[i], found[i + 1]
  end
end
local health = redis.pcall("HGETALL", KEYS[2])
return { "leaving", move, fields, health.err and {} or health }`;

/**
 * Serve a user here, with the endpoints that they have elsewhere. Done once for each move. Endpoints that the user has here already, or
 * had and deleted, stay as they are here.
 *
 * KEYS: the user's endpoints, their health, the index of the shard, that of endpoints that are off, the shard's changes. ARGV: the move's id, a new version, the
 * user's id, the queue of the shard that they come from, how many fields of endpoints follow, these fields with their values, then those of
 * their health. Returns how many endpoints came, and how many did not, since the user has them here; or -1 and a queue, when the user was
 * here, and left for a third shard.
 */
export const ARRIVE = `${TELLING}${FIELDS}
local key, health, all, off, changes = unpack(KEYS)
local user, last = ARGV[3], 5 + 2 * tonumber(ARGV[5])
if redis.call("HGET", key, "${ARRIVED_FIELD}") == ARGV[1] then return { 0, 0 } end
local moved = string.match(redis.call("HGET", key, "${MOVED_FIELD}") or "", "^%S+")
if moved and moved ~= ARGV[4] then return { -1, moved } end
makeRoom(changes)
tell(changes, ARGV[2], user)
redis.call("HDEL", key, "${MOVED_FIELD}", "${LEFT_FIELD}", "${ARRIVED_FIELD}")
redis.call("PERSIST", key)
local here, came, present, states = {}, 0, 0, {}
for i, field in ipairs(redis.call("HGETALL", key)) do
  if i % 2 == 1 then here[idOf(field) or ""] = true end
end
for i = 6, last, 2 do
  if string.match(ARGV[i], "/state$") then states[idOf(ARGV[i]) or ""] = ARGV[i + 1] end
end
local function index(id, text)
  local isRead, document = pcall(cjson.decode, string.match(text, " (.*)$") or "")
  local at = isRead and type(document) == "table" and tonumber(document.updatedAt) or 0
  local since = states[id] and tonumber(string.match(states[id], "%d+$") or 0)
  redis.pcall("ZADD", all, string.format("%.0f", math.max(at, since or 0)), user .. " " .. id)
  if since then redis.pcall("ZADD", off, string.format("%.0f", since), user .. " " .. id) end
end
for i = 6, last, 2 do
  local field, value, id = ARGV[i], ARGV[i + 1], idOf(ARGV[i])
  if not id then
    redis.call("HSETNX", key, field, value)
  elseif here[id] then
    if field == id then present = present + 1 end
  else
    redis.call("HSET", key, field, value)
    if field == id then
      came = came + 1
      index(id, value)
    end
  end
end
if last > 5 then redis.call("HSET", key, "${VERSION_FIELD}", ARGV[2], "${ARRIVED_FIELD}", ARGV[1]) end
for i = last + 1, #ARGV, 2 do
  if not here[string.match(ARGV[i], "^[^.]+")] then redis.pcall("HSETNX", health, ARGV[i], ARGV[i + 1]) end
end
return { came, present }`;

/**
 * Forget a user's endpoints here once they have arrived. That they moved is remembered for 30 days.
 *
 * KEYS: as of {@link ARRIVE}; the workers know of it by {@link LEAVE}. ARGV: the queue of the shard that they moved to, the move's id, the user's id. Returns the ids of
 * endpoints of which more is to be moved, separated by blanks.
 */
export const ARRIVED = `${FIELDS}
local key, health, all, off = unpack(KEYS)
if redis.call("HGET", key, "${MOVED_FIELD}") ~= ARGV[1] .. " " .. ARGV[2] then return "" end
local left = {}
for i, field in ipairs(redis.call("HGETALL", key)) do
  if i % 2 == 1 and idOf(field) == field then
    left[#left + 1] = field
    redis.pcall("ZREM", all, ARGV[3] .. " " .. field)
    redis.pcall("ZREM", off, ARGV[3] .. " " .. field)
  end
end
local ids = table.concat(left, " ")
redis.call("DEL", key, health)
redis.call("HSET", key, "${MOVED_FIELD}", ARGV[1])
if ids ~= "" then redis.call("HSET", key, "${LEFT_FIELD}", ids) end
redis.call("PEXPIRE", key, ${REMEMBERED_MS})
return ids`;

/** KEYS: the user's endpoints. ARGV: the ids that are done, as returned before. */
export const REST_MOVED = `
if redis.call("HGET", KEYS[1], "${LEFT_FIELD}") == ARGV[1] then redis.call("HDEL", KEYS[1], "${LEFT_FIELD}") end`;

/**
 * Read some of what an endpoint missed, oldest first.
 *
 * KEYS: the endpoint's two keys. ARGV: how many. Returns `dropped` and `droppedSince`, or false, then for each event its job's id, its
 * score and its entry.
 */
export const READ_MISSED = `
local found = redis.call("HMGET", KEYS[2], "dropped", "droppedSince")
local page, bytes = redis.call("ZRANGE", KEYS[1], 0, ARGV[1] - 1, "WITHSCORES"), 0
for i = 1, #page, 2 do
  local entry = redis.call("HGET", KEYS[2], "id:" .. page[i]) or ""
  if bytes > 0 and bytes + #entry > ${MAX_BYTES} then break end
  bytes = bytes + #entry
  found[#found + 1], found[#found + 2], found[#found + 3] = page[i], page[i + 1], entry
end
return found`;

/**
 * Keep what an endpoint missed elsewhere, unless it was deleted since.
 *
 * KEYS: the user's endpoints, the endpoint's two keys. ARGV: the endpoint's id, \`dropped\` and \`droppedSince\`, or nothing, then for each
 * event its job's id, its score and its entry. Returns how many are kept; -1 when the user is not here any more.
 */
export const KEEP_MISSED = `${READING}
local endpoints, set, data = unpack(KEYS)
if redis.call("HEXISTS", endpoints, "${VERSION_FIELD}") == 0 then return -1 end
if redis.call("HEXISTS", endpoints, ARGV[1]) == 0 then return 0 end
redis.call("HDEL", data, "id:") -- first, so that a full Valkey takes the rest
local kept = 0
for i = 4, #ARGV, 3 do
  local id, score, entry = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if readMissed(entry) and redis.call("ZADD", set, "NX", score, id) == 1 then
    redis.call("HSET", data, "id:" .. id, entry)
    redis.call("HINCRBY", data, "bytes", #entry)
    kept = kept + 1
  end
end
if tonumber(ARGV[2]) then
  redis.call("HINCRBY", data, "dropped", ARGV[2])
  redis.call("HSETNX", data, "droppedSince", ARGV[3])
end
redis.call("PEXPIRE", set, ${KEPT_MS})
redis.call("PEXPIRE", data, ${KEPT_MS})
return kept`;

/** Remove what an endpoint missed here. KEYS: the endpoint's two keys. ARGV: ids of jobs. Returns how many are left. */
export const REMOVE_MISSED = `${REMOVING}
for i = 1, #ARGV do removeMissed(KEYS[1], KEYS[2], ARGV[i]) end
redis.call("HDEL", KEYS[2], "dropped", "droppedSince")
local left = redis.call("ZCARD", KEYS[1])
if left == 0 then redis.call("DEL", KEYS[2]) end
return left`;

/** KEYS: the user's endpoints and their health. ARGV: fields of their health with values. What is known here stays. */
export const KEEP_HEALTH = `
for i = 1, #ARGV, 2 do
  if redis.call("HEXISTS", KEYS[1], string.match(ARGV[i], "^[^.]+")) == 1 then redis.pcall("HSETNX", KEYS[2], ARGV[i], ARGV[i + 1]) end
end`;

/** KEYS: an endpoint's log. Returns when it expires, in ms, then what it has. */
export const READ_LOG = `
local found = redis.call("LRANGE", KEYS[1], 0, -1)
table.insert(found, 1, redis.call("PTTL", KEYS[1]))
return found`;

/**
 * Add another log's attempts, in their order.
 *
 * KEYS: the user's endpoints, an endpoint's log. ARGV: the endpoint's id, how many attempts to keep, then as of {@link READ_LOG}.
 */
export const WRITE_LOG = `
if redis.call("HEXISTS", KEYS[1], ARGV[1]) == 0 then return end
local all, known = {}, {}
local function add(list, first)
  for i = first, #list, 2 do
    if not known[list[i + 1]] then all[#all + 1] = { tonumber(list[i]) or 0, list[i + 1] } end
    known[list[i + 1] or ""] = true
  end
end
local here, there = redis.call("PTTL", KEYS[2]), tonumber(ARGV[3])
add(redis.call("LRANGE", KEYS[2], 0, -1), 1)
add(ARGV, 4)
table.sort(all, function(one, other) return one[1] < other[1] end)
redis.call("DEL", KEYS[2])
for i = math.max(1, #all - ARGV[2] + 1), #all do redis.call("RPUSH", KEYS[2], all[i][1], all[i][2]) end
if there <= 0 then there = ${KEPT_MS} end
redis.call("PEXPIRE", KEYS[2], math.max(here, there))`;

/** KEYS: an endpoint's log. ARGV: attempts that are removed from it, as JSON. */
export const REMOVE_FROM_LOG = `
local isGone, left, expires = {}, redis.call("LRANGE", KEYS[1], 0, -1), redis.call("PTTL", KEYS[1])
for i = 1, #ARGV do isGone[ARGV[i]] = true end
redis.call("DEL", KEYS[1])
for i = 1, #left, 2 do
  if not isGone[left[i + 1]] then redis.call("RPUSH", KEYS[1], left[i], left[i + 1]) end
end
if expires > 0 then redis.call("PEXPIRE", KEYS[1], expires) end`;
