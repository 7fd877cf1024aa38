/**
 * The log of each user's last attempts, in Valkey.
 */
import { logKey, responsesKey } from "../queue/own-keys.ts";
import { perTurn } from "../runtime/per-tick.ts";
import type { Valkey } from "../valkey/connection.ts";
import { type Attempt, type KeptResponse, MAX_LOG_AGE_MS, MAX_LOG_SIZE } from "./attempt.ts";
import { type AttemptQuery, selectAttempts } from "./attempt-query.ts";

export type { Attempt, KeptResponse };

/** How much of each user's log is kept. Named like the settings. */
export interface LogOptions {
  /** Attempts; 10 by default. */
  readonly logSize?: number;
  /** Their maximum age, ms; 7 days by default. */
  readonly logAgeMs?: number;
  /** Whether responses become part of the attempts, for backends in any language to show. Not by default. */
  readonly showResponse?: boolean;
  /** The shard's, see queue/shards.ts; none by default. */
  readonly tag?: string;
}

const DEFAULT_SIZE = 10;
const DEFAULT_AGE_MS = 7 * 24 * 60 * 60 * 1000; // 7 days

/** For readers without the workers' settings: all that is kept, as much as the settings allow. */
export const ALL_KEPT: LogOptions = { logSize: MAX_LOG_SIZE, logAgeMs: MAX_LOG_AGE_MS };

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
local errors, time = {}, redis.call("TIME")
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
    redis.call("ZADD", key, "NX", score, ARGV[i + 3])
    redis.call("ZREMRANGEBYRANK", key, 0, -1 - ARGV[1])
    redis.call("PEXPIRE", key, ARGV[2])
  end
end`;

/**
 * Key: `webhooks:responses:<userId>`, a sorted set; score: its attempt's in the log; member: a {@link KeptResponse} as JSON, with
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

/** An attempt to be written. */
interface Entry {
  readonly userId: string;
  readonly member: string;
  /** The member of the set of responses, if there is one. */
  readonly response: string | undefined;
  readonly onSent: (() => void) | undefined;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** What to read of a log. */
export interface ListOptions extends AttemptQuery {
  /** Whether to read what is kept of responses, which is for operators. Not by default. */
  readonly withResponses?: boolean;
}

/** The log of all users. */
export interface AttemptLog {
  /**
   * Add an attempt, idempotently. One script writes all attempts that end in the same event-loop turn.
   *
   * @param onSent  called once it is sent: anything sent over the same connection afterwards takes effect after it, since
   *                commands keep their order even when resent
   * @throws  when Valkey answers with an error (wrong type of key, memory is full); waits while it is away
   */
  record(userId: string, attempt: Attempt, onSent?: () => void): Promise<void>;
  /** A user's attempts that are kept, newest first; all unless selected by options. */
  list(userId: string, nowMs: number, options?: ListOptions): Promise<Attempt[]>;
}

export function createAttemptLog(valkey: Valkey, options: LogOptions = {}): AttemptLog {
  const { logSize = DEFAULT_SIZE, logAgeMs = DEFAULT_AGE_MS, showResponse = false, tag = "" } = options;
  const pending = perTurn(async (entries: Entry[]) => {
    try {
      const written = writeEntries(valkey, entries, { logSize, logAgeMs, tag });
      for (const { onSent } of entries) onSent?.();
      for (const error of await written) {
        const [position, ...words] = error.split(":");
        entries[Number(position) - 1]?.reject(new Error(words.join(":")));
      }
      for (const { resolve } of entries) resolve(); // no effect on those already rejected
    } catch (error) {
      for (const { reject } of entries) reject(error as Error);
    }
  });

  return {
    record(userId, attempt, onSent) {
      const { member, response } = writeMembers(attempt, showResponse);
      return new Promise((resolve, reject) => {
        pending.add({ userId, member, response, onSent, resolve, reject });
      });
    },
    async list(userId, nowMs, { withResponses = false, ...query } = {}) {
      const key = logKey(userId, tag);
      const [reply, leftMs] = await Promise.all([
        valkey.zrevrangebyscore(key, "+inf", nowMs - logAgeMs, "WITHSCORES", "LIMIT", 0, logSize),
        valkey.pttl(key),
      ]);
      // The workers' setting may be shorter than ours: with the newest entry, the key was set to expire at that age.
      const oldest = leftMs < 0 ? Number.NEGATIVE_INFINITY : Number(reply[1]) - leftMs;
      const attempts = new Map<Attempt, string>();
      for (let i = 0; i < reply.length; i += 2) {
        const attempt = Number(reply[i + 1]) < oldest ? undefined : readMember<Attempt>(reply[i] as string);
        if (attempt !== undefined) attempts.set(attempt, reply[i + 1] as string);
      }
      const selected = selectAttempts([...attempts.keys()], query);
      const scores = selected.map((attempt) => attempts.get(attempt) as string);
      return withResponses ? await addResponses(valkey, responsesKey(userId, tag), selected, scores) : selected;
    },
  };
}

/** The members of an attempt: in the log, and in the set of responses. */
function writeMembers(attempt: Attempt, showResponse: boolean): Pick<Entry, "member" | "response"> {
  if (attempt.response === undefined || showResponse) return { member: JSON.stringify(attempt), response: undefined };
  const { response, ...bare } = attempt;
  return { member: JSON.stringify(bare), response: JSON.stringify({ delivery: attempt.delivery, ...response }) };
}

/** Not EVALSHA: if the script is missing it is resent, after commands that were to take effect after it. */
function writeEntries(
  valkey: Valkey,
  entries: readonly Entry[],
  { logSize, logAgeMs, tag }: Required<Pick<LogOptions, "logSize" | "logAgeMs" | "tag">>,
): Promise<string[]> {
  const keys = entries.map(({ userId }) => logKey(userId, tag));
  const args: (string | number)[] = [logSize, logAgeMs, entries.length, ...entries.map(({ member }) => member)];
  for (const [index, { userId, response }] of entries.entries()) {
    if (response === undefined) continue;
    keys.push(responsesKey(userId, tag));
    args.push(index + 1, response);
  }
  const script = keys.length > entries.length ? RECORD + RECORD_RESPONSES + RETURN : RECORD + RETURN;
  return valkey.eval(script, keys.length, ...keys, ...args) as Promise<string[]>;
}

/** @param scores  those of the attempts in the log, newest first; their responses have the same */
async function addResponses(
  valkey: Valkey,
  key: string,
  attempts: Attempt[],
  scores: readonly string[],
): Promise<Attempt[]> {
  const [newest, oldest] = [scores[0], scores.at(-1)];
  if (newest === undefined || oldest === undefined) return attempts;
  const members = await valkey.zrevrangebyscore(key, newest, oldest);
  const responses = new Map<string, KeptResponse>();
  for (const member of members) {
    const { delivery, ...response } = readMember<KeptResponse & { delivery: string }>(member) ?? {};
    if (delivery !== undefined) responses.set(delivery, response as KeptResponse);
  }
  return attempts.map((attempt) => {
    const response = responses.get(attempt.delivery);
    return response === undefined ? attempt : { ...attempt, response };
  });
}

/** Parse a member; undefined for invalid ones. */
function readMember<T extends { readonly delivery: string }>(member: string): T | undefined {
  try {
    const value: unknown = JSON.parse(member);
    return typeof value === "object" && value !== null && "delivery" in value ? (value as T) : undefined;
  } catch {
    return undefined;
  }
}
