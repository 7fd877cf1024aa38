/**
 * The last attempts of each registered endpoint, beside those of its user in src/log/attempts.ts.
 *
 * Key: `webhooks:endpoint-log:<tag><userId>:<id>`, a list, the oldest first: of each attempt the epoch ms at which it ended, then the attempt as
 * JSON, as in the user's log. Up to 40 attempts, of which the last 25 count; expires `WEBHOOK_LOG_AGE` after the last write, to the minute. About
 * 17 KB.
 */
import type { Attempt } from "../log/attempt.ts";
import { readMembers } from "../log/attempts.ts";
import { endpointLogKey } from "../queue/own-keys.ts";
import { checkEndpointId, checkUserId } from "../registry/document.ts";
import type { Valkey } from "../valkey/connection.ts";

/** How many attempts are kept of each endpoint. */
export const ENDPOINT_LOG_SIZE = 25;
/** A log of more attempts than this is trimmed: not at each one. */
export const TRIM_ABOVE = ENDPOINT_LOG_SIZE + 15;

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
  const [reply, leftMs] = await Promise.all([valkey.lrange(key, -2 * ENDPOINT_LOG_SIZE, -1), valkey.pttl(key)]);
  return readMembers(reply.reverse(), leftMs).map(([attempt]) => attempt);
}
