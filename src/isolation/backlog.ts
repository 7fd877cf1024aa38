/**
 * How many events may wait for one endpoint, and of one user: a dead endpoint at 100 events a second would fill Valkey within
 * days, and then every backend is refused.
 *
 * Events that are parked, or wait for a retry, stand in a line of their endpoint and in one of their user. What goes at its
 * first attempt is in no line and costs nothing. Over the bound, the oldest events of a line are called back before their
 * time, and a worker that picks one up gives it up as `backlog_full`, without another attempt.
 */
import { createHash } from "node:crypto";
import { DELAYED_MARKER, DELAYED_SCORE_PER_MS, queueKeys } from "../queue/layout.ts";
import { within } from "../runtime/deadline.ts";
import type { Logger } from "../runtime/logger.ts";
import { perTurn } from "../runtime/per-tick.ts";
import type { Valkey } from "../valkey/connection.ts";

const MAX_CALLED = 100; // of a line by one script
const MAX_FULL = 10_000; // lines known to be full; there are few
const PATIENCE_MS = 1000; // 1 s for Valkey's answer about a full line: a job must not wait for it until its lock is gone

/**
 * Key: `webhooks:backlog:<queue>:<line>`, a sorted set; member: a job's id; score: epoch ms at which its event was enqueued.
 * `<line>` is `e` and a hash of the endpoint's URL, or `u` and one of the user's id. Expires when nothing has joined for
 * twice as long as an event may wait.
 */
const lineKey = (queue: string, kind: "e" | "u", name: string) =>
  `webhooks:backlog:${queue}:${kind}${createHash("sha1").update(name).digest("base64url")}`;

/** The two lines in which an event may wait: of its endpoint, by `endpointKey`, and of its user. */
export const backlogLines = (queue: string, endpoint: string, user: string): [endpoint: string, user: string] => [
  lineKey(queue, "e", endpoint),
  lineKey(queue, "u", user),
];

/**
 * KEYS: delayed, marker, then the two lines of each job. ARGV: prefix of job keys, bound, expiry in ms, now in epoch ms; then
 * for each job its id and score. Calls the oldest that are too many: twice as many as came, so that a line shrinks. Returns three
 * numbers for each job: 0 if it is itself among the oldest, and has left its lines, else 1; then for each of its lines 1 if that
 * is full, else 0.
 */
const JOIN = `
local prefix, bound, expiry, now = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local added, states, called = {}, {}, 0
for i = 3, #KEYS do
  local job = 5 + 2 * math.floor((i - 3) / 2)
  redis.call("ZADD", KEYS[i], ARGV[job + 1], ARGV[job])
  added[KEYS[i]] = (added[KEYS[i]] or 0) + 1
end
local function call(line, most)
  for _, id in ipairs(redis.call("ZRANGE", line, 0, most - 1)) do
    if redis.call("ZSCORE", KEYS[1], id) then
      redis.call("ZADD", KEYS[1], now * ${DELAYED_SCORE_PER_MS} + called, id)
      called = called + 1
    elseif redis.call("EXISTS", prefix .. id) == 0 or redis.call("HEXISTS", prefix .. id, "finishedOn") == 1 then
      redis.call("ZREM", line, id) -- its worker died, or it was removed by hand
    end
  end
end
for i = 3, #KEYS, 2 do
  local id, isOver, full = ARGV[5 + (i - 3)], false, {}
  for at = i, i + 1 do
    local excess = redis.call("ZCARD", KEYS[at]) - bound
    local rank = redis.call("ZRANK", KEYS[at], id)
    isOver = isOver or (excess > 0 and rank and rank < excess)
    full[#full + 1] = excess > 0 and 1 or 0
  end
  if isOver then
    redis.call("ZREM", KEYS[i], id)
    redis.call("ZREM", KEYS[i + 1], id)
  end
  states[#states + 1] = isOver and 0 or 1
  states[#states + 1], states[#states + 2] = full[1], full[2]
end
for line, count in pairs(added) do
  local excess = redis.call("ZCARD", line) - bound
  if excess > 0 then call(line, math.min(excess, 2 * count, ${MAX_CALLED})) end
  redis.call("PEXPIRE", line, expiry)
end
if called > 0 then redis.call("ZADD", KEYS[2], now, "${DELAYED_MARKER}") end
return states`;

/** An event that has to wait. */
export interface Waiting {
  readonly job: string;
  /** The whole URL, with its query. */
  readonly endpoint: string;
  readonly user: string;
  /** When it was enqueued, epoch ms. */
  readonly enqueuedAt: number;
}

export interface Backlog {
  /** Whether a line of this event is known to be full: then it must be asked for a place before it is tried again. */
  isFull(event: Waiting): boolean;
  /**
   * An event has to wait, for its turn or for a retry; joining again changes nothing.
   *
   * @returns false when it is among the oldest of a full line: it must be given up. Never rejects, and takes a second at the most:
   *          while Valkey is away or refuses, all may wait
   */
  join(event: Waiting): boolean | Promise<boolean>;
  /** An event that has waited is delivered, or given up. */
  leave(event: Waiting): void;
}

export interface BacklogOptions {
  readonly valkey: Valkey;
  /** The queue's name. */
  readonly queue: string;
  /** The prefix of its keys. */
  readonly prefix: string;
  /** Events that may wait in one line. */
  readonly bound: number;
  /** How long an event may wait, ms. */
  readonly maxAgeMs: number;
  readonly logger: Pick<Logger, "debug">;
}

interface Joining extends Waiting {
  readonly lines: readonly [endpoint: string, user: string];
  readonly resolve: (mayWait: boolean) => void;
}

export function createBacklog({ valkey, queue, prefix, bound, maxAgeMs, logger }: BacklogOptions): Backlog {
  valkey.defineCommand("joinBacklog", { lua: JOIN });
  const { joinBacklog } = valkey as unknown as { joinBacklog: (...args: unknown[]) => Promise<number[]> };
  const { delayed, marker, jobs } = queueKeys(prefix);
  const full = new Set<string>(); // lines

  const joining = perTurn(async (events: Joining[]) => {
    const keys = [delayed, marker, ...events.flatMap(({ lines }) => lines)];
    const stored = events.flatMap(({ job, enqueuedAt }) => [job, enqueuedAt]);
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
        const [mayWait, ...areFull] = states.slice(3 * index, 3 * index + 3);
        for (const [side, line] of lines.entries()) note(line, areFull[side] === 1);
        resolve(mayWait === 1);
      }
    } catch (error) {
      logger.debug({ reason: (error as Error).message }, "backlog.uncounted");
      for (const { resolve } of events) resolve(true);
    }
  });

  const leaving = perTurn((events: Waiting[]) => {
    const pipeline = valkey.pipeline();
    for (const event of events) for (const line of linesOf(event)) pipeline.zrem(line, event.job);
    pipeline.exec().catch(() => {}); // what is left there is found when its line is full
  });

  function linesOf({ endpoint, user }: Waiting): [string, string] {
    return backlogLines(queue, endpoint, user);
  }

  function note(line: string, isFull: boolean): void {
    if (!isFull) full.delete(line);
    else if (full.size < MAX_FULL) full.add(line);
  }

  const isFull = (lines: readonly string[]) => full.size > 0 && lines.some((line) => full.has(line));

  return {
    isFull: (event) => full.size > 0 && isFull(linesOf(event)),
    join(event) {
      const lines = linesOf(event);
      const mayWait = new Promise<boolean>((resolve) => joining.add({ ...event, lines, resolve }));
      return isFull(lines) ? within(PATIENCE_MS, mayWait, true) : true; // nobody waits for the answer while there is room
    },
    leave: (event) => leaving.add(event),
  };
}
