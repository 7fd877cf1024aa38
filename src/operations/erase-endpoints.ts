/**
 * Erases what is stored of a user's registered endpoints, for the command `forget`.
 */
import { keysOf } from "../queue/layout.ts";
import type { OpenShard } from "../queue/open-shard.ts";
import {
  endpointChangesKey,
  endpointIndexKey,
  endpointLogKey,
  endpointOffKey,
  endpointsKey,
  healthKey,
  missedDataKey,
  missedKey,
  noticesQueue,
  rateKey,
  rateLineKey,
  rateReleasedKey,
} from "../queue/own-keys.ts";
import { openQueue } from "../queue/worker.ts";
import { ERASE } from "../registry/changes.ts";
import { indexMember } from "../registry/endpoint-index.ts";
import { handleMentions } from "./erase-mentions.ts";
import { scanJobs } from "./job-pages.ts";

/** Counts of what is stored of a user's endpoints. */
export interface EndpointHoldings {
  /** Endpoints, with those that were deleted in the last 30 days. */
  readonly endpoints: number;
  /** Events that they missed. */
  readonly missed: number;
  /** Attempts in their logs, which the user's log may have too. */
  readonly endpointAttempts: number;
  /** Notices about them. */
  readonly notices: number;
}

/**
 * Count, and optionally remove, what a shard stores of a user's endpoints.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function handleEndpointsIn(
  shard: OpenShard,
  userId: string,
  isRemoving: boolean,
): Promise<EndpointHoldings> {
  const { valkey, tag } = shard;
  const own = [endpointsKey(userId, tag), healthKey(userId, tag)] as const;
  const ids = await findIds(shard, own);
  const sum = async (countOf: (id: string) => Promise<number>) =>
    (await Promise.all(ids.map(countOf))).reduce((total, count) => total + count, 0);
  const [missed, logged] = await Promise.all([
    sum((id) => valkey.zcard(missedKey(userId, id, tag))),
    sum((id) => valkey.llen(endpointLogKey(userId, id, tag))), // two entries for each attempt
  ]);
  const notices = await handleNotices(shard, userId, isRemoving);
  if (isRemoving) {
    const keysOf = [missedKey, missedDataKey, endpointLogKey, rateKey, rateLineKey, rateReleasedKey];
    const members = ids.map((id) => indexMember(userId, id));
    await valkey.unlink(...own, ...ids.flatMap((id) => keysOf.map((keyOf) => keyOf(userId, id, tag))));
    await valkey.eval(ERASE, 1, endpointChangesKey(tag), crypto.randomUUID(), userId);
    if (members.length > 0) {
      await Promise.all([endpointIndexKey(tag), endpointOffKey(tag)].map((key) => valkey.zrem(key, ...members)));
    }
  }
  return { endpoints: ids.length, missed, endpointAttempts: Math.floor(logged / 2), notices };
}

/** Ids of the user's endpoints, also of deleted ones: attempts that ended later may have left something. */
async function findIds({ valkey }: OpenShard, [endpoints, health]: readonly [string, string]) {
  const [stored, healths] = await Promise.all([valkey.hgetall(endpoints), valkey.hgetall(health)]);
  const ids = Object.keys(stored).map((field) => field.replace(/\/.*$/, ""));
  const others = Object.keys(healths).map((field) => field.replace(/\..*$/, ""));
  return [...new Set([...ids, ...others])].filter((id) => id !== "");
}

/** Count, and optionally remove, notices about a user's endpoints. One that is being delivered stays. */
async function handleNotices({ valkey, tag }: OpenShard, userId: string, isRemoving: boolean): Promise<number> {
  const queue = openQueue(noticesQueue(tag), valkey);
  queue.on("error", () => {});
  if ((await valkey.exists(keysOf(queue).events)) === 0) return 0; // there has never been one
  const ids = new Set<string>();
  for await (const job of scanJobs(queue, valkey)) if (job.data?.userId === userId) ids.add(job.id);
  if (isRemoving) for (const id of ids) await queue.remove(id);
  await handleMentions({ client: queue, valkey }, encodeURIComponent(userId), isRemoving); // in the jobs' ids
  return ids.size;
}
