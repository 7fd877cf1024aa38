/**
 * The log of each user's last attempts, in Valkey.
 */
import { logKey } from "../queue/own-keys.ts";
import { perTurn } from "../runtime/per-tick.ts";
import type { Valkey } from "../valkey/connection.ts";

/** What is kept of the response to a failed attempt. Secrets and signatures that the receiver echoed are masked. */
export interface KeptResponse {
  /** As in `HTTP/1.1 503 Service Unavailable`. */
  readonly status_line: string;
  /** The few that help to find a fault, by their name in lowercase. */
  readonly headers: Readonly<Record<string, string>>;
  /** The beginning of the body as text; a receiver chose it, so it may hold markup and control characters. */
  readonly body: string;
  /** Present when the body was longer than what is kept, or was not received to its end. */
  readonly is_truncated?: true;
}

/** One attempt as it is stored and as the API returns it. */
export interface Attempt {
  /** The event's id: the same on every attempt. */
  readonly id: string;
  /** UUID of this attempt. */
  readonly delivery: string;
  /** 1-based. */
  readonly attempt: number;
  /** When it started, ISO 8601 with milliseconds. */
  readonly timestamp: string;
  /** The endpoint's URL without its query, which may carry a token. */
  readonly endpoint: string;
  /** The event type. */
  readonly event: string;
  /** `null` when there was no response. */
  readonly status_code: number | null;
  readonly duration_ms: number;
  readonly success: boolean;
  /** `null` when delivered, else a short code: `timeout`, `dns`, `http_503`, … */
  readonly error: string | null;
  /** The cause when `error` is `tls`: `expired`, `wrong_host`, … Absent when unknown, and for other errors. */
  readonly cause?: string;
  /** The job's id, for finding and redelivering the event while its job is kept. */
  readonly job: string;
  /** On an attempt of a test event, absent otherwise. */
  readonly test?: true;
  /** For operators: what a failed attempt's response said, when it is kept and was asked for. */
  readonly response?: KeptResponse;
}

const KEPT = 10;
const RETENTION_MS = 7 * 24 * 60 * 60 * 1000; // 7 days

/**
 * Key: `webhooks:log:<userId>`, a sorted set; score: epoch ms at which the attempt ended; member: the attempt as JSON.
 * At most 10 members; expires 7 days after the last write.
 *
 * Times are Valkey's, and a new entry never sorts before an existing one: clocks can be wrong or set back, and an entry from
 * the future would push out everything written until then.
 *
 * KEYS: one per attempt. ARGV: members to keep, retention in ms, then each attempt's member. Returns errors as
 * `<position>:<error>`, since a key of the wrong type must not lose the others' entries.
 *
 * Idempotent, as for a resend after a lost connection: a set holds a member once, and a member includes its attempt's UUID.
 */
const RECORD = `
local errors, time = {}, redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i, key in ipairs(KEYS) do
  -- Trim first: when memory is full, Valkey refuses commands that add, unless the script has already written. So the entry is
  -- written whenever the acknowledgement after it is, whose script starts by removing the lock.
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
    redis.call("ZADD", key, "NX", score, ARGV[i + 2])
    redis.call("ZREMRANGEBYRANK", key, 0, -1 - ARGV[1])
    redis.call("PEXPIRE", key, ARGV[2])
  end
end
return errors`;

/** An attempt to be written. */
interface Entry {
  readonly userId: string;
  readonly member: string;
  readonly onSent: (() => void) | undefined;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
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
  /** A user's attempts of the last 7 days, newest first, at most 10. */
  list(userId: string, nowMs: number): Promise<Attempt[]>;
}

export function createAttemptLog(valkey: Valkey): AttemptLog {
  const pending = perTurn(async (entries: Entry[]) => {
    try {
      // Not EVALSHA: if the script is missing it is resent, after commands that were to take effect after it.
      const written = valkey.eval(
        RECORD,
        entries.length,
        ...entries.map(({ userId }) => logKey(userId)),
        KEPT,
        RETENTION_MS,
        ...entries.map(({ member }) => member),
      ) as Promise<string[]>;
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
      const member = JSON.stringify(attempt);
      return new Promise((resolve, reject) => {
        pending.add({ userId, member, onSent, resolve, reject });
      });
    },
    async list(userId, nowMs) {
      const members = await valkey.zrevrangebyscore(logKey(userId), "+inf", nowMs - RETENTION_MS, "LIMIT", 0, KEPT);
      return members.flatMap(readMember);
    },
  };
}

/** Parse a member; invalid ones are skipped. */
function readMember(member: string): Attempt[] {
  try {
    const attempt: unknown = JSON.parse(member);
    return typeof attempt === "object" && attempt !== null && "delivery" in attempt ? [attempt as Attempt] : [];
  } catch {
    return [];
  }
}
