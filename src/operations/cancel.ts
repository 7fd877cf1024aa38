/**
 * Cancels pending events, for the command `cancel`.
 */

import { endpointKey } from "../delivery/request.ts";
import { backlogLines } from "../isolation/backlog.ts";
import { type JobPlace, keysOf } from "../queue/layout.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { DEFAULT_KEPT } from "../queue/worker.ts";
import { endJobs, type Fate } from "./job-ends.ts";
import { isMeant, type JobFilter, needsUrls, urlOf, userOf } from "./job-filter.ts";
import { type JobPage, type StoredJob, visitJobs } from "./job-pages.ts";
import { createLocateJobs, type LocateJobs } from "./registered-urls.ts";

/** The failure reason of canceled events. */
export const CANCELED = "canceled by an operator";

/** States of pending jobs, in the order in which jobs go through them. */
export const WAITING = ["delayed", "prioritized", "wait", "paused"] as const satisfies readonly JobPlace[];

const MOST_PENDING = 200; // jobs ended together: removing them from a long list costs little more than removing one
const WIDEST = 4_000; // list positions searched for them
const MAX_PASSES = 5; // over all lists, until a pass finds nothing

/** The result of counting jobs. */
export interface Census {
  /** Matching jobs, by list. */
  readonly lists: Readonly<Partial<Record<JobPlace, number>>>;
  readonly total: number;
  /** The same by shard, in their order. */
  readonly totals: readonly number[];
  /** Jobs whose data is not a JSON object, so that their user is unknown. */
  readonly unreadable: number;
  /** The first matching jobs, under their names: with the label of their shard. */
  readonly some: readonly (StoredJob & { readonly list: JobPlace })[];
}

/**
 * Count the jobs that match a filter, without changing anything. While jobs move, one may be counted twice or missed.
 *
 * @param most    maximum number of jobs to return
 * @param onSeen  called with the number of jobs checked
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function countJobs(
  shards: OpenShards,
  filter: JobFilter,
  lists: readonly JobPlace[],
  most: number,
  onSeen: (jobs: number) => void = () => {},
): Promise<Census> {
  const counts: Partial<Record<JobPlace, number>> = {};
  const some: (StoredJob & { list: JobPlace })[] = [];
  const totals = shards.map(() => 0);
  const findMeant = createFindMeant(shards, filter);
  const locate = createLocateJobs(shards);
  let unreadable = 0;
  for (const [at, { client, valkey, label }] of shards.entries()) {
    for (const list of lists) {
      await visitJobs(client, valkey, list, async ({ jobs }) => {
        const meant = await findMeant(jobs);
        counts[list] = (counts[list] ?? 0) + meant.length;
        totals[at] = (totals[at] as number) + meant.length;
        unreadable += jobs.filter(({ data }) => data === undefined).length;
        for (const job of await locate(meant.slice(0, most - some.length))) {
          some.push({ ...job, id: label + job.id, list });
        }
        onSeen(jobs.length);
        return 0;
      });
    }
  }
  return { lists: counts, total: sum(totals), totals, unreadable, some };
}

const sum = (counts: readonly number[]): number => counts.reduce((total, count) => total + count, 0);

/** Finds the jobs of a page that match a filter. By host and by URL, registered endpoints are where they are now. */
function createFindMeant(shards: OpenShards, filter: JobFilter): (jobs: readonly StoredJob[]) => Promise<StoredJob[]> {
  const locate = needsUrls(filter) ? createLocateJobs(shards) : undefined;
  return async (jobs) => (locate === undefined ? jobs : await locate(jobs)).filter((job) => isMeant(job, filter));
}

/** How many matching jobs are active. */
export async function countActive(shards: OpenShards, filter: JobFilter): Promise<number> {
  const findMeant = createFindMeant(shards, filter);
  let active = 0;
  for (const { client, valkey } of shards) {
    await visitJobs(client, valkey, "active", async ({ jobs }) => {
      active += (await findMeant(jobs)).length;
      return 0;
    });
  }
  return active;
}

/**
 * How many more failed jobs each shard can keep before its oldest are removed, in their order.
 *
 * @param keepFailed  as `WEBHOOK_KEEP_FAILED`, which is for each shard
 */
export async function readFailedRoom(shards: OpenShards, keepFailed = DEFAULT_KEPT.keepFailed): Promise<number[]> {
  const kept = await Promise.all(shards.map(({ client, valkey }) => valkey.zcard(keysOf(client).failed)));
  return kept.map((count) => Math.max(0, keepFailed - count));
}

/** The result of ending jobs. */
export interface Ended {
  /** Jobs that were ended, by list. */
  readonly lists: Readonly<Partial<Record<JobPlace, number>>>;
  readonly total: number;
  /** Jobs that were not ended, by reason. */
  readonly left: Readonly<Record<"scheduled" | "flow" | "full", number>>;
  readonly unreadable: number;
  /** Whether the last pass found none; otherwise more keep arriving. */
  readonly isDone: boolean;
}

export interface EndOptions {
  readonly filter: JobFilter;
  readonly lists: readonly JobPlace[];
  /** The reason to store with the failed jobs; undefined removes them. */
  readonly reason?: string | undefined;
  /** As `WEBHOOK_KEEP_FAILED`; its default when absent. */
  readonly keepFailed?: number | undefined;
  /** Called with the number of jobs that the first pass has checked. */
  readonly onSeen?: ((jobs: number) => void) | undefined;
  /** Handles jobs that the script could not end; resolves to their final fate. */
  readonly endOther?: ((shard: OpenShard, job: StoredJob, fate: Fate) => Promise<Fate>) | undefined;
  /** Called with the jobs that were ended. */
  readonly onEnded?: ((shard: OpenShard, jobs: readonly StoredJob[]) => Promise<unknown>) | undefined;
}

/**
 * End all matching jobs in some lists, in passes over each shard until one finds none.
 *
 * @throws  like {@link countJobs}; earlier jobs stay ended
 */
export async function endMeant(shards: OpenShards, options: EndOptions): Promise<Ended> {
  const lists: Partial<Record<JobPlace, number>> = {};
  const left = { scheduled: 0, flow: 0, full: 0 };
  const findMeant = createFindMeant(shards, options.filter);
  const locate = createLocateJobs(shards);
  let [total, unreadable, isDone] = [0, 0, true];
  for (const shard of shards) {
    const ended = await endInShard(shard, findMeant, { ...options, locate });
    addCounts(lists, ended.lists);
    addCounts(left, ended.left);
    total += ended.total;
    unreadable += ended.unreadable;
    isDone &&= ended.isDone;
  }
  return { lists, total, left, unreadable, isDone };
}

/** Add counts to those of the same names. */
export function addCounts(counts: Partial<Record<string, number>>, more: Partial<Record<string, number>>): void {
  for (const [name, count = 0] of Object.entries(more)) counts[name] = (counts[name] ?? 0) + count;
}

async function endInShard(
  shard: OpenShard,
  findMeant: ReturnType<typeof createFindMeant>,
  options: EndOptions & { readonly locate: LocateJobs },
): Promise<Ended> {
  const { client, valkey } = shard;
  const { locate, lists, reason, keepFailed, onSeen = () => {} } = options;
  const { endOther = async (_shard, _job, fate) => fate, onEnded } = options;
  const counts: Partial<Record<JobPlace, number>> = {};
  let [total, unreadable] = [0, 0];
  for (let pass = 1; ; pass++) {
    const left = { scheduled: 0, flow: 0, full: 0 };
    let found = 0; // jobs that require another pass
    let [from, pending] = [0, [] as StoredJob[]];
    const endPending = async (list: JobPlace, to: number): Promise<number> => {
      const jobs = pending;
      pending = [];
      if (jobs.length === 0) return 0;
      const fates = await endJobs(client, valkey, { list, from, to }, jobs, reason, keepFailed);
      const ended: StoredJob[] = [];
      for (const [index, job] of jobs.entries()) {
        let fate = fates[index] as Fate;
        if (fate !== "ended") fate = await endOther(shard, job, fate);
        if (fate === "ended") ended.push(job);
        if (fate === "scheduled" || fate === "flow" || fate === "full") left[fate] += 1;
        else found += 1;
      }
      counts[list] = (counts[list] ?? 0) + ended.length;
      total += ended.length;
      if (ended.length > 0) await Promise.all([leaveBacklog(shard, await locate(ended)), onEnded?.(shard, ended)]);
      return ended.length;
    };
    const visit = async (page: JobPage): Promise<number> => {
      if (pass === 1) {
        unreadable += page.jobs.filter(({ data }) => data === undefined).length;
        onSeen(page.jobs.length);
      }
      if (pending.length === 0) from = page.from;
      pending.push(...(await findMeant(page.jobs)).map(withoutBody));
      const isTime = pending.length >= MOST_PENDING || page.to - from >= WIDEST;
      return isTime ? await endPending(page.list, page.to) : 0;
    };
    for (const list of lists) {
      await visitJobs(client, valkey, list, visit);
      await endPending(list, from + WIDEST);
    }
    const isDone = found === 0;
    if (isDone || pass === MAX_PASSES) return { lists: counts, total, left, unreadable, isDone };
  }
}

/** A job without the event's own data, which may be large, to hold until it is ended. */
function withoutBody(job: StoredJob): StoredJob {
  const { userId, endpoint } = job.data as { userId?: unknown; endpoint?: { url?: unknown; id?: unknown } | null };
  return { ...job, data: { userId, endpoint: endpoint && { url: endpoint.url, id: endpoint.id } } };
}

/** Remove ended jobs from the backlogs, where they would count against other events. */
export async function leaveBacklog({ queue, valkey }: OpenShard, jobs: readonly StoredJob[]): Promise<void> {
  const pipeline = valkey.pipeline();
  for (const job of jobs) {
    const [url, user] = [urlOf(job), userOf(job)];
    // Others are never in a backlog, or their URL was not looked up: they leave once the line is full, see backlog.ts.
    if (url === undefined || user === undefined) continue;
    for (const line of backlogLines(queue, endpointKey(url), user)) pipeline.zrem(line, job.id);
  }
  await pipeline.exec();
}
