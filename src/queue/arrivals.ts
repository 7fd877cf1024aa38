/**
 * Records when workers first saw a job that was already too old: enqueued while no worker ran, or retried manually.
 */

import { MIN_LOCK_SLACK_MS, within } from "../runtime/deadline.ts";
import { invariant } from "../runtime/invariant.ts";
import type { Valkey } from "../valkey/connection.ts";
import { queueKeys } from "./layout.ts";
import type { Job } from "./worker.ts";

const PATIENCE_MS = 1000; // 1 s for Valkey's reply: waiting longer could outlast the job's lock
invariant(2 * PATIENCE_MS < MIN_LOCK_SLACK_MS / 2, "a job to outlive this question and that of its backlog");

/**
 * Field of a job's hash, written when a job is too old and cannot be attempted yet: `<attempts made>:<epoch ms>`. A manually
 * retried job arrives again: it has no attempts started (redelivered), or more attempts made (retried in Bull Board).
 */
const FIELD = "arrived";

/** KEYS: the job. ARGV: its attempts made; now, epoch ms; 1 if it arrives again, else 0. Returns its arrival, epoch ms. */
const ARRIVE = `
local made, at = string.match(redis.call("HGET", KEYS[1], "${FIELD}") or "", "^(%d+):(%d+)$")
if at and made == ARGV[1] and ARGV[3] == "0" then return tonumber(at) end
if redis.call("EXISTS", KEYS[1]) == 1 then redis.call("HSET", KEYS[1], "${FIELD}", ARGV[1] .. ":" .. ARGV[2]) end
return tonumber(ARGV[2])`;

/** Resolves to a job's arrival, epoch ms; now on the first call for a job. Never rejects, and takes at most 1 s. */
export type ArrivedAt = (job: Pick<Job, "id" | "attemptsMade" | "attemptsStarted">, nowMs: number) => Promise<number>;

/**
 * Create the function that records arrivals.
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
