/**
 * The shard that serves a user, for pages about their endpoints.
 */
import type { Context } from "hono";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { formerHomeAmong, homeAmong } from "../queue/shards.ts";
import { awayFrom } from "./refusal.tsx";

/**
 * The shard without which nothing can be said of a user's endpoints, when it is away: their home, or the one before, in which they may still
 * be. Undefined when both are there.
 */
export function awayHome(c: Context, shards: OpenShards, userId: string): OpenShard | undefined {
  const needed = [homeAmong(shards, userId), formerHomeAmong(shards, userId)];
  return awayFrom(c, shards).find((shard) => needed.includes(shard));
}
