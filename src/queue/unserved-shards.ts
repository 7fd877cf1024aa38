/**
 * Shards of a cluster beyond those of the settings: left by a smaller `WEBHOOK_SHARDS`, or filled by a backend with a larger one.
 */
import type { Valkey } from "../valkey/connection.ts";
import { reachValkey } from "../valkey/reach.ts";
import { codeOf } from "../valkey/refusals.ts";
import { isClusterUrl, placeOf } from "../valkey/url.ts";
import { keysOf } from "./layout.ts";
import type { OpenShard } from "./open-shard.ts";
import { MAX_SHARDS, type Shard } from "./shards.ts";

const MAX_FAILED = 3; // connections, of up to 2 s each: somebody may be waiting at a terminal

/** A shard that no worker with these settings serves. */
export interface UnservedShard {
  readonly index: number;
  /** Events that are not finished. */
  readonly events: number;
}

/**
 * Find events in shards that the settings leave out. One connection to each of the cluster's nodes, one round trip on each.
 *
 * @param shards  all that are served, in order
 * @returns those with events; empty without a cluster, where other Valkeys are not known. Leaves out what cannot be read
 * @throws  never
 */
export async function findUnserved(shards: readonly [Shard, ...Shard[]]): Promise<UnservedShard[]> {
  const [{ url, queue: first }] = shards;
  const served = shards.filter((shard) => shard.url === url).length;
  if (!isClusterUrl(url)) return [];
  const nameOf = (index: number) => first.replace(/\{0\}$/, `{${index}}`);
  const found: UnservedShard[] = [];
  let tries = MAX_FAILED;
  let left = Array.from({ length: MAX_SHARDS - served }, (_, index) => served + index);
  while (left.length > 0 && tries > 0) {
    const [next, ...others] = left as [number, ...number[]];
    const reached = await reachValkey(url, "fluxhook:unserved", nameOf(next));
    if (!reached.ok) {
      tries -= 1;
      left = others;
      continue;
    }
    // Of all that are left, this node answers for its own.
    const counts = await Promise.all(left.map((index) => countEvents(reached.valkey, nameOf(index))));
    reached.valkey.disconnect();
    found.push(...left.map((index, at) => ({ index, events: Number(counts[at]) })).filter(({ events }) => events > 0));
    left = left.filter((index, at) => counts[at] === "elsewhere" && index !== next);
  }
  return found.sort((a, b) => a.index - b.index);
}

/** Say what is wrong: a sentence without its period. */
export const describeUnserved = ({ index, events }: UnservedShard): string =>
  `${events} ${events === 1 ? "event waits" : "events wait"} in shard ${index}, which nobody serves: WEBHOOK_SHARDS is too small`;

/** A shard's queue with events on a Valkey where nobody looks for them. */
export interface MisplacedQueue {
  readonly queue: string;
  /** Like `VALKEY_URL`. */
  readonly url: string;
  /** Events that are not finished. */
  readonly events: number;
}

/**
 * Find events of other shards on Valkeys of their own: `VALKEY_URL` lists them in another order than before, or not all. About a
 * thousand cheap commands on each, in one round trip.
 *
 * @param shards  the open ones; those of a cluster are left out, see {@link findUnserved}
 * @throws  never: a Valkey that does not answer is left out
 */
export async function findMisplaced(shards: readonly OpenShard[]): Promise<MisplacedQueue[]> {
  const found = shards.map(async ({ queue: own, url, valkey }) => {
    if (isClusterUrl(url)) return [];
    const base = own.replace(/-\{\d+\}$/, "");
    const names = [base, ...Array.from({ length: MAX_SHARDS }, (_, index) => `${base}-{${index}}`)];
    const others = names.filter((name) => !shards.some((shard) => shard.queue === name && shard.url === url));
    const counts = await Promise.all(others.map((name) => countEvents(valkey, name)));
    return others.map((queue, at) => ({ queue, url, events: Number(counts[at]) })).filter(({ events }) => events > 0);
  });
  return (await Promise.all(found)).flat();
}

/** Say what is wrong: a sentence without its period. */
export const describeMisplaced = ({ queue, url, events }: MisplacedQueue): string =>
  `${events} ${events === 1 ? "event waits" : "events wait"} in ${queue} on ${placeOf(url)}, which nobody serves there`;

/** How many events of a queue are not finished; "elsewhere" when another node has it. 0 when it cannot be read. */
async function countEvents(valkey: Valkey, queue: string): Promise<number | "elsewhere"> {
  const { wait, paused, active, delayed, prioritized } = keysOf({ name: queue });
  const counts = [
    ...[wait, paused, active].map((key) => valkey.llen(key)),
    ...[delayed, prioritized].map((key) => valkey.zcard(key)),
  ];
  try {
    return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0);
  } catch (error) {
    await Promise.allSettled(counts);
    return codeOf(error as Error) === "MOVED" ? "elsewhere" : 0;
  }
}
