/**
 * How our scripts tell workers that jobs wait, as BullMQ's own do.
 */
import { MARKER } from "./layout.ts";

/**
 * Statement in Lua, for scripts that have added to `wait` or `prioritized`. Expects `meta` and `marker`, keys. Workers of a queue
 * that is paused are not woken.
 */
export const WAKE_WORKERS = `if redis.call("HEXISTS", meta, "paused") == 0 then redis.call("ZADD", marker, ${MARKER.score}, "${MARKER.member}") end`;
