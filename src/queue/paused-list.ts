/**
 * Keeps BullMQ's `paused` list empty. Only clients before BullMQ 6 use it, and they could lose our jobs.
 *
 * A BullMQ 4 or 5 client pauses a queue by renaming `wait` to `paused`, and adds new jobs there until it renames `paused` back
 * over `wait`. BullMQ 6 leaves jobs in `wait` and only sets a flag. Where both share a queue, the rename destroys the contents
 * of `wait`: the jobs stay in Valkey but in no list, and are never delivered. While `paused` does not exist, there is nothing
 * to rename, and an older client's resume only clears the flag.
 */
import { invariant } from "../runtime/invariant.ts";
import type { Logger } from "../runtime/logger.ts";
import { connectValkey, SILENCE_MS, type Valkey } from "../valkey/connection.ts";
import { keysOf } from "./layout.ts";
import { caughtKey } from "./own-keys.ts";
import { WAKE_WORKERS } from "./wake-up.ts";

const WATCH_SECONDS = 10; // as long as BullMQ blocks for a job; silent connections are closed after 15 s
const GLANCE_SECONDS = 0.01; // to see whether Valkey allows a watch
const WATCHES = 16; // pipelined: each ends with one job, and a process that gets no CPU for a moment cannot send the next
const PAUSE_MS = 1000; // 1 s before the next try after a refusal; doubled each time
const MAX_PAUSE_MS = 16 * 1000; // 16 s

invariant(WATCH_SECONDS * 1000 < SILENCE_MS, "a watch to end before its connection counts as dead");

/**
 * Merge lists of waiting jobs into `wait`, older list first, and wake a worker. The shorter list is moved, since a paused
 * backlog may hold a million jobs.
 *
 * KEYS: wait, meta, marker, then the lists to merge. ARGV: the prefix of job keys. Returns how many jobs were merged.
 */
const MERGE = `
local wait, meta, marker, prefix = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local function enqueuedAt(list) -- of its next job, which is at the right end
  return tonumber(redis.call("HGET", prefix .. redis.call("LINDEX", list, -1), "timestamp") or 0)
end
local function push(target, source, isInFront)
  local size = redis.call("LLEN", source)
  for start = 0, size - 1, 1000 do
    if isInFront then
      redis.call("RPUSH", target, unpack(redis.call("LRANGE", source, start, start + 999)))
    else
      local ids, reversed = redis.call("LRANGE", source, -start - 1000, -start - 1), {}
      for i = #ids, 1, -1 do reversed[#reversed + 1] = ids[i] end
      redis.call("LPUSH", target, unpack(reversed))
    end
  end
  redis.call("DEL", source)
end
local merged = 0
for i = 4, #KEYS do
  local list = KEYS[i]
  local size, waiting = redis.call("LLEN", list), redis.call("LLEN", wait)
  merged = merged + size
  if size > 0 and waiting == 0 then
    redis.call("RENAME", list, wait)
  elseif size > 0 and size <= waiting then
    push(wait, list, enqueuedAt(list) < enqueuedAt(wait))
  elseif size > 0 then
    push(list, wait, enqueuedAt(wait) < enqueuedAt(list))
    redis.call("RENAME", list, wait)
  end
end
if merged > 0 then ${WAKE_WORKERS} end
return merged`;

export interface PausedListOptions {
  /** Like `VALKEY_URL`: the watch blocks its own connection. */
  readonly valkeyUrl: string;
  /** The queue's name. */
  readonly queue: string;
  readonly logger: Pick<Logger, "warn">;
}

/**
 * Move jobs from `paused` to `wait` whenever there are any.
 *
 * Valkey serves a blocked BLMOVE right after the command or script that created the list, and runs the merge pipelined after
 * it before it reads from other clients. So an older client's resume finds no `paused` list, unless it came in the same packet
 * as the command that created it.
 *
 * @returns a function that stops watching
 */
export function watchPausedList({ valkeyUrl, queue, logger }: PausedListOptions): () => void {
  const valkey = connectValkey(valkeyUrl, "fluxhook:paused", { info() {}, warn() {} }, { key: queue }); // the process's other connections report outages
  keepEmpty(valkey, queue, logger);
  return () => valkey.disconnect();
}

async function keepEmpty(valkey: Valkey, queue: string, logger: Pick<Logger, "warn">): Promise<void> {
  const { wait, meta, marker, paused, jobs: prefix } = keysOf({ name: queue });
  // A list of job ids: one is moved here by the command that waits for `paused` to appear, in the same moment in which it appears.
  // It is merged into `wait` with the rest, a round trip later.
  const caught = caughtKey(queue);
  const keys = [wait, meta, marker, caught, paused];
  const merge = () => valkey.eval(MERGE, keys.length, ...keys, prefix) as Promise<number>;
  let hasWarned = false;
  const look = async (seconds: number): Promise<void> => {
    const caughtOne = valkey.blmove(paused, caught, "RIGHT", "LEFT", seconds);
    const [jobs] = await Promise.all([merge(), caughtOne]);
    if (jobs === 0 || hasWarned) return;
    hasWarned = true; // only once: an old backend may do this with every event
    logger.warn({ jobs, hint: "a client of BullMQ 5 or older paused the queue" }, "queue.old_client");
  };
  /** Resolves once Valkey allows a watch. It tries one alone: what it refuses, it would refuse to all. */
  const allows = async (): Promise<void> => {
    for (let pauseMs = PAUSE_MS; valkey.status !== "end"; pauseMs = Math.min(MAX_PAUSE_MS, 2 * pauseMs)) {
      const isAllowed = await look(GLANCE_SECONDS).then(
        () => true,
        () => false,
      );
      if (isAllowed) return;
      await Bun.sleep(pauseMs);
    }
  };
  let allowed = allows();
  const watch = async (): Promise<void> => {
    while (valkey.status !== "end") {
      const permission = allowed;
      await permission;
      await look(WATCH_SECONDS).catch(() => {
        if (allowed === permission) allowed = Bun.sleep(PAUSE_MS).then(allows); // the first of all the watches that are refused now
      });
    }
  };
  await Promise.all(Array.from({ length: WATCHES }, watch));
}
