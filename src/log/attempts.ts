/**
 * The log: each user's last attempts, in Valkey.
 */
import { logKey } from "../queue/own-keys.ts";
import { perTurn } from "../runtime/per-tick.ts";
import type { Valkey } from "../valkey/connection.ts";

/** One attempt as it is stored and as the API returns it. */
export interface Attempt {
  /** The event's id: the same on every attempt. */
  readonly id: string;
  /** UUID of this attempt. */
  readonly delivery: string;
  /** 1-based. */
  readonly attempt: number;
  /** When it began, ISO 8601 with milliseconds. */
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
  /** What was wrong with TLS, when `error` is `tls`: `expired`, `wrong_host`, … Absent where it is not known, and otherwise. */
  readonly cause?: string;
  /** The job's id: where an operator finds the event, and has it delivered again, while it is kept. */
  readonly job: string;
  /** On an attempt of a test event, absent otherwise. */
  readonly test?: true;
}

const KEPT = 10;
const RETENTION_MS = 7 * 24 * 60 * 60 * 1000; // 7 days

/**
 * Key: `webhooks:log:<userId>`, a sorted set; score: epoch ms at which the attempt ended; member: the attempt as JSON.
 * At most 10 members; expires 7 days after the last write.
 *
 * The time is Valkey's, and no line comes before one that is there already: clocks are wrong, and are set back, and a line
 * from the future would push out all that is written until then.
 */
const key = logKey;

/**
 * KEYS: one an attempt. ARGV: members to keep, how long in ms; then each attempt's member. Returns the errors, as `<position>:<error>`: a key that holds something else is no reason for the others
 * to be lost.
 *
 * A set holds a member once, and a member names its delivery, so running this twice (a resend after a cut connection)
 * changes nothing.
 */
const RECORD = `
local errors, time = {}, redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i, key in ipairs(KEYS) do
  -- Trimming first: Valkey refuses what adds to a full memory, unless the script has written before. So the line is written
  -- when the acknowledgement behind it is, whose script begins by removing the lock.
  local trimmed = redis.pcall("ZREMRANGEBYSCORE", key, "-inf", "(" .. now - ARGV[2])
  if type(trimmed) == "table" and trimmed.err then
    -- One user's key may hold something else. All else (READONLY, NOREPLICAS) is everybody's: the connection must see it.
    if not string.find(trimmed.err, "^%-?WRONGTYPE") then return trimmed end
    table.insert(errors, i .. ":" .. trimmed.err)
  else
    local newest = tonumber(redis.call("ZREVRANGE", key, 0, 0, "WITHSCORES")[2] or 0)
    redis.call("ZADD", key, "NX", math.max(now, newest + 0.001), ARGV[i + 2])
    redis.call("ZREMRANGEBYRANK", key, 0, -1 - ARGV[1])
    redis.call("PEXPIRE", key, ARGV[2])
  end
end
return errors`;

/** An attempt on its way to the log. */
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
   * Add an attempt: one script for all that end in the same turn of the event loop, idempotent by delivery.
   *
   * @param onSent  called when it is on its way: whatever is sent over the same connection from then on takes effect after
   *                it, since Valkey takes a connection's commands in order, also when they are sent again
   * @throws  when Valkey answers with an error (the key holds something else, memory is full); waits while it is away
   */
  record(userId: string, attempt: Attempt, onSent?: () => void): Promise<void>;
  /** A user's attempts of the last 7 days, newest first, 10 at the most. */
  list(userId: string, nowMs: number): Promise<Attempt[]>;
}

export function createAttemptLog(valkey: Valkey): AttemptLog {
  const pending = perTurn(async (entries: Entry[]) => {
    try {
      // Not EVALSHA: where it finds no script it is sent again, behind what was to take effect after it.
      const written = valkey.eval(
        RECORD,
        entries.length,
        ...entries.map(({ userId }) => key(userId)),
        KEPT,
        RETENTION_MS,
        ...entries.map(({ member }) => member),
      ) as Promise<string[]>;
      for (const { onSent } of entries) onSent?.();
      for (const error of await written) {
        const [position, ...words] = error.split(":");
        entries[Number(position) - 1]?.reject(new Error(words.join(":")));
      }
      for (const { resolve } of entries) resolve(); // those that were rejected stay so
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
      const members = await valkey.zrevrangebyscore(key(userId), "+inf", nowMs - RETENTION_MS, "LIMIT", 0, KEPT);
      return members.flatMap(readMember);
    },
  };
}

/** A member that is no attempt is left out: it must not hide the others. */
function readMember(member: string): Attempt[] {
  try {
    const attempt: unknown = JSON.parse(member);
    return typeof attempt === "object" && attempt !== null && "delivery" in attempt ? [attempt as Attempt] : [];
  } catch {
    return [];
  }
}
