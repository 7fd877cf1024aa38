/**
 * Erasing what is kept of a user: what the command `forget` does.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { backlogLines } from "../isolation/backlog.ts";
import { flowTagsKey } from "../isolation/fair-queue.ts";
import { flowField } from "../isolation/fair-queue-script.ts";
import { type JobPlace, keysOf, queueKey } from "../queue/layout.ts";
import { logKey } from "../queue/own-keys.ts";
import { findStrays } from "../queue/stray-jobs.ts";
import { countActive, countJobs, endMeant, type Held, leaveBacklog, WAITING } from "./cancel.ts";
import { isMeant, type JobFilter, parseObject } from "./job-filter.ts";
import { readJobs, type StoredJob, scanJobs } from "./job-pages.ts";

export const ERASED = [...WAITING, "waiting-children", "completed", "failed"] as const satisfies readonly JobPlace[];

const MAX_SWEEPS = 3; // over all keys, until one finds nothing
const LOOK_MS = 200; // between two looks at what is active
const PIECE = 200; // schedulers, or entries of the event stream, read at once

/** What is kept of a user, counted. */
export interface Holdings {
  readonly lists: Readonly<Partial<Record<JobPlace, number>>>;
  /** Jobs in none of the queue's lists; of those that were erased also such as were moved between lists meanwhile. */
  readonly other: number;
  /** Job schedulers, which make jobs of this user. */
  readonly schedulers: number;
  /** Attempts in the log. */
  readonly attempts: number;
  /** Entries of the line of those that wait. */
  readonly backlog: number;
  /** The user's place in the order between users: 1 or 0. */
  readonly tags: number;
  /** Entries of BullMQ's event stream with the user's id in them: where job ids contain it. */
  readonly events: number;
  /** Jobs whose attempt is under way. */
  readonly active: number;
  /** Jobs of anybody whose data is no JSON object. */
  readonly unreadable: number;
}

/** What was erased, and what could not be. */
export interface Erasure extends Holdings {
  /** Whether nothing is left, and no more came meanwhile. */
  readonly isDone: boolean;
}

/**
 * Count what is kept of a user, and change nothing.
 *
 * @param onSeen  told how many jobs were looked at
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function countHoldings(held: Held, userId: string, onSeen?: (jobs: number) => void): Promise<Holdings> {
  const filter = { userId };
  const { lists, unreadable } = await countJobs(held, filter, ERASED, 0, onSeen);
  const [active, schedulers, records] = await Promise.all([
    countActive(held, filter),
    findSchedulers(held, filter),
    handleRecords(held, userId, false),
  ]);
  let other = 0;
  const strays: string[] = [];
  for await (const id of findStrays(held.queue, held.valkey)) strays.push(id);
  for await (const job of readJobs(held.queue, held.valkey, strays)) if (isMeant(job, filter)) other += 1;
  return { lists, other, schedulers: schedulers.length, active, unreadable, ...records };
}

/**
 * Erase what is kept of a user: jobs in every state, job schedulers, the log of attempts, and what the queue's order and
 * bounds keep. Events that are enqueued later are not held back.
 *
 * @param patienceMs  how long to wait for attempts that are under way: their jobs cannot be removed
 * @param onSeen      told how many jobs the first pass has looked at
 * @throws  like {@link countHoldings}; what came before is done
 */
export async function eraseUser(
  held: Held,
  userId: string,
  patienceMs: number,
  onSeen?: (jobs: number) => void,
): Promise<Erasure> {
  const { queue } = held;
  const filter = { userId };
  const schedulers = await findSchedulers(held, filter);
  for (const id of schedulers) await queue.removeJobScheduler(id);

  const ended = await endMeant(held, {
    filter,
    lists: ERASED,
    onSeen,
    onEnded: (jobs) => dropTags(held, jobs),
    endOther: async (job, fate) => (fate === "flow" && (await isRemoved(held, job)) ? "ended" : fate),
  });
  const until = performance.now() + patienceMs;
  let [other, isDone, active] = [0, false, 0];
  for (let sweep = 1; sweep <= MAX_SWEEPS && !isDone; sweep++) {
    active = await waitForActive(held, filter, until);
    const found = await sweepUser(held, filter);
    other += found.removed;
    isDone = found.removed + found.left + active === 0;
    if (found.left > 0 && performance.now() >= until) break;
  }
  const records = await handleRecords(held, userId, true); // last: attempts that ended meanwhile are in the log
  const { lists, unreadable } = ended;
  return { lists, other, schedulers: schedulers.length, ...records, active, unreadable, isDone };
}

/** BullMQ's own way: it looks for the job in every list, takes a parent's child off it, and leaves children where they are. */
async function isRemoved({ queue }: Held, { id }: StoredJob): Promise<boolean> {
  return (await queue.remove(id, { removeChildren: false })) === 1;
}

/** What no list led to: strays, jobs whose attempt has ended since, and what was moved in the wrong moment. */
async function sweepUser(held: Held, filter: JobFilter) {
  let [removed, left] = [0, 0];
  for await (const job of scanJobs(held.queue, held.valkey)) {
    if (!isMeant(job, filter)) continue;
    if (await isRemoved(held, job)) {
      removed += 1;
      await Promise.all([dropTags(held, [job]), leaveBacklog(held, [job])]);
    } else left += 1;
  }
  return { removed, left };
}

/** Wait until none is active. Resolves to how many still are when the time is over. */
async function waitForActive(held: Held, filter: JobFilter, until: number): Promise<number> {
  for (;;) {
    const active = await countActive(held, filter);
    if (active === 0 || performance.now() >= until) return active;
    await sleep(LOOK_MS);
  }
}

/** Ids of the job schedulers whose jobs are of this user. BullMQ removes a scheduler's next job with it, and never alone. */
async function findSchedulers({ queue, valkey }: Held, filter: JobFilter): Promise<string[]> {
  const key = keysOf(queue).repeat;
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

/** Places of the jobs' endpoints in the order between flows: their URLs may be the user's alone. */
async function dropTags({ queue, valkey }: Held, jobs: readonly StoredJob[]): Promise<void> {
  const urls = jobs.flatMap(({ data }) => {
    const { url } = (data?.endpoint ?? {}) as { url?: unknown };
    return typeof url === "string" ? [flowField("e", url)] : [];
  });
  if (urls.length > 0) await valkey.hdel(flowTagsKey(queueKey(queue.name)), ...urls);
}

/** Count what is kept of a user beside jobs, and remove it if that is wanted. */
async function handleRecords({ queue, valkey }: Held, userId: string, isRemoving: boolean) {
  const tags = flowTagsKey(queueKey(queue.name));
  const [, line] = backlogLines(queue.name, "", userId);
  const [attempts, backlog, isTagged, events] = await Promise.all([
    valkey.zcard(logKey(userId)),
    valkey.zcard(line),
    valkey.hexists(tags, flowField("u", userId)) as Promise<number>,
    handleEvents({ queue, valkey }, userId, isRemoving),
  ]);
  if (isRemoving) {
    await Promise.all([valkey.unlink(logKey(userId)), valkey.unlink(line), valkey.hdel(tags, flowField("u", userId))]);
  }
  return { attempts, backlog, tags: isTagged, events };
}

/**
 * BullMQ's event stream has ids of jobs, and what became of them: nothing of a user, unless a backend makes ids of jobs out of
 * those of users. Such entries go. There are some 10,000 in all.
 */
async function handleEvents({ queue, valkey }: Held, userId: string, isRemoving: boolean): Promise<number> {
  const key = keysOf(queue).events;
  const isMention = createMention(userId);
  let found = 0;
  for (let from = "-"; ; ) {
    const entries = await valkey.xrange(key, from, "+", "COUNT", PIECE);
    const theirs = entries.filter(([, fields]) => fields.some(isMention)).map(([id]) => id);
    found += theirs.length;
    if (isRemoving && theirs.length > 0) await valkey.xdel(key, ...theirs);
    if (entries.length < PIECE) return found;
    from = `(${entries.at(-1)?.[0]}`;
  }
}

/** Whether a text has an id in it, and not as a part of another one: `usr_4` is not in `usr_42`. */
function createMention(userId: string): (text: string) => boolean {
  const literal = userId.replaceAll(/[^A-Za-z0-9]/g, "\\$&"); // RegExp.escape, which Node 20 does not have
  const pattern = new RegExp(`(?<![A-Za-z0-9])${literal}(?![A-Za-z0-9])`);
  return (text) => pattern.test(text);
}
