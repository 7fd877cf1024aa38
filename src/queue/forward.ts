/**
 * Forwards jobs to another shard of the queue.
 */
import { forwardedId } from "../delivery/forwarded-id.ts";
import type { Valkey } from "../valkey/connection.ts";
import { JOB_FIELDS, LOGS_SUFFIX, MARKER, PRIORITY_SCORE, queueKey, queueKeys } from "./layout.ts";
import { REDELIVERED } from "./marks.ts";

const MAX_EVENTS = 10_000; // kept in the stream of job events, unless the queue says otherwise

/** Fields that tell of a job's place in its own queue: the copy has none of them. All others it has, our marks included. */
const OWN_FIELDS = new Set<string>([
  ...[JOB_FIELDS.stalledCounter, JOB_FIELDS.processedOn, JOB_FIELDS.finishedOn, JOB_FIELDS.returnvalue],
  ...[JOB_FIELDS.repeatJobKey, JOB_FIELDS.deduplicationId, JOB_FIELDS.attemptsStarted, JOB_FIELDS.delay],
  ...["parked", "pb", "parent", "parentKey", "nrjid", "defa"],
  "rate", // its turn within a rate limit, see src/endpoints/rate.ts: the other shard has turns of its own
]);

const PLACES = ["completed", "failed", "wait", "active", "prioritized", "pc", "meta", "marker", "events"] as const;

/**
 * Add a job as BullMQ's `Queue.add` does, with all its fields, unless it is there. One that is finished makes way when the original
 * was redelivered since.
 *
 * KEYS: those of {@link PLACES}. ARGV: the prefix of job keys, the job's id, its name, its priority, when the original was redelivered by hand,
 * epoch ms, or 0, then its fields with their values. Returns 1 if it was added, else 0.
 */
const ADD = `
local ${PLACES.join(", ")} = unpack(KEYS)
local key, id, name, priority = ARGV[1] .. ARGV[2], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call("HEXISTS", key, "${JOB_FIELDS.timestamp}") == 1 then
  local finished = tonumber(redis.call("HGET", key, "${JOB_FIELDS.finishedOn}") or "")
  if not finished or finished >= tonumber(ARGV[5]) then return 0 end
  redis.call("ZREM", completed, id)
  redis.call("ZREM", failed, id)
  redis.call("DEL", key, key .. "${LOGS_SUFFIX}")
end
redis.call("HSET", key, unpack(ARGV, 6))
redis.call("XADD", events, "*", "event", "added", "jobId", id, "name", name)
local attributes = redis.call("HMGET", meta, "paused", "concurrency", "opts.maxLenEvents")
if priority == 0 then
  redis.call("LPUSH", wait, id)
else
  local score = priority * ${PRIORITY_SCORE} + redis.call("INCR", pc) % ${PRIORITY_SCORE}
  redis.call("ZADD", prioritized, string.format("%.0f", score), id)
end
local isResting = attributes[1] or (attributes[2] and redis.call("LLEN", active) >= tonumber(attributes[2]))
if not isResting then redis.call("ZADD", marker, ${MARKER.score}, "${MARKER.member}") end
redis.call("XADD", events, "MAXLEN", "~", attributes[3] or ${MAX_EVENTS}, "*", "event", "waiting", "jobId", id)
return 1`;

/** A shard's queue, with a connection to it. */
export interface QueuePlace {
  readonly queue: string;
  readonly valkey: Valkey;
}

/**
 * Add a copy of a job to another shard, due now: its data, options, timestamp, attempts made and marks, byte for byte, under an id of
 * its own (see src/delivery/forwarded-id.ts). Repeating it adds nothing while the copy is known there. The job itself stays.
 *
 * @throws  when a Valkey answers with an error; waits while one is away
 */
export async function addForwarded(from: QueuePlace, to: QueuePlace, jobId: string): Promise<void> {
  const fields = await from.valkey.hgetallBuffer(queueKeys(queueKey(from.queue)).jobs + jobId);
  const { [JOB_FIELDS.name]: name, [JOB_FIELDS.priority]: priority, [REDELIVERED]: redelivered } = fields;
  if (name === undefined) return; // removed meanwhile
  const started = Math.max(0, Number(fields[JOB_FIELDS.attemptsStarted] ?? 0) - 1); // without this one
  const args: (string | number | Buffer)[] = [JOB_FIELDS.delay, 0, JOB_FIELDS.attemptsStarted, started];
  for (const [field, value] of Object.entries(fields)) if (!OWN_FIELDS.has(field)) args.push(field, value);
  const { jobs, ...places } = queueKeys(queueKey(to.queue));
  const keys = PLACES.map((place) => places[place]);
  const id = forwardedId({ queue: from.queue, id: jobId });
  const known = [jobs, id, name, String(priority ?? 0), String(redelivered ?? 0)];
  await to.valkey.call("EVAL", ADD, keys.length, ...keys, ...known, ...args);
}
