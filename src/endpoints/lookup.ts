/**
 * Looks up registered endpoints for jobs that name one by its id, or none. Never stale: each lookup asks Valkey, after the job was taken,
 * whether anything has changed.
 */
import { queueKey, queueKeys } from "../queue/layout.ts";
import { endpointsKey } from "../queue/own-keys.ts";
import { FAN_FIELD, PINNED_FIELD } from "../queue/pin.ts";
import { perTurn } from "../runtime/per-tick.ts";
import type { Valkey } from "../valkey/connection.ts";
import { MOVED_FIELD, type StoredEndpoint, VERSION_FIELD } from "./endpoint.ts";
import { EndpointsMoved } from "./refusals.ts";
import { parseStored } from "./stored.ts";

const MAX_USERS = 10_000; // whose endpoints are cached

const UNCHANGED = 0;
const UNREADABLE = 1;

/**
 * KEYS: each user's endpoints, then jobs. ARGV: for each user, the version that the worker has, or an empty string. Returns for each
 * user 0 if it is still that one, 1 if the key is no hash, or else all of it; for each job what is written on it, see
 * src/queue/pin.ts. Only reads, so that it runs even when memory is full.
 */
const TURN = `
local replies = {}
for i = 1, #ARGV do
  local key = KEYS[i]
  local version = redis.pcall("HGET", key, "${VERSION_FIELD}")
  if type(version) == "table" then
    replies[i] = ${UNREADABLE}
  elseif version and version == ARGV[i] then
    replies[i] = ${UNCHANGED}
  else
    replies[i] = redis.call("HGETALL", key)
  end
end
for i = #ARGV + 1, #KEYS do replies[i] = redis.call("HMGET", KEYS[i], "${PINNED_FIELD}", "${FAN_FIELD}") end
return replies`;

type Reply = typeof UNCHANGED | typeof UNREADABLE | string[];
type Marks = [pinnedTo: string | null, fan: string | null];

/** What is known of a user's endpoints. */
interface Known {
  readonly version: string;
  readonly endpoints: ReadonlyMap<string, StoredEndpoint | "deleted">;
}

interface Lookup {
  readonly userId: string;
  /** The id of a job that names no endpoint. */
  readonly job: string | undefined;
  resolve(found: UsersEndpoints): void;
  reject(error: unknown): void;
}

interface Asked {
  readonly userId: string;
  readonly known: Known;
  readonly waiting: Lookup[];
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
 * @throws  UnreadableEndpoints when the user's key is damaged; EndpointsMoved when another shard has the user's endpoints
 */
export type FindEndpoint = (userId: string, id: string) => Promise<StoredEndpoint | "deleted" | undefined>;

/** All endpoints of a user, and what is written on the job that asks. */
export interface UsersEndpoints {
  /** Empty for a user who never had an endpoint. */
  readonly version: string;
  readonly endpoints: ReadonlyMap<string, StoredEndpoint | "deleted">;
  /** The endpoint that the job keeps to. */
  readonly pinnedTo?: string | undefined;
  /** Whether deliveries were made of the job's event. */
  readonly isFannedOut?: boolean | undefined;
}

/** Find a user's endpoints for a job that names none, by its id. Waits and throws like {@link FindEndpoint}. */
export type FindEndpoints = (userId: string, job: string) => Promise<UsersEndpoints>;

const NOTHING: Known = { version: "", endpoints: new Map() };

/**
 * Create the lookups of a shard. All of one turn of the event loop are one script.
 *
 * @param connect  called at the first lookup. On the connection of the queue's worker, a lookup would wait behind all
 *                 acknowledgements of the same moment, and the worker with it
 * @param queue  the shard's, by its name
 * @param tag    the shard's, see src/queue/shards.ts
 */
export function createLookup(
  connect: () => Valkey,
  queue: string,
  tag: string,
): { readonly findEndpoint: FindEndpoint; readonly findEndpoints: FindEndpoints } {
  let find: ((...args: unknown[]) => Promise<unknown[]>) | undefined;
  function openFind() {
    const valkey = connect();
    valkey.defineCommand("findEndpoints", { lua: TURN });
    const { findEndpoints } = valkey as unknown as { findEndpoints: NonNullable<typeof find> };
    return findEndpoints.bind(valkey);
  }
  const { jobs } = queueKeys(queueKey(queue));
  const cache = new Map<string, Known>(); // used longest ago first

  const asking = perTurn(async (lookups: Lookup[]) => {
    const asked = new Map<string, Asked>();
    const marked: Lookup[] = [];
    for (const lookup of lookups) {
      const { userId, job } = lookup;
      const own = asked.get(userId) ?? { userId, known: cache.get(userId) ?? NOTHING, waiting: [] };
      asked.set(userId, own);
      own.waiting.push(lookup);
      if (job !== undefined) marked.push(lookup);
    }
    const all = [...asked.values()];
    try {
      const keys = all.map(({ userId }) => endpointsKey(userId, tag));
      for (const { job } of marked) keys.push(`${jobs}${job}`);
      const versions = all.map(({ known }) => known.version);
      find ??= openFind();
      const replies = await find(keys.length, ...keys, ...versions);
      const marks = new Map(marked.map((lookup, index) => [lookup, replies[all.length + index] as Marks]));
      for (const [index, one] of all.entries()) settle(one, replies[index] as Reply, marks);
    } catch (error) {
      for (const { waiting } of all) for (const { reject } of waiting) reject(error);
    }
  });

  function settle({ userId, known, waiting }: Asked, reply: Reply, marks: ReadonlyMap<Lookup, Marks>): void {
    try {
      const now = reply === UNCHANGED ? known : read(reply);
      cache.delete(userId);
      if (now !== NOTHING) cache.set(userId, now);
      if (cache.size > MAX_USERS) cache.delete(cache.keys().next().value as string);
      for (const lookup of waiting) {
        const [pinnedTo, fan] = marks.get(lookup) ?? [];
        lookup.resolve(pinnedTo || fan ? { ...now, pinnedTo: pinnedTo ?? undefined, isFannedOut: Boolean(fan) } : now);
      }
    } catch (error) {
      for (const { reject } of waiting) reject(error);
    }
  }

  const ask = (userId: string, job?: string): Promise<UsersEndpoints> =>
    new Promise((resolve, reject) => asking.add({ userId, job, resolve, reject }));
  return {
    findEndpoint: async (userId, id) => (await ask(userId)).endpoints.get(id),
    findEndpoints: ask,
  };
}

function read(reply: Reply): Known {
  if (!Array.isArray(reply)) throw new UnreadableEndpoints("what is stored of this user's endpoints is not readable");
  const fields: Record<string, string> = {};
  for (let at = 0; at < reply.length; at += 2) fields[reply[at] as string] = reply[at + 1] as string;
  if (reply.length === 0) return NOTHING;
  const moved = fields[MOVED_FIELD];
  if (moved !== undefined) throw new EndpointsMoved(moved.split(" ")[0] as string);
  const version = fields[VERSION_FIELD] ?? "";
  const endpoints = new Map<string, StoredEndpoint | "deleted">();
  for (const endpoint of parseStored(fields)) endpoints.set(endpoint.id, endpoint);
  for (const [field, value] of Object.entries(fields)) {
    const [id, part] = field.split("/");
    if (id && part === "state" && value.startsWith("deleted ")) endpoints.set(id, "deleted");
  }
  return { version, endpoints };
}
