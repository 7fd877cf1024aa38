/**
 * Connections into a Valkey Cluster: each goes to the node that owns one slot, and looks for the owner whenever it connects.
 *
 * Not `ioredis.Cluster`: it sends a command that was redirected again behind those that came after it, so the order of a log
 * line and its acknowledgement would not survive a failover.
 */
import { connect as connectTcp } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import { AbstractConnector, Redis, type RedisOptions } from "ioredis";

export interface NodeAddress {
  readonly host: string;
  readonly port: number;
}

/** A row of CLUSTER SLOTS: a range of slots, its primary, then its replicas. */
type Row = readonly [first: number, last: number, ...nodes: (readonly [host: string, port: number, id: string])[]];

const SLOTS = 16_384;
const ASK_MS = 2 * 1000; // 2 s for a node to answer
const ASKED_AT_ONCE = 8; // nodes: one that is frozen must not delay the answer of the others

/** A key's slot: CRC16 (XMODEM) of the part in its first braces, or of the whole key. */
export function slotOf(key: string): number {
  const [, tag = key] = /^[^{]*\{([^}]+)\}/.exec(key) ?? [];
  let crc = 0;
  for (const byte of Buffer.from(tag)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1) & 0xffff;
  }
  return crc % SLOTS;
}

/** Knows who owns which slot. One per cluster, shared by its connections. */
export class Topology {
  #asked: Promise<readonly Row[]> | undefined;
  #known: readonly NodeAddress[] = [];
  #rows: readonly Row[] = []; // of the last answer

  /**
   * @param seeds    nodes to ask first; those that they name are asked later, too
   * @param options  user, password and TLS of the nodes
   */
  constructor(
    readonly seeds: readonly NodeAddress[],
    readonly options: RedisOptions,
  ) {}

  /** The slot's primary, as several nodes are asked now. @throws  when none of them answers, or nobody owns the slot */
  async ownerOf(slot: number): Promise<NodeAddress> {
    this.#asked ??= this.#ask().finally(() => {
      this.#asked = undefined;
    });
    const owner = ownerIn(await this.#asked, slot);
    if (owner === undefined) throw new Error(`no node of the cluster owns slot ${slot}`);
    return owner;
  }

  /** Whether the last answer names another node as the slot's primary. Asks nobody. */
  isReplaced({ host, port }: NodeAddress, slot: number): boolean {
    const owner = ownerIn(this.#rows, slot);
    return owner !== undefined && (owner.host !== host || owner.port !== port);
  }

  async #ask(): Promise<readonly Row[]> {
    const unique = new Map([...this.#known, ...this.seeds].map((node) => [`${node.host} ${node.port}`, node]));
    const asked = shuffle([...unique.values()]).slice(0, ASKED_AT_ONCE);
    const connections: Redis[] = [];
    try {
      const rows = await Promise.any(asked.map((node) => this.#askOne(node, connections)));
      this.#rows = rows;
      this.#known = rows.flatMap(([, , ...nodes]) => nodes.map(([host, port]) => ({ host, port })));
      return rows;
    } catch (error) {
      throw error instanceof AggregateError ? error.errors[0] : error;
    } finally {
      for (const connection of connections) connection.disconnect();
    }
  }

  /** What one node says. A node that has lost sight of most others would answer with what was true once. */
  async #askOne({ host, port }: NodeAddress, connections: Redis[]): Promise<readonly Row[]> {
    const node = new Redis({
      ...this.options,
      ...{ host, port, lazyConnect: true, enableReadyCheck: false, retryStrategy: () => null },
      ...{
        connectTimeout: ASK_MS,
        commandTimeout: ASK_MS,
        maxRetriesPerRequest: 0,
        protocol: 2,
        replyMapping: "legacy",
      },
    });
    connections.push(node);
    let reason: Error | undefined; // says more than the commands' error, which is that the connection is closed
    node.on("error", (error) => {
      reason ??= error;
    });
    const asked = node.connect().then(() => Promise.all([node.cluster("INFO"), node.cluster("SLOTS")]));
    const answers = await asked.catch((error) => {
      throw reason ?? error;
    });
    const [info, rows] = answers as unknown as [string, Row[]];
    if (!info.includes("cluster_state:ok")) throw new Error(`the cluster is down, as ${host}:${port} sees it`);
    // A node that does not know its own address leaves it empty: it is the one under which it was asked.
    return rows.map(([first, last, ...nodes]) => [
      first,
      last,
      ...nodes.map(([name, at, id]) => [name || host, at, id] as const),
    ]);
  }
}

function ownerIn(rows: readonly Row[], slot: number): NodeAddress | undefined {
  const row = rows.find(([first, last]) => slot >= first && slot <= last);
  if (row === undefined) return undefined;
  const [host, port] = row[2] as Row[2];
  return { host, port };
}

function shuffle<T>(items: T[]): T[] {
  return items
    .map((item) => [Math.random(), item] as const)
    .sort(([a], [b]) => a - b)
    .map(([, item]) => item);
}

/** Options of a connection to the owner of a slot, for ioredis. */
export interface SlotOptions extends RedisOptions {
  readonly topology: Topology;
  readonly slot: number;
}

/** Connects to the primary that owns a slot, as ioredis' Sentinel connector does to the primary that Sentinels name. */
export class SlotConnector extends AbstractConnector {
  readonly #options: SlotOptions;
  /** Where it leads, or led last. */
  owner: NodeAddress | undefined;

  /** @param options  {@link SlotOptions}; ioredis passes whatever the connection was given */
  constructor(options: unknown) {
    super((options as SlotOptions).disconnectTimeout as number);
    this.#options = options as SlotOptions;
  }

  /** Whether the node is a primary, by its INFO. If not, ioredis closes the connection and connects again. */
  override check({ role }: { role?: string }): boolean {
    return role === undefined || role === "master";
  }

  /** Find the owner and connect to it, again after the pauses of `retryStrategy` while nobody tells. */
  override async connect(emit: (type: string, error: Error) => void) {
    this.connecting = true;
    const { topology, slot, tls, retryStrategy } = this.#options;
    for (let times = 1; ; times++) {
      try {
        const owner = await topology.ownerOf(slot);
        this.owner = owner;
        if (!this.connecting) throw new Error("Connection is closed."); // ioredis' own words
        const stream = tls ? connectTls({ ...owner, ...tls }) : connectTcp(owner);
        stream.once("error", (error) => {
          this.firstError = error;
        });
        this.stream = stream;
        return stream;
      } catch (error) {
        const pauseMs = this.connecting ? retryStrategy?.(times) : undefined;
        if (typeof pauseMs !== "number") throw error;
        emit("error", error as Error);
        await pause(pauseMs);
      }
    }
  }
}
