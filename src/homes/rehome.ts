/**
 * Moves the endpoints of all users who are not at home, after a change of the number of shards. What that leaves is the state: a run that
 * was interrupted is resumed by the next. How one user moves is described in move.ts.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { endpointLogKey, endpointsKey, healthKey, missedKey } from "../queue/own-keys.ts";
import { homeAmong, homeAt, type Shard } from "../queue/shards.ts";
import { MOVED_FIELD, VERSION_FIELD } from "../registry/endpoint.ts";
import { EndpointsMoved } from "../registry/refusals.ts";
import { moveHealth, moveRest, moveUser, type Place } from "./move.ts";
import { LEFT_FIELD } from "./move-scripts.ts";
import { noteSettled, readPastCounts } from "./past-homes.ts";

const SCANNED = 500; // keys per SCAN
const AT_ONCE = 8; // users
const PAUSE_MS = 5; // between pages, for Valkey's other clients

/** What was moved, or would be. */
export interface Rehomed {
  readonly users: number;
  readonly endpoints: number;
  /** Events that endpoints missed. */
  readonly missed: number;
  /** Attempts in the endpoints' logs. */
  readonly attempts: number;
  /** Endpoints that were not moved, since the user's home has one of that id. They are gone. */
  readonly present: number;
  /** Users whose endpoints are in a shard that is not known. */
  readonly unmoved: number;
  /** Numbers of shards, of a change before, of which not all are known: users may have endpoints in the others. */
  readonly unknown: readonly number[];
}

type HomeShard = Place & Pick<Shard, "index" | "label" | "isDrained" | "before">;

interface Rehoming {
  readonly shards: readonly [HomeShard, ...HomeShard[]];
  readonly dryRun: boolean;
  readonly done: { -readonly [K in Exclude<keyof Rehomed, "unknown">]: number };
}

/**
 * Move all users home who have endpoints in another shard, with what these missed, their health and their logs. Reads the names of all
 * keys of each Valkey, a page at a time, while all else goes on.
 *
 * @param shards  all of the queue, with connections
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function rehome(
  shards: readonly [HomeShard, ...HomeShard[]],
  { dryRun = false }: { dryRun?: boolean } = {},
): Promise<Rehomed> {
  const done = { users: 0, endpoints: 0, missed: 0, attempts: 0, present: 0, unmoved: 0 };
  const rehoming: Rehoming = { shards, dryRun, done };
  for (const shard of shards) {
    for await (const users of scan(shard, endpointsKey("", shard.tag), "hash")) {
      await inParallel(users, (userId) => moveFrom(rehoming, shard, userId));
    }
  }
  const [first] = shards;
  const counts = await readPastCounts(first.valkey, shards);
  const unknown = counts.filter((count) => homeAt(shards, count - 1) === undefined);
  if (dryRun) return { ...done, unknown };
  // What attempts that began before a user moved have written since.
  for (const shard of shards) {
    for await (const users of scan(shard, healthKey("", shard.tag), "hash")) {
      await inParallel(users, (userId) => moveRemains(rehoming, shard, userId));
    }
    for (const [keyOf, type] of [[missedKey, "zset"] as const, [endpointLogKey, "list"] as const]) {
      const prefix = keyOf("", "", shard.tag).slice(0, -1);
      for await (const names of scan(shard, prefix, type)) {
        await inParallel(names, async (name) => {
          const colon = name.lastIndexOf(":"); // a user's id may hold one
          await moveRemains(rehoming, shard, name.slice(0, colon), name.slice(colon + 1));
        });
      }
    }
  }
  if (done.users === 0 && done.unmoved === 0 && unknown.length === 0) await noteSettled(first.valkey, shards);
  return { ...done, unknown };
}

/** Names of keys behind a prefix, a page at a time. */
async function* scan({ valkey }: Place, prefix: string, type: string): AsyncGenerator<string[]> {
  let cursor = "0";
  do {
    const [next, found] = await valkey.scan(cursor, "MATCH", `${prefix}*`, "COUNT", SCANNED, "TYPE", type);
    cursor = next;
    yield [...new Set(found.map((key) => key.slice(prefix.length)))];
    await sleep(PAUSE_MS);
  } while (cursor !== "0");
}

async function inParallel<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  for (let at = 0; at < items.length; at += AT_ONCE) await Promise.all(items.slice(at, at + AT_ONCE).map(work));
}

async function moveFrom({ shards, dryRun, done }: Rehoming, from: HomeShard, userId: string): Promise<void> {
  const home = homeAmong(shards, userId);
  if (home === from) return;
  const key = endpointsKey(userId, from.tag);
  const [version, moved, left] = await from.valkey.hmget(key, VERSION_FIELD, MOVED_FIELD, LEFT_FIELD);
  const isMoving = moved?.includes(" ") === true;
  if (!version && !isMoving && !left) return; // moved before, or never had an endpoint
  if (dryRun) {
    done.users += 1;
    done.endpoints += Object.keys(await from.valkey.hgetall(key)).filter((field) => !field.includes("/")).length;
    return;
  }
  try {
    const came = left ? undefined : await moveUser(shards, from, home, userId);
    const ids = (await from.valkey.hget(key, LEFT_FIELD)) ?? "";
    const rest = await moveRest(from, home, userId, ids === "" ? [] : ids.split(" "));
    done.users += 1;
    done.endpoints += came?.endpoints ?? 0;
    done.present += came?.present ?? 0;
    done.missed += rest.missed;
    done.attempts += rest.attempts;
  } catch (error) {
    if (!(error instanceof EndpointsMoved)) throw error;
    done.unmoved += 1;
  }
}

/** @param id  an endpoint's, to move what it missed and its log; otherwise the user's health is moved */
async function moveRemains({ shards, done }: Rehoming, from: HomeShard, userId: string, id?: string): Promise<void> {
  const home = homeAmong(shards, userId);
  if (home === from) return;
  const [version, moved] = await from.valkey.hmget(endpointsKey(userId, from.tag), VERSION_FIELD, MOVED_FIELD);
  if (version && !moved) return; // served here, since a moment ago
  try {
    if (id === undefined) return await moveHealth(from, home, userId);
    const rest = await moveRest(from, home, userId, [id]);
    done.missed += rest.missed;
    done.attempts += rest.attempts;
  } catch (error) {
    if (!(error instanceof EndpointsMoved)) throw error;
  }
}
