/**
 * Where jobs stand that take the place of another of their user's, in the order that the fair queue keeps, see
 * src/isolation/fair-queue.ts.
 */
import { PRIORITY_SCORE } from "./layout.ts";

/** The key of the hash of start tags, described at `SCAN` in src/isolation/fair-queue-script.ts, for a queue with this key prefix. */
export const flowTagsKey = (prefix: string): string => `${prefix}:fair:tags`;

const USER = "u:"; // a user's next start tag
const SUCCESSORS = "s:"; // and that of the user's jobs which took another's place

/** The field of the tags for the latter. */
export const successorsField = (userId: string): string => SUCCESSORS + userId;

/**
 * Lua function `startTag(user, count)` for scripts that put jobs in the place of one that was taken: the start tag of the first of
 * them, nil if the user does not yield, and they are due at once.
 *
 * The jobs of a yielding user take turns with other users'. The successors of one job after the other are tagged in a row of their
 * own, so that they neither wait behind all other jobs of their user, nor take more than a turn each.
 *
 * Expects the keys `prioritized` and `tags`.
 */
export const TURNS = `
local function startTag(user, count)
  local first = tonumber(redis.call("ZRANGE", prioritized, 0, 0, "WITHSCORES")[2] or ${PRIORITY_SCORE})
  if first >= ${PRIORITY_SCORE} then return nil end
  local own, last = unpack(redis.call("HMGET", tags, "${USER}" .. user, "${SUCCESSORS}" .. user))
  if (tonumber(own) or 0) <= first then return nil end
  local tag = math.max(first, tonumber(last) or 0)
  redis.call("HSET", tags, "${SUCCESSORS}" .. user, tag + count)
  return math.min(tag, ${PRIORITY_SCORE - 1} - count)
end`;
