/**
 * When workers first had a job that was too old already: enqueued while no worker ran, or retried by hand.
 */

import { MIN_LOCK_SLACK_MS, within } from "../runtime/deadline.ts";
import { invariant } from "../runtime/invariant.ts";
import type { Valkey } from "../valkey/connection.ts";
import { queueKeys } from "./layout.ts";
import type { Job } from "./worker.ts";

const PATIENCE_MS = 1000; // 1 s for Valkey's answer: a job must not wait for it until its lock is gone
invariant(2 * PATIENCE_MS < MIN_LOCK_SLACK_MS / 2, "a job to outlive this question and that of its backlog");

/**
 * Field of a job's hash, written when a job is too old and cannot go at once: `<attempts made>:<epoch ms>`. A job that is retried by
 * hand comes anew: it has no attempt started, as a redelivered one, or more attempts made, as one that Bull Board retried.
 */
const FIELD = "arrived";

/** KEYS: the job. ARGV: its attempts made; now, epoch ms; 1 if it comes anew, else 0. Returns when it came, epoch ms. */
const ARRIVE = `
local made, at = string.match(redis.call("HGET", KEYS[1], "${FIELD}") or "", "^(%d+):(%d+)$")
if at and made == ARGV[1] and ARGV[3] == "0" then return tonumber(at) end
if redis.call("EXISTS", KEYS[1]) == 1 then redis.call("HSET", KEYS[1], "${FIELD}", ARGV[1] .. ":" .. ARGV[2]) end
return tonumber(ARGV[2])`;

/** Resolves to when a job came, epoch ms: now if it was never asked for. Never rejects, and takes a second at the most. */
export type ArrivedAt = (job: Pick<Job, "id" | "attemptsMade" | "attemptsStarted">, nowMs: number) => Promise<number>;

/**
 * Create the function that remembers when jobs came.
 *
 * @param prefix  of the queue's keys
 */
export function createArrivals(valkey: Valkey, prefix: string): ArrivedAt {
  const { jobs } = queueKeys(prefix);
  return ({ id, attemptsMade, attemptsStarted }, nowMs) => {
    const isNew = attemptsStarted <= 1 ? 1 : 0;
    const arrived = valkey.eval(ARRIVE, 1, `${jobs}${id}`, attemptsMade, nowMs, isNew) as Promise<number>;
    return within(PATIENCE_MS, arrived, nowMs);
  };
}
