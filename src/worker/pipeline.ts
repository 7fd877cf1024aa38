/**
 * Wires the parts of a worker together, from the queue's shards to deliveries. The process adds settings, signals and health
 * checks.
 */
import { createSender, type Sender } from "../http/sender.ts";
import { createGate, type Gate, type ParkedJob } from "../isolation/gate.ts";
import { Holds } from "../isolation/holds.ts";
import { createPromotion } from "../isolation/promotion.ts";
import { receivedFor } from "../log/kept-response.ts";
import { createMetrics, type Metrics } from "../monitoring/metrics.ts";
import { Budget } from "../queue/budget.ts";
import { queueKey } from "../queue/layout.ts";
import { parseJobName } from "../queue/shards.ts";
import type { DeliveryWorker } from "../queue/worker.ts";
import { lockMsFor } from "../runtime/deadline.ts";
import { createOutageWatch } from "../streaks/outage.ts";
import { createNoticeWorker, noticeMode } from "./notice-worker.ts";
import { createShardWorker, type PipelineOptions, type ShardWorker, type SharedParts } from "./shard-worker.ts";

export type { PipelineConfig, PipelineOptions, PipelineShard } from "./shard-worker.ts";

const MAX_AHEAD = 64; // jobs held beyond the slots: being fetched from Valkey, or being acknowledged

export interface Pipeline {
  /** One for each shard, in their order. They take no jobs until `run()` is called. */
  readonly workers: readonly [DeliveryWorker, ...DeliveryWorker[]];
  /** Deliver each shard's notices as webhooks; undefined unless they are to be. They start like the others. */
  readonly noticeWorkers: readonly (DeliveryWorker | undefined)[];
  /** All attempts, of every shard. */
  readonly sender: Sender;
  readonly gate: Gate;
  readonly metrics: Metrics;
  /** What operators hold: empty until somebody keeps it up to date. */
  readonly holds: Holds;
}

/** Create all parts of a worker, connected to each other. */
export function createPipeline(options: PipelineOptions): Pipeline {
  const { config, shards, parts = {} } = options;
  const capacity = config.concurrency + Math.min(config.concurrency, MAX_AHEAD);
  const budget = shards.length > 1 ? new Budget(capacity) : undefined;
  const excuse = createExcuses((jobs) => {
    budget?.excuse(jobs);
    for (const { worker } of running) worker.excuse(jobs);
  });
  const holds = parts.holds ?? new Holds();
  const gate =
    parts.gate ??
    createGate({
      slots: config.concurrency,
      endpointSlots: config.endpointConcurrency,
      onExcused: (jobs) => excuse("gate", jobs),
      onPromote: createPromotions(options),
      holds,
    });
  const metrics: Metrics =
    parts.metrics ??
    createMetrics({
      inFlight: () => sender.inFlight,
      openCircuits: () => gate.openCircuits,
      holds: () => holds.countCurrent(Date.now()),
    });
  const ownSender = createOwnSender(options);
  const shared: SharedParts = {
    ...{ sender: ownSender, gate, metrics, holds, budget, capacity, excuse },
    random: parts.random ?? Math.random,
    watching: { outage: createOutageWatch(), notices: noticeMode(config) },
  };
  const running = shards.map((shard) => createShardWorker(shard, options, shared));
  const sender = joinSenders(ownSender, running);
  const workers = running.map(({ worker }) => worker) as [DeliveryWorker, ...DeliveryWorker[]];
  const noticeWorkers = shards.map((shard) =>
    createNoticeWorker(shard, { ...shared, policy: parts.policy, config, logger: options.logger }),
  );
  return { workers, noticeWorkers, sender, gate, metrics, holds };
}

function createOwnSender({ config, parts }: PipelineOptions): Sender {
  const lockMs = lockMsFor(config.timeoutMs);
  return createSender({
    ...config,
    lockMs,
    responseBytes: receivedFor(config.keepResponseBytes),
    resolve: parts?.resolve,
  });
}

/** Adds up the jobs that occupy no slot, which several parts hold, and reports the total whenever one of them changes. */
function createExcuses(report: (jobs: number) => void): (part: string, jobs: number) => void {
  const held = new Map<string, number>();
  return (part, jobs) => {
    held.set(part, jobs);
    report([...held.values()].reduce((sum, count) => sum + count, 0));
  };
}

/** Promotes parked jobs, each in its own shard. */
function createPromotions({ shards, logger }: PipelineOptions): (jobs: readonly ParkedJob[]) => void {
  const promotions = new Map(
    shards.map(({ label, valkey, queue }) => [label, createPromotion({ valkey, prefix: queueKey(queue), logger })]),
  );
  const only = promotions.get("");
  if (only !== undefined) return only;
  return (jobs) => {
    const byShard = new Map<string, ParkedJob[]>();
    for (const { job, retryAt } of jobs) {
      const { label, id } = parseJobName(job);
      byShard.set(label, [...(byShard.get(label) ?? []), { job: id, retryAt }]);
    }
    for (const [label, own] of byShard) promotions.get(label)?.(own);
  };
}

/** The sender, counting and canceling the attempts of suspects too. */
function joinSenders(sender: Sender, workers: readonly ShardWorker[]): Sender {
  const suspects = workers.flatMap((worker) => worker.suspects ?? []);
  if (suspects.length === 0) return sender;
  return {
    ...sender,
    get inFlight() {
      return suspects.reduce((sum, { inFlight }) => sum + inFlight, sender.inFlight);
    },
    cancelAll(code) {
      sender.cancelAll(code);
      for (const one of suspects) one.cancelAll(code);
    },
  };
}
