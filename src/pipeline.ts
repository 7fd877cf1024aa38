/**
 * The parts of a worker put together: from a queue to deliveries. A process adds settings, signals and health.
 */
import { type Completed, createCompletion } from "../jobs/completion.ts";
import { createDeliver } from "../jobs/deliver.ts";
import { type AttemptLog, createAttemptLog } from "./attempts.ts";
import type { Config } from "./config.ts";
import { lockMsFor } from "./deadline.ts";
import type { Resolve } from "./http/address.ts";
import { createSender, type Sender } from "./http/sender.ts";
import { createBacklog } from "./isolation/backlog.ts";
import { createCalls } from "./isolation/calls.ts";
import { createFairQueue } from "./isolation/fair-queue.ts";
import { createGate, type Gate } from "./isolation/gate.ts";
import type { Logger } from "./logger.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import { DeliveryWorker } from "./queue.ts";
import { queueKey } from "./queue-layout.ts";
import { JITTER, type RetryPolicy } from "./retry.ts";
import type { Tracing } from "./tracing.ts";
import type { Valkey } from "./valkey.ts";

const MAX_AHEAD = 64; // jobs in hand beyond the slots: they are on their way from Valkey, or back to it

/** The settings a pipeline reads. */
export type PipelineConfig = Pick<
  Config,
  | "queue"
  | "concurrency"
  | "endpointConcurrency"
  | "timeoutMs"
  | "retryDelaysMs"
  | "maxAgeMs"
  | "maxBacklog"
  | "maxBodyBytes"
  | "allowNetworks"
  | "denyNetworks"
  | "allowPorts"
  | "requireHttps"
  | "ca"
  | "proxy"
  | "proxyResolves"
  | "dnsServers"
  | "secretKeys"
>;

export interface PipelineOptions {
  readonly config: PipelineConfig;
  readonly logger: Logger;
  /** For the queue and the log: one connection, so that a log line takes effect before the acknowledgement sent after it. */
  readonly valkey: Valkey;
  readonly tracing?: Pick<Tracing, "telemetry" | "trace"> | undefined;
  /** What tests put in the place of a part. */
  readonly parts?: {
    readonly resolve?: Resolve;
    readonly gate?: Gate;
    readonly log?: Pick<AttemptLog, "record">;
    readonly completed?: (completed: Completed) => Completed;
    readonly random?: () => number;
    readonly policy?: RetryPolicy;
  };
}

export interface Pipeline {
  /** Takes no jobs before `run()`. */
  readonly worker: DeliveryWorker;
  readonly sender: Sender;
  readonly gate: Gate;
  readonly metrics: Metrics;
}

export function createPipeline(options: PipelineOptions): Pipeline {
  const { config, logger, valkey, tracing, parts = {} } = options;
  const { random = Math.random } = parts;
  const prefix = queueKey(config.queue);
  const sender = createSender({ ...config, lockMs: lockMsFor(config.timeoutMs), resolve: parts.resolve });
  const gate =
    parts.gate ??
    createGate({
      slots: config.concurrency,
      endpointSlots: config.endpointConcurrency,
      onExcused: (jobs) => worker.excuse(jobs),
      onRoom: createCalls({ valkey, prefix, logger }),
    });
  const metrics = createMetrics({ inFlight: () => sender.inFlight, openCircuits: () => gate.openCircuits });
  const completed = createCompletion({ log: parts.log ?? createAttemptLog(valkey), metrics, logger });
  const fairQueue = createFairQueue({
    valkey,
    queue: config.queue,
    prefix,
    logger,
    onLook: (isUnderWay) => {
      worker.isHeldBack = isUnderWay;
    },
    onLeft: (jobs) => worker.allow(jobs),
  });
  const deliver = createDeliver({
    ...config,
    gate,
    backlog: createBacklog({ ...config, valkey, prefix, bound: config.maxBacklog, logger }),
    sender: tracing?.trace(sender) ?? sender,
    random,
    completed: parts.completed?.(completed) ?? completed,
    rejected: (job, reason) => {
      metrics.rejected();
      logger.warn({ job: job.id, reason }, "job.rejected");
    },
    held: fairQueue.held,
    parked: ({ reason }, userId) => {
      metrics.parked(reason);
      fairQueue.held(userId);
    },
  });
  const worker = new DeliveryWorker(deliver, {
    queue: config.queue,
    valkey,
    concurrency: config.concurrency + Math.min(config.concurrency, MAX_AHEAD),
    watch: fairQueue,
    unrepeated: ({ id, repeatJobKey }) =>
      logger.warn(
        { job: id, repeat: repeatJobKey, hint: "BullMQ 6 makes no more runs of it: use a job scheduler" },
        "job.unrepeated",
      ),
    telemetry: tracing?.telemetry,
    timeoutMs: config.timeoutMs,
    policy: parts.policy ?? {
      attempts: config.retryDelaysMs.length + 1,
      delaysMs: config.retryDelaysMs,
      jitter: JITTER,
    },
  });
  worker.on("error", (error) => logger.debug({ reason: error.message }, "worker.error"));
  worker.on("stalled", (job) => logger.warn({ job }, "job.stalled"));
  worker.on("lockRenewalFailed", (jobs) => {
    for (const job of jobs) sender.cancel(job, "lock_lost");
  });
  return { worker, sender, gate, metrics };
}
