/**
 * Erases a user's data, for the command `forget`.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { backlogLines } from "../isolation/backlog.ts";
import { flowField } from "../isolation/fair-queue-script.ts";
import { type JobPlace, keysOf, queueKey } from "../queue/layout.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { logKey, responsesKey } from "../queue/own-keys.ts";
import { findStrays } from "../queue/stray-jobs.ts";
import { flowTagsKey, successorsField } from "../queue/turns.ts";
import { addCounts, countActive, countJobs, endMeant, leaveBacklog, WAITING } from "./cancel.ts";
import { type EndpointHoldings, handleEndpointsIn } from "./erase-endpoints.ts";
import { handleMentions } from "./erase-mentions.ts";
import { handleHoldsOf, holdPlacesOf } from "./hold.ts";
import { isMeant, type JobFilter, parseObject } from "./job-filter.ts";
import { readJobs, type StoredJob, scanJobs } from "./job-pages.ts";

export const ERASED = [...WAITING, "waiting-children", "completed", "failed"] as const satisfies readonly JobPlace[];

const MAX_SWEEPS = 3; // over all keys, until one finds nothing
const POLL_MS = 200; // while waiting for active jobs
const PIECE = 200; // schedulers read at once

/** Counts of what is stored for a user. */
export interface Holdings extends EndpointHoldings {
  readonly lists: Readonly<Partial<Record<JobPlace, number>>>;
  /** Jobs in none of the queue's lists; when erasing, also jobs that moved between lists meanwhile. */
  readonly other: number;
  /** Job schedulers that create jobs for this user. */
  readonly schedulers: number;
  /** Attempts in the log. */
  readonly attempts: number;
  /** Entries in the user's backlog. */
  readonly backlog: number;
  /** The user's entry in the order between users: 1 or 0. */
  readonly tags: number;
  /** Entries in BullMQ's event stream that contain the user's id, as part of job ids. */
  readonly events: number;
  /** Holds of the user, ended ones included. */
  readonly holds: number;
  /** Jobs whose attempt is in progress. */
  readonly active: number;
  /** Jobs of any user whose data is not a JSON object. */
  readonly unreadable: number;
}

/** Counts of what was erased, and of what could not be. */
export interface Erasure extends Holdings {
  /** Whether nothing is left and no more arrived meanwhile. */
  readonly isDone: boolean;
}

/**
 * Count what is stored for a user, without changing anything.
 *
 * @param onSeen  called with the number of jobs checked
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function countHoldings(
  shards: OpenShards,
  userId: string,
  onSeen?: (jobs: number) => void,
): Promise<Holdings> {
  const filter = { userId };
  const { lists, unreadable } = await countJobs(shards, filter, ERASED, 0, onSeen);
  const [active, schedulers, records, holds] = await Promise.all([
    countActive(shards, filter),
    Promise.all(shards.map((shard) => findSchedulers(shard, filter))),
    handleRecords(shards, userId, false),
    handleHoldsOf(holdPlacesOf(shards), userId, false),
  ]);
  let other = 0;
  for (const { client, valkey } of shards) {
    const strays: string[] = [];
    for await (const id of findStrays(client, valkey)) strays.push(id);
    for await (const job of readJobs(client, valkey, strays)) if (isMeant(job, filter)) other += 1;
  }
  return { lists, other, schedulers: schedulers.flat().length, active, unreadable, ...records, holds };
}

/**
 * Erase a user's data: jobs in every state, job schedulers, the log of attempts with what is kept of responses, registered
 * endpoints with all that is kept of them, holds, and entries in the backlog and the order between users. Events enqueued later are delivered as usual.
 *
 * @param patienceMs  how long to wait for attempts in progress, whose jobs cannot be removed
 * @param onSeen      called with the number of jobs that the first pass has checked
 * @throws  like {@link countHoldings}; what was erased before stays erased
 */
export async function eraseUser(
  shards: OpenShards,
  userId: string,
  patienceMs: number,
  onSeen?: (jobs: number) => void,
): Promise<Erasure> {
  const filter = { userId };
  let schedulers = 0;
  for (const shard of shards) {
    const ids = await findSchedulers(shard, filter);
    for (const id of ids) await shard.client.removeJobScheduler(id);
    schedulers += ids.length;
  }
  const ended = await endMeant(shards, {
    filter,
    lists: ERASED,
    onSeen,
    onEnded: dropTags,
    endOther: async (shard, job, fate) => (fate === "flow" && (await isRemoved(shard, job)) ? "ended" : fate),
  });
  const until = performance.now() + patienceMs;
  let [other, isDone, active] = [0, false, 0];
  for (let sweep = 1; sweep <= MAX_SWEEPS && !isDone; sweep++) {
    active = await waitForActive(shards, filter, until);
    const found = await sweepUser(shards, filter);
    other += found.removed;
    isDone = found.removed + found.left + active === 0;
    if (found.left > 0 && performance.now() >= until) break;
  }
  const records = await handleRecords(shards, userId, true); // last, to include attempts that ended meanwhile
  const holds = await handleHoldsOf(holdPlacesOf(shards), userId, true);
  const { lists, unreadable } = ended;
  return { lists, other, schedulers, ...records, holds, active, unreadable, isDone };
}

/** Remove a job through BullMQ, which searches every list and detaches the job from its parent; children stay. */
async function isRemoved({ client }: OpenShard, { id }: StoredJob): Promise<boolean> {
  return (await client.remove(id, { removeChildren: false })) === 1;
}

/** Remove jobs that the lists did not lead to: strays, jobs whose attempt has ended since, and jobs that moved meanwhile. */
async function sweepUser(shards: OpenShards, filter: JobFilter) {
  let [removed, left] = [0, 0];
  for (const shard of shards) {
    for await (const job of scanJobs(shard.client, shard.valkey)) {
      if (!isMeant(job, filter)) continue;
      if (await isRemoved(shard, job)) {
        removed += 1;
        await Promise.all([dropTags(shard, [job]), leaveBacklog(shard, [job])]);
      } else left += 1;
    }
  }
  return { removed, left };
}

/** Wait until no matching job is active. Resolves to how many still are at the deadline. */
async function waitForActive(shards: OpenShards, filter: JobFilter, until: number): Promise<number> {
  for (;;) {
    const active = await countActive(shards, filter);
    if (active === 0 || performance.now() >= until) return active;
    await sleep(POLL_MS);
  }
}

/** Ids of the job schedulers for this user. BullMQ removes a scheduler's next job only together with the scheduler. */
async function findSchedulers({ client, valkey }: OpenShard, filter: JobFilter): Promise<string[]> {
  const key = keysOf(client).repeat;
  const found: string[] = [];
  for (let start = 0; ; start += PIECE) {
    const ids = await valkey.zrange(key, `${start}`, `${start + PIECE - 1}`);
    for (const id of ids) {
      const [name, data] = await valkey.hmget(`${key}:${id}`, "name", "data");
      if (isMeant({ name: name ?? "", data: parseObject(data ?? null) }, filter)) found.push(id);
    }
    if (ids.length < PIECE) return found;
  }
}

/** Remove the jobs' endpoints from the order between flows, since their URLs may identify the user. */
async function dropTags({ queue, valkey }: OpenShard, jobs: readonly StoredJob[]): Promise<void> {
  const urls = jobs.flatMap(({ data }) => {
    const { url } = (data?.endpoint ?? {}) as { url?: unknown };
    return typeof url === "string" ? [flowField("e", url)] : [];
  });
  if (urls.length > 0) await valkey.hdel(flowTagsKey(queueKey(queue)), ...urls);
}

/** Count, and optionally remove, what each shard stores for a user besides jobs. */
async function handleRecords(shards: OpenShards, userId: string, isRemoving: boolean) {
  const counts = {
    attempts: 0,
    backlog: 0,
    tags: 0,
    events: 0,
    endpoints: 0,
    missed: 0,
    endpointAttempts: 0,
    notices: 0,
  };
  for (const shard of shards) addCounts(counts, await handleRecordsIn(shard, userId, isRemoving));
  return counts;
}

async function handleRecordsIn(shard: OpenShard, userId: string, isRemoving: boolean) {
  const { queue, valkey, tag } = shard;
  const tagsKey = flowTagsKey(queueKey(queue));
  const [, line] = backlogLines(queue, "", userId);
  const [attempts, backlog, tags, events] = await Promise.all([
    valkey.zcard(logKey(userId, tag)),
    valkey.zcard(line),
    valkey.hexists(tagsKey, flowField("u", userId)) as Promise<number>,
    handleMentions(shard, userId, isRemoving),
  ]);
  if (isRemoving) {
    const keys = [logKey(userId, tag), responsesKey(userId, tag), line];
    await Promise.all([
      ...keys.map((key) => valkey.unlink(key)),
      valkey.hdel(tagsKey, flowField("u", userId), successorsField(userId)),
    ]);
  }
  const ofEndpoints = await handleEndpointsIn(shard, userId, isRemoving);
  return { attempts, backlog, tags, events, ...ofEndpoints };
}
