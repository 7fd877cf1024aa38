/**
 * Finds registered endpoints by their id, whoever they belong to. For the search.
 */
import { ENDPOINT_ID } from "../delivery/limits.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { endpointIndexKey } from "../queue/own-keys.ts";
import { type ListedEndpoint, type PlacedEntry, readListed } from "./endpoint-list.ts";

const SEARCH_MS = 1000; // 1 s
const PAGE = 1_000; // entries per script: less than 1 ms of Valkey
const MAX_FOUND = 50; // many users may have an endpoint `main`

/** A registered endpoint, found by its id. */
export interface EndpointFind {
  readonly kind: "endpoint";
  readonly userId: string;
  readonly endpoint: ListedEndpoint;
}

/** The result of a search. */
export interface EndpointSearch {
  readonly finds: readonly EndpointFind[];
  /** False when there may be others: the time was over, or there are more than can be shown. */
  readonly isComplete: boolean;
}

/**
 * Reads a page of the index, by score and upward: an entry that changes meanwhile moves ahead of the scan, and is not missed.
 *
 * KEYS: the index. ARGV: the lowest score, how many entries to skip there, the page's size, the endpoint's id. Returns how many entries
 * were read, the score of the last one, how many of the page's last ones have that score, then the members that name the endpoint and
 * their scores.
 */
const FIND = `
local suffix = " " .. ARGV[4]
local page = redis.call("ZRANGEBYSCORE", KEYS[1], ARGV[1], "+inf", "WITHSCORES", "LIMIT", ARGV[2], ARGV[3])
local last = page[#page] or ""
local found = { #page / 2, last, 0 }
for i = 1, #page, 2 do
  if page[i + 1] == last then found[3] = found[3] + 1 end
  if string.sub(page[i], -#suffix) == suffix then
    found[#found + 1], found[#found + 2] = page[i], page[i + 1]
  end
end
return found`;

interface Clock {
  /** When to stop at the latest. */
  readonly endAt: number;
  /** The clock of `endAt`, ms. */
  readonly now: () => number;
}

/**
 * Find the endpoints with exactly this id, in the indexes of all shards. Takes {@link SEARCH_MS} at most: between pages it pauses for as
 * long as the page took, so that Valkey has time for the workers.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function findEndpointsById(
  shards: OpenShards,
  id: string,
  { endAt, now }: Clock,
): Promise<EndpointSearch> {
  if (!ENDPOINT_ID.test(id)) return { finds: [], isComplete: true };
  const bounds = { endAt: Math.min(endAt, now() + SEARCH_MS), now };
  const parts = await Promise.all(shards.map((shard) => searchIndex(shard, id, bounds)));
  const entries = parts.flatMap((part) => part.entries);
  const endpoints = await readListed(entries.slice(0, MAX_FOUND));
  const finds = endpoints.flatMap((endpoint): EndpointFind[] =>
    endpoint === undefined ? [] : [{ kind: "endpoint", userId: endpoint.userId, endpoint }],
  );
  return {
    // While users move between shards, an endpoint may be in the index of both.
    finds: [...new Map(finds.map((find) => [find.userId, find])).values()],
    isComplete: entries.length <= MAX_FOUND && parts.every((part) => part.isComplete),
  };
}

async function searchIndex(
  shard: OpenShard,
  id: string,
  { endAt, now }: Clock,
): Promise<{ readonly entries: PlacedEntry[]; readonly isComplete: boolean }> {
  const entries: PlacedEntry[] = [];
  for (let [from, skip] = ["-inf", 0]; ; ) {
    const startedAt = now();
    const args = [endpointIndexKey(shard.tag), from, skip, PAGE, id];
    const [read, last, same, ...found] = (await shard.valkey.eval(FIND, 1, ...args)) as [number, string, number];
    const members = found as string[];
    for (let at = 0; at < members.length; at += 2) {
      const [userId = ""] = (members[at] as string).split(" ");
      entries.push({ shard, entry: { userId, id, at: Number(members[at + 1]) } });
    }
    if (read < PAGE) return { entries, isComplete: true };
    if (entries.length > MAX_FOUND || now() >= endAt) return { entries, isComplete: false };
    skip = last === from ? skip + same : same;
    from = last;
    await new Promise((resolve) => setTimeout(resolve, now() - startedAt));
  }
}
