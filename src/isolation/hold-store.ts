/**
 * Holds in Valkey: operators write them, and each worker reads them whenever they have changed. They are in the first shard, for all
 * shards. After a move into a cluster, those in the Valkey before count, too.
 */

import { holdsKey } from "../queue/own-keys.ts";
import { within } from "../runtime/deadline.ts";
import type { Logger } from "../runtime/logger.ts";
import { repeatEvery } from "../runtime/repeat.ts";
import type { Valkey } from "../valkey/connection.ts";
import { findSpent, type Hold, type Holds, nameHeld } from "./holds.ts";

const POLL_MS = 1000; // 1 s
const CLEAN_MS = 60 * 1000; // 1 min between two searches for holds that no longer count
const LOAD_MS = 2 * 1000; // 2 s for the first answer: without one, a worker starts without holds
const MAX_TRIES = 20; // to write, while others write at the same time

/**
 * Key: `webhooks:holds:<queue>`, a hash. Field `version`: a random text, new with each change. Every other field: the id of a hold,
 * with the rest of it as JSON: `kind`, `target`, `from` and `until` (epoch ms), and if given `reason` and `by`. Workers remove a hold
 * once no event's age depends on it, and the key with the last one. About 200 bytes a hold.
 */
const key = holdsKey;
const VERSION = "version";

/**
 * KEYS: the hash. ARGV: the version on which the change is based, empty for none; the new one; how many ids to remove; those; then
 * for each hold to write its id and its JSON. Returns 1, or 0 when another change came first and nothing was done.
 */
const CHANGE = `
local holds, removed = KEYS[1], tonumber(ARGV[3])
if (redis.call("HGET", holds, "${VERSION}") or "") ~= ARGV[1] then return 0 end
for i = 4, 3 + removed do redis.call("HDEL", holds, ARGV[i]) end
for i = 4 + removed, #ARGV, 2 do redis.call("HSET", holds, ARGV[i], ARGV[i + 1]) end
redis.call("HSET", holds, "${VERSION}", ARGV[2])
if #redis.call("HGETALL", holds) == 2 then redis.call("DEL", holds) end -- only the version is left
return 1`;

/** What a change does to the holds: ids to remove, holds to write in place of those with the same id. */
export interface HoldChange {
  readonly remove?: readonly string[];
  readonly write?: readonly Hold[];
}

/** All holds of a queue: current ones, and ended ones that still count. Throws when Valkey answers with an error. */
export async function readHolds(valkey: Valkey, queue: string): Promise<Hold[]> {
  return parseHolds(await valkey.hgetall(key(queue)));
}

/** Entries that are no holds, which only another program can have written, are left out. */
function parseHolds(stored: Readonly<Record<string, string>>): Hold[] {
  return Object.entries(stored).flatMap(([id, text]) => {
    try {
      const { kind, target, from, until, reason, by } = id === VERSION ? {} : JSON.parse(text);
      const isHold =
        ["host", "url", "user"].includes(kind) && typeof target === "string" && isTime(from) && isTime(until);
      if (!isHold || (kind === "host" && !URL.canParse(`http://${target}`))) return [];
      return [{ id, kind, target, from, until, reason: textOf(reason), by: textOf(by) }];
    } catch {
      return [];
    }
  });
}

const isTime = (value: unknown): boolean => Number.isSafeInteger(value);
const textOf = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined);

/**
 * Change a queue's holds, in one step for everybody who reads them.
 *
 * @param decide  called with the present holds, again if another change came first; undefined changes nothing
 * @throws  what `decide` throws; when Valkey answers with an error, or others keep changing them
 */
export async function changeHolds(
  valkey: Valkey,
  queue: string,
  decide: (holds: readonly Hold[]) => HoldChange | undefined,
): Promise<void> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const stored = await valkey.hgetall(key(queue));
    const change = decide(parseHolds(stored));
    if (change === undefined) return;
    const { remove = [], write = [] } = change;
    const written = write.flatMap(({ id, ...hold }) => [id, JSON.stringify(hold)]);
    const versions = [stored[VERSION] ?? "", crypto.randomUUID()];
    const done = await valkey.eval(CHANGE, 1, key(queue), ...versions, remove.length, ...remove, ...written);
    if (done === 1) return;
  }
  throw new Error("the holds are being changed by others: try again");
}

/** Where a worker learns of holds, and how often it looks. */
export interface WatchOptions {
  readonly valkey: Valkey;
  /** The name of the queue of the shard that keeps them. */
  readonly queue: string;
  /** Kept up to date: what it has of other queues stays. */
  readonly holds: Holds;
  /** How old an event may be when it is attempted, ms. */
  readonly maxAgeMs: number;
  readonly logger: Pick<Logger, "info" | "warn">;
  /** Between two looks, ms. */
  readonly periodMs?: number;
  /** Epoch ms. */
  readonly now?: () => number;
}

/**
 * Keep a worker's holds up to date: one HGET a second, and one HGETALL after a change. Logs `hold.started` and `hold.ended`. While
 * Valkey does not answer, the known holds stay.
 *
 * @returns `ready`, which resolves once they were read, or after 2 s without an answer, and never rejects; and `stop`
 */
export function watchHolds(options: WatchOptions): { readonly ready: Promise<void>; readonly stop: () => void } {
  const { valkey, queue, logger, periodMs = POLL_MS } = options;
  const look = createLook(options);
  const stop = repeatEvery(periodMs, look); // the connection and the readiness check report what fails
  const first = look().catch((error: Error) => {
    logger.warn({ key: key(queue), reason: error.message, status: valkey.status }, "hold.unread");
  });
  return { ready: within(LOAD_MS, first, undefined), stop };
}

function createLook({ valkey, queue, holds, maxAgeMs, logger, now = Date.now }: WatchOptions): () => Promise<void> {
  let version: string | null = null;
  let own: readonly Hold[] = [];
  let current = new Map<string, Hold>();
  let cleanedAt = now();

  const tell = (nowMs: number): void => {
    const before = current;
    current = new Map(own.filter(({ until }) => until > nowMs).map((hold) => [hold.id, hold]));
    for (const [id, hold] of current)
      if (before.get(id)?.until !== hold.until) logger.info(describe(hold), "hold.started");
    for (const [id, hold] of before) if (!current.has(id)) logger.info(describe(hold), "hold.ended");
  };

  return async () => {
    const latest = await valkey.hget(key(queue), VERSION);
    if (latest !== version) {
      const stored = latest === null ? {} : await valkey.hgetall(key(queue));
      own = parseHolds(stored);
      holds.replace(own, queue);
      version = stored[VERSION] ?? null;
    }
    const nowMs = now();
    if (own.length > 0 || current.size > 0) tell(nowMs);
    if (own.length === 0 || nowMs - cleanedAt < CLEAN_MS) return;
    cleanedAt = nowMs;
    const findIds = (kept: readonly Hold[]) =>
      findSpent(kept, maxAgeMs, nowMs, [...kept, ...holds.all]).map(({ id }) => id);
    if (findIds(own).length > 0) await changeHolds(valkey, queue, (kept) => ({ remove: findIds(kept) }));
  };
}

/** Without a URL's query, which may contain a token. */
function describe(hold: Hold): object {
  const { kind, until, reason, by } = hold;
  return { kind, target: nameHeld(hold), until: new Date(until).toISOString(), reason, by };
}
