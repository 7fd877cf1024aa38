/**
 * What a user's log does not show: events that were not attempted yet, and failed ones that are no longer in it.
 */
import { endpointName, eventIdOf } from "../delivery/request.ts";
import { readCircuits } from "../isolation/open-circuits.ts";
import { DELAYED_SCORE_PER_MS, JOB_FIELDS, type JobPlace, type ShownState } from "../queue/layout.ts";
import { isTestJob } from "../queue/marks.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { PINNED_FIELD } from "../queue/pin.ts";
import { homeAmong, type Shard } from "../queue/shards.ts";
import { endpointIdOf, type FilteredJob, parseObject, urlOf } from "./job-filter.ts";
import { createLocateJobs } from "./registered-urls.ts";
import { findUsersJobs, type Look, type LookBounds, type UsersJob } from "./users-jobs.ts";

/** About 20 ms of Valkey when events are small, and 80 ms at most: an open page looks every 3 s. */
const BOUNDS: LookBounds = { maxJobs: 5_000, maxBytes: 32 * 1024 * 1024, maxMs: 500 };
const PLACES = ["active", "wait", "paused", "prioritized", "delayed"] as const;
const FIELDS = ["name", "timestamp", "opts", JOB_FIELDS.attemptsMade, "parked", PINNED_FIELD];

/** An event that waits, is delayed or active. */
export interface PendingEvent {
  /** The event's id. */
  readonly id: string;
  /** The job's name, with its shard's label. */
  readonly job: string;
  /** The event type. */
  readonly event: string;
  /** The URL without its query, of a registered endpoint the present one, or its id if it has none; undefined when the job has no valid one. */
  readonly endpoint: string | undefined;
  /** The id of a registered endpoint. */
  readonly endpointId: string | undefined;
  readonly state: Extract<ShownState, "waiting" | "delayed" | "active">;
  /** When it is due, epoch ms; undefined unless it is delayed. */
  readonly dueAt: number | undefined;
  /** Delayed because its endpoint may not be called now. */
  readonly isHeldBack: boolean;
  /** The circuit of its host is open in some worker. */
  readonly isCircuitOpen: boolean;
  /** Attempts made so far that failed. */
  readonly attempts: number;
  readonly isTest: boolean;
  /** When the backend enqueued it, epoch ms. */
  readonly enqueuedAt: number;
}

/** How much of the queue was looked at. */
export type LookedAt = Pick<Look, "looked" | "total" | "isPartial">;

/** A user's pending events, next due first. */
export interface Pending extends LookedAt {
  readonly events: readonly PendingEvent[];
}

/**
 * Find a user's pending events among the newest waiting, the next delayed and the active jobs.
 *
 * @param shards  those to look in
 * @param all     if some of them are away
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function findPending(
  shards: OpenShards,
  userId: string,
  nowMs: number,
  bounds: LookBounds = BOUNDS,
  all: readonly [Shard, ...Shard[]] = shards,
): Promise<Pending> {
  const { jobs, ...lookedAt } = await lookInAll(shards, userId, [PLACES, FIELDS], bounds);
  const hasDelayed = jobs.some(({ job: { place } }) => place === "delayed");
  const [first] = shards;
  const circuits = new Set(hasDelayed ? await readCircuits(first.valkey, first.queue, nowMs) : []);
  const locate = createLocateJobs(all, shards);
  const located = await locate(jobs.map(({ job }) => asFiltered(job)));
  const urls = located.map(urlOf);
  const events = jobs.map((found, at) => describe(found, urls[at], circuits)).sort((a, b) => rank(a) - rank(b));
  return { events, ...lookedAt };
}

/** A user's job, and in which shard it is. */
interface Found {
  readonly shard: OpenShard;
  readonly job: UsersJob;
}

/**
 * Look in all shards at once. The bounds hold for the user's home, where nearly all of the user's events are, and for the other shards
 * together.
 */
async function lookInAll(
  shards: OpenShards,
  userId: string,
  [places, fields]: readonly [places: readonly JobPlace[], fields: readonly string[]],
  { maxJobs, maxBytes, maxMs }: LookBounds,
): Promise<LookedAt & { readonly jobs: readonly Found[] }> {
  const home = homeAmong(shards, userId);
  const looks = shards.map(async (shard) => {
    const part = shard === home ? 1 : 1 / (shards.length - 1);
    const bounds = { maxJobs: maxJobs * part, maxBytes: maxBytes * part, maxMs };
    return await findUsersJobs(shard.client, shard.valkey, userId, places, fields, bounds);
  });
  const found = await Promise.all(looks);
  return {
    jobs: found.flatMap(({ jobs }, index) => jobs.map((job) => ({ shard: shards[index] as OpenShard, job }))),
    looked: found.reduce((sum, { looked }) => sum + looked, 0),
    total: found.reduce((sum, { total }) => sum + total, 0),
    isPartial: found.some(({ isPartial }) => isPartial),
  };
}

/** Active ones, then waiting ones by age, then delayed ones by when they are due. */
function rank({ state, dueAt, enqueuedAt }: PendingEvent): number {
  if (state === "active") return Number.MIN_SAFE_INTEGER;
  return state === "waiting" ? enqueuedAt - Number.MAX_SAFE_INTEGER / 2 : (dueAt ?? 0);
}

function describe({ shard, job }: Found, url: URL | undefined, circuits: ReadonlySet<string>): PendingEvent {
  const { id: jobId, place, score, data, fields } = job;
  const [name, timestamp, opts, attempts, parked] = fields as (string | null)[];
  const endpointId = endpointIdOf(asFiltered(job));
  const enqueuedAt = Number(timestamp);
  const given = typeof data.id === "string" ? data.id : undefined;
  const dueAt = place === "delayed" ? Math.floor((score ?? 0) / DELAYED_SCORE_PER_MS) : undefined;
  // The mark stays when the event is attempted at last: it tells only of the time it was parked until.
  const isHeldBack = dueAt !== undefined && parked != null && Math.abs(Number(parked) - dueAt) <= 1;
  return {
    id: eventIdOf({ queueName: shard.queue, id: jobId, timestamp: enqueuedAt }, given),
    job: shard.label + jobId,
    event: name ?? "",
    endpoint: url === undefined ? endpointId : endpointName(url),
    endpointId,
    state: place === "active" ? "active" : place === "delayed" ? "delayed" : "waiting",
    dueAt,
    isHeldBack,
    isCircuitOpen: isHeldBack && url !== undefined && circuits.has(url.host),
    attempts: Number(attempts) || 0,
    isTest: isTestJob({ opts: parseObject(opts ?? null) ?? {} }),
    enqueuedAt,
  };
}

/** A job read with {@link FIELDS}. */
function asFiltered({ data, fields }: UsersJob): FilteredJob {
  return { name: "", data, pinnedTo: fields[FIELDS.length - 1] ?? undefined };
}

/** Failed events of a user among the kept jobs. */
export interface MoreFailed extends LookedAt {
  readonly count: number;
}

/**
 * Count a user's failed events that their log does not show, among the jobs that failed last.
 *
 * @param logged  names of the jobs in the log
 * @throws  like {@link findPending}
 */
export async function countMoreFailed(
  shards: OpenShards,
  userId: string,
  logged: ReadonlySet<string>,
  bounds: LookBounds = BOUNDS,
): Promise<MoreFailed> {
  const { jobs, ...lookedAt } = await lookInAll(shards, userId, [["failed"], ["name"]], bounds);
  return { count: jobs.filter(({ shard, job }) => !logged.has(shard.label + job.id)).length, ...lookedAt };
}
