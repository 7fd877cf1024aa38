/**
 * How our scripts tell workers that jobs wait, as BullMQ's own do.
 */
import { DELAYED_MARKER, DELAYED_SCORE_PER_MS, MARKER } from "./layout.ts";

/**
 * Statement in Lua, for scripts that have added to `wait` or `prioritized`. Expects `meta` and `marker`, keys. Workers of a queue
 * that is paused are not woken.
 */
export const WAKE_WORKERS = `if redis.call("HEXISTS", meta, "paused") == 0 then redis.call("ZADD", marker, ${MARKER.score}, "${MARKER.member}") end`;

/**
 * Functions in Lua, for scripts that make delayed jobs due now: `promote(id)` for each, in order, and `wakePromoted()` once at the
 * end, which returns how many there were. Expects `delayed` and `marker`, keys, and `now`, epoch ms.
 */
export const PROMOTION = `
local promoted = 0
local function promote(id)
  redis.call("ZADD", delayed, now * ${DELAYED_SCORE_PER_MS} + promoted, id)
  promoted = promoted + 1
end
local function wakePromoted()
  if promoted > 0 then redis.call("ZADD", marker, now, "${DELAYED_MARKER}") end
  return promoted
end`;
