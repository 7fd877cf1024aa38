/** A queue without shards, as operations take it. */
import { type OpenShards, openShard } from "../../src/queue/open-shard.ts";
import type { Valkey } from "../../src/valkey/connection.ts";

export function onlyShard(queue: string, valkey: Valkey): OpenShards {
  return [openShard({ index: 0, queue, url: "", tag: "", label: "" }, valkey)];
}
