/**
 * The Lua scripts of the rate limit of endpoints. All times are Valkey's, epoch ms.
 *
 * Two virtual schedules (GCRA) in each endpoint's key: asking reserves the next moment of the first one, which evenly spaces what
 * comes back; attempts begin by the second one, so that what comes back late, after an outage for example, is still evenly
 * spaced. At most 30 s are reserved. What does not fit into them stands in line, and comes back to ask when its turn is 15 s ahead.
 * Nothing tells parked jobs of a new limit: the first that asks under it has all others come due. So those that have a moment come back every
 * 30 s, also if it is further away, and keep it.
 */
import { PROMOTION } from "../queue/wake-up.ts";
import { NOW } from "../registry/script-time.ts";

const HORIZON_MS = 30 * 1000; // 30 s: how far ahead moments are reserved
const HORIZON_MOMENTS = 2.5; // or as long as this many attempts take, for slow limits
const UNUSED_SHARE = 0.25; // of the horizon: with less of it reserved, newcomers need not stand in line
const SEEN_MS = 30 * 1000; // 30 s: how often a job comes back that has a moment
const KEPT_MS = 60 * 1000; // 1 min: how long keys outlast their last moment
const MAX_RELEASED = 100; // jobs per endpoint and script

/** Replies: the attempt may begin after a wait; the job is to be parked for a time; the event would be too old by then. */
export const GO = 0;
export const PARK = 1;
export const EXPIRED = 2;

/**
 * Field of a job's hash while it is parked for a rate limit: what it waits for, until when, and the limit. `reserved`: a moment of
 * the first schedule; `settled`: one of the second; `line`: to ask again.
 */
const MARK = "rate";

/** Expects `delayed`, `now` and {@link PROMOTION}. `release(key, limit)` makes jobs of another limit due; returns how many it looked at. */
const RELEASE = `
local function release(key, prefix, limit)
  local popped = redis.call("ZPOPMIN", key, ${MAX_RELEASED})
  for i = 1, #popped, 2 do
    local mark = redis.call("HGET", prefix .. popped[i], "${MARK}")
    local isOther = mark and string.match(mark, "%S+$") ~= limit
    if isOther and redis.call("ZSCORE", delayed, popped[i]) then promote(popped[i]) end
  end
  return #popped / 2
end

local function retire(line, released)
  if redis.call("EXISTS", released) == 0 then
    if redis.call("EXISTS", line) == 1 then redis.call("RENAME", line, released) end
  else
    redis.call("ZUNIONSTORE", released, 2, released, line)
    redis.call("DEL", line)
  end
end
`;

/**
 * Ask for a moment for each of several jobs.
 *
 * KEYS: the queue's `delayed` and `marker`; then for each job its endpoint's rate, line and released, and its own hash. ARGV: the
 * prefix of jobs' keys; then for each job its id; since when the endpoint has its settings; its attempts per second and at once; how
 * long it may wait in the process, and how long its event may still wait, both in ms. Returns two numbers for each job: GO, PARK or
 * EXPIRED, and after how many ms.
 *
 * The first key is a string: since when the settings are known, attempts per second and at once, the end of the first schedule, the
 * end of the line, the end of the second schedule, and 1 while jobs of another limit are being released. It expires. About 100
 * bytes. A limit that changes makes what waits for the former one come due, 100 jobs with each script. A worker that does not know
 * of the change yet is answered by the new limit.
 *
 * Begins with ZREM, so that a Valkey that is full does it all the same: an endpoint's limit holds then, too.
 */
export const ASK = `
local delayed, marker, prefix, time = KEYS[1], KEYS[2], ARGV[1], redis.call("TIME")
local exact = time[1] * 1000 + time[2] / 1000
local now = math.floor(exact)
local min, max, states, replies = math.min, math.max, {}, {}
${PROMOTION}${RELEASE}
local function read(key, line, released)
  local text = redis.pcall("GET", key)
  local stamp, rate, burst, free, tail, sent, releasing =
    string.match(type(text) == "string" and text or "", "^(%d+) (%S+) (%d+) (%S+) (%S+) (%S+) (%d)$")
  return {
    key = key, line = line, released = released, stamp = tonumber(stamp or 0), rate = rate, burst = burst,
    free = tonumber(free or 0), tail = tonumber(tail or 0), sent = tonumber(sent or 0), isReleasing = releasing == "1",
  }
end

local function limit(state, stamp, rate, burst)
  local isNew = stamp >= state.stamp and (state.rate ~= rate or state.burst ~= burst)
  if stamp > state.stamp then state.stamp = stamp end
  local before = state.interval or state.rate and 1000 / tonumber(state.rate)
  if isNew then state.rate, state.burst = rate, burst end
  state.interval = 1000 / tonumber(state.rate)
  state.ahead = (tonumber(state.burst) - 1) * state.interval
  state.name = state.rate .. "/" .. state.burst
  state.horizon = max(${HORIZON_MS}, ${HORIZON_MOMENTS} * state.interval)
  if isNew and before then
    state.sent = min(state.sent - before, exact) + state.interval -- as if the last attempt had been made under this limit
    state.free, state.tail = state.sent, 0
    retire(state.line, state.released)
    state.isReleasing = true
  end
end

local function begin(state, at)
  state.sent = max(state.sent, at) + state.interval
  return ${GO}, at - exact
end

local function park(state, job, kind, at)
  if redis.call("EXISTS", job.hash) == 1 then
    redis.call("HSET", job.hash, "${MARK}", string.format("%s %.3f %s", kind, at, state.name))
    redis.call("ZADD", state.line, at, job.id)
  end
  return ${PARK}, kind == "line" and at - exact or min(at - exact, ${SEEN_MS})
end

local function forget(job)
  if job.kind then redis.call("HDEL", job.hash, "${MARK}") end
end

local function comeBack(state, job)
  if job.moment > exact + job.patience then return park(state, job, job.kind, job.moment) end -- early: to see the limit, or promoted by hand
  local at = max(exact, job.moment)
  if job.kind == "settled" then
    forget(job)
    return ${GO}, at - exact
  end
  at = max(at, state.sent - state.ahead)
  if at - exact > job.life then return ${EXPIRED}, 0 end
  if at - exact <= job.patience then
    forget(job)
    return begin(state, at)
  end
  begin(state, at)
  return park(state, job, "settled", at)
end

local function reserve(state, job)
  local at = max(exact, state.free - state.ahead, state.sent - state.ahead)
  local isBehind = not job.kind and state.tail > exact and at - exact > ${UNUSED_SHARE} * state.horizon
  if isBehind or at - exact > state.horizon then
    local back = max(state.tail, exact + state.horizon / 2)
    if back + state.horizon / 2 - exact > job.life then return ${EXPIRED}, 0 end
    state.tail = back + state.interval
    return park(state, job, "line", back)
  end
  if at - exact > job.life then return ${EXPIRED}, 0 end
  state.free = max(exact, state.free) + state.interval
  if at - exact > job.patience then return park(state, job, "reserved", at) end
  forget(job)
  return begin(state, at)
end

for i = 3, #KEYS, 4 do
  local arg = 2 + 6 * (i - 3) / 4
  local job = { id = ARGV[arg], hash = KEYS[i + 3], patience = tonumber(ARGV[arg + 4]), life = tonumber(ARGV[arg + 5]) }
  redis.call("ZREM", KEYS[i + 1], job.id)
  local state = states[KEYS[i]] or read(KEYS[i], KEYS[i + 1], KEYS[i + 2])
  states[KEYS[i]] = state
  limit(state, tonumber(ARGV[arg + 1]), ARGV[arg + 2], ARGV[arg + 3])
  local mark, name = redis.call("HGET", job.hash, "${MARK}"), nil
  if mark then job.kind, job.moment, name = string.match(mark, "^(%a+) (%S+) (%S+)$") end
  job.moment = tonumber(job.moment)
  local isPaid = job.moment and job.kind ~= "line" and name == state.name
  local kind, after = (isPaid and comeBack or reserve)(state, job)
  replies[#replies + 1], replies[#replies + 2] = kind, math.ceil(after)
end

for key, state in pairs(states) do
  if state.isReleasing then state.isReleasing = release(state.released, prefix, state.name) > 0 end
  local ttl = math.ceil(max(state.free, state.tail, state.sent) - exact + ${KEPT_MS})
  redis.call("ZREMRANGEBYSCORE", state.line, "-inf", exact - ${KEPT_MS}) -- jobs that were removed or given up
  redis.call("SET", key, string.format("%.0f %s %s %.3f %.3f %.3f %d", state.stamp, state.rate, state.burst, state.free,
    state.tail, state.sent, state.isReleasing and 1 or 0), "PX", ttl)
  redis.call("PEXPIRE", state.line, ttl)
  if state.isReleasing then redis.call("PEXPIRE", state.released, ttl) end
end
wakePromoted()
return replies`;

/**
 * Make jobs due that wait for a limit that their endpoint has no more.
 *
 * KEYS: the queue's `delayed` and `marker`, the endpoint's rate, line and released. ARGV: the prefix of jobs' keys. Returns how many
 * jobs it looked at: repeat it until there are none.
 */
export const LIFT = `${NOW}local delayed, marker, prefix = KEYS[1], KEYS[2], ARGV[1]
${PROMOTION}${RELEASE}
redis.call("DEL", KEYS[3])
retire(KEYS[4], KEYS[5])
local looked = release(KEYS[5], prefix, "")
wakePromoted()
return looked`;
