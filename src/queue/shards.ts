/**
 * The shards of a queue: parts with a name of their own, each on one node of Valkey. Pure.
 */
import { isClusterUrl } from "../valkey/url.ts";

/** Most shards that a queue can have. */
export const MAX_SHARDS = 256;

/** One part of the queue. */
export interface Shard {
  /** 0-based: its place among all shards. */
  readonly index: number;
  /** The queue's name in BullMQ. All keys of a shard are in the slot of its name. */
  readonly queue: string;
  /** Like `VALKEY_URL`: where it is. */
  readonly url: string;
  /** In the names of users' keys, `{0}:`; empty if the shard has the names of a queue without shards. */
  readonly tag: string;
  /** What its job ids begin with wherever jobs of several shards meet, as in `3/4711`; empty with one shard. */
  readonly label: string;
  /** The queue that a move into a cluster left behind, or a shard that is to go: it is served and read, and gets no new events. */
  readonly isDrained?: boolean;
  /** How many shards there were before, while users' endpoints may still be where they were then. */
  readonly before?: number;
}

/** What decides about shards. */
export interface Sharding {
  readonly queue: string;
  readonly shards: number;
  /** One for all shards, or one for each. */
  readonly valkeyUrls: readonly string[];
  /** Like `WEBHOOK_DRAIN_URL`. */
  readonly drainUrl?: string | undefined;
  /** Like `WEBHOOK_SHARDS_BEFORE`. */
  readonly before?: number | undefined;
}

/** Why settings that are valid alone do not go together; undefined when they do. */
export function shardingProblem({
  queue,
  shards: wanted,
  valkeyUrls,
  drainUrl,
  before = wanted,
}: Sharding): string | undefined {
  const shards = Math.max(wanted, before);
  const isCluster = valkeyUrls.some(isClusterUrl);
  if (drainUrl !== undefined && !isCluster) {
    return "expected WEBHOOK_DRAIN_URL to be unset, since VALKEY_URL is not a cluster's, got something";
  }
  if (isCluster && valkeyUrls.length > 1) {
    return `expected VALKEY_URL to be one cluster or several Valkeys, got ${valkeyUrls.length} URLs with a cluster among them`;
  }
  if (!isCluster && shards !== valkeyUrls.length) {
    const where = valkeyUrls.length === 1 ? "one Valkey without a cluster" : `${valkeyUrls.length} Valkeys`;
    const either = shards < valkeyUrls.length ? "WEBHOOK_SHARDS or WEBHOOK_SHARDS_BEFORE" : "WEBHOOK_SHARDS";
    const setting = before > wanted ? "WEBHOOK_SHARDS_BEFORE" : either;
    return `expected ${setting} to be ${valkeyUrls.length}, since VALKEY_URL names ${where}, got "${shards}"`;
  }
  if (new Set(valkeyUrls).size < valkeyUrls.length) return "expected the URLs in VALKEY_URL to differ, got one twice";
  const hasBraces = /[{}]/.test(queue) && (isCluster || shards > 1);
  return hasBraces ? `expected WEBHOOK_QUEUE to have no braces, since shards add their own, got "${queue}"` : undefined;
}

/** The label of the queue that a move into a cluster left behind. */
const DRAINED_LABEL = "old/";

/**
 * All shards of a queue, those that are to go behind those that stay. One shard without a cluster has the names of version 0.1.0, and so has the first of several on
 * Valkeys of their own: its events and logs may be there already. In a cluster a name's braces decide the node. The last one
 * may be the queue that a move into a cluster left behind.
 */
export function shardsOf({ queue, shards, valkeyUrls, drainUrl, before }: Sharding): [Shard, ...Shard[]] {
  const count = Math.max(shards, before ?? 0);
  const isSingle = count === 1 && drainUrl === undefined;
  const past = before === undefined || before === shards ? {} : { before };
  const shardAt = (index: number): Shard => {
    const url = valkeyUrls[index % valkeyUrls.length] as string;
    const going = index < shards ? {} : { isDrained: true };
    const shard = { index, url, label: isSingle ? "" : `${index}/`, ...going, ...past };
    if (index === 0 && !isClusterUrl(url)) return { ...shard, queue, tag: "" };
    return { ...shard, queue: `${queue}-{${index}}`, tag: `{${index}}:` };
  };
  const drained = (url: string): Shard => ({
    ...{ index: count, queue, url, tag: "", label: DRAINED_LABEL, isDrained: true },
    ...past,
  });
  return [
    shardAt(0),
    ...Array.from({ length: count - 1 }, (_, index) => shardAt(index + 1)),
    ...(drainUrl === undefined ? [] : [drained(drainUrl)]),
  ];
}

/** The tag in the names of users' keys in the shard whose queue has this name. */
export const tagOf = (queue: string): string => {
  const [braces] = /\{\d{1,3}\}$/.exec(queue) ?? [];
  return braces === undefined ? "" : `${braces}:`;
};

/** The shard that a user's events go to. Any other shard delivers them, too. */
export const homeOf = (userId: string, shards: number): number => (shards === 1 ? 0 : crc32(userId) % shards);

/** How operators see a shard where there are several: by its number, or `old`. */
export const shardName = ({ label }: Pick<Shard, "label">): string => label.slice(0, -1);

/** `shard 3`, or `shards 1, 2 and old`. */
export function nameShards(shards: readonly Pick<Shard, "label">[]): string {
  const names = shards.map(shardName);
  const last = names.pop();
  return names.length === 0 ? `shard ${last}` : `shards ${names.join(", ")} and ${last}`;
}

/** The one among all shards that a user's new events go to. */
export function homeAmong<S extends Pick<Shard, "isDrained">>(shards: readonly [S, ...S[]], userId: string): S {
  return shards[homeOf(userId, shards.filter(({ isDrained }) => !isDrained).length)] as S;
}

/** The shard with an index; undefined when it is not among these. */
export function homeAt<S extends Pick<Shard, "label">>(shards: readonly S[], index: number): S | undefined {
  const home = shards[index];
  return home?.label === DRAINED_LABEL ? undefined : home;
}

/**
 * Another shard that may still have a user's endpoints: their home before a change of the number of shards, or what a move into a
 * cluster left behind. Undefined when there is none.
 */
export function formerHomeAmong<S extends Pick<Shard, "label" | "isDrained" | "before">>(
  shards: readonly [S, ...S[]],
  userId: string,
): S | undefined {
  const old = shards.find(({ label }) => label === DRAINED_LABEL);
  const [{ before }] = shards;
  const former = old ?? (before === undefined ? undefined : shards[homeOf(userId, before)]);
  return former === homeAmong(shards, userId) ? undefined : former;
}

/** Whether operators' holds are kept in a shard: in the first, and in what a move into a cluster left behind. They are for all shards. */
export const hasHolds = ({ index, label }: Pick<Shard, "index" | "label">): boolean =>
  index === 0 || label === DRAINED_LABEL;

/** CRC-32 as in zlib and gzip, of a text's UTF-8. Node 20.0 has none. */
function crc32(text: string): number {
  let crc = 0xffffffff;
  for (const byte of Buffer.from(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** Take a job's name apart: its shard's label, and its id there. Without a label, it is in the first shard. */
export function parseJobName(name: string): { readonly label: string; readonly id: string } {
  const [, label = "0/", id = name] = /^(\d{1,3}\/|old\/)(.+)$/s.exec(name) ?? [];
  return { label, id };
}
