/**
 * Replays what an endpoint missed: adds the jobs anew. What that leaves is the state, so that a replay that was interrupted is
 * resumed by asking again.
 */
import { queueKey, queueKeys } from "../queue/layout.ts";
import { endpointsKey, missedDataKey, missedKey } from "../queue/own-keys.ts";
import type { Shard } from "../queue/shards.ts";
import { checkEndpointId, checkUserId } from "../registry/document.ts";
import { ConflictError, NotFoundError } from "../registry/refusals.ts";
import type { Run } from "../registry/store.ts";
import { UsageError } from "../runtime/usage-error.ts";
import type { Valkey } from "../valkey/connection.ts";
import { READ_OPTIONS, REPLAY, replayKeys } from "./replay-scripts.ts";

const BATCH = 100; // events per script, which blocks Valkey for a few milliseconds
const PAUSES_MS = [50, 100, 200, 400, 800]; // for jobs whose events were just kept, and that are not acknowledged yet
const MAX_PRIORITY = 2 ** 21; // of BullMQ

/** What to replay. */
export interface ReplayQuery {
  /** Events enqueued at this time or later, epoch ms; from the oldest by default. */
  readonly since?: number | undefined;
  /** Events enqueued at this time or earlier, epoch ms; up to the newest by default. */
  readonly until?: number | undefined;
  /** Change nothing, and count what would be replayed. */
  readonly dryRun?: boolean | undefined;
}

/** The result of a replay. */
export interface Replayed {
  /** Events that are queued now, each due at once with its whole retry schedule. */
  readonly replayed: number;
  /** Events that are waiting, delayed or active already. They stay missed until they are delivered. */
  readonly skipped: number;
  /** How many the endpoint still keeps, from any time. */
  readonly left: number;
}

/** A shard with a connection to it; src/queue/open-shard.ts has one. */
export type ReplayShard = Pick<Shard, "queue" | "tag"> & { readonly valkey: Valkey };

/**
 * Replay what an endpoint missed, oldest first, 100 events a script. Their bodies are the same, byte for byte.
 *
 * @param run  runs what asks Valkey, and may do so again when the connection was lost
 * @throws  UsageError when an id or a time is invalid; NotFoundError when there is no such endpoint; ConflictError when it is
 *          disabled, also if that happens meanwhile; when Valkey answers with an error. Waits while it is away
 */
export async function replayMissed(
  shard: ReplayShard,
  userId: string,
  id: string,
  query: ReplayQuery = {},
  run: Run = (work) => work(),
): Promise<Replayed> {
  checkUserId(userId);
  checkEndpointId(id);
  const { since, until, dryRun = false } = query;
  for (const [name, time] of Object.entries({ since, until })) {
    if (time !== undefined && !Number.isFinite(time)) throw new UsageError(`expected ${name} to be epoch ms`);
  }
  const { valkey, tag } = shard;
  const missed = missedKey(userId, id, tag);
  const find = () => valkey.zrangebyscore(missed, since ?? "-inf", until ?? "+inf");
  const replayBatch = await openReplay(shard, userId, id, dryRun, run);
  let jobs = await run(find); // as it is now: an event that fails again at once is not replayed a second time
  let replayed = 0;
  let skipped = 0;
  for (const pauseMs of [...(dryRun ? [] : PAUSES_MS), undefined]) {
    const active: string[] = [];
    for (let at = 0; at < Math.max(jobs.length, 1); at += BATCH) {
      const batch = jobs.slice(at, at + BATCH);
      for (const [index, result] of (await replayBatch(batch)).entries()) {
        if (result === 2 && pauseMs !== undefined) active.push(batch[index] as string);
        else if (result === 1) replayed += 1;
        else if (result >= 0) skipped += 1;
      }
    }
    if (pauseMs === undefined || active.length === 0) break;
    jobs = active;
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
  return { replayed, skipped, left: await run(() => valkey.zcard(missed)) };
}

/** Make the function that replays some jobs, and returns of each what {@link REPLAY} does. */
async function openReplay(
  { valkey, queue, tag }: ReplayShard,
  userId: string,
  id: string,
  dryRun: boolean,
  run: Run,
): Promise<(jobs: readonly string[]) => Promise<number[]>> {
  const prefix = queueKey(queue);
  const data = missedDataKey(userId, id, tag);
  const keys = [endpointsKey(userId, tag), missedKey(userId, id, tag), data, ...replayKeys(prefix)];
  const read = (jobs: readonly string[]) =>
    valkey.eval(READ_OPTIONS, 1, data, ...jobs) as Promise<[number, ...([string, string] | null)[]]>;
  const [began] = await run(() => read([]));
  return async (jobs) => {
    const [status, ...results] = await run(async () => {
      const [now, ...entries] = await read(jobs);
      const args = jobs.flatMap((job, index) => [job, ...optionsOf(entries[index] ?? null, now)]);
      const fixed = [id, queueKeys(prefix).jobs, began, now, dryRun ? 1 : 0];
      return (await valkey.eval(REPLAY, keys.length, ...keys, ...fixed, ...args)) as [string, ...number[]];
    });
    if (status === "missing") throw new NotFoundError(`the user has no endpoint ${id}`);
    if (status === "disabled") throw new ConflictError(`endpoint ${id} is disabled: enable it first`);
    return results;
  };
}

/** The options of a job that is due now, and its priority. What ties it to other jobs is left out. */
function optionsOf(entry: readonly [timestamp: string, opts: string] | null, nowMs: number): [string, number] {
  const [timestamp, text] = entry ?? ["0", "{}"];
  const { parent, repeat, de, ...opts } = parseOptions(text);
  const delay = Math.max(0, nowMs - (Number(timestamp) || 0));
  const { priority } = opts;
  const isPriority = Number.isSafeInteger(priority) && (priority as number) > 0 && (priority as number) < MAX_PRIORITY;
  return [JSON.stringify({ ...opts, delay }), isPriority ? (priority as number) : 0];
}

function parseOptions(text: string): Record<string, unknown> {
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === "object" && parsed !== null ? (parsed as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
