/**
 * Stray jobs: stored in Valkey but in none of the queue's lists, so that they are never delivered.
 *
 * BullMQ itself moves jobs between lists atomically and leaves none behind. Strays come from a BullMQ 4 or 5 client's pause or
 * resume that destroyed a list (see paused-list.ts), or from a list that was deleted or restored by hand.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { repeatEvery } from "../runtime/repeat.ts";
import type { Valkey } from "../valkey/connection.ts";
import { JOB_LISTS, JOB_SETS, keysOf, PRIORITY_SCORE } from "./layout.ts";
import { straysKey } from "./own-keys.ts";
import { WAKE_WORKERS } from "./wake-up.ts";
import type { Queue } from "./worker.ts";

const PAGE = 1_000; // keys or ids read at once
const BATCH = 250; // jobs per script: about 1 ms of Valkey
const PAUSE_MS = 5; // between pages, for Valkey's other clients

/**
 * KEYS: the lists, then the sets. ARGV: the prefix of job keys, how many KEYS are lists, then job ids. `isStray` is true for a
 * job that is in none of them. Only jobs' hashes have a timestamp, unlike those of schedulers.
 */
const IS_STRAY = `
local prefix, lists = ARGV[1], tonumber(ARGV[2])
local function isStray(id)
  if redis.call("HEXISTS", prefix .. id, "timestamp") == 0 then return false end
  for i = lists + 1, #KEYS do if redis.call("ZSCORE", KEYS[i], id) then return false end end
  for i = 1, lists do if redis.call("LPOS", KEYS[i], id) then return false end end
  return true
end
`;

/** Returns the ids that are strays. */
const FIND = `${IS_STRAY}
local strays = {}
for i = 3, #ARGV do if isStray(ARGV[i]) then strays[#strays + 1] = ARGV[i] end end
return strays`;

/**
 * Puts strays back: finished ones into `completed` or `failed`, the others in front of the waiting jobs. Returns how many. KEYS
 * continues after the sets with: the priority counter, meta, marker.
 */
const PUT_BACK = `${IS_STRAY}
local marker, meta, counter = table.remove(KEYS), table.remove(KEYS), table.remove(KEYS)
local ${[...JOB_LISTS, ...JOB_SETS].map((name) => name.replace("-", "_")).join(", ")} = unpack(KEYS)
local back = 0
for i = 3, #ARGV do
  local id = ARGV[i]
  if isStray(id) then
    local finishedOn, reason, priority = unpack(redis.call("HMGET", prefix .. id, "finishedOn", "failedReason", "priority"))
    priority = tonumber(priority or 0) or 0
    if finishedOn then
      redis.call("ZADD", reason and failed or completed, finishedOn, id)
    elseif priority > 0 then
      redis.call("ZADD", prioritized, priority * ${PRIORITY_SCORE} + redis.call("INCR", counter) % ${PRIORITY_SCORE}, id)
    else
      redis.call("RPUSH", wait, id)
    end
    back = back + 1
  end
end
if back > 0 then ${WAKE_WORKERS} end
return back`;

/**
 * Find the ids of all stray jobs. Scans the names of all keys in the database page by page, so it takes about a second per
 * 100,000 jobs. The queue keeps running, and jobs moved during the scan are not mistaken for strays.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function* findStrays(queue: Queue, valkey: Valkey): AsyncGenerator<string> {
  const { jobs: prefix } = keysOf(queue);
  const known = await readLists(queue, valkey); // there may be many waiting jobs, and LPOS is linear
  let cursor = "0";
  do {
    const [next, keys] = await valkey.scan(cursor, "MATCH", `${prefix}*`, "COUNT", PAGE, "TYPE", "hash");
    cursor = next;
    const ids = [...new Set(keys.map((key) => key.slice(prefix.length)))].filter((id) => !known.has(id));
    for (let i = 0; i < ids.length; i += BATCH) {
      for (const id of await run<string[]>(queue, valkey, FIND, [], ids.slice(i, i + BATCH))) {
        known.add(id); // SCAN may return a key twice
        yield id;
      }
    }
    await sleep(PAUSE_MS);
  } while (cursor !== "0");
}

/**
 * Put stray jobs back where they belong; unfinished ones are delivered next.
 *
 * @returns how many; ids that are not strays are skipped
 * @throws  like {@link findStrays}
 */
export async function putBackStrays(queue: Queue, valkey: Valkey, ids: readonly string[]): Promise<number> {
  const keys = keysOf(queue);
  let back = 0;
  for (let i = 0; i < ids.length; i += BATCH) {
    back += await run<number>(queue, valkey, PUT_BACK, [keys.pc, keys.meta, keys.marker], ids.slice(i, i + BATCH));
  }
  return back;
}

function run<T>(queue: Queue, valkey: Valkey, script: string, more: readonly string[], ids: readonly string[]) {
  const { jobs, ...named } = keysOf(queue);
  const keys = [...[...JOB_LISTS, ...JOB_SETS].map((name) => named[name]), ...more];
  return valkey.eval(script, keys.length, ...keys, jobs, JOB_LISTS.length, ...ids) as Promise<T>;
}

async function readLists(queue: Queue, valkey: Valkey): Promise<Set<string>> {
  const known = new Set<string>();
  for (const list of JOB_LISTS) {
    for (let start = 0; ; start += PAGE) {
      const ids = await valkey.lrange(keysOf(queue)[list], start, start + PAGE - 1);
      for (const id of ids) known.add(id);
      if (ids.length < PAGE) break;
    }
  }
  return known;
}

const CENSUS_MS = 60 * 1000; // 1 min between counts
const REST_SHARE = 100; // and at least a hundred times as long as a count took
const KEPT_MS = 60 * 60 * 1000; // 1 h: how long a count is valid without a newer one

/** Key: `webhooks:strays:<queue>`, how many strays the last census found; expires after an hour. */
const countKey = straysKey;

/** Key: `webhooks:strays:<queue>:next`, a lock of the process that counts; its expiry is when the next census is due. */
const lockKey = (queue: string) => `${countKey(queue)}:next`;

/**
 * Count strays about once a minute, in one process per queue, and store the count.
 *
 * @returns a function that stops counting
 */
export function watchStrays(queue: Queue, valkey: Valkey, periodMs = CENSUS_MS): () => void {
  return repeatEvery(periodMs, async () => {
    if ((await valkey.set(lockKey(queue.name), "", "PX", 10 * periodMs, "NX")) === null) return;
    const startedAt = performance.now();
    const strays = await countStrays(queue, valkey);
    await valkey.set(countKey(queue.name), strays, "PX", KEPT_MS);
    const restMs = Math.max(periodMs / 2, Math.ceil(REST_SHARE * (performance.now() - startedAt)));
    await valkey.set(lockKey(queue.name), "", "PX", restMs);
  });
}

/** The last stored number of strays; undefined if there is no recent one. Throws like {@link findStrays}. */
export async function readStrayCount(queue: string, valkey: Pick<Valkey, "get">): Promise<number | undefined> {
  const count = await valkey.get(countKey(queue));
  return count === null ? undefined : Number(count);
}

/** Count strays now. Takes as long as {@link findStrays}. */
export async function countStrays(queue: Queue, valkey: Valkey): Promise<number> {
  let count = 0;
  for await (const _ of findStrays(queue, valkey)) count += 1;
  return count;
}
