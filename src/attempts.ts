/**
 * The log: each user's last attempts, in Valkey.
 */
import type { Valkey } from "./valkey.ts";

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
  /** The job's id: where an operator finds the event, and has it delivered again, while it is kept. */
  readonly job: string;
}

const KEPT = 10;
const RETENTION_MS = 7 * 24 * 60 * 60 * 1000; // 7 days

/**
 * Key: `webhooks:log:<userId>`, a sorted set; score: epoch ms at which the attempt began; member: the attempt as JSON.
 * At most 10 members; expires 7 days after the last write.
 */
const key = (userId: string) => `webhooks:log:${userId}`;

/**
 * ARGV: score, member, members to keep, oldest score to keep, expiry in ms. A set holds a member once, and a member names
 * its delivery, so running this twice (a resend after a cut connection) changes nothing.
 */
const RECORD = `
redis.call("ZADD", KEYS[1], ARGV[1], ARGV[2])
redis.call("ZREMRANGEBYRANK", KEYS[1], 0, -1 - ARGV[3])
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", "(" .. ARGV[4])
redis.call("PEXPIRE", KEYS[1], ARGV[5])`;

/** The log of all users. */
export interface AttemptLog {
  /**
   * Add an attempt: one script, idempotent by delivery.
   *
   * @throws  when Valkey answers with an error (the key holds something else, memory is full); waits while it is away
   */
  record(userId: string, attempt: Attempt, nowMs: number): Promise<void>;
  /** A user's attempts of the last 7 days, newest first, 10 at the most. */
  list(userId: string, nowMs: number): Promise<Attempt[]>;
}

export function createAttemptLog(valkey: Valkey): AttemptLog {
  valkey.defineCommand("recordAttempt", { numberOfKeys: 1, lua: RECORD });
  const { recordAttempt } = valkey as unknown as { recordAttempt(...args: unknown[]): Promise<unknown> };
  return {
    async record(userId, attempt, nowMs) {
      const score = Date.parse(attempt.timestamp);
      const member = JSON.stringify(attempt);
      await recordAttempt.call(valkey, key(userId), score, member, KEPT, nowMs - RETENTION_MS, RETENTION_MS);
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
