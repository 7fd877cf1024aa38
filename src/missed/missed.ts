/**
 * What endpoints missed: events that were to be delivered while an endpoint was disabled, or that failed for good. They are kept
 * until they are replayed, see replay.ts, or delivered in another way.
 *
 * Keys, both with the shard's tag, the user's id and the endpoint's id in their names:
 *
 * - `webhooks:missed:…`, a sorted set of job ids by the time of the event, epoch ms
 * - `webhooks:missed-data:…`, a hash. `id:<job id>` has all that it takes to add the job anew: a line of `<timestamp> <kept at, epoch
 *   ms> <cause> <length of the name> <of the options> <of the event's id>`, then name, options, the event's id and the job's data, as
 *   they are in the job. `bytes`, the length of all entries; `dropped`, how many events were not kept, since `droppedSince`
 *
 * At most `WEBHOOK_MISSED_MAX` entries and 4 MiB an endpoint: beyond that the oldest go, and are counted in `dropped`. An event goes
 * 7 days after it was missed, once no older one is left. Both keys expire 7 days after the last event. While Valkey has used more
 * than 80 % of `maxmemory`, events are only counted.
 */
import type { GiveUpCause } from "../delivery/retry.ts";
import { queueKey, queueKeys } from "../queue/layout.ts";
import { isTestJob } from "../queue/marks.ts";
import { endpointsKey, missedDataKey, missedKey } from "../queue/own-keys.ts";
import { pinOf } from "../queue/pin.ts";
import { checkEndpointId, checkUserId } from "../registry/document.ts";
import { perTurn } from "../runtime/per-tick.ts";
import type { Valkey } from "../valkey/connection.ts";
import { COUNT, KEEP, KEPT, LIST } from "./missed-scripts.ts";

/** How many events an endpoint may keep, unless the settings say otherwise. */
export const DEFAULT_MISSED_MAX = 1_000;

/** Why an endpoint missed an event: it was disabled, or the event failed for good. */
export type MissedCause = GiveUpCause | "disabled";

/** How many events an endpoint missed. Times are of the events, epoch ms. */
export interface MissedCounts {
  /** How many can be replayed. */
  readonly kept: number;
  /** How many were not kept: older ones beyond the bounds, and those that Valkey had no memory for. */
  readonly dropped: number;
  /** Since when those were counted, epoch ms. */
  readonly droppedSince?: number | undefined;
  /** The size of what is kept. */
  readonly bytes: number;
  readonly oldest?: number | undefined;
  readonly newest?: number | undefined;
}

/** An event that an endpoint missed. Times are epoch ms. */
export interface MissedEvent {
  /** The event's id; receivers deduplicate by it. */
  readonly id: string;
  /** Its job's id. */
  readonly job: string;
  /** The event type. */
  readonly event: string;
  /** When it was enqueued. */
  readonly timestamp: number;
  readonly cause: MissedCause;
  readonly missedAt: number;
  /** The size of what is kept of it. */
  readonly bytes: number;
}

/** A page of what an endpoint missed. */
export interface MissedPage extends MissedCounts {
  /** Newest first. */
  readonly events: readonly MissedEvent[];
  /** Where the next page begins; undefined on the last one. */
  readonly cursor?: string | undefined;
}

/** Which page to read. */
export interface MissedQuery {
  /** 1 to 1,000; 50 by default. */
  readonly limit?: number | undefined;
  /** Of the page before. */
  readonly cursor?: string | undefined;
}

const PAGE = 50;
const CURSOR = /^(-?\d+(?:\.\d+)?):(.+)$/s;

/**
 * How much endpoints of a user missed, by their ids. One command.
 *
 * @param tag  the shard's
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readMissedCounts(
  valkey: Valkey,
  tag: string,
  userId: string,
  ids: readonly string[],
): Promise<Map<string, MissedCounts>> {
  const keys = ids.flatMap((id) => [missedKey(userId, id, tag), missedDataKey(userId, id, tag)]);
  if (keys.length === 0) return new Map();
  const replies = (await valkey.eval(COUNT, keys.length, ...keys)) as (string | number | null)[][];
  return new Map(
    replies.map(([kept, dropped, since, bytes, oldest, newest], index) => {
      const counts: MissedCounts = {
        ...{ kept: Number(kept), dropped: Number(dropped), bytes: Number(bytes) },
        ...(since ? { droppedSince: Number(since) } : {}),
        ...(oldest ? { oldest: Number(oldest), newest: Number(newest) } : {}),
      };
      return [ids[index] as string, counts];
    }),
  );
}

/**
 * What an endpoint missed, newest first, without its data. An endpoint that does not exist missed nothing.
 *
 * @param tag  the shard's
 * @throws  UsageError when an id is invalid; when Valkey answers with an error; waits while it is away
 */
export async function listMissed(
  valkey: Valkey,
  tag: string,
  userId: string,
  id: string,
  { limit = PAGE, cursor }: MissedQuery = {},
): Promise<MissedPage> {
  checkUserId(userId);
  checkEndpointId(id);
  const [, before = "", last = ""] = CURSOR.exec(cursor ?? "") ?? [];
  const keys = [missedKey(userId, id, tag), missedDataKey(userId, id, tag)];
  const [counts, [hasMore, ...rows]] = await Promise.all([
    readMissedCounts(valkey, tag, userId, [id]),
    valkey.eval(LIST, keys.length, ...keys, limit, before, last) as Promise<[number, ...(string | number)[][]]>,
  ]);
  const events = rows.map(([job, event, name, timestamp, cause, missedAt, bytes]): MissedEvent => {
    const texts = { id: String(event), job: String(job), event: String(name), cause: cause as MissedCause };
    return { ...texts, timestamp: Number(timestamp), missedAt: Number(missedAt), bytes: Number(bytes) };
  });
  const end = events.at(-1);
  const next = hasMore === 1 && end !== undefined ? { cursor: `${end.timestamp}:${end.job}` } : {};
  return { ...(counts.get(id) as MissedCounts), events, ...next };
}

/** A job that a worker holds, with its lock's token. */
export interface HeldJob {
  readonly id?: string | undefined;
  readonly token?: string | undefined;
  readonly opts?: Parameters<typeof isTestJob>[0]["opts"] | undefined;
}

/** The event that a job is, as far as it matters here. */
export interface MissedBy {
  /** The event's id. */
  readonly id: string;
  readonly userId: string;
  readonly endpoint: { readonly id: string };
}

/** What the keeper counts. */
export interface MissedMetrics {
  /** Count events that were missed: `kept`, `dropped` for others beyond the bounds, or `no_memory`. */
  missed(result: "kept" | "dropped" | "no_memory", events: number): void;
}

export interface MissedOptions {
  /** The queue's name. */
  readonly queue: string;
  /** The shard's. */
  readonly tag: string;
  /** Most events that an endpoint keeps. */
  readonly missedMax: number;
  readonly metrics: MissedMetrics;
  readonly logger: { warn(fields: object, message: string): void; error(fields: object, message: string): void };
  /** Epoch ms. */
  readonly now?: () => number;
}

/** Keeps the events that registered endpoints did not get. */
export interface MissedKeeper {
  /**
   * Keep an event whose job this worker holds. Idempotent. One script keeps all events of one turn of the event loop. Test events are
   * not kept.
   *
   * With a failure, it resolves once that has been sent on the connection that will carry the acknowledgement, and never rejects. With
   * `disabled` it resolves when Valkey has answered, and rejects with its error.
   *
   * @returns false when the endpoint was to be disabled, and is not any more: nothing is kept
   */
  keep(job: HeldJob, event: MissedBy, cause: MissedCause): Promise<boolean>;
}

interface Asked {
  readonly job: HeldJob;
  readonly event: MissedBy;
  readonly cause: MissedCause;
  readonly resolve: (isKept: boolean) => void;
  readonly reject: (error: Error) => void;
}

const WRONG_TYPE = "the event cannot be kept as missed: a key of the endpoint has the wrong type";
const WARN_EVERY_MS = 60 * 1000; // 1 min

/**
 * Create the keeper of a shard.
 *
 * @param valkey  the connection of the shard's worker
 */
export function createMissed(valkey: Valkey, options: MissedOptions): MissedKeeper {
  const { queue, tag, missedMax, metrics, logger, now = Date.now } = options;
  const { jobs } = queueKeys(queueKey(queue));
  let warnedAt = Number.NEGATIVE_INFINITY;
  let unkept = 0; // since then

  /** Not EVALSHA: if the script is missing it is resent, after commands that were to take effect after it. */
  function send(asked: readonly Asked[]): Promise<number[]> {
    const keys = asked.flatMap(({ job, event: { userId, endpoint } }) => [
      endpointsKey(userId, tag),
      missedKey(userId, endpoint.id, tag),
      missedDataKey(userId, endpoint.id, tag),
      `${jobs}${job.id}`,
    ]);
    const args = asked.flatMap(({ job, event, cause }) => [
      ...[job.id as string, event.endpoint.id, job.token ?? "", cause, event.id, pinOf(job) === undefined ? 0 : 1],
    ]);
    return valkey.eval(KEEP, keys.length, ...keys, missedMax, ...args) as Promise<number[]>;
  }

  function count(asked: readonly Asked[], replies: readonly number[]): void {
    for (const [index, { job, event }] of asked.entries()) {
      const [status, dropped = 0] = [replies[2 * index], replies[2 * index + 1]];
      const isRefused = status === KEPT.noMemory;
      if (status === KEPT.kept) metrics.missed("kept", 1);
      if (dropped > 0) metrics.missed(isRefused ? "no_memory" : "dropped", dropped);
      if (isRefused) warn(dropped);
      if (status === KEPT.unreadable) {
        logger.error({ job: job.id, user: event.userId, reason: WRONG_TYPE }, "missed.unkept");
      }
    }
  }

  /** Once a minute: there may be thousands in a second. */
  function warn(events: number): void {
    unkept += events;
    if (now() - warnedAt < WARN_EVERY_MS) return;
    logger.warn({ queue, events: unkept, hint: "Valkey has used more than 80 % of maxmemory" }, "missed.no_memory");
    warnedAt = now();
    unkept = 0;
  }

  const pending = perTurn(async (asked: Asked[]) => {
    try {
      const replied = send(asked);
      for (const { cause, resolve } of asked) if (cause !== "disabled") resolve(true);
      const replies = await replied;
      for (const [index, { resolve, reject }] of asked.entries()) {
        if (replies[2 * index] === KEPT.unreadable) reject(new Error(WRONG_TYPE));
        resolve(replies[2 * index] !== KEPT.notWanted); // no effect on those that are settled
      }
      count(asked, replies);
    } catch (error) {
      const { message: reason } = error as Error;
      for (const { job, event, cause, resolve, reject } of asked) {
        if (cause === "disabled")
          reject(error as Error); // no effect on those that are resolved
        else resolve(true);
        logger.error({ job: job.id, user: event.userId, reason }, "missed.unkept");
      }
    }
  });

  return {
    keep: async (job, event, cause) => {
      if (job.opts !== undefined && isTestJob({ opts: job.opts })) return true;
      return await new Promise((resolve, reject) => pending.add({ job, event, cause, resolve, reject }));
    },
  };
}
