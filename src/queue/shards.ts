/**
 * The shards of a queue: parts with a name of their own, each on one node of Valkey. Pure.
 */
import { isClusterUrl } from "../valkey/url.ts";

/** Most shards that a queue can have. */
export const MAX_SHARDS = 256;

/** One part of the queue. */
export interface Shard {
  /** 0-based. */
  readonly index: number;
  /** The queue's name in BullMQ. All keys of a shard are in the slot of its name. */
  readonly queue: string;
  /** Like `VALKEY_URL`: where it is. */
  readonly url: string;
  /** In the names of users' keys, `{0}:`; empty if the shard has the names of a queue without shards. */
  readonly tag: string;
  /** What its job ids begin with wherever jobs of several shards meet, as in `3/4711`; empty with one shard. */
  readonly label: string;
}

/** What decides about shards. */
export interface Sharding {
  readonly queue: string;
  readonly shards: number;
  /** One for all shards, or one for each. */
  readonly valkeyUrls: readonly string[];
}

/** Why settings that are valid alone do not go together; undefined when they do. */
export function shardingProblem({ queue, shards, valkeyUrls }: Sharding): string | undefined {
  const isCluster = valkeyUrls.some(isClusterUrl);
  if (isCluster && valkeyUrls.length > 1) {
    return `expected VALKEY_URL to be one cluster or several Valkeys, got ${valkeyUrls.length} URLs with a cluster among them`;
  }
  if (!isCluster && shards !== valkeyUrls.length) {
    const where = valkeyUrls.length === 1 ? "one Valkey without a cluster" : `${valkeyUrls.length} Valkeys`;
    return `expected WEBHOOK_SHARDS to be ${valkeyUrls.length}, since VALKEY_URL names ${where}, got "${shards}"`;
  }
  if (new Set(valkeyUrls).size < valkeyUrls.length) return "expected the URLs in VALKEY_URL to differ, got one twice";
  const hasBraces = /[{}]/.test(queue) && (isCluster || shards > 1);
  return hasBraces ? `expected WEBHOOK_QUEUE to have no braces, since shards add their own, got "${queue}"` : undefined;
}

/**
 * All shards of a queue. One shard without a cluster has the names of version 0.1.0, and so has the first of several on
 * Valkeys of their own: its events and logs may be there already. In a cluster a name's braces decide the node.
 */
export function shardsOf({ queue, shards, valkeyUrls }: Sharding): [Shard, ...Shard[]] {
  const shardAt = (index: number): Shard => {
    const url = valkeyUrls[index % valkeyUrls.length] as string;
    const shard = { index, url, label: shards === 1 ? "" : `${index}/` };
    if (index === 0 && !isClusterUrl(url)) return { ...shard, queue, tag: "" };
    return { ...shard, queue: `${queue}-{${index}}`, tag: `{${index}}:` };
  };
  return [shardAt(0), ...Array.from({ length: shards - 1 }, (_, index) => shardAt(index + 1))];
}

/** The tag in the names of users' keys in the shard whose queue has this name. */
export const tagOf = (queue: string): string => {
  const [braces] = /\{\d{1,3}\}$/.exec(queue) ?? [];
  return braces === undefined ? "" : `${braces}:`;
};

/** The shard that a user's events go to. Any other shard delivers them, too. */
export const homeOf = (userId: string, shards: number): number => (shards === 1 ? 0 : crc32(userId) % shards);

/** CRC-32 as in zlib and gzip, of a text's UTF-8. Node 20.0 has none. */
function crc32(text: string): number {
  let crc = 0xffffffff;
  for (const byte of Buffer.from(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** Take a job's name with a shard's label apart. Without a label, it is in the first shard. */
export function parseJobName(name: string): { readonly shard: number; readonly id: string } {
  const [, shard = "0", id = name] = /^(\d{1,3})\/(.+)$/s.exec(name) ?? [];
  return { shard: Number(shard), id };
}
