/**
 * What is written on the job of an event that names no endpoint. Its data stays as its producer wrote it, since that is what is signed.
 *
 * - field `to`   the id of the one endpoint to which it is delivered, from its first failure, parking or end on
 * - field `fan`  what was made of an event for several endpoints, see src/endpoints/fan-out-script.ts
 */
import type { Job, RedisQueueBackend } from "bullmq";
import type { Valkey } from "../valkey/connection.ts";
import { LOCK_SUFFIX } from "./layout.ts";

export const PINNED_FIELD = "to";
export const FAN_FIELD = "fan";

/** What is written on a job when it is picked up. */
export interface Pins {
  /** The endpoint that it keeps to. */
  readonly pinnedTo?: string | undefined;
  /** Whether deliveries were made of its event. */
  readonly isFannedOut?: boolean | undefined;
}

interface Pinned {
  pinnedTo?: string;
}

/** What is written on a job, by the fields and values of its hash; undefined for nothing, as on most. */
export function readPins(hash: readonly string[]): Pins | undefined {
  let pins: Pins | undefined;
  for (let at = 0; at < hash.length; at += 2) {
    if (hash[at] === PINNED_FIELD) pins = { ...pins, pinnedTo: hash[at + 1] };
    else if (hash[at] === FAN_FIELD) pins = { ...pins, isFannedOut: true };
  }
  return pins;
}

/** Have a job that this worker holds keep to this endpoint. It is written with what ends or parks the attempt. */
export function pin(job: Job, endpointId: string): void {
  (job as Pinned).pinnedTo = endpointId;
}

/** The endpoint that a job was told to keep to; undefined for jobs that name theirs. */
export const pinOf = (job: object): string | undefined => (job as Pinned).pinnedTo;

/** The fields to store of a job, see {@link pin}. */
export const pinFields = (job: object): Record<string, string> => {
  const id = pinOf(job);
  return id === undefined ? {} : { [PINNED_FIELD]: id };
};

/** KEYS: the job. ARGV: its lock's token, the endpoint's id. */
const PIN = `if redis.call("GET", KEYS[1] .. "${LOCK_SUFFIX}") == ARGV[1] then redis.call("HSET", KEYS[1], "${PINNED_FIELD}", ARGV[2]) end`;

/** Write where a job is to be retried, ahead of what is sent next on this connection. */
export function writePin(valkey: Valkey, key: string, token: string, endpointId: string): void {
  valkey.eval(PIN, 1, key, token, endpointId).catch(() => {}); // the acknowledgement meets the same trouble, and reports it
}

/** Make a backend write with a job's end to which endpoint it went: it is redelivered to that one. */
export function keepsPins(backend: RedisQueueBackend): RedisQueueBackend {
  const open = backend as unknown as { moveToFinishedArgs: FinishedArgs };
  const build = open.moveToFinishedArgs.bind(backend);
  // No rest parameter: this is called for every job.
  open.moveToFinishedArgs = (job, value, property, removes, target, token, timestamp, fetches, fields) => {
    const all = pinOf(job) === undefined ? fields : { ...fields, ...pinFields(job) };
    return build(job, value, property, removes, target, token, timestamp, fetches, all);
  };
  return backend;
}

type Anything = unknown;
type FinishedArgs = (
  job: object,
  ...given: [Anything, Anything, Anything, Anything, Anything, Anything, Anything?, object?]
) => Anything;
