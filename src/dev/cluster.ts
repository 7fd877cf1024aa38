/**
 * A throwaway Valkey Cluster on loopback, for tests, benchmarks and `npm start -- --shards`.
 */
import { setTimeout as pause } from "node:timers/promises";
import { Redis } from "ioredis";
import { randomPort, startValkey, type ThrowawayValkey } from "./valkey.ts";

const SLOTS = 16_384;
const READY_MS = 20 * 1000; // 20 s: a node that meets the others takes up to a second each
const POLL_MS = 50;

export interface ClusterOptions {
  /** 3 by default, the fewest that can replace one that died. */
  readonly primaries?: number;
  /** Of each primary; 1 by default. */
  readonly replicas?: number;
  readonly password?: string;
  /** After this long without an answer a node counts as dead, in ms; 1,000 by default. */
  readonly nodeTimeoutMs?: number;
  /** Other settings of every node, by their names in valkey.conf. */
  readonly settings?: Readonly<Record<string, string>>;
}

export interface ClusterNode extends ThrowawayValkey {
  /** For the test's own commands. Does not follow MOVED. */
  readonly client: Redis;
}

export interface Cluster {
  /** As `VALKEY_URL`: the primaries at its start. */
  readonly url: string;
  /** The primaries at its start, then their replicas, in the order of their primaries. */
  readonly nodes: readonly ClusterNode[];
  /** The node that owns a slot now; undefined while none does. */
  ownerOf(slot: number): Promise<ClusterNode | undefined>;
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
  nodeTimeoutMs = 1_000,
  settings = {},
}: ClusterOptions = {}): Promise<Cluster> {
  const count = primaries * (1 + replicas);
  const nodes = await Promise.all(
    Array.from({ length: count }, () => startNode({ password, nodeTimeoutMs, settings })),
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
  const hosts = nodes.slice(0, primaries).map(({ port }) => `127.0.0.1:${port}`);
  return {
    url: `redis+cluster://${login}${hosts.join(",")}`,
    nodes,
    async ownerOf(slot) {
      for (const { client } of nodes) {
        const rows = (await client.cluster("SLOTS").catch(() => [])) as [number, number, [string, number]][];
        const row = rows.find(([first, last]) => slot >= first && slot <= last);
        if (row !== undefined) return nodes.find(({ port }) => port === row[2][1]);
      }
      return undefined;
    },
    stop,
  };
}

async function startNode({
  password,
  nodeTimeoutMs,
  settings,
}: Required<Pick<ClusterOptions, "nodeTimeoutMs" | "settings">> & Pick<ClusterOptions, "password">) {
  const valkey = await startValkey({
    ...(password === undefined ? {} : { password }),
    settings: {
      "cluster-enabled": "yes",
      "cluster-config-file": "nodes.conf",
      "cluster-node-timeout": String(nodeTimeoutMs),
      "cluster-port": String(randomPort()),
      "cluster-require-full-coverage": "no",
      "cluster-replica-validity-factor": "0", // a replica takes over however long its primary was away
      "repl-diskless-sync-delay": "0",
      ...(password === undefined ? {} : { masterauth: password }),
      ...settings,
    },
  });
  const client = new Redis({
    ...{ host: "127.0.0.1", port: valkey.port, ...(password === undefined ? {} : { password }) },
    ...{ maxRetriesPerRequest: 0, enableOfflineQueue: true, retryStrategy: () => 100 },
  });
  client.on("error", () => {}); // while the node is away
  return Object.assign(valkey, { client }) as ClusterNode;
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
  for (const { client } of nodes.slice(1)) await client.call("CLUSTER", "MEET", "127.0.0.1", first.port, busPort);
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
