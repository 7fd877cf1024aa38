/**
 * Settings and queue of the demo's worker and board.
 */
import { Queue } from "bullmq";
import type { JobData } from "../delivery/contract.ts";
import { homeAmong, type Shard } from "../queue/shards.ts";
import { within } from "../runtime/deadline.ts";
import { type Config, loadConfig } from "../settings/config.ts";
import { SETTINGS } from "../settings/table.ts";
import { connectValkey } from "../valkey/connection.ts";
import { reachValkey } from "../valkey/reach.ts";
import { addressOf, isClusterUrl, placeOf } from "../valkey/url.ts";
import { freePort } from "./processes.ts";

/** An error that the user can fix: shown without a stack trace. */
export class DemoError extends Error {
  override readonly name = "DemoError";
}

const QUIET = { info() {}, warn() {} };

/** The settings, raw for child processes and parsed for us, and the queue. */
export interface Environment {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly config: Config;
  readonly queue: DemoQueue;
}

/** The queue with all its shards, opened by plain BullMQ clients. */
export interface DemoQueue {
  /** As WEBHOOK_QUEUE. */
  readonly name: string;
  /** Enqueue an event in its user's shard, with a name and data alone. */
  add(type: string, data: JobData): Promise<unknown>;
  close(): Promise<void>;
}

type Env = Readonly<Record<string, string | undefined>>;

const VALKEY_ANSWERS_MS = 3 * 1000; // 3 s

/**
 * Complete the user's settings for the demo: allow loopback, retry after 1 s, replace ports that are taken. Settings of the
 * user are kept.
 *
 * @param base  with VALKEY_URL and WEBHOOK_SHARDS
 * @param own   the Valkey is the user's, so others may use it too
 * @throws  DemoError when a setting is wrong, or Valkey does not answer
 */
export async function prepareEnvironment(base: Env, own: boolean): Promise<Environment> {
  const { config } = load(base);
  const name = base.WEBHOOK_QUEUE || SETTINGS.queue.default;
  const isUsed = own && (await isInUse(config));
  const [workerPort, boardPort] = await Promise.all([
    base.WORKER_PORT || freePort(config.workerPort, config.workerHost),
    base.BOARD_PORT || freePort(config.boardPort, config.boardHost),
  ]);
  const loaded = load({
    ...base,
    // Otherwise the demo's worker would deliver real events, with loopback allowed, and real workers would take the demo's.
    WEBHOOK_QUEUE: isUsed ? `${name}-demo` : name,
    WEBHOOK_EVENTS: "", // the demo sends the default ones
    WEBHOOK_ALLOW_NETWORKS: [base.WEBHOOK_ALLOW_NETWORKS, "127.0.0.0/8"].filter(Boolean).join(","),
    WEBHOOK_RETRY_DELAYS: base.WEBHOOK_RETRY_DELAYS || "1s,5s,30s",
    WORKER_PORT: String(workerPort),
    BOARD_PORT: String(boardPort),
    SHUTDOWN_TIMEOUT: base.SHUTDOWN_TIMEOUT || "5s",
    LOG_LEVEL: "info", // attempts are read from the log
  });
  return { ...loaded, queue: openDemoQueue(loaded.env.WEBHOOK_QUEUE as string, loaded.config) };
}

function load(env: Env): { env: Env; config: Config } {
  const loaded = loadConfig(env);
  if (!loaded.ok) throw new DemoError(loaded.problems.join("\n"));
  return { env, config: loaded.config };
}

function openDemoQueue(name: string, { shards }: Config): DemoQueue {
  const opened = shards.map((shard) => ({ ...shard, ...openQueue(shard) })) as [OpenedShard, ...OpenedShard[]];
  return {
    name,
    add: (type, data) => homeAmong(opened, data.userId).client.add(type, data),
    async close() {
      await Promise.all(opened.map(({ close }) => close()));
    },
  };
}

interface OpenedShard extends Shard {
  readonly client: Queue;
  close(): Promise<void>;
}

/** It keeps reconnecting; callers have a deadline. */
function openQueue({ queue, url }: Shard): Pick<OpenedShard, "client" | "close"> {
  const valkey = isClusterUrl(url) ? connectValkey(url, "fluxhook:demo", QUIET, { key: queue }) : undefined;
  const client = new Queue(queue, { connection: valkey ?? addressOf(url) });
  client.on("error", () => {});
  return {
    client,
    async close() {
      await client.close();
      valkey?.disconnect();
    },
  };
}

/** Whether a shard has events or workers. @throws  DemoError when a Valkey cannot be used */
async function isInUse({ shards }: Config): Promise<boolean> {
  const uses = await Promise.all(shards.map(isShardInUse));
  return uses.some(Boolean);
}

async function isShardInUse(shard: Shard): Promise<boolean> {
  const { url } = shard;
  // BullMQ would continue in database 0, which may have another environment's events.
  const reached = await reachValkey(url, "fluxhook:start", shard.queue);
  if (reached.ok) reached.valkey.disconnect();
  else if (reached.isWrongSetting) throw new DemoError(reached.reason);
  const { client, close } = openQueue(shard);
  const use = Promise.all([
    client.getWorkersCount(),
    client.getJobCountByTypes("waiting", "active", "delayed", "prioritized"),
  ]);
  const counts = await within(VALKEY_ANSWERS_MS, use, undefined);
  if (counts === undefined) {
    throw new DemoError(
      `No Valkey answers at ${placeOf(url)} (VALKEY_URL). Start it, or unset VALKEY_URL: npm start then runs its own.`,
    );
  }
  await close();
  return counts[0] > 0 || counts[1] > 0;
}
