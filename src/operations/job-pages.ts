/**
 * Reads the jobs of a queue page by page in bounded memory.
 */

import { MAX_BODY_BYTES } from "../delivery/limits.ts";
import { isJobList, type JobPlace, keysOf } from "../queue/layout.ts";
import type { OpenShard } from "../queue/open-shard.ts";
import { PINNED_FIELD } from "../queue/pin.ts";
import type { Queue } from "../queue/worker.ts";
import type { Valkey } from "../valkey/connection.ts";
import { type FilteredJob, parseObject } from "./job-filter.ts";

const PAGE = 100; // ids read at once
const SCANNED = 1_000; // keys per SCAN: at most 1 ms of Valkey
const PAGE_BYTES = 1024 * 1024; // data per script: about 1 ms of Valkey; a single job may be larger
const MAX_DATA_BYTES = 4 * MAX_BODY_BYTES; // 64 MiB; larger data is not read

/** A job as it is stored. */
export interface StoredJob extends FilteredJob {
  readonly id: string;
  /** As stored. Together with the id, it distinguishes a job from a later one with the same id. */
  readonly timestamp: string;
  /** Why its last attempt failed; undefined when none has. */
  readonly failedReason: string | undefined;
}

/** A range of a list. */
export interface Piece {
  readonly list: JobPlace;
  /** Position of its first job, counted from the end at which jobs are added. */
  readonly from: number;
  /** Position after its last job. */
  readonly to: number;
}

/** Adjacent jobs of a list. */
export interface JobPage extends Piece {
  readonly jobs: readonly StoredJob[];
}

/**
 * ARGV: prefix of job keys, maximum bytes to read, maximum size of a job's data, job ids. Returns the fields of as
 * many jobs as fit; false for keys that are not jobs.
 */
const READ = `
local prefix, budget, largest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local bytes, jobs = 0, {}
for i = 4, #ARGV do
  local key = prefix .. ARGV[i]
  local size = redis.pcall("HSTRLEN", key, "data")
  if type(size) ~= "number" then
    jobs[#jobs + 1] = false
  elseif size > largest then
    jobs[#jobs + 1] = redis.call("HMGET", key, "name", "timestamp", "failedReason", "${PINNED_FIELD}")
  else
    bytes = bytes + size
    if bytes > budget and i > 4 then break end
    jobs[#jobs + 1] = redis.call("HMGET", key, "name", "timestamp", "failedReason", "${PINNED_FIELD}", "data")
  end
end
return jobs`;

type Text = string | null;
type Fields = readonly [name: Text, timestamp: Text, failedReason: Text, pinnedTo: Text, data?: Text] | null;

/** Read the jobs with these ids, or as many as fit in a page. Undefined for ids without a job. */
async function read(queue: Queue, valkey: Valkey, ids: readonly string[]): Promise<(StoredJob | undefined)[]> {
  const args = [keysOf(queue).jobs, PAGE_BYTES, MAX_DATA_BYTES, ...ids];
  const stored = (await valkey.eval(READ, 0, ...args)) as Fields[];
  return stored.map((fields, index) => {
    const [name, timestamp, failedReason, pinnedTo, data = null] = fields ?? [null, null, null, null];
    if (timestamp === null) return undefined;
    const known = { failedReason: failedReason ?? undefined, ...(pinnedTo !== null && { pinnedTo }) };
    return { id: ids[index] as string, name: name ?? "", timestamp, ...known, data: parseObject(data) };
  });
}

/**
 * Read jobs by their ids, skipping those that no longer exist.
 *
 * @param locate  adds where registered endpoints are, if that matters
 */
export async function* readJobs(
  queue: Queue,
  valkey: Valkey,
  ids: readonly string[],
  locate?: (jobs: readonly StoredJob[]) => Promise<readonly StoredJob[]>,
): AsyncGenerator<StoredJob> {
  for (let start = 0; start < ids.length; ) {
    const jobs = await read(queue, valkey, ids.slice(start, start + PAGE));
    const present = jobs.filter((job) => job !== undefined);
    yield* locate === undefined ? present : await locate(present);
    start += jobs.length;
  }
}

/** How many jobs there are in some lists of shards. */
export async function countAll(
  shards: readonly Pick<OpenShard, "client" | "valkey">[],
  lists: readonly JobPlace[],
): Promise<number> {
  const sizes = shards.flatMap(({ client, valkey }) =>
    lists.map((list) => (isJobList(list) ? valkey.llen(keysOf(client)[list]) : valkey.zcard(keysOf(client)[list]))),
  );
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}

/** At most `count` job ids of a list, newest first, after the first `from`. */
export async function readIds(
  queue: Queue,
  valkey: Valkey,
  list: JobPlace,
  from: number,
  count: number,
): Promise<string[]> {
  const key = keysOf(queue)[list];
  const to = from + count - 1;
  return isJobList(list) ? await valkey.lrange(key, from, to) : await valkey.zrevrange(key, from, to);
}

/**
 * Visit all jobs of a list, newest first: workers take jobs from the other end, which does not shift those still to be
 * visited. Jobs added to the list meanwhile may be missed, and a job may be visited twice.
 *
 * @param visit  resolves to how many jobs of this and earlier pages it removed from the list
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function visitJobs(
  queue: Queue,
  valkey: Valkey,
  list: JobPlace,
  visit: (page: JobPage) => Promise<number>,
): Promise<void> {
  for (let from = 0; ; ) {
    const ids = await readIds(queue, valkey, list, from, PAGE);
    for (let start = 0; start < ids.length; ) {
      const jobs = await read(queue, valkey, ids.slice(start));
      const taken = await visit({ list, from, to: from + jobs.length, jobs: jobs.filter((job) => job !== undefined) });
      start += jobs.length;
      from += jobs.length - taken;
    }
    if (ids.length < PAGE) return;
  }
}

/**
 * Visit all stored jobs, in any list or in none, in no particular order. Every job that exists throughout is visited, some
 * twice. Scans the names of all keys in the database.
 *
 * @throws  like {@link visitJobs}
 */
export async function* scanJobs(queue: Queue, valkey: Valkey): AsyncGenerator<StoredJob> {
  const { jobs: prefix } = keysOf(queue);
  let cursor = "0";
  do {
    const [next, keys] = await valkey.scan(cursor, "MATCH", `${prefix}*`, "COUNT", SCANNED, "TYPE", "hash");
    cursor = next;
    yield* readJobs(
      queue,
      valkey,
      keys.map((key) => key.slice(prefix.length)),
    );
  } while (cursor !== "0");
}
