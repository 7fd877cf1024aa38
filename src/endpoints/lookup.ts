/**
 * Looks up registered endpoints for jobs that name one by its id. Never stale: each lookup asks Valkey, after the job was taken,
 * whether anything has changed.
 */
import { endpointsKey } from "../queue/own-keys.ts";
import { perTurn } from "../runtime/per-tick.ts";
import type { Valkey } from "../valkey/connection.ts";
import { type StoredEndpoint, VERSION_FIELD } from "./endpoint.ts";
import { parseStored } from "./stored.ts";

const MAX_USERS = 10_000; // whose endpoints are cached

const UNCHANGED = 0;
const UNREADABLE = 1;

/**
 * KEYS: each user's endpoints. ARGV: for each, the version that the worker has, or an empty string. Returns for each 0 if it is
 * still that one, 1 if the key is no hash, or else all of it. Only reads, so that it runs even when memory is full.
 */
const TURN = `
local replies = {}
for i, key in ipairs(KEYS) do
  local version = redis.pcall("HGET", key, "${VERSION_FIELD}")
  if type(version) == "table" then
    replies[i] = ${UNREADABLE}
  elseif version and version == ARGV[i] then
    replies[i] = ${UNCHANGED}
  else
    replies[i] = redis.call("HGETALL", key)
  end
end
return replies`;

type Reply = typeof UNCHANGED | typeof UNREADABLE | string[];

/** What is known of a user's endpoints. */
interface Known {
  readonly version: string;
  readonly endpoints: ReadonlyMap<string, StoredEndpoint | "deleted">;
}

interface Asked {
  readonly userId: string;
  readonly known: Known;
  readonly waiting: { resolve(known: Known): void; reject(error: unknown): void }[];
}

/** What a user's key holds is not what the registry writes there. */
export class UnreadableEndpoints extends Error {
  override readonly name = "UnreadableEndpoints";
}

/**
 * Find a user's endpoint; "deleted" if it was, undefined if there is none of this id. The same object until one of the user's changes.
 *
 * Waits while Valkey is away.
 *
 * @throws  UnreadableEndpoints when the user's key is damaged
 */
export type FindEndpoint = (userId: string, id: string) => Promise<StoredEndpoint | "deleted" | undefined>;

const NOTHING: Known = { version: "", endpoints: new Map() };

/**
 * Create the lookup of a shard. All lookups of one turn of the event loop are one script.
 *
 * @param tag  the shard's, see src/queue/shards.ts
 */
export function createLookup(valkey: Valkey, tag: string): FindEndpoint {
  valkey.defineCommand("findEndpoints", { lua: TURN });
  const { findEndpoints } = valkey as unknown as { findEndpoints: (...args: unknown[]) => Promise<Reply[]> };
  const cache = new Map<string, Known>(); // used longest ago first

  const asking = perTurn(async (lookups: { userId: string; waiter: Asked["waiting"][number] }[]) => {
    const asked = new Map<string, Asked>();
    for (const { userId, waiter } of lookups) {
      const own = asked.get(userId) ?? { userId, known: cache.get(userId) ?? NOTHING, waiting: [] };
      asked.set(userId, own);
      own.waiting.push(waiter);
    }
    const all = [...asked.values()];
    try {
      const keys = all.map(({ userId }) => endpointsKey(userId, tag));
      const versions = all.map(({ known }) => known.version);
      const replies = await findEndpoints.call(valkey, keys.length, ...keys, ...versions);
      for (const [index, one] of all.entries()) settle(one, replies[index] as Reply);
    } catch (error) {
      for (const { waiting } of all) for (const { reject } of waiting) reject(error);
    }
  });

  function settle({ userId, known, waiting }: Asked, reply: Reply): void {
    try {
      const now = reply === UNCHANGED ? known : read(reply);
      cache.delete(userId);
      if (now !== NOTHING) cache.set(userId, now);
      if (cache.size > MAX_USERS) cache.delete(cache.keys().next().value as string);
      for (const { resolve } of waiting) resolve(now);
    } catch (error) {
      for (const { reject } of waiting) reject(error);
    }
  }

  return async (userId, id) => {
    const { endpoints } = await new Promise<Known>((resolve, reject) => {
      asking.add({ userId, waiter: { resolve, reject } });
    });
    return endpoints.get(id);
  };
}

function read(reply: Reply): Known {
  if (!Array.isArray(reply)) throw new UnreadableEndpoints("what is stored of this user's endpoints is not readable");
  const fields: Record<string, string> = {};
  for (let at = 0; at < reply.length; at += 2) fields[reply[at] as string] = reply[at + 1] as string;
  if (reply.length === 0) return NOTHING;
  const version = fields[VERSION_FIELD] ?? "";
  const endpoints = new Map<string, StoredEndpoint | "deleted">();
  for (const endpoint of parseStored(fields)) endpoints.set(endpoint.id, endpoint);
  for (const [field, value] of Object.entries(fields)) {
    const [id, part] = field.split("/");
    if (id && part === "state" && value.startsWith("deleted ")) endpoints.set(id, "deleted");
  }
  return { version, endpoints };
}
