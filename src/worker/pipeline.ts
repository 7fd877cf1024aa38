/**
 * Wires the parts of a worker together, from the queue to deliveries. The process adds settings, signals and health checks.
 */
import { type Completed, createCompletion } from "../../jobs/completion.ts";
import { createDeliver } from "../../jobs/deliver.ts";
import { maxDataLength } from "../delivery/contract.ts";
import { JITTER, type RetryPolicy } from "../delivery/retry.ts";
import type { Resolve } from "../dns/address.ts";
import { createSender, type Sender } from "../http/sender.ts";
import { createBacklog } from "../isolation/backlog.ts";
import { createFairQueue } from "../isolation/fair-queue.ts";
import { createGate, type Gate } from "../isolation/gate.ts";
import { Holds } from "../isolation/holds.ts";
import { createPromotion } from "../isolation/promotion.ts";
import { type AttemptLog, createAttemptLog } from "../log/attempts.ts";
import { receivedFor } from "../log/kept-response.ts";
import { createMetrics, type Metrics } from "../monitoring/metrics.ts";
import type { Tracing } from "../monitoring/tracing.ts";
import { createArrivals } from "../queue/arrivals.ts";
import { queueKey } from "../queue/layout.ts";
import { DeliveryWorker, type Job } from "../queue/worker.ts";
import { lockMsFor } from "../runtime/deadline.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Config } from "../settings/config.ts";
import type { Valkey } from "../valkey/connection.ts";
import { createSuspects, withSuspects } from "./suspects.ts";

const MAX_AHEAD = 64; // jobs held beyond the slots: being fetched from Valkey, or being acknowledged

/** The settings that a pipeline reads. */
export type PipelineConfig = Pick<
  Config,
  | "queue"
  | "events"
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
  | "logSize"
  | "logAgeMs"
  | "showResponse"
  | "keepResponseBytes"
  | "keepCompleted"
  | "keepFailed"
>;

export interface PipelineOptions {
  readonly config: PipelineConfig;
  readonly logger: Logger;
  /** For both queue and log: on a shared connection, a log entry takes effect before the acknowledgement sent after it. */
  readonly valkey: Valkey;
  /** The program that runs suspects, see suspects.ts. Without it, they run like all others. */
  readonly suspectsProgram?: string | undefined;
  readonly tracing?: Pick<Tracing, "telemetry" | "trace"> | undefined;
  /** Replacements for parts, in tests. */
  readonly parts?: {
    readonly resolve?: Resolve;
    readonly gate?: Gate;
    readonly log?: Pick<AttemptLog, "record">;
    readonly completed?: (completed: Completed) => Completed;
    readonly random?: () => number;
    readonly policy?: RetryPolicy;
    readonly metrics?: Metrics;
    readonly holds?: Holds;
  };
}

export interface Pipeline {
  /** Takes no jobs until `run()` is called. */
  readonly worker: DeliveryWorker;
  readonly sender: Sender;
  readonly gate: Gate;
  readonly metrics: Metrics;
  /** What operators hold: empty until somebody keeps it up to date. */
  readonly holds: Holds;
}

/** Create all parts of a worker, connected to each other. */
export function createPipeline(options: PipelineOptions): Pipeline {
  const { config, logger, valkey, tracing, parts = {} } = options;
  const { random = Math.random } = parts;
  const prefix = queueKey(config.queue);
  const lockMs = lockMsFor(config.timeoutMs);
  const ownSender = createOwnSender(options, lockMs);
  const excuse = createExcuses((jobs) => worker.excuse(jobs));
  const holds = parts.holds ?? new Holds();
  const gate =
    parts.gate ??
    createGate({
      slots: config.concurrency,
      endpointSlots: config.endpointConcurrency,
      onExcused: excuse("gate"),
      onPromote: createPromotion({ valkey, prefix, logger }),
      holds,
    });
  const metrics: Metrics =
    parts.metrics ??
    createMetrics({
      inFlight: () => sender.inFlight,
      openCircuits: () => gate.openCircuits,
      holds: () => holds.countCurrent(Date.now()),
    });
  const suspects = options.suspectsProgram
    ? createSuspects({
        program: options.suspectsProgram,
        hungMs: lockMs,
        endpointSlots: config.endpointConcurrency,
        onHeld: excuse("suspects"),
        holders: () => worker.holders,
        ...{ valkey, prefix, metrics, logger },
      })
    : undefined;
  const sender: Sender = suspects ? withSuspects(ownSender, suspects) : ownSender;
  const fairQueue = createFairQueue({
    valkey,
    queue: config.queue,
    prefix,
    logger,
    onLongScan: (isRunning) => {
      worker.isHeldBack = isRunning;
    },
    onScanned: (jobs) => worker.allow(jobs),
  });
  const deliver = createDeliver({
    ...config,
    gate,
    backlog: createBacklog({ ...config, valkey, prefix, bound: config.maxBacklog, logger }),
    sender: tracing?.trace(ownSender) ?? ownSender,
    arrivedAt: createArrivals(valkey, prefix),
    holds,
    random,
    completed: createCompleted(options, metrics),
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
  const worker = new DeliveryWorker(deliver, { ...describeWorker(options), watch: fairQueue, suspects });
  handleEvents(worker, sender, logger);
  return { worker, sender, gate, metrics, holds };
}

function createOwnSender({ config, parts }: PipelineOptions, lockMs: number): Sender {
  const responseBytes = receivedFor(config.keepResponseBytes);
  return createSender({ ...config, lockMs, responseBytes, resolve: parts?.resolve });
}

function createCompleted({ config, logger, valkey, parts }: PipelineOptions, metrics: Metrics): Completed {
  const log = parts?.log ?? createAttemptLog(valkey, config);
  const completed = createCompletion({ ...config, log, metrics, logger });
  return parts?.completed?.(completed) ?? completed;
}

/** Adds up the jobs that occupy no slot, which several parts hold, and reports the total whenever one of them changes. */
function createExcuses(report: (jobs: number) => void): (holder: "gate" | "suspects") => (jobs: number) => void {
  const held = { gate: 0, suspects: 0 };
  return (holder) => (jobs) => {
    held[holder] = jobs;
    report(held.gate + held.suspects);
  };
}

function handleEvents(worker: DeliveryWorker, sender: Sender, logger: Logger): void {
  worker.on("error", (error) => logger.debug({ reason: error.message }, "worker.error"));
  worker.on("stalled", (job) => logger.warn({ job }, "job.stalled"));
  worker.on("lockRenewalFailed", (jobs) => {
    for (const job of jobs) sender.cancel(job, "lock_lost");
  });
}

/** The worker's options, apart from the other parts. */
function describeWorker({ config, logger, valkey, tracing, parts }: PipelineOptions) {
  const { queue, concurrency, timeoutMs, retryDelaysMs, maxBodyBytes, keepCompleted, keepFailed } = config;
  return {
    ...{ queue, valkey, timeoutMs, keepCompleted, keepFailed },
    concurrency: concurrency + Math.min(concurrency, MAX_AHEAD),
    maxDataLength: maxDataLength(maxBodyBytes),
    unrepeated: ({ id, repeatJobKey }: Job) =>
      logger.warn(
        { job: id, repeat: repeatJobKey, hint: "BullMQ 6 makes no more runs of it: use a job scheduler" },
        "job.unrepeated",
      ),
    telemetry: tracing?.telemetry,
    policy: parts?.policy ?? { attempts: retryDelaysMs.length + 1, delaysMs: retryDelaysMs, jitter: JITTER },
  };
}
