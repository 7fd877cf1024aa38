/**
 * Lists registered endpoints, of one user or of all, for operators.
 */
import { parseUrl } from "../delivery/endpoint-url.ts";
import { openHome } from "../homes/homes.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { compareEntries, type IndexEntry, readIndex } from "../registry/endpoint-index.ts";
import { createRegistry, type EndpointWithHealth } from "../registry/registry.ts";
import { type HostFilter, isAt } from "./job-filter.ts";

/** States by which endpoints are found: `off` is paused or disabled, `failing` is enabled without a 2xx since a failure. */
export const ENDPOINT_STATES = ["failing", "disabled", "paused", "off"] as const;
export type EndpointStateFilter = (typeof ENDPOINT_STATES)[number];

/** Which endpoints to list. */
export interface EndpointQuery {
  /** Only this user's. */
  readonly userId?: string | undefined;
  readonly state?: EndpointStateFilter | undefined;
  /** Only those whose URL is at this host. */
  readonly host?: HostFilter | undefined;
  /** How many to return at most; 100 by default. */
  readonly limit?: number | undefined;
  /** Of the page before; see {@link isEndpointCursor}. */
  readonly cursor?: string | undefined;
}

/** An endpoint, its health, and whose it is. */
export interface ListedEndpoint extends EndpointWithHealth {
  readonly userId: string;
}

/** A page of endpoints. */
export interface EndpointPage {
  /** The latest change first; a single user's, oldest first. */
  readonly endpoints: readonly ListedEndpoint[];
  /** Where the next page begins; undefined on the last one. A page with a filter may have fewer than `limit`, even none. */
  readonly cursor?: string | undefined;
}

const LIMIT = 100;
const MAX_SEEN = 5_000; // endpoints read for a page with a filter
const PIECE = 100; // entries read at once from each shard

/** Whether a text is a cursor. */
export const isEndpointCursor = (text: string): boolean => parseCursor(text) !== undefined;

/**
 * List endpoints. Those of all users come from the index, see src/registry/endpoint-index.ts; a single user's, which are 50 by default, at
 * once and without the index.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function listEndpoints(shards: OpenShards, query: EndpointQuery = {}): Promise<EndpointPage> {
  const { userId, limit = LIMIT } = query;
  if (userId !== undefined) {
    const all = await readUsers(await openHome(shards, userId), userId);
    return { endpoints: all.filter((endpoint) => isListed(endpoint, query)) };
  }
  let after = query.cursor === undefined ? undefined : parseCursor(query.cursor);
  const endpoints: ListedEndpoint[] = [];
  for (let seen = 0; seen < MAX_SEEN; ) {
    const entries = await readMerged(shards, query.state, after);
    if (entries.length === 0) return { endpoints };
    const found = await readListed(entries);
    for (const [index, { entry }] of entries.entries()) {
      after = entry;
      seen += 1;
      const endpoint = found[index];
      if (endpoint !== undefined && isListed(endpoint, query)) endpoints.push(endpoint);
      if (endpoints.length >= limit) return { endpoints, cursor: formatCursor(entry) };
    }
  }
  return { endpoints, ...(after && { cursor: formatCursor(after) }) };
}

/** An entry of a shard's index. */
export interface PlacedEntry {
  readonly shard: OpenShard;
  readonly entry: IndexEntry;
}

/**
 * Read the endpoints of entries; undefined for those that are gone. Each user's are read once.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readListed(entries: readonly PlacedEntry[]): Promise<(ListedEndpoint | undefined)[]> {
  const users = new Map<string, Promise<ListedEndpoint[]>>();
  const reads = entries.map(({ shard, entry: { userId } }) => {
    const key = `${shard.label} ${userId}`;
    const read = users.get(key) ?? readUsers(shard, userId);
    users.set(key, read);
    return read;
  });
  const all = await Promise.all(reads);
  return all.map((endpoints, index) => endpoints.find(({ id }) => id === entries[index]?.entry.id));
}

async function readUsers({ valkey, tag }: OpenShard, userId: string): Promise<ListedEndpoint[]> {
  const all = await createRegistry(valkey, { tag }).list(userId);
  return all.map((endpoint) => ({ userId, ...endpoint }));
}

/** The next entries of all shards, in their common order: as far as every shard has been read. */
async function readMerged(
  shards: OpenShards,
  state: EndpointStateFilter | undefined,
  after: IndexEntry | undefined,
): Promise<PlacedEntry[]> {
  const list = state === undefined || state === "failing" ? "all" : "off";
  const pieces = await Promise.all(
    shards.map(async (shard) => {
      const entries = await readIndex(shard.valkey, shard.tag, list, after, PIECE);
      return entries.map((entry) => ({ shard, entry }));
    }),
  );
  return pieces
    .flat()
    .sort((a, b) => compareEntries(a.entry, b.entry))
    .slice(0, PIECE);
}

function isListed({ state, health, url }: ListedEndpoint, { state: wanted, host }: EndpointQuery): boolean {
  const isFailing = state.kind === "enabled" && health.failingSince !== undefined;
  if (wanted === "failing" && !isFailing) return false;
  if (wanted === "off" && state.kind === "enabled") return false;
  if ((wanted === "disabled" || wanted === "paused") && state.kind !== wanted) return false;
  if (host === undefined) return true;
  const parsed = parseUrl(url);
  return parsed !== undefined && isAt(parsed, host);
}

const formatCursor = ({ at, userId, id }: IndexEntry): string =>
  Buffer.from(`${at} ${userId} ${id}`).toString("base64url");

function parseCursor(text: string): IndexEntry | undefined {
  const [at, userId, id, rest] = Buffer.from(text, "base64url").toString("latin1").split(" ");
  if (!at || !/^\d{1,15}$/.test(at) || !userId || !id || rest !== undefined) return undefined;
  return { at: Number(at), userId, id };
}
