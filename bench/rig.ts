/**
 * What every bench needs: a Valkey, a receiver and workers, each a process of its own, and an end to all of them.
 *
 * The output of each process goes to a file, as if a log shipper took it from there: reading it is another's work. Nothing
 * of the caller's environment and no `.env` reaches a worker.
 */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { startValkey } from "../src/dev/valkey.ts";
import type { SinkCounts } from "./sink.ts";

const SCRIPTS = {
  fluxhook: "src/worker.ts",
  plain: "bench/plain-worker.ts",
  noop: "bench/noop-worker.ts",
  raw: "bench/raw-sender.ts",
} as const;

/** Which worker runs. */
export type Kind = keyof typeof SCRIPTS;

/** A process of the rig. */
export interface Child {
  readonly pid: number;
  /** What it printed so far. */
  output(): string;
  /** Ended, by itself or by us. */
  hasEnded(): boolean;
  stop(): Promise<void>;
}

export interface RigOptions {
  /** Program and arguments of the receiver; none when absent. */
  readonly receiver?: readonly [script: string, ...args: string[]];
}

export interface Rig {
  /** On a connection of the bench's own. */
  readonly client: Redis;
  readonly valkeyUrl: string;
  /** The first line that the receiver printed, and its process. */
  readonly receiver: Child;
  readonly receiverLine: string;
  /** Start a worker on a queue, without waiting for it. */
  startWorker(kind: Kind, queue: string, env?: Record<string, string>): Child;
  start(script: string, args?: readonly string[], env?: Record<string, string>): Child;
  stop(): Promise<void>;
}

const ROOT = new URL("..", import.meta.url).pathname;
const READY_MS = 20 * 1000; // 20 s
const STOP_MS = 3 * 1000; // 3 s: then it is killed
const POLL_MS = 10;
const rigs = new Set<Rig>();

export async function startRig({ receiver = ["bench/receiver.ts"] }: RigOptions = {}): Promise<Rig> {
  const directory = mkdtempSync(join(tmpdir(), "fluxhook-bench-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  const valkey = await startValkey({ appendfsync: "everysec" });
  const client = new Redis(valkey.url, { maxRetriesPerRequest: null });
  // A rewrite of the append-only file in the middle of a run would be somebody else's work in its figures.
  await client.config("SET", "auto-aof-rewrite-percentage", "0");
  const children: Child[] = [];
  const start: Rig["start"] = (script, args = [], env = {}) => {
    const child = startChild(join(directory, `${children.length}.log`), [join(ROOT, script), ...args], env, directory);
    children.push(child);
    return child;
  };
  const [script, ...args] = receiver;
  const receiving = start(script, args);
  const rig: Rig = {
    client,
    valkeyUrl: valkey.url,
    receiver: receiving,
    receiverLine: await untilPrinted(receiving, "\n"),
    start,
    startWorker: (kind, queue, env = {}) =>
      start(SCRIPTS[kind], [], {
        VALKEY_URL: valkey.url,
        WEBHOOK_QUEUE: queue,
        WEBHOOK_ALLOW_NETWORKS: "127.0.0.0/8",
        WORKER_PORT: "0",
        SHUTDOWN_TIMEOUT: "0s",
        ...env,
      }),
    async stop() {
      rigs.delete(rig);
      client.disconnect();
      await Promise.all(children.map((child) => child.stop()));
      await valkey.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
  rigs.add(rig);
  return rig;
}

/** On Ctrl-C: nothing stays behind. */
for (const [signal, code] of [
  ["SIGINT", 130],
  ["SIGTERM", 143],
] as const) {
  process.on(signal, async () => {
    await Promise.all([...rigs].map((rig) => rig.stop()));
    process.exit(code);
  });
}

/** Wait until a process has printed something; resolves with all that it printed. */
export async function untilPrinted(child: Child, text: string): Promise<string> {
  const until = performance.now() + READY_MS;
  for (;;) {
    const output = child.output();
    if (output.includes(text)) return output;
    if (child.hasEnded() || performance.now() > until) throw new Error(`a process is not ready: ${output}`);
    await Bun.sleep(POLL_MS);
  }
}

/** What the sink has counted, see sink.ts. */
export async function readSink({ receiverLine }: Rig): Promise<SinkCounts> {
  return (await (await fetch(JSON.parse(receiverLine).control)).json()) as SinkCounts;
}

function startChild(file: string, command: string[], env: Record<string, string>, cwd: string): Child {
  const output = openSync(file, "a");
  const child = Bun.spawn([process.execPath, ...command], {
    cwd,
    env: { PATH: process.env.PATH, ...env },
    stdio: ["ignore", output, output],
  });
  closeSync(output);
  // Its end comes with ours, however that comes: the shell's stdin closes, and it kills.
  const watchdog = Bun.spawn(["sh", "-c", 'read -r _; kill -9 "$1"', "sh", String(child.pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  watchdog.unref();
  const hasEnded = () => child.exitCode !== null || child.signalCode !== null;
  return {
    pid: child.pid,
    output: () => readFileSync(file, "utf8"),
    hasEnded,
    async stop() {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
      await child.exited;
      clearTimeout(timer);
      watchdog.kill("SIGKILL"); // before its pid may become someone else's
      await watchdog.exited;
    },
  };
}
