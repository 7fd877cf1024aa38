/**
 * A shard with a connection to it, for commands and pages. Operations take one, or all of a queue's.
 */
import type { Valkey } from "../valkey/connection.ts";
import { parseJobName, type Shard } from "./shards.ts";
import { openQueue, type Queue } from "./worker.ts";

export interface OpenShard extends Shard {
  readonly valkey: Valkey;
  /** The shard's queue, over that connection. */
  readonly client: Queue;
}

/** All shards of a queue, in their order. */
export type OpenShards = readonly [OpenShard, ...OpenShard[]];

/** Open a shard's queue over a connection to it. The connection reports its own errors. */
export function openShard(shard: Shard, valkey: Valkey): OpenShard {
  const client = openQueue(shard.queue, valkey);
  client.on("error", () => {});
  return { ...shard, valkey, client };
}

/**
 * Find a job's shard by its name, as in `3/4711`. Where there is one shard only, a name that begins with `0/` is from a time when there
 * were more: logs keep it.
 *
 * @param shards  all, or those that are there
 * @returns the shard and the job's id in it; undefined when it is none of these
 */
export function shardOfJob<S extends Pick<Shard, "label">>(
  shards: readonly [S, ...S[]],
  name: string,
): { shard: S; id: string } | undefined {
  const { label, id } = parseJobName(name);
  if (shards[0].label === "") return { shard: shards[0], id: label === "0/" ? id : name };
  const shard = shards.find((one) => one.label === label);
  return shard === undefined ? undefined : { shard, id };
}
