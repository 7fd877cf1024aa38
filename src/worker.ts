/**
 * The worker: `bun src/worker.ts`, as many side by side as there are cores. Wiring only.
 */
import { createCompletion } from "../jobs/completion.ts";
import { createDeliver } from "../jobs/deliver.ts";
import { createAttemptLog } from "./attempts.ts";
import { loadConfigOrExit } from "./config.ts";
import { createGate } from "./gate.ts";
import { createHealthRoutes, createMetricsRoutes } from "./health.ts";
import { createLogger } from "./logger.ts";
import { createMetrics, watchQueue } from "./metrics.ts";
import { DeliveryWorker, openQueue } from "./queue.ts";
import { checkValkey, checkWorker } from "./readiness.ts";
import { JITTER } from "./retry.ts";
import { createSender } from "./send.ts";
import { serve } from "./serve.ts";
import { drain, onSignals } from "./shutdown.ts";
import { connectValkey } from "./valkey.ts";

const config = loadConfigOrExit(process.env);
const { logger, flush } = createLogger(config.logLevel);

// Three connections beside BullMQ's own: neither the log nor a probe waits in line behind the queue's commands.
const queueValkey = connectValkey(config.valkeyUrl, "fluxhook:queue", logger);
const logValkey = connectValkey(config.valkeyUrl, "fluxhook:log", logger);
const probeValkey = connectValkey(config.valkeyUrl, "fluxhook:probe", logger);

const sender = createSender(config);
const gate = createGate({ slots: config.concurrency, endpointSlots: config.endpointConcurrency, random: Math.random });
const metrics = createMetrics({ inFlight: () => sender.inFlight, openCircuits: () => gate.openCircuits });
const deliver = createDeliver({
  gate,
  sender,
  completed: createCompletion({ log: createAttemptLog(logValkey), metrics, logger }),
  rejected: (job, reason) => {
    metrics.rejected();
    logger.warn({ job: job.id, reason }, "job.rejected");
  },
  parked: metrics.parked,
});
const policy = { attempts: config.retryDelaysMs.length + 1, delaysMs: config.retryDelaysMs, jitter: JITTER };
const worker = new DeliveryWorker(deliver, { ...config, valkey: queueValkey, policy });
worker.on("error", (error) => logger.debug({ reason: error.message }, "worker.error"));
worker.on("stalled", (job) => logger.warn({ job }, "job.stalled"));
worker.on("lockRenewalFailed", (jobs) => {
  for (const job of jobs) sender.cancel(job, "lock_lost");
});

const queue = openQueue(config.queue, probeValkey);
queue.on("error", () => {}); // the connection reports it
watchQueue(metrics.registry, queue);

let isStopping = false;
const routes = createHealthRoutes(async () => {
  if (isStopping) return ["the worker is stopping"];
  const [valkey, loop] = await Promise.all([checkValkey(probeValkey), checkWorker(worker, queue, Date.now())]);
  return [...valkey, ...loop];
}).route("/", createMetricsRoutes(metrics.registry));
const server = serve(routes.fetch, { host: config.workerHost, port: config.workerPort, setting: "WORKER_PORT" });

const hurried = Promise.withResolvers<void>();
onSignals(async (signal) => {
  isStopping = true;
  logger.info({ signal, in_flight: sender.inFlight }, "worker.stopping");
  const isClean = await drain(worker, sender, queueValkey, config.shutdownTimeoutMs, hurried.promise);
  logger.info({ clean: isClean }, "worker.stopped");
  await server.stop(true);
  flush();
  return isClean ? 0 : 1;
}, hurried.resolve);

worker.run().catch((error: Error) => {
  logger.fatal({ reason: error.message }, "worker.died");
  flush();
  process.exit(1);
});
logger.info({ url: server.url.origin, queue: config.queue, concurrency: config.concurrency }, "worker.ready");
