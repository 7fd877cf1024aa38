/**
 * A rig for outages in a cluster: three primaries with a replica each, six shards, workers as processes, a receiver, a backend
 * that keeps enqueueing, and the books.
 */
import { Queue } from "bullmq";
import { type Cluster, type ClusterOptions, startCluster } from "../../src/dev/cluster.ts";
import { type Receiver, startReceiver } from "../../src/dev/receiver.ts";
import { createFluxhook } from "../../src/index.ts";
import { createAttemptLog } from "../../src/log/attempts.ts";
import { joinLogs } from "../../src/log/joined-logs.ts";
import { type Shard, shardsOf } from "../../src/queue/shards.ts";
import { connectValkey, type Valkey } from "../../src/valkey/connection.ts";
import { type Balance, createBooks } from "./books.ts";
import { startWorkerProcess, type WorkerProcess } from "./process.ts";
import { bounded, eventually } from "./stack.ts";

export const SHARDS = 6;
const SETTLE_MS = 60 * 1000;
const START_MS = 40 * 1000;

export interface ClusterRigOptions extends ClusterOptions {
  readonly shards?: number;
  readonly workers?: number;
  /** For every worker. */
  readonly env?: Record<string, string>;
}

export interface OpenShard extends Shard {
  readonly valkey: Valkey;
  readonly client: Queue;
}

export interface ClusterRig {
  readonly cluster: Cluster;
  readonly shards: readonly OpenShard[];
  readonly workers: WorkerProcess[];
  readonly receiver: Receiver;
  /** Enqueued events, by id: epoch ms at which Valkey had said yes. */
  readonly enqueued: ReadonlyMap<string, number>;
  startWorker(env?: Record<string, string>): Promise<WorkerProcess>;
  /** Enqueue so many events a second until the returned function is called, which resolves once all are enqueued. */
  load(perSecond: number): () => Promise<void>;
  /** Wait until nothing is left to do in any shard. */
  settled(timeoutMs?: number): Promise<void>;
  closeBooks(): Promise<Balance>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** @param pathOf  of the endpoint of the event with this number, by default one of four */
export async function startClusterRig(
  { shards: count = SHARDS, workers: workerCount = 2, env: commonEnv = {}, ...options }: ClusterRigOptions = {},
  pathOf: (index: number) => string = (index) => `/${index % 4}`,
): Promise<ClusterRig> {
  const [cluster, receiver] = await Promise.all([startCluster(options), startReceiver()]);
  const { url } = cluster;
  const quiet = { info() {}, warn() {} };
  const shards = shardsOf({ queue: "webhooks", shards: count, valkeyUrls: [url] }).map((shard) => {
    const valkey = connectValkey(url, "test:admin", quiet, { key: shard.queue });
    const client = new Queue(shard.queue, { connection: valkey });
    client.on("error", () => {});
    return { ...shard, valkey, client };
  });
  const backend = createFluxhook({ valkeyUrl: url, shards: count, timeoutMs: 60_000 });
  const workers: WorkerProcess[] = [];
  const log = joinLogs(shards.map(({ valkey, tag }) => createAttemptLog(valkey, { tag })));
  const counts = async (...states: Parameters<Queue["getJobCounts"]>) => {
    const all = await Promise.all(shards.map(({ client }) => client.getJobCounts(...states)));
    return all.flatMap((one) => Object.values(one)).reduce((sum, n) => sum + n, 0);
  };
  const books = createBooks(log, () => counts("failed"));
  receiver.answer((request) => {
    const arrival = books.arrive(request);
    return arrival === undefined ? {} : { delayMs: 20 + (arrival.at % 60) };
  });
  let made = 0;
  const enqueue = async (): Promise<void> => {
    const index = made++;
    const id = crypto.randomUUID();
    const endpoint = { url: receiver.url(pathOf(index)), secret: "s3cret-of-the-test" };
    await backend.enqueue({ event: "file.created", id, userId: books.nextUser(), endpoint, data: { index } });
    books.wasEnqueued(id);
  };
  const startWorker = async (env: Record<string, string> = {}): Promise<WorkerProcess> => {
    const slots = { WEBHOOK_CONCURRENCY: "32", WEBHOOK_ENDPOINT_CONCURRENCY: "32" };
    const worker = startWorkerProcess({
      VALKEY_URL: url,
      WEBHOOK_SHARDS: String(count),
      ...slots,
      ...commonEnv,
      ...env,
    });
    workers.push(worker);
    const isReady = () => worker.lines.some(({ message }) => message === "worker.ready");
    await eventually(isReady, (ready) => ready, START_MS, 50);
    return worker;
  };
  for (let i = 0; i < workerCount; i++) await startWorker();

  return {
    cluster,
    shards,
    workers,
    receiver,
    enqueued: books.enqueued,
    startWorker,
    load(perSecond) {
      const pending: Promise<void>[] = [];
      const since = performance.now();
      const timer = setInterval(() => {
        while (pending.length < ((performance.now() - since) / 1000) * perSecond) pending.push(enqueue());
      }, 10);
      return async () => {
        clearInterval(timer);
        await bounded(Promise.all(pending), () => `Valkey to take ${pending.length} events`, 30_000);
      };
    },
    settled: async (timeoutMs = SETTLE_MS) => {
      const left = () => counts("waiting", "active", "delayed", "prioritized");
      await eventually(left, (jobs) => jobs === 0, timeoutMs, 50);
    },
    closeBooks: () => books.close(),
    async [Symbol.asyncDispose]() {
      for (const worker of workers) process.kill(worker.pid, "SIGKILL");
      await Promise.all(workers.map(({ exited }) => exited));
      await Promise.race([backend.close(), Bun.sleep(500)]);
      for (const { valkey } of shards) valkey.disconnect();
      await Promise.all([cluster.stop(), receiver.stop()]);
    },
  };
}
