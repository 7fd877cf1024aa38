/**
 * The index of a shard's endpoints, with which operators list those of all users without reading every key.
 *
 * Keys, in the slot of the shard's users, sorted sets with members of `<userId> <id>`, about 100 bytes each:
 *
 * - `webhooks:endpoint-index`, all endpoints; score: the last change of document or state, epoch ms
 * - `webhooks:endpoint-off`, those that are paused or disabled; score: since when, epoch ms
 *
 * The scripts that change an endpoint write it, too. Where they could not, {@link reindexEndpoints} repairs it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { endpointIndexKey, endpointOffKey, endpointsKey } from "../queue/own-keys.ts";
import type { Valkey } from "../valkey/connection.ts";

const SCANNED = 500; // keys per SCAN
const PIECE = 100; // entries read, or users repaired, at once
const PAUSE_MS = 5; // between pieces, for Valkey's other clients

/** An endpoint in the index. */
export interface IndexEntry {
  readonly userId: string;
  readonly id: string;
  /** Its score, epoch ms. */
  readonly at: number;
}

/** Which of a shard's two lists: all endpoints, or those that are paused or disabled. */
export type IndexList = "all" | "off";

/** An endpoint's name in the index. Neither id has a blank. */
export const indexMember = (userId: string, id: string): string => `${userId} ${id}`;

/** Compare entries by their order in a list: the latest first, then backwards by name. Pure. */
export function compareEntries(a: IndexEntry, b: IndexEntry): number {
  if (a.at !== b.at) return b.at - a.at;
  const [one, other] = [indexMember(a.userId, a.id), indexMember(b.userId, b.id)];
  if (one === other) return 0;
  return one < other ? 1 : -1;
}

/**
 * Read a piece of a list, the latest first.
 *
 * @param after  the last entry of the piece before; undefined for the first piece
 * @returns at most `count` entries; none at the end
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readIndex(
  valkey: Valkey,
  tag: string,
  list: IndexList,
  after: IndexEntry | undefined,
  count = PIECE,
): Promise<IndexEntry[]> {
  const key = list === "all" ? endpointIndexKey(tag) : endpointOffKey(tag);
  for (let skip = 0; ; skip += count) {
    const page = ["LIMIT", skip, count] as const;
    const reply = await valkey.zrevrangebyscore(key, after?.at ?? "+inf", "-inf", "WITHSCORES", ...page);
    const entries = reply.flatMap((member, index) =>
      index % 2 === 0 ? parseEntry(member, Number(reply[index + 1])) : [],
    );
    const fresh = after === undefined ? entries : entries.filter((entry) => compareEntries(after, entry) < 0);
    // Many may have the same score as `after`.
    if (fresh.length > 0 || reply.length < 2 * count) return fresh;
  }
}

/** Count a list's entries. Throws like {@link readIndex}. */
export async function countIndex(valkey: Valkey, tag: string, list: IndexList): Promise<number> {
  return await valkey.zcard(list === "all" ? endpointIndexKey(tag) : endpointOffKey(tag));
}

function parseEntry(member: string, at: number): IndexEntry[] {
  const [userId, id, rest] = member.split(" ");
  return userId && id && rest === undefined ? [{ userId, id, at }] : [];
}

/**
 * Writes a user's entries as their endpoints are.
 *
 * KEYS: the index, those that are off, the user's endpoints. ARGV: the user's id. Returns how many endpoints there are, and how many entries
 * were wrong.
 */
const REPAIR = `
local fields = redis.pcall("HGETALL", KEYS[3])
if fields.err then return { 0, 0 } end
local stored, endpoints, repaired = {}, 0, 0
for i = 1, #fields, 2 do stored[fields[i]] = fields[i + 1] end
for id, text in pairs(stored) do
  if not string.find(id, "/", 1, true) then
    local member, state = ARGV[1] .. " " .. id, stored[id .. "/state"]
    local isRead, document = pcall(cjson.decode, string.match(text, " (.*)$") or "")
    local at = isRead and type(document) == "table" and tonumber(document.updatedAt) or 0
    local since = state and tonumber(string.match(state, "%d+$") or 0)
    repaired = repaired + redis.call("ZADD", KEYS[1], "CH", string.format("%.0f", math.max(at, since or 0)), member)
    if since then repaired = repaired + redis.call("ZADD", KEYS[2], "CH", string.format("%.0f", since), member)
    else repaired = repaired + redis.call("ZREM", KEYS[2], member) end
    endpoints = endpoints + 1
  end
end
return { endpoints, repaired }`;

/**
 * Removes entries of endpoints that are gone.
 *
 * KEYS: the index, those that are off, then for each entry its user's endpoints. ARGV: of each entry the member and the endpoint's id.
 * Returns how many were removed.
 */
const PRUNE = `
local removed = 0
for i = 3, #KEYS do
  local member, id = ARGV[2 * i - 5], ARGV[2 * i - 4]
  if redis.pcall("HEXISTS", KEYS[i], id) ~= 1 then
    if redis.call("ZREM", KEYS[1], member) + redis.call("ZREM", KEYS[2], member) > 0 then removed = removed + 1 end
  end
end
return removed`;

/** What a repair of the index has done so far. */
export interface Reindexed {
  /** Users with endpoints. */
  readonly users: number;
  readonly endpoints: number;
  /** Entries that were missing, or had the wrong time. */
  readonly repaired: number;
  /** Entries of endpoints that are gone. */
  readonly removed: number;
}

/**
 * Make a shard's index as its endpoints are. Reads the names of all keys of the database, a page at a time, while all else goes on. It can
 * be interrupted and run again: what is right stays.
 *
 * @param onProgress  called after each piece
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function reindexEndpoints(
  valkey: Valkey,
  tag: string,
  onProgress: (done: Reindexed) => void = () => {},
): Promise<Reindexed> {
  const keys = [endpointIndexKey(tag), endpointOffKey(tag)] as const;
  const done = { users: 0, endpoints: 0, repaired: 0, removed: 0 };
  const prefix = endpointsKey("", tag);
  let cursor = "0";
  do {
    const [next, found] = await valkey.scan(cursor, "MATCH", `${prefix}*`, "COUNT", SCANNED, "TYPE", "hash");
    cursor = next;
    for (let at = 0; at < found.length; at += PIECE) {
      const some = [...new Set(found.slice(at, at + PIECE))];
      const repair = (key: string) => valkey.eval(REPAIR, 3, ...keys, key, key.slice(prefix.length));
      for (const reply of await Promise.all(some.map(repair))) {
        const [endpoints, repaired] = reply as [number, number];
        done.users += endpoints > 0 ? 1 : 0;
        done.endpoints += endpoints;
        done.repaired += repaired;
      }
      onProgress({ ...done });
    }
    await sleep(PAUSE_MS);
  } while (cursor !== "0");
  for (const list of ["all", "off"] as const) {
    let after: IndexEntry | undefined;
    for (;;) {
      const entries = await readIndex(valkey, tag, list, after);
      if (entries.length === 0) break;
      after = entries.at(-1);
      const own = entries.map(({ userId }) => endpointsKey(userId, tag));
      const args = entries.flatMap(({ userId, id }) => [indexMember(userId, id), id]);
      done.removed += (await valkey.eval(PRUNE, 2 + own.length, ...keys, ...own, ...args)) as number;
      onProgress({ ...done });
      await sleep(PAUSE_MS);
    }
  }
  return done;
}
