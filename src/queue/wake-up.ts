/**
 * Lua for our scripts to wake workers the way BullMQ's scripts do.
 */
import { DELAYED_MARKER, DELAYED_SCORE_PER_MS, MARKER } from "./layout.ts";

/**
 * Lua statement for scripts that have added to `wait` or `prioritized`. Expects the keys `meta` and `marker`. Does not wake
 * workers while the queue is paused.
 */
export const WAKE_WORKERS = `if redis.call("HEXISTS", meta, "paused") == 0 then redis.call("ZADD", marker, ${MARKER.score}, "${MARKER.member}") end`;

/**
 * Lua functions for scripts that make delayed jobs due now: `promote(id)` for each, in order, then `wakePromoted()` once, which
 * returns how many there were. Expects the keys `delayed` and `marker`, and `now`, epoch ms.
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
