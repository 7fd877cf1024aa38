/**
 * What every bench needs: a Valkey, a receiver and a worker, each a process of its own, and an end to all of them.
 */
import { startValkey } from "../src/dev/valkey.ts";

/** Which worker runs. */
export type Kind = "fluxhook" | "plain";

export interface Rig {
  readonly valkeyUrl: string;
  readonly receiverUrl: string;
  /** Start a worker on a queue; resolves once it takes jobs. */
  startWorker(kind: Kind, queue: string, env?: Record<string, string>): Promise<Bun.Subprocess>;
  stop(): Promise<void>;
}

const SCRIPTS: Readonly<Record<Kind, string>> = { fluxhook: "src/worker.ts", plain: "bench/plain-worker.ts" };
const ROOT = new URL("..", import.meta.url).pathname;

export async function startRig(): Promise<Rig> {
  const valkey = await startValkey({ appendfsync: "everysec" });
  const children = new Set<Bun.Subprocess>();
  const run = async (script: string, env: Record<string, string>, isReady: (text: string) => boolean) => {
    const child = Bun.spawn([process.execPath, script], {
      cwd: ROOT,
      env: { ...process.env, ...env },
      stdout: "pipe",
      stderr: "inherit",
    });
    children.add(child);
    const first = await firstLine(child.stdout, isReady);
    return { child, first };
  };
  const receiver = await run("bench/receiver.ts", {}, (text) => text.includes("\n"));

  return {
    valkeyUrl: valkey.url,
    receiverUrl: receiver.first.trim(),
    async startWorker(kind, queue, env = {}) {
      const settings = {
        VALKEY_URL: valkey.url,
        WEBHOOK_QUEUE: queue,
        WEBHOOK_ALLOW_NETWORKS: "127.0.0.0/8",
        WORKER_PORT: "0",
        SHUTDOWN_TIMEOUT: "0s",
        ...env,
      };
      return (await run(SCRIPTS[kind], settings, (text) => text.includes("worker.ready"))).child;
    },
    async stop() {
      for (const child of children) child.kill("SIGKILL");
      await Promise.all([...children].map((child) => child.exited));
      await valkey.stop();
    },
  };
}

/** The output up to the moment a process is ready; what follows is read and thrown away, as a log shipper would read it. */
async function firstLine(stream: ReadableStream<Uint8Array>, isReady: (text: string) => boolean): Promise<string> {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let text = "";
  while (!isReady(text)) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`a process ended before it was ready: ${text}`);
    text += decoder.decode(value, { stream: true });
  }
  void (async () => {
    while (!(await reader.read()).done);
  })();
  return text;
}
