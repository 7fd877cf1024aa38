/**
 * Looks up registered endpoints for jobs that name one by its id, or none. Never stale: an event that was enqueued after a change of an endpoint is
 * served by that change.
 *
 * What was looked up is remembered, together with the newest change of the shard's endpoints at that moment, see registry/changes.ts. With the
 * commands that take jobs goes one that asks, behind them on the same connection, whether that change is still the newest: so most jobs wait for
 * no answer but that which comes with them.
 */
import { endpointChangesKey, endpointsKey } from "../queue/own-keys.ts";
import type { Confirm } from "../queue/pick-ups.ts";
import { EVERYONE } from "../registry/changes.ts";
import { MOVED_FIELD, type StoredEndpoint, VERSION_FIELD } from "../registry/endpoint.ts";
import { EndpointsMoved, UnreadableEndpoints } from "../registry/refusals.ts";
import { parseStored } from "../registry/stored.ts";
import { perTurn } from "../runtime/per-tick.ts";
import type { Valkey } from "../valkey/connection.ts";
import { createConfirm } from "./confirm.ts";
import { Memory, NEWS, type News, type UsersEndpoints } from "./memory.ts";

const UNREADABLE = 1;

/**
 * KEYS: the shard's changes, then users' endpoints. ARGV: the newest change that the worker knows, or an empty string. Returns {@link NEWS}, the
 * changes, and for each user all of the hash, or 1 if the key is none. Only reads, so that it runs even when memory is full.
 */
const FIND = `
local changes, known, news, since = KEYS[1], ARGV[1], ${NEWS.none}, {}
local newest = redis.pcall("LINDEX", changes, 0) or ""
if type(newest) == "table" then
  news = ${NEWS.unreadable}
elseif newest ~= known then
  local at = known ~= "" and redis.call("LPOS", changes, known)
  news = at and ${NEWS.some} or ${NEWS.lost}
  since = at and redis.call("LRANGE", changes, 0, at - 1) or { newest }
end
local replies = { news, since }
for i = 2, #KEYS do
  local fields = redis.pcall("HGETALL", KEYS[i])
  replies[i + 1] = fields.err and ${UNREADABLE} or fields
end
return replies`;

type Fields = typeof UNREADABLE | string[];
type Reply = [news: News, changes: string[], ...users: Fields[]];

type Find = (...args: (string | number)[]) => Promise<Reply>;

interface Lookup {
  /** Undefined to ask for changes alone. */
  readonly userId: string | undefined;
  resolve(found: UsersEndpoints): void;
  reject(error: unknown): void;
}

/** What is looked up of a user. */
export interface Wanted {
  /** The endpoint that the job names; undefined for all of them. */
  readonly id?: string | undefined;
  /** What to wait for first, see `Confirm` in queue/pick-ups.ts. */
  readonly after?: Promise<void> | undefined;
  /** Whether to ask Valkey now, since what was found before turned out to be old. */
  readonly isAnew?: boolean | undefined;
}

/**
 * Find a user's endpoints. The same objects until one of them changes. Waits while Valkey is away.
 *
 * @throws  UnreadableEndpoints when the user's key is damaged; EndpointsMoved when another shard has the user's endpoints
 */
export type FindEndpoints = (userId: string, wanted: Wanted) => UsersEndpoints | Promise<UsersEndpoints>;

const NOTHING: UsersEndpoints = { version: "", endpoints: new Map(), length: 0 };

export interface EndpointLookup {
  readonly findEndpoints: FindEndpoints;
  /** For all commands that bring the worker its jobs. Without it, nothing is remembered. */
  readonly confirm: Confirm;
  /** Look for changes, if anything is remembered: a worker that takes no jobs learns of none. */
  readonly lookForChanges: () => void;
}

/**
 * Create the lookups of a shard. All of one turn of the event loop are one script.
 *
 * @param valkey   the connection on which the worker takes its jobs
 * @param connect  called at the first lookup. On that connection, it would wait behind all acknowledgements of the same moment
 * @param tag      the shard's, see src/queue/shards.ts
 * @param changed  called with the users whose endpoints have changed; undefined for all
 */
export function createLookup(
  valkey: Valkey,
  connect: () => Valkey,
  tag: string,
  changed: (users?: ReadonlySet<string>) => void = () => {},
): EndpointLookup {
  const memory = new Memory((users) => changed(users.includes(EVERYONE) ? undefined : new Set(users)));
  const find = createFind(connect);
  let isConfirmed = false;
  let underWay = 0;
  let isLooking = false; // one at a time, also while Valkey is away

  /** Ask Valkey for the endpoints of all these users, and keep what comes. */
  async function findAll(users: readonly string[]): Promise<ReadonlyMap<string, UsersEndpoints | Error>> {
    const { newest } = memory;
    const keys = [endpointChangesKey(tag), ...users.map((userId) => endpointsKey(userId, tag))];
    const [news, changes, ...replies] = await find(keys.length, ...keys, newest);
    const mayKeep = memory.catchUp(newest, news, changes) && isConfirmed;
    const found = new Map(users.map((userId, index) => [userId, read(replies[index] as Fields)]));
    for (const [userId, one] of found) {
      if (mayKeep && !(one instanceof Error) && one !== NOTHING) memory.keep(userId, one);
    }
    return found;
  }

  const asking = perTurn(async (lookups: Lookup[]) => {
    try {
      const found = await findAll([...new Set(lookups.flatMap(({ userId }) => userId ?? []))]);
      for (const { userId, resolve, reject } of lookups) {
        const one = userId === undefined ? NOTHING : (found.get(userId) as UsersEndpoints | Error);
        if (one instanceof Error) reject(one);
        else resolve(one);
      }
    } catch (error) {
      for (const { reject } of lookups) reject(error);
    } finally {
      underWay -= lookups.length;
    }
  });

  function ask(userId?: string): Promise<UsersEndpoints> {
    underWay += 1;
    return new Promise((resolve, reject) => asking.add({ userId, resolve, reject }));
  }

  const confirm = createConfirm(valkey, endpointChangesKey(tag), memory, {
    isToBeChecked: () => !memory.isEmpty || underWay > 0,
    catchUp: () => ask(),
  });
  return {
    findEndpoints(userId, { after, isAnew }) {
      const find = () => (isAnew ? undefined : memory.recall(userId)) ?? ask(userId);
      return after === undefined ? find() : after.then(find);
    },
    confirm() {
      isConfirmed = true;
      return confirm();
    },
    lookForChanges() {
      if (isLooking) return;
      isLooking = true;
      const done = () => {
        isLooking = false;
      };
      Promise.resolve(confirm()()).then(done);
    },
  };
}

/** Make the function that runs the script; it connects when it is first called. */
function createFind(connect: () => Valkey): Find {
  let connected: { findEndpoints: Find } | undefined;
  return (...args) => {
    if (connected === undefined) {
      const valkey = connect();
      valkey.defineCommand("findEndpoints", { lua: FIND });
      connected = valkey as unknown as { findEndpoints: Find };
    }
    return connected.findEndpoints(...args);
  };
}

function read(reply: Fields): UsersEndpoints | Error {
  if (!Array.isArray(reply)) return new UnreadableEndpoints("what is stored of this user's endpoints is not readable");
  const fields: Record<string, string> = {};
  for (let at = 0; at < reply.length; at += 2) fields[reply[at] as string] = reply[at + 1] as string;
  if (reply.length === 0) return NOTHING;
  const moved = fields[MOVED_FIELD];
  if (moved !== undefined) return new EndpointsMoved(moved.split(" ")[0] as string);
  const version = fields[VERSION_FIELD] ?? "";
  const endpoints = new Map<string, StoredEndpoint | "deleted">();
  for (const endpoint of parseStored(fields)) endpoints.set(endpoint.id, endpoint);
  for (const [field, value] of Object.entries(fields)) {
    const [id, part] = field.split("/");
    if (id && part === "state" && value.startsWith("deleted ")) endpoints.set(id, "deleted");
  }
  return { version, endpoints, length: reply.reduce((sum, text) => sum + text.length, 0) };
}
