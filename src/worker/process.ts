/**
 * The worker process, which `bun src/worker.ts` runs.
 */
import "../valkey/wire.ts";
import { noteChange } from "../homes/past-homes.ts";
import { watchHolds } from "../isolation/hold-store.ts";
import { publishCircuits } from "../isolation/open-circuits.ts";
import { publishAttempts } from "../log/attempt-tally.ts";
import { createHealthRoutes, createMetricsRoutes } from "../monitoring/health.ts";
import { watchQueue } from "../monitoring/queue-metrics.ts";
import { checkWorker, untilAccepted } from "../monitoring/readiness.ts";
import { hasHolds, shardName } from "../queue/shards.ts";
import { describeUnserved, findUnserved } from "../queue/unserved-shards.ts";
import type { DeliveryWorker } from "../queue/worker.ts";
import { lockMsFor, within } from "../runtime/deadline.ts";
import { createLogger } from "../runtime/logger.ts";
import { serve } from "../runtime/serve.ts";
import { onSignals } from "../runtime/signals.ts";
import { loadConfigOrAnswer } from "../settings/check.ts";
import { findMisspelled } from "../settings/config.ts";
import { troubleOf } from "../valkey/connection.ts";
import { type ConnectedShard, connectShard } from "./connected-shard.ts";
import { drain } from "./drain.ts";
import { createPipeline } from "./pipeline.ts";
import { endWhenHung } from "./watchdog.ts";

const HOLDS_MS = 2 * 1000; // 2 s that a shard waits for the holds in others

const config = await loadConfigOrAnswer(process.env, process.argv.slice(2), {
  name: "worker",
  purpose: "The worker: takes events from the queue and delivers them. Run one per core, as many as you like.",
});
const { logger, flush } = createLogger(config.logLevel);
endWhenHung(2 * lockMsFor(config.timeoutMs));
for (const { name, hint } of findMisspelled(process.env)) logger.warn({ setting: name, hint }, "setting.unknown");
const shards = config.shards.map((shard) => connectShard(shard, logger)) as [ConnectedShard, ...ConnectedShard[]];
const [first] = shards; // has what there is once for all shards

// Loaded only when tracing is on.
const tracing =
  config.tracingShare > 0
    ? (await import("../monitoring/tracing.ts")).startTracing(config.tracingShare, logger)
    : undefined;
const { workers, noticeWorkers, sender, gate, metrics, holds } = createPipeline({
  ...{ config, logger, shards, tracing },
  homes: { shards, connect: ({ queue }) => (shards.find((shard) => shard.queue === queue) as ConnectedShard).probe },
  suspectsProgram: `${import.meta.dir}/suspect-process.ts`,
});
watchQueue(
  metrics.registry,
  shards.map(({ index, label, queueClient: queue, probe: valkey }) => ({ index, label, queue, valkey })),
  config,
);
publishCircuits({ valkey: first.probe, queue: first.queue, gate });
publishAttempts({
  ...{ valkey: first.probe, queue: first.queueClient, totals: metrics.totals },
  others: shards.slice(1).map(({ queueClient }) => queueClient),
});

let isStopping = false;
const routes = createHealthRoutes(async () => {
  if (isStopping) return ["the worker is stopping"];
  const problems = shards.map(async (shard) => {
    const { obstacles, risks } = await shard.check();
    const worker = workers[shard.index] as DeliveryWorker;
    const loop = obstacles.length > 0 ? [] : await checkWorker(worker, shard.queueClient, Date.now());
    return nameProblems(shard, [...obstacles, ...risks, ...loop]);
  });
  return (await Promise.all(problems)).flat();
}).route("/", createMetricsRoutes(metrics.registry));
const server = serve(routes.fetch, { host: config.workerHost, port: config.workerPort, setting: "WORKER_PORT" });

const hurried = Promise.withResolvers<void>();
onSignals(async (signal) => {
  isStopping = true;
  logger.info({ signal, in_flight: sender.inFlight }, "worker.stopping");
  const all = [...workers, ...noticeWorkers.filter((worker) => worker !== undefined)];
  const isClean = await drain(all, sender, shards, config.shutdownTimeoutMs, hurried.promise);
  await tracing?.close();
  logger.info({ clean: isClean }, "worker.stopped");
  await server.stop(true);
  await flush();
  return isClean ? 0 : 1;
}, hurried.resolve);

const { origin: url } = server.url;
logger.info({ url }, "worker.listening");
const holdsRead = new Map(shards.filter(hasHolds).map((shard) => [shard, Promise.withResolvers<void>()]));
// Each shard as soon as its Valkey takes it: one whose Valkey is away must not keep the others waiting.
await Promise.all(shards.map(startShard));
logger.info({ url, queue: config.queue, ...countShards(), concurrency: config.concurrency }, "worker.ready");
for (const unserved of await findUnserved(config.shards)) {
  logger.warn({ shard: unserved.index, reason: describeUnserved(unserved) }, "shard.unserved");
}

async function startShard(shard: ConnectedShard): Promise<void> {
  await untilAccepted(shard.check, (problems) => {
    // Trouble with the connection has been logged already.
    if (troubleOf(shard.probe) === undefined) {
      logger.warn({ problems: nameProblems(shard, problems) }, "worker.unready");
    }
  });
  if (shard === first) await noteChange(shards).catch(() => {}); // the next worker that starts may
  await readHolds(shard);
  for (const worker of [workers[shard.index], noticeWorkers[shard.index]]) {
    worker?.run().catch(async (error: Error) => {
      logger.fatal({ reason: error.message }, "worker.died");
      await flush();
      process.exit(1);
    });
  }
}

/** Wait for the holds, wherever they are kept: otherwise events that are held would go out at a restart. */
async function readHolds(shard: ConnectedShard): Promise<void> {
  const { probe: valkey, queue } = shard;
  const own = holdsRead.get(shard);
  if (own !== undefined) watchHolds({ ...config, valkey, queue, holds, logger }).ready.then(own.resolve);
  const all = Promise.all([...holdsRead.values()].map(({ promise }) => promise));
  await within(HOLDS_MS, all, undefined);
}

function countShards(): { readonly shards?: number } {
  return shards.length === 1 ? {} : { shards: shards.length };
}

/** Say in which shard the problems are, where there are several. */
function nameProblems(shard: ConnectedShard, problems: readonly string[]): string[] {
  return shards.length === 1 ? [...problems] : problems.map((problem) => `shard ${shardName(shard)}: ${problem}`);
}
