/**
 * The scripts that count attempts of registered endpoints, switch endpoints off, and write notices. What they keep is described in
 * registry/health.ts and endpoint-log.ts. All times are Valkey's.
 */
import { REMOVING } from "../missed/missed-scripts.ts";
import { JOB_FIELDS, MARKER } from "../queue/layout.ts";
import { TELLING } from "../registry/changes.ts";
import { VERSION_FIELD } from "../registry/endpoint.ts";
import { NOW } from "../registry/script-time.ts";
import { ENDPOINT_LOG_SIZE, TRIM_ABOVE } from "./endpoint-log.ts";

const MAX_NOTICES = 10_000; // that wait: without a consumer, the queue would grow for ever
const MAX_EVENTS = 10_000; // kept in the stream of job events, unless the queue says otherwise
const SUCCESS_EVERY_MS = 60 * 1000; // 1 min: the time of the last 2xx, and when the log expires, are written no more often
const SUCCESS_EVERY_SHARE = 0.01; // of the time for which logs are kept, if that is less
const FAILED = " failing"; // behind the time of the last 2xx, see registry/health.ts

/** What the names of keys begin with, in front of a user's id, and of the user's and an endpoint's with a colon between them. */
interface CountedKeys {
  readonly health: string;
  readonly log: string;
  readonly missed: string;
  readonly missedData: string;
}

/**
 * `record`, see `EndpointRecords` in src/log/attempts.ts: adds an attempt to its endpoint's log and counts it. `score` is false for one
 * that the user's log has already: a resend after a lost connection counts once. `result` is `ok`, `failed`, or empty for an attempt that does not count.
 *
 * An event that is answered with 2xx is missed no longer.
 *
 * Returns nil when there is nothing to conclude, else `since`, `n` and `told` as they are now, as texts, empty for none.
 */
export const countScript = (keys: CountedKeys): string => `${REMOVING}
local function succeed(health, id, since, told)
  local of, kind, failures, reason = string.match(told or "", "^(%d+) (%a+) %d+ (%d+) (%a+)$")
  if of and kind ~= "over" then
    if since == of then failures = redis.call("HGET", health, id .. ".n") or failures end
    told = of .. " over " .. string.format("%.0f", now) .. " " .. failures .. " " .. reason
    redis.call("HSET", health, id .. ".told", told)
  end
  if since then redis.call("HDEL", health, id .. ".since", id .. ".n") end
  return told
end

-- A plain number, not an error or a text: nothing has failed since, and nothing is left to tell.
local steadyAfter = now - math.min(${SUCCESS_EVERY_MS}, ARGV[2] * ${SUCCESS_EVERY_SHARE})
local function wasSteady(ok)
  local at = tonumber(ok)
  return at and at > steadyAfter and at <= now
end

local function record(user, id, result, member, score, job)
  local health, own = "${keys.health}" .. user, user .. ":" .. id
  if result == "ok" then removeMissed("${keys.missed}" .. own, "${keys.missedData}" .. own, job) end
  local isSteady = result == "ok" and wasSteady(redis.pcall("HGET", health, id .. ".ok"))
  if score then
    local log = "${keys.log}" .. own
    local length = redis.pcall("RPUSH", log, score, member)
    if type(length) == "number" then -- otherwise a key of the wrong type
      local isLong = length > ${2 * TRIM_ABOVE}
      if isLong then redis.call("LTRIM", log, -${2 * ENDPOINT_LOG_SIZE}, -1) end
      if isLong or not isSteady then redis.call("PEXPIRE", log, ARGV[2]) end
    end
  end
  if isSteady then return nil end -- as nearly always
  local known = redis.pcall("HMGET", health, id .. ".since", id .. ".ok", id .. ".told")
  local since, ok, told = known[1], known[2], known[3]
  if known.err or result == "" then return nil end
  local n = 0
  if result == "ok" then
    if score then
      if since or told then told = succeed(health, id, since, told) end
      redis.call("HSET", health, id .. ".ok", string.format("%.0f", now) .. (told and "${FAILED}" or ""))
    end
    if not told then return nil end
    since = ""
  elseif score and not since then
    since, n = string.format("%.0f", now), 1
    redis.call("HSET", health, id .. ".since", since, id .. ".n", 1)
    if ok then redis.call("HSET", health, id .. ".ok", string.match(ok, "^%d*") .. "${FAILED}") end
  elseif score then
    n = redis.call("HINCRBY", health, id .. ".n", 1)
  else
    n = redis.call("HGET", health, id .. ".n") or 0
  end
  return { since or "", tostring(n), told or "" }
end`;

/**
 * Adds a notice as BullMQ's `Queue.add` does, see src/queue/layout.ts. Beyond ${MAX_NOTICES} that wait, the oldest go.
 *
 * KEYS: the `wait`, `marker`, `meta`, `events` and `active` of the queue. ARGV: the prefix of its jobs, the job's id, name, data up to
 * what the endpoint missed and from there on, and options; without an id, no notice is wanted.
 */
const NOTIFY = `
local function notify(keys, args, missed)
  local wait, marker, meta, events, active = unpack(keys)
  local prefix, id, name, head, tail, opts = unpack(args)
  if id == "" or redis.call("EXISTS", prefix .. id) == 1 then return end
  local kept = redis.pcall("ZCARD", missed)
  if type(kept) ~= "number" then kept = 0 end -- a key of the wrong type
  redis.call("HSET", prefix .. id, "${JOB_FIELDS.name}", name, "${JOB_FIELDS.data}", head .. kept .. tail,
    "${JOB_FIELDS.opts}", opts, "${JOB_FIELDS.timestamp}", string.format("%.0f", now), "${JOB_FIELDS.delay}", 0, "${JOB_FIELDS.priority}", 0)
  redis.call("XADD", events, "*", "event", "added", "jobId", id, "name", name)
  redis.call("LPUSH", wait, id)
  local attributes = redis.call("HMGET", meta, "paused", "concurrency", "opts.maxLenEvents")
  local isResting = attributes[1] or (attributes[2] and redis.call("LLEN", active) >= tonumber(attributes[2]))
  if not isResting then redis.call("ZADD", marker, ${MARKER.score}, "${MARKER.member}") end
  redis.call("XADD", events, "MAXLEN", "~", attributes[3] or ${MAX_EVENTS}, "*", "event", "waiting", "jobId", id)
  while redis.call("LLEN", wait) > ${MAX_NOTICES} do
    redis.call("DEL", prefix .. redis.call("RPOP", wait))
  end
end`;

/**
 * Do what follows from an endpoint's attempts, with its notice, if it still follows: the streak of failures, or its end, is still that one,
 * the endpoint is enabled, and its document was not changed. A 2xx that came first ends the streak, so it wins. A Valkey
 * that is full does it all the same.
 *
 * KEYS: the user's health and endpoints, what the endpoint missed, the index of endpoints and those in it that are off, the shard's changes, then those
 * of {@link NOTIFY}. ARGV: what to do: `warn`, `disable`
 * or `recover`; the endpoint's id; its `since`, or for `recover` its `told`; the version of its document; the new one of all
 * endpoints; `failing` or `gone`; its name in the index; then those of {@link NOTIFY}. Returns 1 if it was done, else 0.
 */
export const CONCLUDE = `${NOW}${TELLING}${NOTIFY}
local health, endpoints, missed = KEYS[1], KEYS[2], KEYS[3]
local action, id, since, document, version, reason, member = unpack(ARGV)
local notices, notice = { unpack(KEYS, 7) }, { unpack(ARGV, 8) }
if action == "recover" then
  if redis.call("HGET", health, id .. ".told") ~= since then return 0 end
  redis.call("HDEL", health, id .. ".told")
  notify(notices, notice, missed)
  return 1
end
local known = redis.call("HMGET", health, id .. ".since", id .. ".n", id .. ".told")
if known[1] ~= since then return 0 end
if action == "warn" and known[3] and string.match(known[3], "^%d+") == since then return 0 end
local stored = redis.call("HMGET", endpoints, id, id .. "/state")
if stored[2] or not stored[1] or string.match(stored[1], "^%S+") ~= document then return 0 end
local at = string.format("%.0f", now)
if action == "disable" then
  makeRoom(KEYS[6])
  tell(KEYS[6], version, string.match(member, "^%S+"))
end
redis.call("HDEL", health, id .. ".told")
local told = action == "warn" and "failing" or "disabled"
redis.call("HSET", health, id .. ".told", since .. " " .. told .. " " .. at .. " " .. (known[2] or 0) .. " " .. reason)
if action == "disable" then
  redis.call("HSET", endpoints, id .. "/state", "disabled " .. reason .. " " .. at, "${VERSION_FIELD}", version)
  redis.pcall("ZADD", KEYS[4], at, member)
  redis.pcall("ZADD", KEYS[5], at, member)
end
notify(notices, notice, missed)
return 1`;
