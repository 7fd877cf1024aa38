/**
 * A whole Fluxhook for a browser to look at: a Valkey, `bun src/worker.ts` and `bun src/board.ts` as processes, a receiver.
 */
import { join } from "node:path";
import { Queue } from "bullmq";
import { type LogLine, startChild } from "../../src/dev/processes.ts";
import { type Receiver, startReceiver } from "../../src/dev/receiver.ts";
import { startValkey, type ThrowawayValkey } from "../../src/dev/valkey.ts";

export interface Site {
  readonly origin: string;
  readonly user: string;
  readonly password: string;
  readonly queue: Queue;
  readonly receiver: Receiver;
  readonly valkey: ThrowawayValkey;
  /** Put an event for a path of the receiver on the queue; the job's id. */
  enqueue(event: string, userId: string, path: string, data?: object): Promise<string>;
  /** Resolves when the worker has logged so many attempts of a job. */
  attempted(job: string, count: number): Promise<void>;
  stop(): Promise<void>;
}

const ROOT = join(import.meta.dir, "../..");
const GRACE_MS = 5 * 1000;

/** @param env  settings beyond those of the test; also over them */
export async function startSite(env: Record<string, string> = {}): Promise<Site> {
  const [valkey, receiver] = await Promise.all([startValkey(), startReceiver()]);
  const login = { user: "ops", password: crypto.randomUUID() };
  const settings = {
    ...{ PATH: process.env.PATH ?? "", VALKEY_URL: valkey.url, WORKER_PORT: "0", BOARD_PORT: "0" },
    ...{ BOARD_USER: login.user, BOARD_PASSWORD: login.password },
    ...{ WEBHOOK_ALLOW_NETWORKS: "127.0.0.0/8", WEBHOOK_RETRY_DELAYS: "100ms", WEBHOOK_TIMEOUT: "2s" },
    ...env,
  };
  const attempts = new Map<unknown, number>();
  const looks = new Set<() => void>();
  const died = Promise.withResolvers<never>();
  died.promise.catch(() => {}); // whoever waits hears of it
  const start = (name: "worker" | "board") =>
    startChild({
      name,
      command: [process.execPath, join(ROOT, `src/${name}.ts`)],
      env: settings,
      onLine({ message, job }: LogLine) {
        if (message !== "delivery.attempted") return;
        attempts.set(job, (attempts.get(job) ?? 0) + 1);
        for (const look of looks) look();
      },
      onDeath: (message) => died.reject(new Error(message)),
    });
  const children = [start("worker"), start("board")] as const;
  const [, origin] = await Promise.race([Promise.all(children.map(({ url }) => url)), died.promise]);
  const queue = new Queue("webhooks", { connection: { url: valkey.url } });

  return {
    origin: origin as string,
    ...login,
    queue,
    receiver,
    valkey,
    async enqueue(event, userId, path, data = { path: "/a.txt" }) {
      const endpoint = { url: receiver.url(path), secret: "the customer's secret" };
      return (await queue.add(event, { userId, endpoint, data })).id as string;
    },
    async attempted(job, count) {
      const reached = Promise.withResolvers<void>();
      const look = () => {
        if ((attempts.get(job) ?? 0) >= count) reached.resolve();
      };
      looks.add(look);
      look();
      await Promise.race([reached.promise, died.promise]);
      looks.delete(look);
    },
    async stop() {
      await queue.close();
      await Promise.all(children.map((child) => child.stop(GRACE_MS)));
      await Promise.all([receiver.stop(), valkey.stop()]);
    },
  };
}
