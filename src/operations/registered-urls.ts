/**
 * Looks up where registered endpoints are now, for jobs that name one by its id: for filters by host and by URL, and to show it.
 */
import { parseUrl } from "../delivery/endpoint-url.ts";
import { ENDPOINT_ID, USER_ID } from "../delivery/limits.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { endpointsKey } from "../queue/own-keys.ts";
import { formerHomeAmong, homeAmong, type Shard } from "../queue/shards.ts";
import { parseStored } from "../registry/stored.ts";
import { endpointIdOf, type FilteredJob, userOf } from "./job-filter.ts";

const READ_TOGETHER = 100; // endpoints per pipeline, of at most 16 KiB each
const MAX_KNOWN = 10_000; // endpoints remembered; beyond them, all are read anew

type AllShards = readonly [Shard, ...Shard[]];

/**
 * Jobs with the URLs of the registered endpoints that they name, in the same order. Others are returned as they are, and so are jobs
 * whose endpoint was deleted, is damaged or cannot be read. Each endpoint is read once.
 *
 * @throws  when Valkey cannot be asked; waits while it is away
 */
export type LocateJobs = <J extends FilteredJob>(jobs: readonly J[]) => Promise<J[]>;

/**
 * Create a lookup for one operation: URLs that change meanwhile stay as they were read.
 *
 * @param there  the shards to ask; endpoints of users whose home is another one are not found
 */
export function createLocateJobs(all: OpenShards): LocateJobs;
export function createLocateJobs(all: AllShards, there: OpenShards): LocateJobs;
export function createLocateJobs(all: AllShards, there = all as OpenShards): LocateJobs {
  const known = new Map<string, URL | undefined>();
  return async (jobs) => {
    const names = jobs.map(nameOf);
    if (known.size > MAX_KNOWN) known.clear();
    const unknown = new Map(names.flatMap((name) => (name && !known.has(name.key) ? [[name.key, name]] : [])));
    const wanted = [...unknown.values()];
    for (let at = 0; at < wanted.length; at += READ_TOGETHER) {
      const some = wanted.slice(at, at + READ_TOGETHER);
      const urls = await readUrls(all, there, some);
      for (const [index, { key }] of some.entries()) known.set(key, urls[index]);
    }
    return jobs.map((job, index) => {
      const name = names[index];
      const registeredUrl = name && known.get(name.key);
      return registeredUrl === undefined ? job : { ...job, registeredUrl };
    });
  };
}

interface Name {
  readonly key: string;
  readonly userId: string;
  readonly id: string;
}

function nameOf(job: FilteredJob): Name | undefined {
  const [userId, id] = [userOf(job), endpointIdOf(job)];
  if (userId === undefined || id === undefined || !USER_ID.test(userId) || !ENDPOINT_ID.test(id)) return undefined;
  return { key: `${id}/${userId}`, userId, id };
}

/** The URLs of endpoints: each from its user's home or, until it has been moved there, from the home of before. */
async function readUrls(all: AllShards, there: OpenShards, names: readonly Name[]): Promise<(URL | undefined)[]> {
  const urls = await readAt(there, names, ({ userId }) => homeAmong(all, userId));
  const missing = names.filter(({ key }) => urls.get(key) === undefined);
  const before = await readAt(there, missing, ({ userId }) => formerHomeAmong(all, userId));
  return names.map(({ key }) => urls.get(key) ?? before.get(key));
}

async function readAt(
  there: OpenShards,
  names: readonly Name[],
  shardOf: (name: Name) => Pick<Shard, "queue"> | undefined,
): Promise<Map<string, URL | undefined>> {
  const places = new Map<OpenShard, Name[]>();
  for (const name of names) {
    const queue = shardOf(name)?.queue;
    const place = queue === undefined ? undefined : there.find((shard) => shard.queue === queue);
    if (place !== undefined) places.set(place, [...(places.get(place) ?? []), name]);
  }
  const urls = new Map<string, URL | undefined>();
  await Promise.all(
    [...places].map(async ([{ valkey, tag }, own]) => {
      const pipeline = valkey.pipeline();
      for (const { userId, id } of own) pipeline.hget(endpointsKey(userId, tag), id);
      const replies = (await pipeline.exec()) ?? [];
      for (const [index, [error, stored]] of replies.entries()) {
        const { key, id } = own[index] as Name;
        urls.set(key, error ? undefined : readUrl(id, stored as string | null));
      }
    }),
  );
  return urls;
}

function readUrl(id: string, stored: string | null): URL | undefined {
  const [endpoint] = parseStored(stored === null ? {} : { [id]: stored }); // never throws
  return endpoint && parseUrl(endpoint.document.url);
}
