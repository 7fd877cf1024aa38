/**
 * Searches the jobs that a queue keeps.
 */
import { eventIdOf } from "../delivery/request.ts";
import { type JobPlace, keysOf } from "../queue/layout.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import type { Queue } from "../queue/worker.ts";
import type { Valkey } from "../valkey/connection.ts";
import { userOf } from "./job-filter.ts";
import { countAll, readIds, readJobs, type StoredJob } from "./job-pages.ts";

const PAGE = 500; // ids read at once
const PAGE_BYTES = 2 * 1024 * 1024; // data per script: about 1 ms of Valkey; a single job may be larger

/** Where jobs are searched, in this order: what operators look for is most often there. */
const SEARCHED = [
  "failed",
  "active",
  "delayed",
  "completed",
  "wait",
  "prioritized",
  "paused",
] as const satisfies readonly JobPlace[];

/** UUIDs of version 5 may be derived from a job. */
const DERIVED = /^[\da-f]{8}-[\da-f]{4}-5/i;

/** The result of a search. */
export interface JobSearch {
  readonly hits: readonly StoredJob[];
  /** Jobs searched. */
  readonly searched: number;
  /** How many jobs there were. */
  readonly total: number;
}

/**
 * ARGV: prefix of job keys, maximum bytes to search, number of texts, the texts, job ids. Returns for as many jobs as fit an empty text
 * when there is none, otherwise its timestamp, with an exclamation mark in front when its data contains one of the texts.
 */
const FIND = `
local prefix, budget, texts = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local bytes, found = 0, {}
for i = 4 + texts, #ARGV do
  local key = prefix .. ARGV[i]
  local size = redis.pcall("HSTRLEN", key, "data")
  if type(size) ~= "number" then
    found[#found + 1] = ""
  else
    bytes = bytes + size
    if bytes > budget and #found > 0 then break end
    local timestamp, data = unpack(redis.call("HMGET", key, "timestamp", "data"))
    local mark = ""
    for n = 4, 3 + texts do
      if data and string.find(data, ARGV[n], 1, true) then mark = "!" end
    end
    found[#found + 1] = timestamp and mark .. timestamp or ""
  end
end
return found`;

export interface JobSearchOptions {
  readonly queue: Queue;
  readonly valkey: Valkey;
  /** When to stop. */
  readonly endAt: number;
  /** The clock of `endAt`, ms. */
  readonly now: () => number;
}

/** Jobs of one shard. */
export interface ShardHits {
  readonly shard: OpenShard;
  readonly jobs: readonly StoredJob[];
}

/**
 * Search the jobs of all shards at once, see {@link searchJobs}.
 *
 * @returns the hits of each shard that has some
 */
export async function searchAllJobs(
  ids: readonly string[],
  { shards, ...bounds }: Pick<JobSearchOptions, "endAt" | "now"> & { readonly shards: OpenShards },
): Promise<Omit<JobSearch, "hits"> & { readonly hits: readonly ShardHits[] }> {
  const found = await Promise.all(
    shards.map(async (shard) => {
      const { hits: jobs, ...reach } = await searchJobs(ids, { ...bounds, queue: shard.client, valkey: shard.valkey });
      return { shard, jobs, ...reach };
    }),
  );
  return {
    hits: found.filter(({ jobs }) => jobs.length > 0),
    searched: found.reduce((sum, { searched }) => sum + searched, 0),
    total: found.reduce((sum, { total }) => sum + total, 0),
  };
}

/**
 * Find the job of the event with this id, given by its producer or derived from the job, or a job of the user with this id. Stops at the
 * first page that has one, and when its time is over. Jobs that move meanwhile may be missed.
 *
 * @param ids  spellings of one id
 * @throws  when Valkey answers with an error; waits while it is away
 */
async function searchJobs(ids: readonly string[], { queue, valkey, endAt, now }: JobSearchOptions): Promise<JobSearch> {
  const texts = ids.map((id) => JSON.stringify(id));
  const isDerived = ids.some((id) => DERIVED.test(id));
  const total = await countAll([{ client: queue, valkey }], SEARCHED);
  let searched = 0;
  for (const list of SEARCHED) {
    for (let from = 0; ; ) {
      const page = await readIds(queue, valkey, list, from, PAGE);
      const marked: string[] = [];
      for (let start = 0; start < page.length; ) {
        const rest = page.slice(start);
        const args = [keysOf(queue).jobs, PAGE_BYTES, texts.length, ...texts, ...rest];
        const found = (await valkey.eval(FIND, 0, ...args)) as string[];
        for (const [index, timestamp] of found.entries()) {
          const id = rest[index] as string;
          const isNamed = timestamp.startsWith("!");
          if (isNamed || (isDerived && ids.includes(idOf(queue, id, timestamp)))) marked.push(id);
        }
        start += found.length;
        searched += found.length;
        if (now() >= endAt) break;
      }
      const hits: StoredJob[] = [];
      for await (const job of readJobs(queue, valkey, marked)) if (isNamedBy(queue, job, ids)) hits.push(job);
      if (hits.length > 0 || now() >= endAt) return { hits, searched, total };
      if (page.length < PAGE) break;
      from += page.length;
    }
  }
  return { hits: [], searched: Math.max(searched, total), total };
}

const idOf = (queue: Queue, id: string, timestamp: string | number): string =>
  eventIdOf({ queueName: queue.name, id, timestamp: Number(timestamp) }, undefined);

/** The id of a stored job's event. */
export function storedEventId(queue: Queue, { id, timestamp, data }: StoredJob): string {
  return typeof data?.id === "string" ? data.id : idOf(queue, id, timestamp);
}

function isNamedBy(queue: Queue, job: StoredJob, ids: readonly string[]): boolean {
  return [storedEventId(queue, job), userOf(job)].some((name) => name !== undefined && ids.includes(name));
}
