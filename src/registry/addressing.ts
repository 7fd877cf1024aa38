/**
 * Puts an endpoint into the data of a job that names none.
 */

/**
 * Lua function `splitData(data, event)`: the beginning and the end of a job's data, between which an endpoint's id goes; nil if it is
 * no object. `event` is the event's id if the data has none, otherwise empty.
 *
 * The data is not parsed, so its numbers stay as they were written. The fields come in the order in which the fair queue reads them
 * fastest.
 */
export const ADDRESSING = String.raw`
local function splitData(data, event)
  local named = event ~= "" and '"id":"' .. event .. '",' or ""
  local user, rest = string.match(data, '^%s*{%s*("userId"%s*:%s*"[^"\\]*"%s*,)%s*()')
  rest = rest or string.match(data, "^%s*{()")
  if not rest then return nil end
  return "{" .. (user or "") .. '"endpoint":{"id":"', '"},' .. named .. string.sub(data, rest)
end`;
