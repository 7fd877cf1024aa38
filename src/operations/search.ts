/**
 * Finds a user, an event, a delivery, a job, a registered endpoint or a host by what somebody on the phone read out. For the board
 * and the command.
 */
import { forwardedId } from "../delivery/forwarded-id.ts";
import { USER_ID } from "../delivery/limits.ts";
import { findUsersJob } from "../log/deliveries.ts";
import { type OpenShard, type OpenShards, shardOfJob } from "../queue/open-shard.ts";
import { endpointsKey, logKey } from "../queue/own-keys.ts";
import { type EndpointFind, findEndpointsById } from "./endpoint-search.ts";
import type { AllFailedEvents } from "./failed-events.ts";
import { findHost, type HostFind, MAYBE_HOST } from "./host-search.ts";
import { parseObject, userOf } from "./job-filter.ts";
import { readJobs, type StoredJob } from "./job-pages.ts";
import { searchAllJobs, storedEventId } from "./job-search.ts";
import { type LoggedHit, searchAllLogs } from "./log-search.ts";

export type { EndpointFind } from "./endpoint-search.ts";
export type { HostFind, PendingEvent } from "./host-search.ts";

/** Longest text to search for, in characters. */
export const MAX_SEARCH = 400;
/** How long a search may take by default, ms. */
const SEARCH_MS = 5 * 1000; // 5 s
const JOBS_MS = 2 * 1000; // 2 s of it at most for kept jobs, the rest for the logs
const MAX_SEARCHES = 2; // at once: each keeps Valkey busy half of the time

const UUID = /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/i;
/** What people copy along with an id. A user id may contain a colon, but no space. */
const LABEL = /^(?:(?:webhook-id|x-fluxdrop-delivery)\s*:\s*|(?:event|delivery|job|user|endpoint|host)\s+)/i;

/** A user with a log, a registered endpoint or a kept job. */
export interface UserFind {
  readonly kind: "user";
  readonly userId: string;
}

/** An event, and by which of its ids it was found. */
export interface EventFind {
  readonly kind: "event" | "delivery" | "job";
  /** The id by which it was found, as stored. */
  readonly found: string;
  /** The event's id. */
  readonly id: string;
  /** The event type. */
  readonly event: string;
  /** Undefined when its job names no valid user. */
  readonly userId: string | undefined;
  /** Its name, with its shard's label; undefined in log entries of older versions. */
  readonly job: string | undefined;
  /** BullMQ's state of its job; `unknown` when it is not kept any more. */
  readonly state: string;
  /** Whether its user's log has an attempt of it. */
  readonly isLogged: boolean;
}

export type Find = UserFind | EventFind | EndpointFind | HostFind;

/** How many of something were searched, of how many. */
export interface Reach {
  readonly searched: number;
  /** Of logs, an estimate unless all were searched. */
  readonly total: number;
}

/** The result of a search. */
export interface Findings {
  /** What was searched for, without what people copy along with it. */
  readonly text: string;
  readonly finds: readonly Find[];
  /** Whether there may be other registered endpoints with this id than those in `finds`. */
  readonly hasMoreEndpoints: boolean;
  /** The kept jobs that were searched one by one; undefined when that was not necessary. */
  readonly jobs: Reach | undefined;
  /** The same for the users' logs. */
  readonly logs: Reach | undefined;
  /** Where to go on when the time was over; undefined when all logs were searched or that was not necessary. */
  readonly next: string | undefined;
  /** Not everything was searched, since too many searches were running. */
  readonly isBusy: boolean;
}

export interface SearchOptions {
  /** Where to go on, of an earlier search for the same text: {@link Findings.next}. */
  readonly from?: string | undefined;
  /** How long it may take, ms; {@link SEARCH_MS} by default. */
  readonly budgetMs?: number | undefined;
  /** The shards to search, while others are away; all by default. */
  readonly among?: OpenShards | undefined;
}

export interface SearchSources {
  readonly shards: OpenShards;
  readonly failed: AllFailedEvents;
  /** Monotonic clock, ms. */
  readonly now?: () => number;
}

/**
 * Search for a text: first what takes little time (a user's log, a job's key, a host, the index of endpoints), and only if that finds
 * nothing, the kept jobs and then the logs, one by one, in bounded time.
 *
 * Job ids and event ids are the same for events of the package, in lower case. Other producers' events have an id that is derived from
 * their job or given in its data, so these are found by looking through the jobs. A delivered job is soon removed; then the event is
 * found in its user's log.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export type Search = (text: string, options?: SearchOptions) => Promise<Findings>;

export function createSearch({ shards: all, failed, now = () => performance.now() }: SearchSources): Search {
  let running = 0;
  return async (given, { from, budgetMs = SEARCH_MS, among: shards = all } = {}) => {
    const endAt = now() + budgetMs;
    const text = readText(given);
    const searched = { jobs: undefined, logs: undefined, next: undefined };
    const ids = UUID.test(text) ? [...new Set([text, text.toLowerCase(), text.toUpperCase()])] : [text];
    const isFirst = from === undefined && text !== "";
    const [found, endpoints] = await Promise.all([
      isFirst ? findNow({ shards, all, failed, now }, text, ids) : [],
      isFirst ? findEndpointsById(shards, text, { endAt, now }) : { finds: [], isComplete: true },
    ]);
    const sooner = [...found, ...endpoints.finds];
    const hasMoreEndpoints = !endpoints.isComplete;
    const nothing: Findings = { text, finds: [], hasMoreEndpoints, ...searched, isBusy: false };
    if (text === "" || sooner.length > 0) return { ...nothing, finds: sooner };
    if (running >= MAX_SEARCHES) return { ...nothing, isBusy: true };
    running += 1;
    try {
      const jobsEndAt = Math.min(endAt, now() + JOBS_MS);
      const jobs = from === undefined ? await searchAllJobs(ids, { shards, endAt: jobsEndAt, now }) : undefined;
      const inJobs = await Promise.all((jobs?.hits ?? []).map(({ shard, jobs }) => describeJobs(shard, jobs, ids)));
      if (inJobs.length > 0) return { ...nothing, finds: unique(await follow(shards, inJobs.flat(), ids)), jobs };
      const logs = await searchAllLogs(ids, { shards, from, endAt, now });
      const finds = await Promise.all(
        unique(logs.hits.map((hit) => describeHit(hit, ids))).map((find) => withState(shards, find)),
      );
      return { ...nothing, finds, jobs, logs, next: finds.length > 0 ? undefined : logs.next };
    } finally {
      running -= 1;
    }
  };
}

/** The text to search for: without blanks, quotes and a label around it, at most {@link MAX_SEARCH} characters. */
function readText(given: string): string {
  const bare = given
    .slice(0, 2 * MAX_SEARCH)
    .trim()
    .replace(LABEL, "")
    .replace(/^["'`<]+|["'`>,;]+$/g, "");
  return bare.trim().slice(0, MAX_SEARCH);
}

/** What can be found without searching through anything. */
async function findNow(
  sources: Required<SearchSources> & { readonly all: OpenShards },
  text: string,
  ids: readonly string[],
): Promise<Find[]> {
  const { shards } = sources;
  const [host, ...found] = await Promise.all([
    findHost(sources, text),
    ...shards.map((shard) => findIn(shard, text, ids)),
  ]);
  const isUser = found.some((one) => one.isUser);
  const finds: Find[] = [
    ...(isUser ? [{ kind: "user", userId: text } as const] : []),
    ...unique(
      await follow(
        shards,
        found.flatMap((one) => one.finds),
        ids,
      ),
    ),
  ];
  if (host === undefined) return finds;
  const isNeeded = host.isOpen || host.failed + host.pending > 0 || (finds.length === 0 && !MAYBE_HOST.test(text));
  return isNeeded ? [...finds, host] : finds;
}

/** Whether a shard has a log or endpoints of a user with this id, and its jobs with one of these ids, with or without its label. */
async function findIn(shard: OpenShard, text: string, ids: readonly string[]) {
  const { client, valkey, tag, label } = shard;
  const bare = ids.map((id) => (id.startsWith(label) ? id.slice(label.length) : id));
  const [keys, jobs] = await Promise.all([
    USER_ID.test(text) ? valkey.exists(logKey(text, tag), endpointsKey(text, tag)) : 0,
    collect(readJobs(client, valkey, bare)),
  ]);
  return { isUser: keys > 0, finds: await describeJobs(shard, jobs, [...ids, ...bare]) };
}

/** Jobs as what they were found by: their event's id, their user, or their own id. */
async function describeJobs(
  { client: queue, valkey, tag, label }: OpenShard,
  jobs: readonly StoredJob[],
  ids: readonly string[],
): Promise<(UserFind | EventFind)[]> {
  return await Promise.all(
    jobs.map(async (job): Promise<UserFind | EventFind> => {
      const id = storedEventId(queue, job);
      const user = userOf(job);
      const userId = user !== undefined && USER_ID.test(user) ? user : undefined;
      const isEvent = ids.includes(id);
      if (!isEvent && !ids.includes(job.id) && userId !== undefined) return { kind: "user", userId };
      const log = userId === undefined ? [] : await valkey.zrange(logKey(userId, tag), "0", "-1");
      const isLogged = log.some((attempt) => parseObject(attempt)?.id === id);
      const name = label + job.id;
      const found = isEvent ? { kind: "event" as const, found: id } : { kind: "job" as const, found: name };
      return { ...found, id, event: job.name, userId, job: name, state: await queue.getJobState(job.id), isLogged };
    }),
  );
}

/** Jobs that were forwarded to another shard, as the jobs that they are there, if these are kept. */
async function follow(
  shards: OpenShards,
  finds: readonly (UserFind | EventFind)[],
  ids: readonly string[],
): Promise<(UserFind | EventFind)[]> {
  if (shards.length === 1) return [...finds];
  const followed = finds.map(async (find) => {
    const at = find.kind === "user" || find.job === undefined ? undefined : shardOfJob(shards, find.job);
    if (at === undefined || find.kind === "user" || find.state !== "completed") return [find];
    const copy = forwardedId({ queue: at.shard.queue, id: at.id });
    const copies = shards.map(async (shard) => {
      const jobs = await collect(readJobs(shard.client, shard.valkey, [copy]));
      return await describeJobs(shard, jobs, [...ids, copy]);
    });
    const there = (await Promise.all(copies)).flat();
    return there.length === 0 ? [find] : await follow(shards, there, ids);
  });
  return (await Promise.all(followed)).flat();
}

function describeHit({ userId, attempt }: LoggedHit, ids: readonly string[]): EventFind {
  const { id, delivery, event, job } = attempt;
  const kind = ids.includes(id) ? "event" : ids.includes(delivery) ? "delivery" : "job";
  return { kind, found: { event: id, delivery, job }[kind], id, event, userId, job, state: "unknown", isLogged: true };
}

/** The state of the job of an event that was found in a log, if its job is still the same event's. */
async function withState(shards: OpenShards, find: EventFind): Promise<EventFind> {
  const { userId, id, job } = find;
  const at = job === undefined ? undefined : shardOfJob(shards, job);
  if (userId === undefined || at === undefined) return find;
  const kept = await findUsersJob(at.shard.client, at.id, userId, id);
  return kept === undefined ? find : { ...find, state: await kept.getState() };
}

/** Each find once: an event has several attempts, and a user several jobs. */
function unique<T extends UserFind | EventFind>(finds: readonly T[]): T[] {
  const keyOf = (find: UserFind | EventFind) =>
    find.kind === "user" ? find.userId : `${find.id} ${find.job} ${find.userId}`;
  return [...new Map(finds.map((find) => [keyOf(find), find])).values()];
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

/** How far a search came that found nothing, in words: `12,000 of about 50,000 logs`. */
export function describeReach({ jobs, logs }: Pick<Findings, "jobs" | "logs">): string {
  const format = (count: number) => count.toLocaleString("en-US");
  const part = (reach: Reach | undefined, about: string, thing: string) => {
    if (reach === undefined) return [];
    const { searched, total } = reach;
    const things = total === 1 ? thing : `${thing}s`;
    return [`${format(searched)}${searched < total ? ` of ${about}${format(total)}` : ""} ${things}`];
  };
  return [...part(jobs, "", "kept job"), ...part(logs, "about ", "log")].join(" and ");
}
