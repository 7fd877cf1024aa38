/**
 * What a user's log does not show: events that were not attempted yet, and failed ones that are no longer in it.
 */
import { endpointName, eventIdOf } from "../delivery/request.ts";
import { readCircuits } from "../isolation/open-circuits.ts";
import { DELAYED_SCORE_PER_MS, JOB_FIELDS, type ShownState } from "../queue/layout.ts";
import { isTestJob } from "../queue/marks.ts";
import type { Queue } from "../queue/worker.ts";
import type { Valkey } from "../valkey/connection.ts";
import { parseObject, urlOf } from "./job-filter.ts";
import { findUsersJobs, type Look, type LookBounds, type UsersJob } from "./users-jobs.ts";

/** About 20 ms of Valkey when events are small, and 80 ms at most: an open page looks every 3 s. */
const BOUNDS: LookBounds = { maxJobs: 5_000, maxBytes: 32 * 1024 * 1024, maxMs: 500 };
const PLACES = ["active", "wait", "paused", "prioritized", "delayed"] as const;
const FIELDS = ["name", "timestamp", "opts", JOB_FIELDS.attemptsMade, "parked"];

/** An event that waits, is delayed or active. */
export interface PendingEvent {
  /** The event's id. */
  readonly id: string;
  readonly job: string;
  /** The event type. */
  readonly event: string;
  /** A URL without its query; undefined when the job has no valid one. */
  readonly endpoint: string | undefined;
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
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function findPending(
  queue: Queue,
  valkey: Valkey,
  userId: string,
  nowMs: number,
  bounds: LookBounds = BOUNDS,
): Promise<Pending> {
  const { jobs, ...lookedAt } = await findUsersJobs(queue, valkey, userId, PLACES, FIELDS, bounds);
  const hasDelayed = jobs.some(({ place }) => place === "delayed");
  const circuits = new Set(hasDelayed ? await readCircuits(valkey, queue.name, nowMs) : []);
  const events = jobs.map((job) => describe(job, queue.name, circuits)).sort((a, b) => rank(a) - rank(b));
  return { events, ...lookedAt };
}

/** Active ones, then waiting ones by age, then delayed ones by when they are due. */
function rank({ state, dueAt, enqueuedAt }: PendingEvent): number {
  if (state === "active") return Number.MIN_SAFE_INTEGER;
  return state === "waiting" ? enqueuedAt - Number.MAX_SAFE_INTEGER / 2 : (dueAt ?? 0);
}

function describe(
  { id: job, place, score, data, fields }: UsersJob,
  queueName: string,
  circuits: Set<string>,
): PendingEvent {
  const [name, timestamp, opts, attempts, parked] = fields as (string | null)[];
  const url = urlOf({ name: name ?? "", data });
  const enqueuedAt = Number(timestamp);
  const given = typeof data.id === "string" ? data.id : undefined;
  const dueAt = place === "delayed" ? Math.floor((score ?? 0) / DELAYED_SCORE_PER_MS) : undefined;
  // The mark stays when the event is attempted at last: it tells only of the time it was parked until.
  const isHeldBack = dueAt !== undefined && parked != null && Math.abs(Number(parked) - dueAt) <= 1;
  return {
    id: eventIdOf({ queueName, id: job, timestamp: enqueuedAt }, given),
    job,
    event: name ?? "",
    endpoint: url && endpointName(url),
    state: place === "active" ? "active" : place === "delayed" ? "delayed" : "waiting",
    dueAt,
    isHeldBack,
    isCircuitOpen: isHeldBack && url !== undefined && circuits.has(url.host),
    attempts: Number(attempts) || 0,
    isTest: isTestJob({ opts: parseObject(opts ?? null) ?? {} }),
    enqueuedAt,
  };
}

/** Failed events of a user among the kept jobs. */
export interface MoreFailed extends LookedAt {
  readonly count: number;
}

/**
 * Count a user's failed events that their log does not show, among the jobs that failed last.
 *
 * @param logged  job ids in the log
 * @throws  like {@link findPending}
 */
export async function countMoreFailed(
  queue: Queue,
  valkey: Valkey,
  userId: string,
  logged: ReadonlySet<string>,
  bounds: LookBounds = BOUNDS,
): Promise<MoreFailed> {
  const { jobs, ...lookedAt } = await findUsersJobs(queue, valkey, userId, ["failed"], ["name"], bounds);
  return { count: jobs.filter(({ id }) => !logged.has(id)).length, ...lookedAt };
}
