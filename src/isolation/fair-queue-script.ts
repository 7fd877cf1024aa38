/**
 * The Lua script of the fair queue: finds flows that hold more than their share of a queue, and reorders their jobs.
 *
 * A flow is a user or, for users who do not dominate, an endpoint. The script scans the oldest jobs of `wait` and some of the
 * newest, and counts the jobs of each flow. If one dominates, its oldest jobs move to `prioritized`, which workers take from when
 * `wait` is empty. Their scores are start tags (start-time fair queueing), which increase by one per job of a flow, so that flows
 * take turns there. The newest jobs of other flows move ahead of the unscanned ones, which mostly belong to the dominant flow.
 *
 * The cost is bounded by `size`, and by a budget for the bytes that the script reads and the JSON tokens that it skips.
 */
import { PRIORITY_SCORE } from "../queue/layout.ts";
import { WAKE_WORKERS } from "../queue/wake-up.ts";

/** With fewer jobs than this in `wait`, the script does nothing: they will be taken soon. */
export const MIN_WAITING = 64;
/** One in this many scanned jobs is taken from the newest… */
export const NEWEST_SHARE = 4;
/** …and at most this many in all: about what arrives between two scans. */
export const MAX_NEWEST = 128;
/** A queue is unfair if its largest flow exceeds four times its smallest by more than this many jobs… */
export const SLACK = 16;
/** …or, in a large piece, by more than one in this many scanned jobs. */
export const SLACK_SHARE = 16;
/** In an unfair queue, each flow with more than one in this many scanned jobs yields. */
export const GREEDY_SHARE = 32;
/** A yielding flow keeps one job in `wait` for every this many scanned. */
export const KEPT_SHARE = 256;
/** The scan continues while at least one in this many jobs is moved. */
export const WORTHWHILE_SHARE = 10;
/**
 * If no flow dominates but `wait` is longer than this, the newest jobs move ahead anyway. They are few, and a burst of single
 * events to everyone then does not delay the events that come after it.
 */
export const LONG_QUEUE = 1_024;
/** Bytes read per script, which block Valkey for about 3 ms. The script stops after the job that exceeds them. */
export const MAX_BYTES = 1024 * 1024;

const BYTES_PER_STEP = 200; // cost of skipping a token, in bytes read
const BYTES_PER_BYTE = 3; // cost of skipping a byte, in bytes read
const MAX_STEPS = 2_000; // tokens ahead of a job's user and URL; a job with more belongs to no flow
const MAX_NAME_BYTES = 512; // of a user's id or a URL: longer ones with the same beginning count as one flow
const TAGS_SECONDS = 60 * 60; // 1 h after a job was last moved; flows whose jobs wait longer may lose their place
const MAX_SKIPPED = 10_000; // jobs scanned before, still ahead of the next piece
const MAX_UNPACKED = 1_000; // arguments per command; Lua's stack limits them to a few thousand

/**
 * The field of a flow's start tag: a user's, or an endpoint's by the URL in its jobs. The script builds the same strings. It does
 * not parse URLs, so two spellings of one endpoint, which `endpointKey` treats as one, are two flows here.
 */
export const flowField = (kind: "u" | "e", name: string): Buffer =>
  Buffer.concat([Buffer.from(`${kind}:`), Buffer.from(name).subarray(0, MAX_NAME_BYTES)]);

/**
 * `fieldsOf` returns a job's `userId` and `endpoint.url`, and the cost of finding them. One pattern finds both in data laid out as
 * most clients do. Otherwise `stepOver` walks the JSON's strings and brackets, so that only the job's own top-level fields count,
 * in any order.
 */
export const FIELDS = String.raw`
local find, match, sub, byte, min, max = string.find, string.match, string.sub, string.byte, math.min, math.max
local CONTRACT = '^%s*{%s*"userId"%s*:%s*"([^"\\]*)"%s*,%s*"endpoint"%s*:%s*{%s*"url"%s*:%s*"([^"\\]*)"'
local BY_ID = '^%s*{%s*"userId"%s*:%s*"([^"\\]*)"%s*,%s*"endpoint"%s*:%s*{%s*"id"%s*:%s*"[^"\\]*"%s*}'
local BY_USER = '^%s*{%s*"userId"%s*:%s*"([^"\\]*)"'
local QUOTE, BACKSLASH, OPEN_OBJECT, OPEN_ARRAY = 34, 92, 123, 91

local function textOf(raw)
  if raw and find(raw, "\\", 1, true) then
    local isText, decoded = pcall(cjson.decode, '["' .. raw .. '"]')
    raw = isText and decoded[1] or nil
  end
  return raw and sub(raw, 1, ${MAX_NAME_BYTES})
end

local function stepOver(data, hasEndpoint)
  local keys, depth, at, steps = {}, 0, 1, 0
  local user, url
  while steps < ${MAX_STEPS} and not (user and (url or not hasEndpoint)) do
    local from = find(data, '["{}%[%]]', at)
    if not from then break end
    local char = byte(data, from)
    steps, at = steps + 1, from + 1
    if char == OPEN_OBJECT or char == OPEN_ARRAY then
      depth = depth + 1
      keys[depth] = nil
    elseif char ~= QUOTE then
      depth = depth - 1
    else
      local to = find(data, '["\\]', at)
      while to and byte(data, to) == BACKSLASH and steps < ${MAX_STEPS} do
        steps, to = steps + 1, find(data, '["\\]', to + 2)
      end
      if not to then break end
      local value = match(data, "^%s*:()", to + 1)
      if value then
        keys[depth] = sub(data, at, to - 1)
      elseif depth == 1 and keys[1] == "userId" then
        user = sub(data, at, to - 1)
      elseif depth == 2 and keys[1] == "endpoint" and keys[2] == "url" then
        url = sub(data, at, to - 1)
      end
      at = value or to + 1
    end
  end
  return user, url, ${BYTES_PER_STEP} * steps + ${BYTES_PER_BYTE} * at
end

local function fieldsOf(data)
  if type(data) ~= "string" then return nil, nil, 0 end
  local user, url = match(data, CONTRACT)
  if url and #user <= ${MAX_NAME_BYTES} and #url <= ${MAX_NAME_BYTES} then return user, url, #data end
  local hasEndpoint = true
  if not url then
    user = match(data, BY_ID) -- a registered endpoint: such a job belongs to its user's flow alone
    hasEndpoint = user or find(data, '"endpoint"', 1, true)
    if not hasEndpoint then user = match(data, BY_USER) end
    if user and #user <= ${MAX_NAME_BYTES} then return user, nil, #data end
  end
  local cost = 0
  if not url then user, url, cost = stepOver(data, hasEndpoint) end
  return textOf(user), textOf(url), #data + cost
end`;

/** Reads pieces of `wait` within the budget, and counts the jobs of each flow. */
const COUNTING = `
local wait, prioritized, marker, meta, tagsKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local pcall = redis.pcall
local seen, users, urls = {}, {}, {} -- in reading order; false where a job has no user or URL

local function read(ids, from, to, step, budget)
  for i = from, to, step do
    if budget <= 0 then break end
    local user, url, cost = fieldsOf(pcall("HGET", ARGV[1] .. ids[i], "data"))
    budget = budget - cost
    local n = #seen + 1
    seen[n], users[n], urls[n] = ids[i], user or false, url or false
  end
  return #seen
end

-- The flows that have more than their share of what was seen. If a flow has all of it, that counts only unless mayBeAlone.
local function greedy(names, mayBeAlone)
  local total, count, flows, most, least, yielding = #names, {}, 0, 0, #names, {}
  for i = 1, total do
    local name = names[i]
    if name then count[name] = (count[name] or 0) + 1 end
  end
  for _, n in pairs(count) do flows, most, least = flows + 1, max(most, n), min(least, n) end
  local isUnfair = most > 4 * least + max(${SLACK}, total / ${SLACK_SHARE})
  if isUnfair or (most == total and not mayBeAlone) then
    for name, n in pairs(count) do yielding[name] = n * ${GREEDY_SHARE} > total or nil end
  end
  return yielding
end`;

/**
 * KEYS: wait, prioritized, marker, meta, tags. ARGV: prefix of job keys; how many jobs to scan; the last job of the previous piece
 * that stayed in `wait`, after which to start, or an empty string; how many jobs to give back from `prioritized` to the head of
 * `wait` at the end of the scan, so that yielding flows get a share however long `wait` is; then the users in trouble, all of whose
 * jobs yield.
 *
 * The tags are a hash with a field for each flow that has jobs in `prioritized` (`u:` and a user's id, or `e:` and a URL); its
 * value is the flow's next start tag. It is deleted once no such job is left, and expires after an hour. The virtual time is the
 * lowest tag in `prioritized`.
 *
 * Returns how many jobs it scanned, how many it moved to `prioritized`, how many it left at the head of `wait`, 1 if continuing is
 * worthwhile, and the job after which to continue.
 */
export const SCAN = `${FIELDS}${COUNTING}
local function inPieces(command, key, args)
  for i = 1, #args, ${MAX_UNPACKED} do
    redis.call(command, key, unpack(args, i, min(i + ${MAX_UNPACKED} - 1, #args)))
  end
end
local function reversed(list)
  local turned = {}
  for i = #list, 1, -1 do turned[#turned + 1] = list[i] end
  return turned
end

local length = redis.call("LLEN", wait)
if length < ${MIN_WAITING} then return { 0, 0, 0, 0, "" } end
local last = ARGV[3] ~= "" and redis.call("LPOS", wait, ARGV[3], "RANK", -1, "MAXLEN", ${MAX_SKIPPED})
local skipped = last and length - last or 0
local size = min(length - skipped, tonumber(ARGV[2]))
local most = size < length - skipped and min(${MAX_NEWEST}, math.floor(size / ${NEWEST_SHARE})) or 0
local newest = most > 0 and redis.call("LRANGE", wait, 0, most - 1) or {}
local head = redis.call("LRANGE", wait, most - size - skipped, -1)
local oldest = read(head, #head - skipped, 1, -1, ${MAX_BYTES - MAX_BYTES / NEWEST_SHARE})
local total = read(newest, 1, #newest, 1, ${MAX_BYTES / NEWEST_SHARE})

local first = tonumber(redis.call("ZRANGE", prioritized, 0, 0, "WITHSCORES")[2] or ${PRIORITY_SCORE})
local now, tags = 0, {}
if first < ${PRIORITY_SCORE} then
  local stored = redis.call("HGETALL", tagsKey)
  now = first
  for i = 1, #stored, 2 do tags[stored[i]] = tonumber(stored[i + 1]) end
else
  redis.call("DEL", tagsKey)
end
local troubled = {}
for i = 5, #ARGV do troubled[ARGV[i]] = true end

local greedyUsers = greedy(users, false)
local flowOfUser = {} -- false for a user who does not yield
for i = 1, total do
  local user = users[i]
  if user and flowOfUser[user] == nil then
    local flow = "u:" .. user
    flowOfUser[user] = (greedyUsers[user] or troubled[user] or (tags[flow] or 0) > now) and flow or false
  end
  urls[i] = not flowOfUser[user] and urls[i]
end
local greedyUrls = greedy(urls, true)
local function flowOf(i)
  local url = urls[i]
  if not url then return flowOfUser[users[i]] end
  local flow = "e:" .. url
  return (greedyUrls[url] or (tags[flow] or 0) > now) and flow
end

local kept, moved, met, next, staying = {}, {}, {}, {}, total - oldest
local mayStay = math.ceil(total / ${KEPT_SHARE})
for i = 0, skipped - 1 do kept[#kept + 1] = head[#head - i] end
for i = 1, oldest do
  local flow = flowOf(i)
  if flow then met[flow] = (met[flow] or 0) + 1 end
  if flow and (troubled[users[i]] or met[flow] > mayStay) then
    local tag = min(next[flow] or max(now, tags[flow] or 0), ${PRIORITY_SCORE - 1})
    next[flow] = tag + 1
    moved[#moved + 1] = tag
    moved[#moved + 1] = seen[i]
  else
    kept[#kept + 1] = seen[i]
  end
end
local count = #moved / 2
local goesOn = count > 0 and count * ${WORTHWHILE_SHARE} >= total and skipped + total < length

-- LTRIM is allowed when memory is full, and after a script's first write Valkey refuses none: no job can be lost halfway.
local newestPass = count * 2 > oldest or count == 0 and length > ${LONG_QUEUE}
if count > 0 or newestPass then redis.call("LTRIM", wait, 0, -1 - oldest - skipped) end
if newestPass then
  local back = {}
  for i = total, oldest + 1, -1 do
    local list = flowOf(i) and back or kept
    list[#list + 1] = seen[i]
  end
  staying = #back
  redis.call("LTRIM", wait, total - oldest, -1)
  inPieces("LPUSH", wait, back)
end
if count > 0 or newestPass then inPieces("RPUSH", wait, reversed(kept)) end
if count > 0 then
  inPieces("ZADD", prioritized, moved)
  for flow, tag in pairs(next) do redis.call("HSET", tagsKey, flow, tag) end
  redis.call("EXPIRE", tagsKey, ${TAGS_SECONDS})
  ${WAKE_WORKERS}
end
if not goesOn then
  local given = redis.call("ZRANGEBYSCORE", prioritized, "-inf", "(${PRIORITY_SCORE}", "LIMIT", 0, ARGV[4])
  if #given > 0 then
    inPieces("ZREM", prioritized, given)
    inPieces("RPUSH", wait, reversed(given))
  end
end
return { total, count, total - count - staying, goesOn and 1 or 0, kept[#kept] or "" }`;
