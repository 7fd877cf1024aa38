/**
 * What shards cost: one backlog over 1, 2, 6 and more shards of a cluster on this machine, drained by the same workers. All of
 * them share the cores, so throughput shows the cost of sharding and not what it gains.
 */
import { Queue } from "bullmq";
import { type Cluster, type ClusterNode, startCluster } from "../src/dev/cluster.ts";
import { homeOf, type Shard, shardsOf } from "../src/queue/shards.ts";
import { slotOf } from "../src/valkey/cluster.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { buildJob, buildUrls, countOpen, fill, untilLeft } from "./backlog.ts";
import { median } from "./clock.ts";
import { cpuMicros, readValkeyMeters, residentBytes } from "./meters.ts";
import type { Child } from "./processes.ts";
import { buildTable, describeMachine, formatMegabytes, formatNumber } from "./report.ts";
import { type Rig, readSink, startRig } from "./rig.ts";

export interface ShardsOptions {
  /** Each a row. */
  readonly shards: readonly number[];
  readonly workers: number;
  readonly jobs: number;
  readonly warmUpJobs: number;
  readonly endpoints: number;
  readonly rounds: number;
  readonly primaries: number;
  /** Of each primary. */
  readonly replicas: number;
  /** How long to watch the workers when nothing is left to do, s. */
  readonly idleSeconds: number;
  /** Of each worker. */
  readonly env: Readonly<Record<string, string>>;
}

/** One drain, and the time after it. CPU in µs, of all workers and of all nodes. */
interface Run {
  readonly jobs: number;
  readonly seconds: number;
  readonly workerMicros: number;
  readonly valkeyMicros: number;
  readonly scripts: number;
  /** Of one worker. */
  readonly connections: number;
  readonly residentBytes: number;
  /** Share of a core that one worker uses when nothing is left to do. */
  readonly idleCores: number;
}

const SETTINGS = { "auto-aof-rewrite-percentage": "0" }; // a rewrite would be somebody else's work in the figures

/** Measure every number of shards in turns. @returns what was measured and how, as Markdown */
export async function measureShards(options: ShardsOptions): Promise<string> {
  const { primaries, replicas } = options;
  const rows = options.shards.map((shards) => ({ shards, runs: [] as Run[] }));
  let server = "";
  for (let round = 0; round < options.rounds; round++) {
    for (const { shards, runs } of rows) {
      const rig = await startRig();
      const cluster = await startCluster({ ...{ primaries, replicas }, settings: SETTINGS });
      try {
        server = rig.facts.server;
        runs.push(await measure(rig, cluster, shards, options));
      } finally {
        await rig.stop();
        await cluster.stop();
      }
    }
  }
  return report(rows, options, server);
}

interface Target extends Shard {
  /** Which owns it. */
  readonly node: ClusterNode;
}

async function measure(rig: Rig, cluster: Cluster, count: number, options: ShardsOptions): Promise<Run> {
  const { jobs, warmUpJobs, workers: workerCount } = options;
  const name = crypto.randomUUID();
  const shards = await findShards(cluster, name, count);
  const total = jobs + warmUpJobs * workerCount;
  await fillShards(cluster, shards, total, buildUrls(rig, options.endpoints, 1));
  const seenBefore = (await readSink(rig)).requests;
  const clientsBefore = await countClients(cluster);
  const env = { ...options.env, VALKEY_URL: cluster.url, WEBHOOK_SHARDS: String(count) };
  const workers = Array.from({ length: workerCount }, () => rig.startWorker("fluxhook", name, env));
  const remaining = async (): Promise<number> => {
    const open = shards.map(({ node, queue }) => countOpen({ client: node.client }, queue));
    return (await Promise.all(open)).reduce((sum, left) => sum + left, 0);
  };

  const first = await untilLeft(remaining, jobs, workers);
  const before = await readMeters(cluster, workers);
  const startedAt = performance.now();
  const done = await untilLeft(remaining, 0, workers);
  const seconds = (performance.now() - startedAt) / 1000;
  const after = await readMeters(cluster, workers);
  const seen = (await readSink(rig)).requests - seenBefore;
  if (seen < total) throw new Error(`expected ${total} deliveries, got ${seen}`);
  const connections = ((await countClients(cluster)) - clientsBefore) / workerCount;
  const idle = await watchIdle(workers, options.idleSeconds);
  await Promise.all(workers.map((worker) => worker.stop()));
  return {
    jobs: first - done,
    seconds,
    workerMicros: after.worker - before.worker,
    valkeyMicros: after.valkey - before.valkey,
    scripts: after.scripts - before.scripts,
    connections,
    ...idle,
  };
}

async function findShards(cluster: Cluster, name: string, count: number): Promise<Target[]> {
  const shards = shardsOf({ queue: name, shards: count, valkeyUrls: [cluster.url] });
  return await Promise.all(
    shards.map(async (shard) => ({ ...shard, node: (await cluster.ownerOf(slotOf(shard.queue))) as ClusterNode })),
  );
}

/** Add so many jobs, each in its user's shard. */
async function fillShards(cluster: Cluster, shards: readonly Target[], total: number, urls: readonly string[]) {
  const jobs = shards.map(() => [] as ReturnType<typeof buildJob>[]);
  for (let index = 0; index < total; index++) {
    const job = buildJob(index, urls);
    jobs[homeOf(job.data.userId, shards.length)]?.push(job);
  }
  for (const [index, { queue }] of shards.entries()) {
    const connection = connectValkey(cluster.url, "bench:fill", { info() {}, warn() {} }, { key: queue });
    const client = new Queue(queue, { connection });
    const own = jobs[index] as ReturnType<typeof buildJob>[];
    await fill(client, own.length, (at) => own[at] as ReturnType<typeof buildJob>);
    await client.close();
    connection.disconnect();
  }
}

async function readMeters({ nodes }: Cluster, workers: readonly Child[]) {
  const meters = await Promise.all(nodes.map(readValkeyMeters));
  return {
    worker: workers.reduce((sum, { pid }) => sum + cpuMicros(pid), 0),
    valkey: meters.reduce((sum, { cpuMicros: micros }) => sum + micros, 0),
    scripts: meters.reduce((sum, { scripts }) => sum + scripts, 0),
  };
}

async function countClients({ nodes }: Cluster): Promise<number> {
  const counts = nodes.map(async ({ client }) =>
    Number(/^connected_clients:(\d+)/m.exec(await client.info("clients"))?.[1]),
  );
  return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0);
}

async function watchIdle(
  workers: readonly Child[],
  seconds: number,
): Promise<Pick<Run, "idleCores" | "residentBytes">> {
  await Bun.sleep(Math.min(2, seconds) * 1000); // memory goes back a second after a burst
  const cpu = () => workers.reduce((sum, { pid }) => sum + cpuMicros(pid), 0);
  const before = cpu();
  await Bun.sleep(seconds * 1000);
  return {
    idleCores: seconds === 0 ? Number.NaN : (cpu() - before) / workers.length / seconds / 1e6,
    residentBytes: Math.max(...workers.map(({ pid }) => residentBytes(pid))),
  };
}

/** The table, and under which conditions it was measured. */
function report(
  rows: readonly { shards: number; runs: readonly Run[] }[],
  options: ShardsOptions,
  server: string,
): string {
  const figure = (runs: readonly Run[], of: (run: Run) => number) => median(runs.map(of));
  const perSecond = (run: Run) => run.jobs / run.seconds;
  const worker = (run: Run) => run.workerMicros / run.jobs;
  const valkey = (run: Run) => run.valkeyMicros / run.jobs;
  const base = rows[0]?.runs ?? [];
  const ratio = (runs: readonly Run[], of: (run: Run) => number) => formatNumber(figure(runs, of) / figure(base, of));
  const { jobs, workers, primaries, replicas, rounds, endpoints, idleSeconds, env } = options;
  const conditions =
    `Backlogs of ${formatNumber(jobs)} over a cluster of ${primaries} primaries with ${replicas} replica(s) each, ${workers} ` +
    `worker(s) with ${env.WEBHOOK_CONCURRENCY} slots, ${endpoints} endpoints, medians of ${rounds} round(s) in turns; µs of CPU per ` +
    "delivery, Valkey's of all nodes. ÷: of the first row. Connections, memory and idle CPU are those of a worker, the last two " +
    `over ${idleSeconds} s without events.`;
  const head = [
    ...["shards", "deliveries/s", "÷", "worker µs", "÷", "Valkey µs", "÷", "both ÷", "scripts"],
    ...["connections", "MB", "idle % of a core"],
  ];
  const cells = rows.map(({ shards, runs }) => [
    shards,
    formatNumber(figure(runs, perSecond)),
    ratio(runs, perSecond),
    formatNumber(figure(runs, worker)),
    ratio(runs, worker),
    formatNumber(figure(runs, valkey)),
    ratio(runs, valkey),
    ratio(runs, (run) => worker(run) + valkey(run)),
    formatNumber(figure(runs, (run) => run.scripts / run.jobs)),
    formatNumber(figure(runs, (run) => run.connections)),
    formatMegabytes(figure(runs, (run) => run.residentBytes)),
    formatNumber(figure(runs, (run) => run.idleCores * 100)),
  ]);
  return `${describeMachine(server)}\n\n${conditions}\n\n${buildTable(head, cells)}`;
}
