/**
 * Makes the deliveries of an event that goes to several endpoints: a job for each, all of them or none, and each of them once.
 */
import type { MissedMetrics } from "../missed/missed.ts";
import { JOB_FIELDS, queueKey, queueKeys } from "../queue/layout.ts";
import { endpointsKey, missedDataKey, missedKey } from "../queue/own-keys.ts";
import type { Valkey } from "../valkey/connection.ts";
import { FAN_OUT, FANNED, fanOutKeys } from "./fan-out-script.ts";

/** The event's job, which this worker holds. */
export interface FannedJob {
  readonly id?: string | undefined;
  readonly token?: string | undefined;
  readonly data: unknown;
  readonly opts: object;
}

/** What its event is, as far as it matters here. */
export interface FannedEvent {
  /** The event's id. */
  readonly id: string;
  readonly userId: string;
}

/** The endpoints that it goes to. */
export interface FanOutPlan {
  /** The version of the user's endpoints that says so. */
  readonly version: string;
  readonly endpointIds: readonly string[];
}

/**
 * What was made.
 *
 * - `done`     as many jobs, and as many events kept as missed; `isAgain` when the job had ended before, and was redelivered
 * - `lost`     nothing: another worker has the job
 * - `changed`  nothing: the user's endpoints have changed since they were looked up
 */
export type FannedOut =
  | { readonly kind: "done"; readonly added: number; readonly missed: number; readonly isAgain: boolean }
  | { readonly kind: "lost" }
  | { readonly kind: "changed" };

/**
 * Make the deliveries of an event, at most 8 MiB of jobs a script. What was made before counts, and is not made again.
 *
 * @param plan  undefined if the job has one, from when it was run before
 * @throws  when Valkey answers with an error: nothing was made, or what was made will count. Waits while it is away
 */
export type FanOut = (job: FannedJob, event: FannedEvent, plan: FanOutPlan | undefined) => Promise<FannedOut>;

/** What is counted. */
export interface FanOutMetrics extends MissedMetrics {
  /** Count the jobs that were made for an event. */
  fannedOut(jobs: number): void;
}

export interface FanOutOptions {
  /** The queue's name. */
  readonly queue: string;
  /** The shard's. */
  readonly tag: string;
  /** Most events that an endpoint keeps as missed. */
  readonly missedMax: number;
  readonly metrics: FanOutMetrics;
  /** Epoch ms. */
  readonly now?: () => number;
}

type Reply = [status: number, added?: number, missed?: number, again?: number, ...made: number[]];

/**
 * Create what makes the deliveries of a shard's events.
 *
 * @param valkey  the connection of the shard's worker
 */
export function createFanOut(valkey: Valkey, options: FanOutOptions): FanOut {
  const { queue, tag, missedMax, metrics, now = Date.now } = options;
  const { jobs } = queueKeys(queueKey(queue));
  const shared = fanOutKeys(queueKey(queue));
  valkey.defineCommand("fanOutEvent", { numberOfKeys: 2 + shared.length, lua: FAN_OUT });
  const { fanOutEvent } = valkey as unknown as { fanOutEvent: (...args: unknown[]) => Promise<Reply> };

  return async (job, { id: eventId, userId }, plan) => {
    const id = job.id as string;
    const keys = [`${jobs}${id}`, endpointsKey(userId, tag), ...shared];
    const own = [jobs, id, JSON.stringify(id), job.token ?? "", userId, hasId(job.data) ? "" : eventId, eventId];
    const opts =
      plan === undefined || ties(job.opts) ? await readOptions(valkey, keys[0] as string, id, plan, now()) : "";
    const kept = [missedMax, missedKey(userId, "", tag), missedDataKey(userId, "", tag)];
    for (;;) {
      const args = [...own, plan?.version ?? "", ...kept, opts, ...(plan?.endpointIds ?? [])];
      const [status, added = 0, missed = 0, again, ...made] = await fanOutEvent.call(valkey, ...keys, ...args);
      if (status === FANNED.lost) return { kind: "lost" };
      if (status === FANNED.changed) return { kind: "changed" };
      count(made);
      if (status === FANNED.done) return { kind: "done", added, missed, isAgain: again === 1 };
    }
  };

  function count([jobs = 0, kept = 0, dropped = 0, refused = 0]: readonly number[]): void {
    if (jobs > 0) metrics.fannedOut(jobs);
    if (kept > 0) metrics.missed("kept", kept);
    if (dropped > 0) metrics.missed("dropped", dropped);
    if (refused > 0) metrics.missed("no_memory", refused);
  }
}

const hasId = (data: unknown): boolean => (data as { id?: unknown } | undefined)?.id !== undefined;

/** Options that tie a job to others: its children have none of them. */
const TIES = ["parent", "repeat", "prevMillis", "deduplication", "debounce"];
const STORED_TIES = ["parent", "repeat", "prevMillis", "de", "rjk"]; // as they are stored

const ties = (opts: object): boolean => TIES.some((name) => (opts as Record<string, unknown>)[name] !== undefined);

/** The stored options, without those that tie it to other jobs: the job's own have been changed for this run. */
async function readOptions(
  valkey: Valkey,
  key: string,
  id: string,
  plan: FanOutPlan | undefined,
  nowMs: number,
): Promise<string> {
  const [text, timestamp] = await valkey.hmget(key, JOB_FIELDS.opts, JOB_FIELDS.timestamp);
  const stored = Object.entries(parseOptions(text)).filter(([name]) => !STORED_TIES.includes(name) && name !== "jobId");
  // Redelivered, its deliveries are due now, with their whole schedule before them.
  const delay = plan === undefined ? { delay: Math.max(0, nowMs - (Number(timestamp) || 0)) } : {};
  return JSON.stringify({ jobId: id, ...Object.fromEntries(stored), ...delay });
}

function parseOptions(text: string | null | undefined): Record<string, unknown> {
  try {
    const parsed: unknown = JSON.parse(text ?? "{}");
    return typeof parsed === "object" && parsed !== null ? (parsed as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
