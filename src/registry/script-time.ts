/**
 * The clock of the registry's scripts.
 */

/** Lua that sets `now`: Valkey's time, epoch ms. */
export const NOW = `
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`;
