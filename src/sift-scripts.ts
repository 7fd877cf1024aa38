/**
 * The scripts of `src/sift.ts`, in Lua. They know how BullMQ lays out a queue (version pinned in package.json): `wait`, a
 * list, next job last; `delayed`, a sorted set with score time in ms * 4096; `marker`, which wakes the workers; a hash per
 * job, in which `ats` counts pick-ups. Our own is `parked` in that hash, the turn in epoch ms: a job whose delay is another
 * waits for a retry, and must wait its time.
 */

/** Of BullMQ's delayed jobs. */
export const SCORE_PER_MS = 4096;

const MAX_LEFT = 10_000; // jobs that were looked at and left, and wait before those to be looked at
const MAX_UNPACKED = 1_000; // arguments of one command: Lua has room for some thousands
const FEW = 300; // jobs that are noted at once: to look for them later among all that are parked would cost more
const SOON_MS = 2 * 1000; // 2 s: a job that comes before it is noted would pass for one that was never parked
const MAX_DATA_BYTES = 16 * 1024; // 16 KiB: a job with more is parked by itself, since decoding it would hold up Valkey

/**
 * To look for the endpoints whose jobs are wanted. `want` one, with what is to be known of it; `find` gives that back for a
 * job's data, or nil. Most data are as JSON.stringify writes them, fields in the contract's order, and need no decoding; nor
 * do those without a URL at a host that is wanted.
 */
const FIND = `
local head, middle = '{"userId":"', '","endpoint":{"url":"'
local wanted, hosts = {}, {}
local function want(endpoint, known)
  wanted[endpoint] = known
  hosts[string.match(endpoint, "^%a+://([^/]*)") or ""] = true
end
local function urlIn(data)
  local at = string.sub(data, 1, #head) == head and string.find(data, '"', #head + 1, true)
  local from = at and string.sub(data, at, at + #middle - 1) == middle and at + #middle
  local to = from and string.find(data, '"', from, true)
  local url = to and string.sub(data, from, to - 1)
  if url and not string.find(url, "\\\\", 1, true) and string.find(data, "^%b{}$") then return url end -- braces in balance: it is whole
end
local function decodedUrlIn(data)
  for host in string.gmatch(data, '"url"%s*:%s*"https?:[\\\\/]+([^"/\\\\?#]+)') do
    if hosts[host] then
      local ok, job = pcall(cjson.decode, data)
      return ok and type(job) == "table" and type(job.endpoint) == "table" and type(job.endpoint.url) == "string" and job.endpoint.url
    end
  end
end
local function find(data)
  if type(data) ~= "string" or #data > ${MAX_DATA_BYTES} then return nil end
  local url = urlIn(data) or decodedUrlIn(data)
  if not url then return nil end
  local known = wanted[url]
  if known then return known end
  local name = string.match(url, "^[^?#]*")
  return wanted[name] or wanted[name .. "/"]
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
 * KEYS: wait, delayed, marker. ARGV: prefix of job keys, jobs to look at, now, and the last job that was looked at and left,
 * behind which to begin; then for each endpoint its name and its line's from, spacingMs, startAt and horizonAt. Returns how
 * many jobs it looked at, the last that it left, the lowest and the highest score of those that {@link NOTE} is to note (0
 * and 0 when there are none), and for each endpoint how many of its jobs it moved.
 *
 * To note them is a third of the work, and the others' jobs wait behind it. What has its turn soon is noted at once, and so
 * are a few; the rest later. What waits in delayed though its delay is 0 is one that has not been noted yet.
 */
export const SIFT = `${FIND}${NOTE_PARKED}
local function callInPieces(command, key, args)
  for i = 1, #args, ${MAX_UNPACKED} do
    redis.call(command, key, unpack(args, i, math.min(i + ${MAX_UNPACKED} - 1, #args)))
  end
end
local lines = {}
for i = 5, #ARGV, 5 do
  local from, spacing, start, horizon = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), math.floor(ARGV[i + 3]), tonumber(ARGV[i + 4])
  local line = { from = from, spacing = spacing, start = start, horizon = horizon, moved = 0 }
  lines[#lines + 1] = line
  want(ARGV[i], line)
end
local function turnIn(line)
  local turn = math.floor(line.from + line.moved * line.spacing)
  if turn <= line.horizon then return turn end
  return math.floor(line.start + (line.horizon - line.start) * (0.5 + 0.5 * ((line.moved * 0.6180339887) % 1)))
end
local now = math.floor(ARGV[3])
local at = ARGV[4] ~= "" and redis.call("LPOS", KEYS[1], ARGV[4], "RANK", -1, "MAXLEN", ${MAX_LEFT})
local left = at and redis.call("LRANGE", KEYS[1], at, -1) or {}
local ids = redis.call("LRANGE", KEYS[1], -ARGV[2] - #left, -1 - #left)
local kept, turns, moved, noteFrom, noteTo = {}, {}, 0, math.huge, 0
for i = #ids, 1, -1 do
  local line = find(redis.pcall("HGET", ARGV[1] .. ids[i], "data"))
  if line then
    turns[2 * moved + 1] = turnIn(line) * ${SCORE_PER_MS} + moved % ${SCORE_PER_MS}
    turns[2 * moved + 2] = ids[i]
    line.moved = line.moved + 1
    moved = moved + 1
  else
    kept[#kept + 1] = ids[i]
  end
end
for i = 1, 2 * moved, 2 do
  local score = turns[i]
  local turn = math.floor(score / ${SCORE_PER_MS})
  if moved <= ${FEW} or turn < now + ${SOON_MS} then
    local key = ARGV[1] .. turns[i + 1]
    noteParked(key, turn, now, redis.pcall("HGET", key, "ats"))
  else
    if score < noteFrom then noteFrom = score end
    if score > noteTo then noteTo = score end
  end
end
if moved > 0 then
  callInPieces("ZADD", KEYS[2], turns)
  redis.call("LTRIM", KEYS[1], 0, -1 - #ids - #left)
  local first = {}
  for i = #kept, 1, -1 do first[#first + 1] = kept[i] end
  callInPieces("RPUSH", KEYS[1], first)
  callInPieces("RPUSH", KEYS[1], left)
  redis.call("ZADD", KEYS[3], redis.call("ZRANGE", KEYS[2], 0, 0, "WITHSCORES")[2] / ${SCORE_PER_MS}, "1")
end
local reply = { #ids, kept[#kept] or ARGV[4], noteTo > 0 and noteFrom or 0, noteTo }
for _, line in ipairs(lines) do reply[#reply + 1] = line.moved end
return reply`;

/**
 * KEYS: delayed. ARGV: prefix of job keys, now, the scores between which to look, jobs to look at. Returns how many jobs it
 * noted and the score of the last that it looked at, if there was one.
 */
export const NOTE = `${NOTE_PARKED}
local ids = redis.call("ZRANGEBYSCORE", KEYS[1], ARGV[3], ARGV[4], "WITHSCORES", "LIMIT", 0, ARGV[5])
local now, noted = tonumber(ARGV[2]), 0
for i = 1, #ids, 2 do
  local key, turn = ARGV[1] .. ids[i], math.floor(ids[i + 1] / ${SCORE_PER_MS})
  local job = redis.pcall("HMGET", key, "delay", "ats")
  if turn > now and job[1] == "0" then
    noteParked(key, turn, now, job[2])
    noted = noted + 1
  end
end
return {noted, ids[#ids]}`;

/**
 * KEYS: delayed, marker. ARGV: prefix of job keys, jobs to look at, endpoint, now, jobs to move, and the first and last turn
 * to look at. Gives the endpoint's next parked jobs the turn "now", in their order. Returns how many jobs it moved, how many it
 * looked at and the score of the last, unless there are no more.
 */
export const ADVANCE = `${FIND}
want(ARGV[3], true)
local now, most = tonumber(ARGV[4]), tonumber(ARGV[5])
local from, to = math.max(now + 1, tonumber(ARGV[6])) * ${SCORE_PER_MS}, math.floor(ARGV[7]) * ${SCORE_PER_MS} + ${SCORE_PER_MS - 1}
local ids = redis.call("ZRANGEBYSCORE", KEYS[1], from, to, "WITHSCORES", "LIMIT", 0, ARGV[2])
local moved, seen = 0, 0
while seen < #ids / 2 and moved < most do
  local id, score = ids[2 * seen + 1], tonumber(ids[2 * seen + 2])
  local job = redis.pcall("HMGET", ARGV[1] .. id, "parked", "delay", "data")
  local isParked = job[2] == "0" or tonumber(job[1] or nil) == math.floor(score / ${SCORE_PER_MS})
  if isParked and find(job[3]) then
    redis.call("ZADD", KEYS[1], now * ${SCORE_PER_MS} + moved % ${SCORE_PER_MS}, id)
    moved = moved + 1
  end
  seen = seen + 1
end
if moved > 0 then redis.call("ZADD", KEYS[2], now, "1") end
local isEnd = seen == #ids / 2 and seen < tonumber(ARGV[2])
return {moved, seen, not isEnd and tonumber(ids[2 * seen]) or nil}`;
