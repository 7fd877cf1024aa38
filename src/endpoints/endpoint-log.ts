/**
 * The last attempts of each registered endpoint, beside those of its user in src/log/attempts.ts.
 *
 * Key: `webhooks:endpoint-log:<tag><userId>:<id>`, a sorted set; score: epoch ms at which the attempt ended; member: the attempt as JSON,
 * as in the user's log. About 25 members, of which the
 * last 25 count; expires `WEBHOOK_LOG_AGE` after the last write. About 12 KB.
 */
import type { Attempt } from "../log/attempt.ts";
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
  // With the newest attempt, the key was set to expire when that is too old; the others are as old as they are.
  const oldest = leftMs < 0 ? Number.NEGATIVE_INFINITY : Number(reply[1]) - leftMs;
  return reply.flatMap((member, at) => (at % 2 === 0 && Number(reply[at + 1]) >= oldest ? readMember(member) : []));
}

/** Parse a member; empty for invalid ones. */
function readMember(member: string): Attempt[] {
  try {
    const value: unknown = JSON.parse(member);
    return typeof value === "object" && value !== null && "delivery" in value ? [value as Attempt] : [];
  } catch {
    return [];
  }
}
