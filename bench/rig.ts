/**
 * What a bench of workers needs: a Valkey, a receiver and workers, each a process of its own.
 */
import { Redis } from "ioredis";
import { startValkey } from "../src/dev/valkey.ts";
import { readFacts, type ValkeyFacts } from "../src/valkey/connection.ts";
import { type Child, createProcesses, type Processes, untilPrinted } from "./processes.ts";
import type { SinkCounts } from "./sink.ts";

const SCRIPTS = {
  fluxhook: "src/worker.ts",
  plain: "bench/plain-worker.ts",
  noop: "bench/noop-worker.ts",
  raw: "bench/raw-sender.ts",
} as const;

/** Which worker runs. */
export type Kind = keyof typeof SCRIPTS;

export interface RigOptions {
  /** Program and arguments of the receiver. */
  readonly receiver?: readonly [script: string, ...args: string[]];
  /** Let Valkey rewrite its append-only file when it has grown; for long runs. */
  readonly rewrites?: boolean;
}

export interface Rig extends Processes {
  readonly valkeyUrl: string;
  /** A connection of the bench's own. */
  readonly client: Redis;
  readonly facts: ValkeyFacts;
  readonly receiver: Child;
  /** The first line that the receiver printed. */
  readonly receiverLine: string;
  /** Start a worker on a queue, without waiting for it. */
  startWorker(kind: Kind, queue: string, env?: Record<string, string>, flags?: readonly string[]): Child;
}

/** Start them. Valkey is set up as in production: noeviction, append-only file, synced once a second. */
export async function startRig(options: RigOptions = {}): Promise<Rig> {
  const { receiver: [script, ...args] = ["bench/sink.ts"], rewrites = false } = options;
  const processes = createProcesses();
  try {
    const valkey = await startValkey({ appendfsync: "everysec" });
    const client = new Redis(valkey.url, { maxRetriesPerRequest: null });
    processes.onStop(async () => {
      client.disconnect();
      await valkey.stop();
    });
    // In the middle of a short run it would be somebody else's work in its figures.
    if (!rewrites) await client.config("SET", "auto-aof-rewrite-percentage", "0");
    const receiver = processes.start(script, args);
    return {
      ...processes,
      valkeyUrl: valkey.url,
      client,
      facts: await readFacts(client),
      receiver,
      receiverLine: (await untilPrinted(receiver, "\n")).trim(),
      startWorker: (kind, queue, env, flags) => {
        const settings = {
          VALKEY_URL: valkey.url,
          WEBHOOK_QUEUE: queue,
          WEBHOOK_ALLOW_NETWORKS: "127.0.0.0/8",
          WORKER_PORT: "0",
          SHUTDOWN_TIMEOUT: "0s",
          LOG_LEVEL: "info",
        };
        return processes.start(SCRIPTS[kind], [], { ...settings, ...env }, flags);
      },
    };
  } catch (error) {
    await processes.stop();
    throw error;
  }
}

/** What the sink has counted, see sink.ts. */
export async function readSink({ receiverLine }: Pick<Rig, "receiverLine">): Promise<SinkCounts> {
  return (await (await fetch(JSON.parse(receiverLine).control)).json()) as SinkCounts;
}
