/**
 * The worker process, which `bun src/worker.ts` runs.
 */
import "../valkey/wire.ts";
import { watchHolds } from "../isolation/hold-store.ts";
import { publishCircuits } from "../isolation/open-circuits.ts";
import { publishAttempts } from "../log/attempt-tally.ts";
import { createHealthRoutes, createMetricsRoutes } from "../monitoring/health.ts";
import { watchQueue } from "../monitoring/metrics.ts";
import { checkWorker, createValkeyCheck, untilAccepted } from "../monitoring/readiness.ts";
import { watchPausedList } from "../queue/paused-list.ts";
import { watchStrays } from "../queue/stray-jobs.ts";
import { openQueue } from "../queue/worker.ts";
import { lockMsFor } from "../runtime/deadline.ts";
import { createLogger } from "../runtime/logger.ts";
import { serve } from "../runtime/serve.ts";
import { onSignals } from "../runtime/signals.ts";
import { exitWithoutDatabase, loadConfigOrAnswer } from "../settings/check.ts";
import { findMisspelled } from "../settings/config.ts";
import { connectValkey, troubleOf } from "../valkey/connection.ts";
import { drain } from "./drain.ts";
import { createPipeline } from "./pipeline.ts";
import { endWhenHung } from "./watchdog.ts";

const config = await loadConfigOrAnswer(process.env, process.argv.slice(2), {
  name: "worker",
  purpose: "The worker: takes events from the queue and delivers them. Run one per core, as many as you like.",
});
const { logger, flush } = createLogger(config.logLevel);
endWhenHung(2 * lockMsFor(config.timeoutMs));
for (const { name, hint } of findMisspelled(process.env)) logger.warn({ setting: name, hint }, "setting.unknown");
const valkey = connectValkey(config.valkeyUrl, "fluxhook:queue", logger);
exitWithoutDatabase(valkey);
const probeValkey = connectValkey(config.valkeyUrl, "fluxhook:probe", logger, { isProbe: true });

// Loaded only when tracing is on.
const tracing =
  config.tracingShare > 0
    ? (await import("../monitoring/tracing.ts")).startTracing(config.tracingShare, logger)
    : undefined;
const { worker, sender, gate, metrics, holds } = createPipeline({
  ...{ config, logger, valkey, tracing },
  suspectsProgram: `${import.meta.dir}/suspect-process.ts`,
});
const queue = openQueue(config.queue, probeValkey);
queue.on("error", () => {}); // the connection reports it
watchQueue(metrics.registry, queue, probeValkey, config);
watchStrays(queue, probeValkey);
publishCircuits({ valkey: probeValkey, queue: config.queue, gate });
publishAttempts({ valkey: probeValkey, queue, totals: metrics.totals });
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
  // Trouble with the connection has been logged already.
  if (troubleOf(probeValkey) === undefined) logger.warn({ problems }, "worker.unready");
});
await watchHolds({ ...config, valkey: probeValkey, holds, logger }).ready; // or events that are held would go out at a restart
worker.run().catch(async (error: Error) => {
  logger.fatal({ reason: error.message }, "worker.died");
  await flush();
  process.exit(1);
});
logger.info({ url, queue: config.queue, concurrency: config.concurrency }, "worker.ready");
