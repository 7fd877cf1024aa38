/**
 * The failed events that the queue keeps, for the board's list, for redelivering many, and for the search by host.
 */
import { endpointName, eventIdOf } from "../delivery/request.ts";
import { readCircuits } from "../isolation/open-circuits.ts";
import { keysOf } from "../queue/layout.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { endpointIdOf, isAt, parseHost, urlOf, userOf } from "./job-filter.ts";
import { readJobs, type StoredJob } from "./job-pages.ts";
import { maskSecrets } from "./mask.ts";
import { createLocateJobs, type LocateJobs } from "./registered-urls.ts";

const PAGE = 1_000; // ids read at once
const READ_TOGETHER = 100; // jobs read between two looks at the clock
const MAX_EVENTS = 100_000; // the newest ones; about 400 bytes each
const SHOWN = 500; // characters of a name or reason

/** A failed event, without secrets. */
export interface FailedEvent {
  /** The job's name, with its shard's label. */
  readonly job: string;
  /** The event's id. */
  readonly id: string;
  /** The event type. */
  readonly event: string;
  /** Undefined when the job names none. */
  readonly userId: string | undefined;
  /**
   * The endpoint's URL without its query; of a registered one, as of when the event was read here, or its id if it has no URL any more.
   * Undefined when invalid, and when the job names none.
   */
  readonly endpoint: string | undefined;
  /** The id of a registered endpoint. */
  readonly endpointId: string | undefined;
  /** The URL's host, with its port unless it is the scheme's default. */
  readonly host: string | undefined;
  /** Its first 500 characters. */
  readonly reason: string;
  /** The reason without what differs from one attempt to the next, such as its duration: events of one cause have the same. */
  readonly cause: string;
  /** Epoch ms. */
  readonly failedAt: number;
}

/** Which failed events to find; omitted fields match all. */
export interface FailedFilter {
  /** Failed at or after, epoch ms. */
  readonly sinceMs?: number | undefined;
  /** Failed at or before, epoch ms. */
  readonly untilMs?: number | undefined;
  /** The event's id. */
  readonly id?: string | undefined;
  readonly userId?: string | undefined;
  /** The event type. */
  readonly event?: string | undefined;
  /** A host, with its port unless it is the scheme's default. */
  readonly host?: string | undefined;
  /** The id of a registered endpoint. */
  readonly endpointId?: string | undefined;
  /** As in {@link FailedEvent.cause}. */
  readonly cause?: string | undefined;
}

/** The list of failed events, kept in memory between readings, since a job's data may be large and never changes. */
export interface FailedEvents {
  /**
   * Read the events that have failed since the last reading, newest first. At most the newest 100,000 are held, of several shards
   * an equal part of each.
   *
   * @param budgetMs  stop reading after this time; the next call continues
   * @param sinceMs   read no events that failed before this, epoch ms
   * @returns how many are not read yet
   * @throws  when Valkey answers with an error; waits while it is away
   */
  refresh(budgetMs?: number, sinceMs?: number): Promise<number>;
  /** The events that match, newest first, as of the last reading. */
  list(filter?: FailedFilter): FailedEvent[];
}

/** The failed events of all shards. */
export interface AllFailedEvents extends FailedEvents {
  /** Those of some shards, while others are away. */
  among(shards: OpenShards): FailedEvents;
}

/** @param now  monotonic clock, ms */
export function createFailedEvents(shards: OpenShards, now = () => performance.now()): AllFailedEvents {
  const maxEvents = Math.ceil(MAX_EVENTS / shards.length);
  const parts = new Map(shards.map((shard) => [shard.queue, createPart(shard, maxEvents, now)]));
  const among = (some: OpenShards): FailedEvents => {
    const meant = some.flatMap(({ queue }) => parts.get(queue) ?? []);
    return {
      async refresh(budgetMs, sinceMs) {
        const locate = createLocateJobs(shards, some);
        const unread = await Promise.all(meant.map((part) => part.refresh(locate, budgetMs, sinceMs)));
        return unread.reduce((sum, count) => sum + count);
      },
      list(filter) {
        const events = meant.flatMap((part) => part.list(filter));
        return meant.length === 1 ? events : events.sort((a, b) => b.failedAt - a.failedAt);
      },
    };
  };
  return { ...among(shards), among };
}

/** The failed events of one shard. */
interface Part {
  refresh(locate: LocateJobs, budgetMs?: number, sinceMs?: number): Promise<number>;
  list(filter?: FailedFilter): FailedEvent[];
}

function createPart(shard: OpenShard, maxEvents: number, now: () => number): Part {
  const { client: queue, valkey } = shard;
  /** By job id, newest first. An event that failed again has another time. */
  let events = new Map<string, FailedEvent>();
  let reading: Promise<number> | undefined;

  const read = async (locate: LocateJobs, budgetMs: number, sinceMs: number): Promise<number> => {
    const endAt = now() + budgetMs;
    const failures = await readFailures(shard, sinceMs, maxEvents);
    const known = new Map<string, FailedEvent>();
    const unread: string[] = [];
    for (const [job, failedAt] of failures) {
      const event = events.get(job);
      if (event?.failedAt === failedAt) known.set(job, event);
      else unread.push(job);
    }
    let done = 0;
    do {
      const batch = unread.slice(done, done + READ_TOGETHER);
      for await (const job of readJobs(queue, valkey, batch, locate)) {
        known.set(job.id, describe(shard, job, failures.get(job.id) as number));
      }
      done += batch.length;
    } while (done < unread.length && now() < endAt);
    events = new Map(
      [...failures.keys()].flatMap((job) => (known.has(job) ? [[job, known.get(job) as FailedEvent]] : [])),
    );
    return unread.length - done;
  };

  return {
    async refresh(locate, budgetMs = Number.POSITIVE_INFINITY, sinceMs = 0) {
      reading ??= read(locate, budgetMs, sinceMs).finally(() => {
        reading = undefined;
      });
      return await reading;
    },
    list: (filter = {}) => [...events.values()].filter((event) => isMatch(event, filter)),
  };
}

/** When each kept job failed, epoch ms, newest first. */
async function readFailures(
  { client: queue, valkey }: OpenShard,
  sinceMs: number,
  maxEvents: number,
): Promise<Map<string, number>> {
  const failures = new Map<string, number>();
  for (let from = 0; from < maxEvents; from += PAGE) {
    const to = Math.min(from + PAGE, maxEvents) - 1;
    const page = await valkey.zrevrange(keysOf(queue).failed, from, to, "WITHSCORES");
    for (let at = 0; at < page.length; at += 2) {
      const failedAt = Number(page[at + 1]);
      if (failedAt < sinceMs) return failures;
      failures.set(page[at] as string, failedAt);
    }
    if (page.length < 2 * PAGE) break;
  }
  return failures;
}

/** Masked before it is cut: half a secret would not be recognized. */
function describe({ queue, label }: OpenShard, job: StoredJob, failedAt: number): FailedEvent {
  const masked = maskSecrets([job.name, job.failedReason ?? ""], { about: job.data }) as unknown[];
  const [event = "", reason = ""] = masked.map((text) => String(text).slice(0, SHOWN));
  const [url, endpointId] = [urlOf(job), endpointIdOf(job)];
  const given = typeof job.data?.id === "string" ? job.data.id : undefined;
  return {
    job: label + job.id,
    id: eventIdOf({ queueName: queue, id: job.id, timestamp: Number(job.timestamp) }, given),
    event,
    userId: userOf(job),
    endpoint: url === undefined ? endpointId : endpointName(url),
    endpointId,
    host: url?.host,
    reason,
    cause: causeOf(reason),
    failedAt,
  };
}

/** A failure reason without durations and ids. */
function causeOf(reason: string): string {
  const cause = reason
    .replace(/ (?:in|after) \d+ ms\b/, "")
    .replace(/; to try again: fluxhook redeliver .*$/s, "")
    .replaceAll(/\b[\da-f]{8}-[\da-f-]{27}\b/gi, "…");
  return cause.slice(0, 200) || "no reason";
}

/** Whether a failed event matches a filter. */
function isMatch(event: FailedEvent, filter: FailedFilter): boolean {
  const { sinceMs = 0, untilMs = Number.POSITIVE_INFINITY, host } = filter;
  if (event.failedAt < sinceMs || event.failedAt > untilMs) return false;
  if (filter.id !== undefined && event.id !== filter.id) return false;
  if (filter.userId !== undefined && event.userId !== filter.userId) return false;
  if (filter.event !== undefined && event.event !== filter.event) return false;
  if (filter.endpointId !== undefined && event.endpointId !== filter.endpointId) return false;
  if (filter.cause !== undefined && event.cause !== filter.cause) return false;
  return host === undefined || isAtHost(event, host);
}

function isAtHost({ endpoint, host }: FailedEvent, text: string): boolean {
  if (host === text) return true;
  const wanted = parseHost(text);
  if (wanted === undefined || endpoint === undefined || !host?.startsWith(wanted.hostname)) return false;
  return isAt(new URL(endpoint), wanted);
}

/** The hosts with an open circuit: events redelivered to them wait. Throws like {@link FailedEvents.refresh}. */
export async function readOpenHosts([{ valkey, queue }]: OpenShards, nowMs: number): Promise<string[]> {
  return await readCircuits(valkey, queue, nowMs);
}

/** A value and how many events have it. */
export interface Facet {
  readonly value: string;
  readonly count: number;
}

/** How often each value occurs, most frequent first. Events without one are left out. */
export function countBy(events: readonly FailedEvent[], pick: (event: FailedEvent) => string | undefined): Facet[] {
  const counts = new Map<string, number>();
  for (const event of events) {
    const value = pick(event);
    if (value !== undefined) counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  return [...counts].map(([value, count]) => ({ value, count })).sort((a, b) => b.count - a.count);
}
