/**
 * What has changed in a shard's registry, for workers that remember its endpoints.
 *
 * Key: `webhooks:endpoint-changes`, in the slot of the shard's users: a list of the last 1,000 changes, the newest first, each as
 * `<new version> <userId>`. No two are equal. About 80 bytes each; no expiry. It is written by whatever changes a user's endpoints, in the
 * same step. A worker that finds the newest change that it knows at the head knows that nothing has changed since; one that does
 * not find it at all, after a failover or a thousand changes, forgets what it remembers. While the list is empty, nothing is remembered.
 */
const KEPT = 1_000;

/**
 * Lua functions `tell(changes, version, user)`, which adds a change to the list, and `makeRoom(changes)`, after which a Valkey that is full
 * does that and all that follows. A script calls them ahead of all else that it writes: if it may not write the list, nothing is changed.
 */
export const TELLING = `
local function makeRoom(changes) redis.pcall("LTRIM", changes, 0, ${KEPT - 2}) end

local function tell(changes, version, user)
  local change = version .. " " .. user
  local told = redis.pcall("LPUSH", changes, change)
  if type(told) == "number" then
    redis.call("LTRIM", changes, 0, ${KEPT - 1})
  elseif not string.find(told.err, "WRONGTYPE", 1, true) then -- if it is no list, workers remember nothing
    redis.call("LPUSH", changes, change) -- fails as before, and the script with it
  end
end
`;

/** In place of a user's id: workers forget all that they remember. */
export const EVERYONE = "*";

/** Remove a user's id from the list, once the user's endpoints are gone. KEYS: the list. ARGV: a new version, the user's id. */
export const ERASE = `${TELLING}
if redis.call("EXISTS", KEYS[1]) == 0 then return end
makeRoom(KEYS[1])
tell(KEYS[1], ARGV[1], "${EVERYONE}")
for _, change in ipairs(redis.call("LRANGE", KEYS[1], 0, -1)) do
  if string.match(change, " (.*)$") == ARGV[2] then redis.call("LREM", KEYS[1], 1, change) end
end`;

/** The user whom a change concerns, or {@link EVERYONE}. */
export const userOf = (change: string): string => change.slice(change.indexOf(" ") + 1);
