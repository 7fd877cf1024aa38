/**
 * The worker, wired: what `bun src/worker.ts` runs.
 */
import "./wire.ts";
import { exitWithoutDatabase, loadConfigOrAnswer } from "./check.ts";
import { publishCircuits } from "./circuits.ts";
import { findMisspelt } from "./config.ts";
import { lockMsFor } from "./deadline.ts";
import { createHealthRoutes, createMetricsRoutes } from "./health.ts";
import { createLogger } from "./logger.ts";
import { watchQueue } from "./metrics.ts";
import { watchPausedList } from "./paused-list.ts";
import { createPipeline } from "./pipeline.ts";
import { openQueue } from "./queue.ts";
import { checkWorker, createValkeyCheck, untilAccepted } from "./readiness.ts";
import { serve } from "./serve.ts";
import { drain, onSignals } from "./shutdown.ts";
import { watchStrays } from "./stray-jobs.ts";
import { connectValkey, troubleOf } from "./valkey.ts";
import { endWhenHung } from "./watchdog.ts";

const config = await loadConfigOrAnswer(process.env, process.argv.slice(2), {
  name: "worker",
  purpose: "The worker: takes events from the queue and delivers them. Run one per core, as many as you like.",
});
const { logger, flush } = createLogger(config.logLevel);
endWhenHung(2 * lockMsFor(config.timeoutMs));
for (const { name, hint } of findMisspelt(process.env)) logger.warn({ setting: name, hint }, "setting.unknown");
const valkey = connectValkey(config.valkeyUrl, "fluxhook:queue", logger);
exitWithoutDatabase(valkey);
const probeValkey = connectValkey(config.valkeyUrl, "fluxhook:probe", logger, { isProbe: true });

// Loaded only when it is on: off, it costs nothing.
const tracing =
  config.tracingShare > 0 ? (await import("./tracing.ts")).startTracing(config.tracingShare, logger) : undefined;
const { worker, sender, gate, metrics } = createPipeline({
  ...{ config, logger, valkey, tracing },
  suspectsProgram: `${import.meta.dir}/suspect-process.ts`,
});
const queue = openQueue(config.queue, probeValkey);
queue.on("error", () => {}); // the connection reports it
watchQueue(metrics.registry, queue, probeValkey);
watchStrays(queue, probeValkey);
publishCircuits({ valkey: probeValkey, queue: config.queue, gate });
watchPausedList({ ...config, logger });

let isStopping = false;
const check = createValkeyCheck({ valkey: probeValkey, working: valkey, queue: config.queue, program: "worker" });
const routes = createHealthRoutes(async () => {
  if (isStopping) return ["the worker is stopping"];
  const { obstacles, risks } = await check();
  const loop = obstacles.length > 0 ? [] : await checkWorker(worker, queue, Date.now());
  return [...obstacles, ...risks, ...loop];
}).route("/", createMetricsRoutes(metrics.registry));
const server = serve(routes.fetch, { host: config.workerHost, port: config.workerPort, setting: "WORKER_PORT" });

const hurried = Promise.withResolvers<void>();
onSignals(async (signal) => {
  isStopping = true;
  logger.info({ signal, in_flight: sender.inFlight }, "worker.stopping");
  const isClean = await drain(worker, sender, valkey, config.shutdownTimeoutMs, hurried.promise);
  await tracing?.close();
  logger.info({ clean: isClean }, "worker.stopped");
  await server.stop(true);
  await flush();
  return isClean ? 0 : 1;
}, hurried.resolve);

const { origin: url } = server.url;
logger.info({ url }, "worker.listening");
await untilAccepted(check, (problems) => {
  // A connection that has trouble has said so itself.
  if (troubleOf(probeValkey) === undefined) logger.warn({ problems }, "worker.unready");
});
worker.run().catch(async (error: Error) => {
  logger.fatal({ reason: error.message }, "worker.died");
  await flush();
  process.exit(1);
});
logger.info({ url, queue: config.queue, concurrency: config.concurrency }, "worker.ready");
