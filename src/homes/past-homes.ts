/**
 * Among how many shards the homes of registered endpoints may be: a change of the number of shards leaves endpoints behind until `fluxhook endpoints rehome`
 * finds nothing more to move. The settings name one such change; this remembers those before it, too.
 *
 * Key: `webhooks:homes:<queue of the first shard>`, a string without expiry: numbers of shards, separated by blanks. Absent before the first
 * change. Workers that start with `WEBHOOK_SHARDS_BEFORE` add both numbers if any endpoint is registered, and `rehome` leaves the present one.
 */
import { endpointIndexKey, homesKey } from "../queue/own-keys.ts";
import { homeAt, homeOf, type Shard } from "../queue/shards.ts";
import type { Valkey } from "../valkey/connection.ts";

type HomeShard = Pick<Shard, "queue" | "index" | "label" | "isDrained" | "before">;
type ProbedShard = HomeShard & Pick<Shard, "tag"> & { readonly probe: Valkey };
type Shards<S extends HomeShard> = readonly [S, ...S[]];

/**
 * KEYS: the record. ARGV: 1 if any endpoint is registered, the present number of shards, and the one before. While it has the present one alone,
 * all has been moved: a worker that still has the setting adds nothing.
 */
const NOTE = `
local known = redis.call("GET", KEYS[1])
if known == ARGV[2] or not known and ARGV[1] == "0" then return end
for i = 2, #ARGV do
  local count = ARGV[i]
  if not string.find(" " .. (known or "") .. " ", " " .. count .. " ", 1, true) then
    known = (known and known .. " " or "") .. count
  end
end
redis.call("SET", KEYS[1], known)`;

const countOf = (shards: readonly HomeShard[]): number => shards.filter(({ isDrained }) => !isDrained).length;

/**
 * Remember the change that the settings name, if they do and there are endpoints to move: a shard that cannot be asked may have some. Throws
 * and waits as the first shard's connection does.
 */
export async function noteChange(shards: Shards<ProbedShard>): Promise<void> {
  const [{ queue, before, probe }] = shards;
  if (before === undefined) return;
  const indexes = shards.map((shard) => shard.probe.exists(endpointIndexKey(shard.tag)).catch(() => 1));
  const isAny = (await Promise.all(indexes)).includes(1);
  await probe.eval(NOTE, 1, homesKey(queue), isAny ? 1 : 0, countOf(shards), before);
}

/** Remember that all endpoints are at home. Throws and waits as Valkey's connection does. */
export async function noteSettled(valkey: Valkey, shards: Shards<HomeShard>): Promise<void> {
  await valkey.set(homesKey(shards[0].queue), countOf(shards));
}

/** The numbers of shards from changes that have not ended, and that the settings do not name. Throws and waits as Valkey's connection does. */
export async function readPastCounts(valkey: Valkey, shards: Shards<HomeShard>): Promise<number[]> {
  const [{ queue, before }] = shards;
  const numbers = ((await valkey.get(homesKey(queue))) ?? "").split(" ").map(Number);
  return numbers.filter((count) => count > 0 && count !== countOf(shards) && count !== before);
}

/** The shards of those numbers that may have a user's endpoints; undefined for one that is not among these. */
export function pastHomesAmong<S extends HomeShard>(
  shards: Shards<S>,
  userId: string,
  counts: readonly number[],
): Set<S | undefined> {
  return new Set(counts.map((count) => homeAt(shards, homeOf(userId, count))));
}

/** What is wrong while there is such a number, and what to do about it. */
export const leftBehind = (count: number): string => `users may have endpoints where ${count} shards had them`;
export const howToSettle = (count: number): string =>
  `run fluxhook endpoints rehome --from ${count} until it finds nothing to move`;

/** Both: a sentence without its period. */
export const describePast = (count: number): string => `${leftBehind(count)}: ${howToSettle(count)}`;
