/**
 * Bounds how many events may wait for one endpoint, and for one user: a dead endpoint that gets 100 events a second would fill
 * Valkey within days, and then no producer could enqueue anything.
 *
 * Each event that is parked, or waits for a retry, is listed twice: in the line of its endpoint and in that of its user. An event
 * delivered at its first attempt is never listed and costs nothing. When a line exceeds the bound, its oldest events are promoted,
 * and the worker that takes one gives it up as `backlog_full`, without another attempt.
 */

import { createHash } from "node:crypto";
import { queueKeys } from "../queue/layout.ts";
import { backlogPrefix } from "../queue/own-keys.ts";
import { PROMOTION } from "../queue/wake-up.ts";
import { MIN_LOCK_SLACK_MS, within } from "../runtime/deadline.ts";
import { invariant } from "../runtime/invariant.ts";
import type { Logger } from "../runtime/logger.ts";
import { perTurn } from "../runtime/per-tick.ts";
import type { Valkey } from "../valkey/connection.ts";

const MAX_PROMOTED = 100; // per line and script
const MAX_REMEMBERED = 10_000; // lines that are filling up
const PATIENCE_MS = 1000; // 1 s to wait for Valkey's answer about a full line, well below the life of the job's lock
invariant(PATIENCE_MS < MIN_LOCK_SLACK_MS / 2, "the job's lock to outlast the wait for Valkey's answer");

/**
 * Key: `webhooks:backlog:<queue>:<line>`, a sorted set; member: a job's id; score: epoch ms at which its event was enqueued.
 * `<line>` is `e` and a hash of the endpoint's URL, or `u` and a hash of the user's id. Expires when nothing has joined for twice
 * as long as an event may wait.
 */
const lineKey = (queue: string, kind: "e" | "u", name: string) =>
  `${backlogPrefix(queue)}${kind}${createHash("sha1").update(name).digest("base64url")}`;

/** The keys of the two lines that list an event: its endpoint's (`endpoint` is an `endpointKey`) and its user's. */
export const backlogLines = (queue: string, endpoint: string, user: string): [endpoint: string, user: string] => [
  lineKey(queue, "e", endpoint),
  lineKey(queue, "u", user),
];

/** How much of a line is taken: little, so that events may wait without asking; half of it or more; or all of it and more. */
const ROOMY = 0;
const FILLING = 1;
const FULL = 2;

/**
 * Adds jobs to their lines, and promotes the oldest jobs of lines over the bound: up to two for each one added, so that the line
 * shrinks.
 *
 * KEYS: delayed, marker, then the two lines of each job. ARGV: prefix of job keys, bound, expiry in ms, now in epoch ms; then for
 * each job its id, its score, and 1 if it goes by the answer, or 0 if it waits in any case and so has to stay listed. Returns three
 * numbers per job: 1 if it may wait, or 0 if it goes by the answer, is itself among the excess, and has been removed from its lines;
 * then how much of each of its lines is taken.
 */
const JOIN = `
local delayed, marker = KEYS[1], KEYS[2]
local prefix, bound, expiry, now = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local added, states = {}, {}
${PROMOTION}
for i = 3, #KEYS do
  local job = 5 + 3 * math.floor((i - 3) / 2)
  redis.call("ZADD", KEYS[i], ARGV[job + 1], ARGV[job])
  added[KEYS[i]] = (added[KEYS[i]] or 0) + 1
end
local function promoteOldest(line, most)
  for _, id in ipairs(redis.call("ZRANGE", line, 0, most - 1)) do
    if redis.call("ZSCORE", delayed, id) then
      promote(id)
    elseif redis.call("EXISTS", prefix .. id) == 0 or redis.call("HEXISTS", prefix .. id, "finishedOn") == 1 then
      redis.call("ZREM", line, id) -- its worker died, or it was removed by hand
    end
  end
end
for i = 3, #KEYS, 2 do
  local job = 5 + 3 * math.floor((i - 3) / 2)
  local id, isOver, taken = ARGV[job], false, {}
  for at = i, i + 1 do
    local count = redis.call("ZCARD", KEYS[at])
    local rank = redis.call("ZRANK", KEYS[at], id)
    isOver = isOver or (ARGV[job + 2] == "1" and rank and rank < count - bound)
    taken[#taken + 1] = count > bound and ${FULL} or (2 * count >= bound and ${FILLING} or ${ROOMY})
  end
  if isOver then
    redis.call("ZREM", KEYS[i], id)
    redis.call("ZREM", KEYS[i + 1], id)
  end
  states[#states + 1] = isOver and 0 or 1
  states[#states + 1], states[#states + 2] = taken[1], taken[2]
end
for line, count in pairs(added) do
  local excess = redis.call("ZCARD", line) - bound
  if excess > 0 then promoteOldest(line, math.min(excess, 2 * count, ${MAX_PROMOTED})) end
  redis.call("PEXPIRE", line, expiry)
end
wakePromoted()
return states`;

/** An event that has to wait. */
export interface Waiting {
  readonly job: string;
  /** The full URL, with its query. */
  readonly endpoint: string;
  readonly user: string;
  /** When it was enqueued, epoch ms. */
  readonly enqueuedAt: number;
}

export interface Backlog {
  /** Whether a line of this event is known to be full. If so, `join` before the next attempt, and go by its result. */
  isFull(event: Waiting): boolean;
  /** List an event that waits in any case, even over the bound. Idempotent. */
  list(event: Waiting): void;
  /**
   * List an event that has to wait if it may. Idempotent. While less than half of its lines is taken, as far as is known, the answer
   * is not waited for: what is in flight until then fits into the other half.
   *
   * @returns false when it is among the oldest of a full line, and must be given up. Resolves within 1 s and never rejects: while
   *          Valkey is unreachable or refuses writes, every event may wait
   */
  join(event: Waiting): boolean | Promise<boolean>;
  /** Remove an event that has waited and is now delivered or given up. */
  leave(event: Waiting): void;
}

export interface BacklogOptions {
  readonly valkey: Valkey;
  /** The queue's name. */
  readonly queue: string;
  /** The prefix of its keys. */
  readonly prefix: string;
  /** How many events may wait in one line. */
  readonly bound: number;
  /** How long an event may wait, ms. */
  readonly maxAgeMs: number;
  readonly logger: Pick<Logger, "debug">;
}

interface Joining extends Waiting {
  readonly lines: readonly [endpoint: string, user: string];
  /** Called with the answer; absent when the event waits in any case. */
  readonly resolve?: (mayWait: boolean) => void;
}

export function createBacklog({ valkey, queue, prefix, bound, maxAgeMs, logger }: BacklogOptions): Backlog {
  valkey.defineCommand("joinBacklog", { lua: JOIN });
  const { joinBacklog } = valkey as unknown as { joinBacklog: (...args: unknown[]) => Promise<number[]> };
  const { delayed, marker, jobs } = queueKeys(prefix);
  const taken = new Map<string, typeof FILLING | typeof FULL>(); // lines that are not roomy

  const joining = perTurn(async (events: Joining[]) => {
    const keys = [delayed, marker, ...events.flatMap(({ lines }) => lines)];
    const stored = events.flatMap(({ job, enqueuedAt, resolve }) => [job, enqueuedAt, resolve === undefined ? 0 : 1]);
    try {
      const states = await joinBacklog.call(
        valkey,
        keys.length,
        ...keys,
        jobs,
        bound,
        2 * maxAgeMs,
        Date.now(),
        ...stored,
      );
      for (const [index, { lines, resolve }] of events.entries()) {
        const [mayWait, ...known] = states.slice(3 * index, 3 * index + 3);
        for (const [side, line] of lines.entries()) note(line, known[side]);
        resolve?.(mayWait === 1);
      }
    } catch (error) {
      logger.debug({ reason: (error as Error).message }, "backlog.uncounted");
      for (const { resolve } of events) resolve?.(true);
    }
  });

  const leaving = perTurn((events: Waiting[]) => {
    const pipeline = valkey.pipeline();
    for (const event of events) for (const line of linesOf(event)) pipeline.zrem(line, event.job);
    pipeline.exec().catch(() => {}); // JOIN removes leftovers once the line is full
  });

  function linesOf({ endpoint, user }: Waiting): [string, string] {
    return backlogLines(queue, endpoint, user);
  }

  function note(line: string, known: number | undefined): void {
    if (known !== FILLING && known !== FULL) taken.delete(line);
    else if (taken.size < MAX_REMEMBERED || taken.has(line)) taken.set(line, known);
  }

  return {
    isFull: (event) => taken.size > 0 && linesOf(event).some((line) => taken.get(line) === FULL),
    list: (event) => joining.add({ ...event, lines: linesOf(event) }),
    join(event) {
      const lines = linesOf(event);
      if (taken.size > 0 && lines.some((line) => taken.has(line))) {
        const mayWait = new Promise<boolean>((resolve) => joining.add({ ...event, lines, resolve }));
        return within(PATIENCE_MS, mayWait, true);
      }
      joining.add({ ...event, lines });
      return true;
    },
    leave: (event) => leaving.add(event),
  };
}
