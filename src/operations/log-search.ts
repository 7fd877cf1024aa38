/**
 * Searches all users' logs, for what a user's name is not known of.
 */
import type { Attempt } from "../log/attempts.ts";
import type { OpenShards } from "../queue/open-shard.ts";
import { logKey } from "../queue/own-keys.ts";
import type { Valkey } from "../valkey/connection.ts";
import { isClusterUrl } from "../valkey/url.ts";
import { parseObject } from "./job-filter.ts";

const SCANNED = 500; // keys per SCAN
const MAX_MEMBERS = 500; // attempts per script: 1 to 2 ms of Valkey; a single log may be longer
/** A scan's cursor, after the shard's label where there are several. */
const CURSOR = /^(\d{1,3}\/|old\/|)(\d{1,20})$/;

/** A slot of a cluster has keys of its own, and its number is in the lowest bits of their cursors. */
const SLOT_BITS = 14n;

/** Where a scan begins and ends. */
const START = "0";

/** Whether a text is a cursor that an earlier search may have returned. */
export const isCursor = (text: string): boolean => BigInt(CURSOR.exec(text)?.[2] ?? 2n ** 64n) < 2n ** 64n;

/** An attempt in a user's log. */
export interface LoggedHit {
  readonly userId: string;
  readonly attempt: Attempt;
}

/** The result of a search. */
export interface LogSearch {
  readonly hits: readonly LoggedHit[];
  /** Logs searched. */
  readonly searched: number;
  /** About how many logs there are in all; as many as were searched when all were. */
  readonly total: number;
  /** Where to go on; {@link START} when all were searched. */
  readonly cursor: string;
}

/**
 * KEYS: logs. ARGV: maximum number of attempts to search, then the texts to find. Returns the number of logs searched, then for each
 * attempt that contains one of the texts the position of its log and the attempt. Keys that are no logs count as searched.
 */
const FIND = `
local left, found = tonumber(ARGV[1]), {0}
for i, key in ipairs(KEYS) do
  local size = redis.pcall("ZCARD", key)
  if type(size) == "number" then
    if i > 1 and size > left then break end
    left = left - size
    for _, attempt in ipairs(redis.call("ZRANGE", key, 0, -1)) do
      for n = 2, #ARGV do
        if string.find(attempt, ARGV[n], 1, true) then
          found[#found + 1], found[#found + 2] = i, attempt
          break
        end
      end
    end
  end
  found[1] = i
end
return found`;

export interface LogSearchOptions {
  readonly valkey: Valkey;
  /** In the names of the logs' keys, see {@link logKey}. */
  readonly tag?: string;
  /** Where to begin, of an earlier search; {@link START} by default. */
  readonly cursor?: string;
  /** Whether cursors have a slot in them. */
  readonly isInCluster?: boolean;
  /** When to stop. */
  readonly endAt: number;
  /** The clock of `endAt`, ms. */
  readonly now: () => number;
}

/** The result of a search in all shards. */
export interface AllLogsSearch extends Omit<LogSearch, "cursor"> {
  /** Where to go on; undefined when all were searched. */
  readonly next: string | undefined;
}

export interface AllLogsOptions extends Pick<LogSearchOptions, "endAt" | "now"> {
  readonly shards: OpenShards;
  /** Where to begin, {@link AllLogsSearch.next} of an earlier search. */
  readonly from: string | undefined;
}

/** Search the logs of all shards, one shard after the other, see {@link searchLogs}. An attempt's job has its shard's label. */
export async function searchAllLogs(
  ids: readonly string[],
  { shards, from, endAt, now }: AllLogsOptions,
): Promise<AllLogsSearch> {
  const [, label = "", start = START] = CURSOR.exec(from ?? "") ?? [];
  const known = shards.findIndex((shard) => shard.label === label);
  const first = Math.max(0, known); // the shard may be away by now: all others are searched then
  let [searched, total] = [0, 0];
  for (const [index, { valkey, tag, label, url }] of shards.entries()) {
    if (index < first) continue;
    const texts = label === "" ? ids : [...ids, ...ids.map((id) => label + id)];
    const cursor = index === known ? start : START;
    const found = await searchLogs(texts, { valkey, tag, cursor, endAt, now, isInCluster: isClusterUrl(url) });
    searched += found.searched;
    total += found.total;
    const after = shards[index + 1];
    const next = found.cursor !== START ? label + found.cursor : after && after.label + START;
    const isOver = found.hits.length > 0 || next === undefined || now() >= endAt;
    if (!isOver) continue;
    const all = Math.round((total / (index + 1 - first)) * shards.length);
    return { hits: found.hits, searched, total: all, next };
  }
  throw new Error("unreachable: the last shard ends the loop");
}

/**
 * Find the attempts with this event id, delivery id or job id. Stops at the first page of logs that has one, and when its time is over.
 *
 * The text is never part of a pattern: Valkey compares it byte by byte. Between pages the search pauses for as long as the page took, so
 * that Valkey has time for the workers.
 *
 * @param ids  spellings of one id
 * @throws  when Valkey answers with an error; waits while it is away
 */
async function searchLogs(ids: readonly string[], options: LogSearchOptions): Promise<LogSearch> {
  const { valkey, tag, cursor: from = START, endAt, now, isInCluster } = options;
  const seen = (at: string) => shareOf(isInCluster ? BigInt(at) >> SLOT_BITS : BigInt(at));
  const texts = ids.map((id) => JSON.stringify(id));
  const hits: LoggedHit[] = [];
  let [cursor, searched] = [from, 0];
  do {
    const startedAt = now();
    const [next, keys] = await valkey.scan(cursor, "MATCH", logKey("*", tag), "COUNT", SCANNED);
    for (let start = 0; start < keys.length; ) {
      const page = keys.slice(start);
      const found = (await valkey.eval(FIND, page.length, ...page, MAX_MEMBERS, ...texts)) as (number | string)[];
      for (let at = 1; at < found.length; at += 2) {
        const userId = (page[Number(found[at]) - 1] as string).slice(logKey("", tag).length);
        const attempt = parseObject(String(found[at + 1])) as Attempt | undefined;
        const named = [attempt?.id, attempt?.delivery, attempt?.job];
        if (attempt !== undefined && named.some((name) => ids.includes(name as string))) hits.push({ userId, attempt });
      }
      start += Number(found[0]);
    }
    searched += keys.length;
    cursor = next;
    if (cursor !== START) await new Promise((resolve) => setTimeout(resolve, now() - startedAt));
  } while (cursor !== START && hits.length === 0 && now() < endAt);
  const share = (cursor === START ? 1 : seen(cursor)) - seen(from);
  return {
    hits,
    searched,
    total: (cursor === START && from === START) || share <= 0 ? searched : Math.round(searched / share),
    cursor,
  };
}

/**
 * The share of all keys that a scan has visited at a cursor, 0 to 1.
 *
 * Valkey counts cursors up from their highest bit of the table's size, which is bit 0 of the number here: so bit n stands for 2^-(n+1)
 * of the table, whatever its size.
 */
function shareOf(cursor: bigint): number {
  let share = 0;
  for (let [bits, weight] = [cursor, 0.5]; bits > 0n; bits >>= 1n, weight /= 2)
    share += (bits & 1n) === 1n ? weight : 0;
  return share;
}
