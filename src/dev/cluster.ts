/**
 * A throwaway Valkey Cluster on loopback, for tests, benchmarks and `npm start -- --shards`.
 */
import { setTimeout as pause } from "node:timers/promises";
import { Redis } from "ioredis";
import { freePort } from "./processes.ts";
import { randomPort, startValkey, type ThrowawayValkey } from "./valkey.ts";

const SLOTS = 16_384;
const READY_MS = 20 * 1000; // 20 s: a node that meets the others takes up to a second each
const POLL_MS = 50;
const NODE_TRIES = 5;

export interface ClusterOptions {
  /** 3 by default, the fewest that can replace one that died. */
  readonly primaries?: number;
  /** Of each primary; 1 by default. */
  readonly replicas?: number;
  readonly password?: string;
  /** Take connections over TLS too, and use it among each other: Valkey's settings for certificates. */
  readonly tls?: Readonly<Record<string, string>>;
  /** After this long without an answer a node counts as dead, in ms; 1,000 by default. */
  readonly nodeTimeoutMs?: number;
  /** Other settings of every node, by their names in valkey.conf. */
  readonly settings?: Readonly<Record<string, string>>;
}

export interface ClusterNode extends ThrowawayValkey {
  /** For the test's own commands. Does not follow MOVED. */
  readonly client: Redis;
  /** Where it takes connections over TLS; undefined without it. */
  readonly tlsPort?: number;
}

export interface Cluster {
  /** As `VALKEY_URL`: the primaries at its start. */
  readonly url: string;
  /** The primaries at its start, then their replicas, in the order of their primaries. */
  readonly nodes: readonly ClusterNode[];
  /** The node that owns a slot now; undefined while none does, or the node that did is gone and nobody has noticed. */
  ownerOf(slot: number): Promise<ClusterNode | undefined>;
  /** Move a slot key by key, as `valkey-cli --cluster reshard` does. Commands for it wait meanwhile. */
  moveSlot(slot: number, to: ClusterNode): Promise<void>;
  stop(): Promise<void>;
}

/**
 * Start a cluster whose slots are spread evenly. With `cluster-require-full-coverage no`, a dead primary stops only its own slots.
 *
 * @returns once every node sees all slots served and every replica follows its primary
 * @throws  like startValkey, or when the nodes do not agree within 20 s
 */
export async function startCluster({
  primaries = 3,
  replicas = 1,
  password,
  tls,
  nodeTimeoutMs = 1_000,
  settings = {},
}: ClusterOptions = {}): Promise<Cluster> {
  const count = primaries * (1 + replicas);
  const nodes = await Promise.all(
    Array.from({ length: count }, () => startNode({ password, tls, nodeTimeoutMs, settings })),
  );
  const stop = async (): Promise<void> => {
    for (const { client } of nodes) client.disconnect();
    await Promise.all(nodes.map((node) => node.stop()));
  };
  try {
    await join(nodes, primaries);
  } catch (error) {
    await stop();
    throw error;
  }
  const login = password === undefined ? "" : `:${encodeURIComponent(password)}@`;
  const hosts = nodes.slice(0, primaries).map(({ port, tlsPort = port }) => `127.0.0.1:${tlsPort}`);
  const ownerOf: Cluster["ownerOf"] = async (slot) => {
    const answers = nodes.map(async ({ client }) => {
      const rows = (await client.cluster("SLOTS")) as unknown as [number, number, [string, number]][];
      return rows.find(([first, last]) => slot >= first && slot <= last);
    });
    const row = await Promise.any(answers).catch(() => undefined); // one that is frozen does not answer
    return nodes.find(({ port }) => port === row?.[2][1]);
  };
  return {
    url: `redis${tls === undefined ? "" : "s"}+cluster://${login}${hosts.join(",")}`,
    nodes,
    ownerOf,
    async moveSlot(slot, to) {
      const from = await ownerOf(slot);
      if (from === undefined) throw new Error(`nobody owns slot ${slot}`);
      if (from !== to) await moveKeys(slot, from, to, { nodes, password });
    },
    stop,
  };
}

const KEYS_AT_ONCE = 100;
const MIGRATE_MS = 10_000;

async function moveKeys(
  slot: number,
  from: ClusterNode,
  to: ClusterNode,
  { nodes, password }: { nodes: readonly ClusterNode[]; password: string | undefined },
): Promise<void> {
  const [fromId, toId] = await Promise.all([from, to].map(({ client }) => client.cluster("MYID")));
  await to.client.cluster("SETSLOT", slot, "IMPORTING", fromId as string);
  await from.client.cluster("SETSLOT", slot, "MIGRATING", toId as string);
  const auth = password === undefined ? [] : ["AUTH", password];
  for (;;) {
    const keys = (await from.client.cluster("GETKEYSINSLOT", slot, KEYS_AT_ONCE)) as string[];
    if (keys.length === 0) break;
    await from.client.call("MIGRATE", "127.0.0.1", to.tlsPort ?? to.port, "", 0, MIGRATE_MS, ...auth, "KEYS", ...keys);
  }
  await to.client.cluster("SETSLOT", slot, "NODE", toId as string);
  await from.client.cluster("SETSLOT", slot, "NODE", toId as string);
  // The others learn it from the cluster, too, but later.
  const rest = nodes.filter((node) => node !== from && node !== to);
  await Promise.all(rest.map(({ client }) => client.cluster("SETSLOT", slot, "NODE", toId as string).catch(() => {})));
}

type NodeOptions = Required<Pick<ClusterOptions, "nodeTimeoutMs" | "settings">> & {
  readonly password: string | undefined;
  readonly tls: ClusterOptions["tls"];
};

/** Start a node, again with other ports when somebody else has taken one of them in the meantime. */
async function startNode(options: NodeOptions): Promise<ClusterNode> {
  for (let tries = 1; ; tries++) {
    const ports = [await findFreePort(), options.tls === undefined ? 0 : await findFreePort()] as const;
    try {
      return await launchNode(options, ...ports);
    } catch (error) {
      const areFree = await Promise.all(ports.map(async (port) => (await freePort(port, "127.0.0.1")) === port));
      if (tries === NODE_TRIES || areFree.every(Boolean)) throw error;
    }
  }
}

/** One that nobody has now, on loopback, and below those that the kernel gives to outgoing connections. */
export async function findFreePort(): Promise<number> {
  for (;;) {
    const port = await freePort(randomPort(), "127.0.0.1");
    if (port !== 0) return port;
  }
}

async function launchNode(
  { password, tls, nodeTimeoutMs, settings }: NodeOptions,
  busPort: number,
  tlsPort: number,
): Promise<ClusterNode> {
  const valkey = await startValkey({
    ...(password === undefined ? {} : { password }),
    settings: {
      "cluster-enabled": "yes",
      "cluster-config-file": "nodes.conf",
      "cluster-node-timeout": String(nodeTimeoutMs),
      "cluster-port": String(busPort),
      "cluster-require-full-coverage": "no",
      "cluster-replica-validity-factor": "0", // a replica takes over however long its primary was away
      "repl-diskless-sync-delay": "0",
      ...(password === undefined ? {} : { masterauth: password }),
      ...(tls && { ...tls, "tls-port": String(tlsPort), "tls-cluster": "yes", "tls-replication": "yes" }),
      ...settings,
    },
  });
  const client = new Redis({
    ...{ host: "127.0.0.1", port: valkey.port, ...(password === undefined ? {} : { password }) },
    ...{ maxRetriesPerRequest: 0, enableOfflineQueue: true, retryStrategy: () => 100 },
  });
  client.on("error", () => {}); // while the node is away
  return Object.assign(valkey, { client, ...(tls && { tlsPort }) }) as ClusterNode;
}

/** Make nodes a cluster: introduce them to the first, spread the slots, and give each replica its primary. */
async function join(nodes: readonly ClusterNode[], primaries: number): Promise<void> {
  const [first] = nodes as [ClusterNode];
  const busPort = ((await first.client.config("GET", "cluster-port")) as [string, string])[1];
  await Promise.all(
    nodes.slice(0, primaries).map(async ({ client }, index) => {
      await client.cluster("SET-CONFIG-EPOCH", index + 1);
      const from = Math.round((index * SLOTS) / primaries);
      const to = Math.round(((index + 1) * SLOTS) / primaries) - 1;
      await client.call("CLUSTER", "ADDSLOTSRANGE", from, to);
    }),
  );
  for (const { client } of nodes.slice(1))
    await client.call("CLUSTER", "MEET", "127.0.0.1", first.tlsPort ?? first.port, busPort);
  await until(nodes, async ({ client }) =>
    (await client.cluster("INFO")).includes(`cluster_known_nodes:${nodes.length}\r`),
  );
  const ids = await Promise.all(nodes.map(({ client }) => client.cluster("MYID")));
  for (const [index, { client }] of nodes.entries()) {
    if (index >= primaries) await client.cluster("REPLICATE", ids[(index - primaries) % primaries] as string);
  }
  await until(nodes, async ({ client }) => {
    const [info, replication] = await Promise.all([client.cluster("INFO"), client.info("replication")]);
    const isFollowing = replication.includes("role:master") || replication.includes("master_link_status:up");
    return info.includes("cluster_state:ok") && info.includes(`cluster_slots_ok:${SLOTS}\r`) && isFollowing;
  });
  await until(nodes.slice(primaries), async ({ client }) => (await client.info("replication")).includes("role:slave"));
}

async function until(nodes: readonly ClusterNode[], isReady: (node: ClusterNode) => Promise<boolean>): Promise<void> {
  const giveUpAt = performance.now() + READY_MS;
  for (const node of nodes) {
    while (!(await isReady(node).catch(() => false))) {
      if (performance.now() > giveUpAt) throw new Error(`the cluster's nodes do not agree within ${READY_MS / 1000} s`);
      await pause(POLL_MS);
    }
  }
}
