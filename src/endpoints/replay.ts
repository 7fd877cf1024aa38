/**
 * Replays what an endpoint missed: adds the jobs anew. What that leaves is the state, so that a replay that was interrupted is
 * resumed by asking again.
 */
import type { Shard } from "../queue/shards.ts";
import type { Valkey } from "../valkey/connection.ts";
import type { Run } from "./store.ts";

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
  /** How many the endpoint still keeps, in any time. */
  readonly left: number;
}

/** A shard with a connection to it; src/queue/open-shard.ts has one. */
export type ReplayShard = Pick<Shard, "queue" | "tag"> & { readonly valkey: Valkey };

/**
 * Replay what an endpoint missed, oldest first, 100 events a script. Their bodies are the same, byte for byte.
 *
 * @param run  runs what asks Valkey, and may do so again when the connection was lost
 * @throws  UsageError when an id is invalid; NotFoundError when there is no such endpoint; ConflictError when it is disabled, also if
 *          that happens meanwhile; when Valkey answers with an error. Waits while it is away
 */
export async function replayMissed(
  _shard: ReplayShard,
  _userId: string,
  _id: string,
  _query: ReplayQuery = {},
  _run: Run = (work) => work(),
): Promise<Replayed> {
  throw new Error("not implemented");
}
