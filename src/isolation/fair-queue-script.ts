/**
 * One look at a queue, in Lua: which flows have more than their share of it, and their jobs' new order.
 *
 * A flow is a user, or else an endpoint. The script looks at the oldest jobs of `wait` and at some of the newest, and counts
 * the jobs of each flow. Where one dominates, its oldest jobs move to `prioritized`, from which workers take when `wait` is
 * empty, with start tags as scores (start-time fair queueing): one more for each job of a flow, so that flows take turns
 * there. The newest jobs of the others go ahead of those that have not been looked at yet: most of them are that flow's.
 *
 * What it costs is bounded by `size`, and by a budget for the bytes it reads and the JSON tokens it steps over.
 */
import { PRIORITY_SCORE, WAKE_WORKERS } from "../queue/layout.ts";

/** With fewer jobs in `wait` there is nothing to do: they are soon gone. */
export const LEAST = 64;
/** Of the jobs looked at, one in so many is from the newest, */
export const NEWEST_SHARE = 4;
/** and no more than these: what comes between two looks. */
export const MAX_NEWEST = 128;
/** It is unfair where the largest flow has more jobs than this and four times the smallest flow's. */
export const SLACK = 16;
/** Or, in a large piece, than one in so many and that. */
export const SLACK_SHARE = 16;
/** Then each flow yields that has more than one in so many. */
export const GREEDY_SHARE = 32;
/** The first jobs of a yielding flow stay, one for each so many looked at. */
export const KEPT_SHARE = 256;
/** It is worth going on while one in so many is moved. */
export const WORTHWHILE_SHARE = 10;
/**
 * Where nobody dominates but the line is longer than this, what came last goes ahead as well: a small share of all, so that
 * those who had no part in a flood of single events to everybody do not wait for all of it.
 */
export const LONG = 1_024;
/** Bytes that one script reads, some 3 ms in which Valkey does nothing else; the job that exceeds them is the last. */
export const MAX_BYTES = 1024 * 1024;

const BYTES_PER_STEP = 200; // to step over a token takes as long as to read so many bytes,
const BYTES_PER_BYTE = 3; // and to step over a byte
const MAX_STEPS = 2_000; // tokens before a job's user and URL; a job that has more belongs to no flow
const MAX_NAME_BYTES = 512; // of a user's id or a URL: longer ones that begin alike count as one flow
const TAGS_SECONDS = 60 * 60; // 1 h after a job was last moved: jobs that wait longer may lose their flow's place
const MAX_SKIPPED = 10_000; // jobs that were looked at, wait before those to be looked at, and are skipped
const MAX_UNPACKED = 1_000; // arguments of one command: Lua has room for some thousands

/**
 * `fieldsOf` gives a job's own `userId` and `endpoint.url`, and what it cost to find them. One pattern has both for data that
 * are as most clients write the contract. In others strings and brackets are stepped over, so that only fields of the object
 * itself count, wherever they stand.
 */
export const FIELDS = String.raw`
local find, match, sub, byte, min, max = string.find, string.match, string.sub, string.byte, math.min, math.max
local CONTRACT = '^%s*{%s*"userId"%s*:%s*"([^"\\]*)"%s*,%s*"endpoint"%s*:%s*{%s*"url"%s*:%s*"([^"\\]*)"'
local QUOTE, BACKSLASH, OPEN_OBJECT, OPEN_ARRAY = 34, 92, 123, 91

local function textOf(raw)
  if raw and find(raw, "\\", 1, true) then
    local isText, decoded = pcall(cjson.decode, '["' .. raw .. '"]')
    raw = isText and decoded[1] or nil
  end
  return raw and sub(raw, 1, ${MAX_NAME_BYTES})
end

local function stepOver(data)
  local keys, depth, at, steps = {}, 0, 1, 0
  local user, url
  while steps < ${MAX_STEPS} and not (user and url) do
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
  local cost = 0
  if not url then user, url, cost = stepOver(data) end
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
