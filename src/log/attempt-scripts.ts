/**
 * The script that records all attempts that end in the same event-loop turn, in the parts of which it consists.
 */

/**
 * Key: `webhooks:log:<userId>`, a sorted set; score: epoch ms at which the attempt ended; member: the attempt as JSON.
 * At most `WEBHOOK_LOG_SIZE` members; expires `WEBHOOK_LOG_AGE` after the last write.
 *
 * Times are Valkey's, and a new entry never sorts before an existing one: clocks can be wrong or set back, and an entry from
 * the future would push out everything written until then.
 *
 * KEYS: one per attempt. ARGV: members to keep, retention in ms, number of attempts, then each attempt's member. Returns errors as
 * `<position>:<error>`, since a key of the wrong type must not lose the others' entries.
 *
 * Idempotent, as for a resend after a lost connection: a set holds a member once, and a member includes its attempt's UUID.
 */
const RECORD = `
local errors, scores, time = {}, {}, redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count = tonumber(ARGV[3])
for i = 1, count do
  -- Trim first: when memory is full, Valkey refuses commands that add, unless the script has already written. So the entry is
  -- written whenever the acknowledgement after it is, whose script starts by removing the lock.
  local key = KEYS[i]
  local trimmed = redis.pcall("ZREMRANGEBYSCORE", key, "-inf", "(" .. now - ARGV[2])
  if type(trimmed) == "table" and trimmed.err then
    -- A key of the wrong type affects one user. Other errors (READONLY, NOREPLICAS) affect everyone: the connection must see them.
    if not string.find(trimmed.err, "^%-?WRONGTYPE") then return trimmed end
    table.insert(errors, i .. ":" .. trimmed.err)
  else
    local score = now
    if redis.call("ZCOUNT", key, now, "+inf") > 0 then -- reading the newest each time would cost 5 us
      score = tonumber(redis.call("ZREVRANGE", key, 0, 0, "WITHSCORES")[2]) + 1
    end
    if redis.call("ZADD", key, "NX", score, ARGV[i + 3]) == 0 then score = false end
    scores[i] = score
    redis.call("ZREMRANGEBYRANK", key, 0, -1 - ARGV[1])
    redis.call("PEXPIRE", key, ARGV[2])
  end
end`;

/**
 * Key: `webhooks:responses:<userId>`, a sorted set; score: its attempt's in the log; member: a `KeptResponse` as JSON, with
 * its attempt's `delivery`. Holds no response whose attempt the log no longer had at the last write, and expires like the log.
 *
 * Apart from the log, which backends read and show to customers; older versions return its members as they are.
 *
 * KEYS: after those of the log, one per response. ARGV: after the attempts, each response's attempt (its position) and member. What
 * is refused here is left out: the attempt matters more, and has been written.
 */
const RECORD_RESPONSES = `
for r = 1, #KEYS - count do
  local key, i, member = KEYS[count + r], tonumber(ARGV[count + 2 * r + 2]), ARGV[count + 2 * r + 3]
  local score = redis.pcall("ZSCORE", KEYS[i], ARGV[i + 3])
  if type(score) == "string" then
    local oldest = redis.call("ZRANGE", KEYS[i], 0, 0, "WITHSCORES")[2]
    local trimmed = redis.pcall("ZREMRANGEBYSCORE", key, "-inf", "(" .. oldest)
    if type(trimmed) == "number" then
      redis.call("ZADD", key, "NX", score, member)
      redis.call("PEXPIRE", key, ARGV[2])
    end
  end
end`;

const RETURN = `
return errors`;

/**
 * ARGV: at the end, for each attempt of a registered endpoint its position, the endpoint's id, its result and its job's id, then how many they
 * are, and how long a log's key is without the user's id. Returns errors, time, and of each for which `record` returned something its place
 * among them and that, see `EndpointRecords` in attempts.ts.
 *
 * The endpoint's keys are made of the user's id and its own: as KEYS, they would take as long as all that is done with them. They are in the
 * slot of the others.
 */
const RECORD_REGISTERED = `
local replies, registered, userAt = {}, ARGV[#ARGV - 1], ARGV[#ARGV] + 1
local arg = #ARGV - 1 - 4 * registered
for r = 1, registered do
  local i = tonumber(ARGV[arg])
  local score = scores[i]
  if score == nil then score = now end -- the user's log is unreadable
  local reply = record(string.sub(KEYS[i], userAt), ARGV[arg + 1], ARGV[arg + 2], ARGV[i + 3], score, ARGV[arg + 3])
  if reply then
    table.insert(replies, r)
    table.insert(replies, reply)
  end
  arg = arg + 4
end
return { errors, now, replies }`;

/** A script without comments and indentation: Valkey hashes all of it at each call. */
const compact = (script: string): string => script.replace(/(^|\s)--\s.*$/gm, "").replace(/^\s+/gm, "");

/** The script for attempts of endpoints that are not registered, with and without responses to keep. */
export const WITH_RESPONSES = compact(RECORD + RECORD_RESPONSES + RETURN);
export const WITHOUT_RESPONSES = compact(RECORD + RETURN);

const known = new Map<string, readonly [without: string, withResponses: string]>();

/** The script when registered endpoints are among them. @param record  defines the function of that name, see attempts.ts */
export function scriptFor(record: string, hasResponses: boolean): string {
  let pair = known.get(record);
  if (pair === undefined) {
    pair = [
      compact(RECORD + record + RECORD_REGISTERED),
      compact(RECORD + RECORD_RESPONSES + record + RECORD_REGISTERED),
    ];
    known.set(record, pair);
  }
  return pair[hasResponses ? 1 : 0] as string;
}
