/**
 * The scripts of `src/sift.ts`, in Lua. They know how BullMQ lays out a queue (version pinned in package.json): `wait`, a
 * list, next job last; `delayed`, a sorted set with score time in ms * 4096; `marker`, which wakes the workers; a hash per
 * job, in which `ats` counts pick-ups. Our own is `parked` in that hash, the turn in epoch ms: a job whose delay is another
 * waits for a retry, and must wait its time.
 */

const MAX_LEFT = 10_000; // jobs that were looked at and left, and wait before those to be looked at
const MAX_UNPACKED = 1_000; // arguments of one command: Lua has room for some thousands
const SOON_MS = 2 * 1000; // 2 s: a job that comes before it is noted would pass for one that was never parked
const MAX_DATA_BYTES = 16 * 1024; // 16 KiB: a job with more is parked by itself, since decoding it would hold up Valkey

/**
 * Whether a job's data names the endpoint ARGV[4] at the host ARGV[3]. Most data are as JSON.stringify writes them, fields in
 * the contract's order, and need no decoding; nor do those without the host in their text.
 */
const IS_THEIRS = `
local head, middle = '{"userId":"', '","endpoint":{"url":"'
local function findUrl(data)
  local at = string.sub(data, 1, #head) == head and string.find(data, '"', #head + 1, true)
  local from = at and string.sub(data, at, at + #middle - 1) == middle and at + #middle
  local to = from and string.find(data, '"', from, true)
  local url = to and string.sub(data, from, to - 1)
  if url and not string.find(url, "\\\\", 1, true) and string.find(data, "^%b{}$") then return url end -- braces in balance: it is whole
end
local function isTheirs(data)
  if type(data) ~= "string" or #data > ${MAX_DATA_BYTES} then return false end
  local url = findUrl(data)
  if url == ARGV[4] then return true end
  if not url then
    if not string.find(data, ARGV[3], 1, true) then return false end
    local ok, job = pcall(cjson.decode, data)
    if not ok or type(job) ~= "table" or type(job.endpoint) ~= "table" or type(job.endpoint.url) ~= "string" then
      return false
    end
    url = job.endpoint.url
  end
  local name = string.match(url, "^[^?#]*")
  return name == ARGV[4] or name .. "/" == ARGV[4]
end`;

/**
 * To write into a job's hash that it is parked, given its count of pick-ups as it stands there. What its key holds cannot stop
 * a script (pcall) between its other writes.
 */
const NOTE_PARKED = `
local function noteParked(key, turn, now, picked)
  local ats = type(picked) == "string" and tonumber(picked) or 0
  redis.pcall("HSET", key, "delay", turn - now, "parked", turn, "ats", ats + 1)
end`;

/**
 * KEYS: wait, delayed, marker. ARGV: prefix of job keys, jobs to look at, host, endpoint, the line's from, spacingMs,
 * startAt, horizonAt, and the last job that was looked at and left, behind which to begin. Returns how many jobs it moved,
 * how many it looked at, the last that it left, and the first and the last score of those that {@link NOTE} is to note.
 *
 * To note them is a third of the work, and the others' jobs wait behind it. What has its turn soon, or beyond the line, is
 * noted at once; the rest later. What waits in delayed though its delay is 0 is one that has not been noted yet.
 */
export const SIFT = `${IS_THEIRS}${NOTE_PARKED}
local function callInPieces(command, key, args)
  for i = 1, #args, ${MAX_UNPACKED} do
    redis.call(command, key, unpack(args, i, math.min(i + ${MAX_UNPACKED} - 1, #args)))
  end
end
local from, spacing, start, horizon = tonumber(ARGV[5]), tonumber(ARGV[6]), math.floor(ARGV[7]), tonumber(ARGV[8])
local at = ARGV[9] ~= "" and redis.call("LPOS", KEYS[1], ARGV[9], "RANK", -1, "MAXLEN", ${MAX_LEFT})
local left = at and redis.call("LRANGE", KEYS[1], at, -1) or {}
local ids = redis.call("LRANGE", KEYS[1], -ARGV[2] - #left, -1 - #left)
local kept, turns, moved, noteFrom, noteTo = {}, {}, 0, 0, 0
for i = #ids, 1, -1 do
  local key = ARGV[1] .. ids[i]
  if isTheirs(redis.pcall("HGET", key, "data")) then
    local turn = math.floor(from + moved * spacing)
    local isBeyond = turn > horizon
    if isBeyond then turn = math.floor(start + (horizon - start) * (0.5 + 0.5 * ((moved * 0.6180339887) % 1))) end
    local score = turn * 4096 + moved % 4096
    turns[2 * moved + 1] = score
    turns[2 * moved + 2] = ids[i]
    if isBeyond or turn < start + ${SOON_MS} then
      noteParked(key, turn, start, redis.pcall("HGET", key, "ats"))
    else
      if noteFrom == 0 then noteFrom = score end
      noteTo = score
    end
    moved = moved + 1
  else
    kept[#kept + 1] = ids[i]
  end
end
if moved > 0 then
  callInPieces("ZADD", KEYS[2], turns)
  redis.call("LTRIM", KEYS[1], 0, -1 - #ids - #left)
  local first = {}
  for i = #kept, 1, -1 do first[#first + 1] = kept[i] end
  callInPieces("RPUSH", KEYS[1], first)
  callInPieces("RPUSH", KEYS[1], left)
  redis.call("ZADD", KEYS[3], redis.call("ZRANGE", KEYS[2], 0, 0, "WITHSCORES")[2] / 4096, "1")
end
return {moved, #ids, kept[#kept] or ARGV[9], noteFrom, noteTo}`;

/**
 * KEYS: delayed. ARGV: prefix of job keys, now, the scores between which to look, jobs to look at. Returns how many jobs it
 * noted and the score of the last that it looked at, if there was one.
 */
export const NOTE = `${NOTE_PARKED}
local ids = redis.call("ZRANGEBYSCORE", KEYS[1], ARGV[3], ARGV[4], "WITHSCORES", "LIMIT", 0, ARGV[5])
local now, noted = tonumber(ARGV[2]), 0
for i = 1, #ids, 2 do
  local key, turn = ARGV[1] .. ids[i], math.floor(ids[i + 1] / 4096)
  local job = redis.pcall("HMGET", key, "delay", "ats")
  if turn > now and job[1] == "0" then
    noteParked(key, turn, now, job[2])
    noted = noted + 1
  end
end
return {noted, ids[#ids]}`;

/**
 * KEYS: delayed, marker. ARGV: prefix of job keys, jobs to look at, host, endpoint, now, jobs to move. Gives the endpoint's
 * next parked jobs the turn "now", in their order. Returns how many jobs it moved and how many it looked at.
 */
export const ADVANCE = `${IS_THEIRS}
local now, want = tonumber(ARGV[5]), tonumber(ARGV[6])
local ids = redis.call("ZRANGEBYSCORE", KEYS[1], (now + 1) * 4096, "+inf", "WITHSCORES", "LIMIT", 0, ARGV[2])
local moved, seen = 0, 0
for i = 1, #ids, 2 do
  if moved == want then break end
  seen = seen + 1
  local job = redis.pcall("HMGET", ARGV[1] .. ids[i], "parked", "delay", "data")
  local isParked = job[2] == "0" or tonumber(job[1] or nil) == math.floor(ids[i + 1] / 4096)
  if isParked and isTheirs(job[3]) then
    redis.call("ZADD", KEYS[1], now * 4096 + moved % 4096, ids[i])
    moved = moved + 1
  end
end
if moved > 0 then redis.call("ZADD", KEYS[2], now, "1") end
return {moved, seen}`;
