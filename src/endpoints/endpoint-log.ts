/**
 * The last attempts of each registered endpoint, beside those of its user in src/log/attempts.ts.
 *
 * Key: `webhooks:endpoint-log:<tag><userId>:<id>`, a sorted set; score: epoch ms at which the attempt ended; member: the attempt as JSON,
 * as in the user's log. About 25 members, of which the
 * last 25 count; expires `WEBHOOK_LOG_AGE` after the last write. About 12 KB.
 */
import type { Attempt } from "../log/attempt.ts";
import { readMembers } from "../log/attempts.ts";
import { endpointLogKey } from "../queue/own-keys.ts";
import type { Valkey } from "../valkey/connection.ts";
import { checkEndpointId, checkUserId } from "./document.ts";

/** How many attempts are kept of each endpoint. */
export const ENDPOINT_LOG_SIZE = 25;

/**
 * An endpoint's last 25 attempts, newest first; none for an endpoint that does not exist. Test events are among them.
 *
 * @param tag  the shard's
 * @throws  UsageError when an id is invalid; when Valkey answers with an error; waits while it is away
 */
export async function readEndpointLog(valkey: Valkey, tag: string, userId: string, id: string): Promise<Attempt[]> {
  checkUserId(userId);
  checkEndpointId(id);
  const key = endpointLogKey(userId, id, tag);
  const [reply, leftMs] = await Promise.all([
    valkey.zrevrange(key, 0, ENDPOINT_LOG_SIZE - 1, "WITHSCORES"),
    valkey.pttl(key),
  ]);
  return readMembers(reply, leftMs).map(([attempt]) => attempt);
}
