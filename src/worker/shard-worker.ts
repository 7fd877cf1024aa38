/**
 * One shard's worker: what a shard has for itself, around the parts that all shards of the process share.
 */
import { type Completed, createCompletion } from "../../jobs/completion.ts";
import { createDeliver, type DeliverOptions } from "../../jobs/deliver.ts";
import type { Missed } from "../../jobs/locate.ts";
import { maxDataLength } from "../delivery/contract.ts";
import { JITTER, type RetryPolicy } from "../delivery/retry.ts";
import type { Resolve } from "../dns/address.ts";
import { createFanOut } from "../endpoints/fan-out.ts";
import { createLookup } from "../endpoints/lookup.ts";
import { createRate } from "../endpoints/rate.ts";
import type { Sender } from "../http/sender.ts";
import { createBacklog } from "../isolation/backlog.ts";
import { createFairQueue } from "../isolation/fair-queue.ts";
import type { Gate } from "../isolation/gate.ts";
import type { Holds } from "../isolation/holds.ts";
import { type AttemptLog, createAttemptLog } from "../log/attempts.ts";
import { createMissed } from "../missed/missed.ts";
import type { Metrics } from "../monitoring/metrics.ts";
import type { Tracing } from "../monitoring/tracing.ts";
import { createArrivals } from "../queue/arrivals.ts";
import type { Budget } from "../queue/budget.ts";
import { queueKey } from "../queue/layout.ts";
import type { Shard } from "../queue/shards.ts";
import { DeliveryWorker, type Job } from "../queue/worker.ts";
import { lockMsFor } from "../runtime/deadline.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Config } from "../settings/config.ts";
import type { NoticeMode } from "../streaks/notices.ts";
import type { OutageWatch } from "../streaks/outage.ts";
import { createStreaks } from "../streaks/streaks.ts";
import type { Valkey } from "../valkey/connection.ts";
import { createAtHome, type Homes } from "./homes.ts";
import { createSuspects, type Suspects } from "./suspects.ts";

const LOOK_MS = 2 * 1000; // 2 s: parked jobs follow a change of their endpoint within 5 s

/** The settings that a pipeline reads. */
export type PipelineConfig = Pick<
  Config,
  | "events"
  | "concurrency"
  | "endpointConcurrency"
  | "timeoutMs"
  | "retryDelaysMs"
  | "maxAgeMs"
  | "maxBacklog"
  | "missedMax"
  | "registry"
  | "disableAfterMs"
  | "notices"
  | "noticeUrl"
  | "noticeSecret"
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

/** A shard, and the connection for its queue and its log: on a shared one, a log entry takes effect before the acknowledgement. */
export type PipelineShard = Omit<Shard, "url"> & {
  readonly valkey: Valkey;
  /** Connects for lookups of registered endpoints, at the first. Without it, they share the connection. */
  readonly lookups?: () => Valkey;
};

export interface PipelineOptions {
  readonly config: PipelineConfig;
  readonly logger: Logger;
  readonly shards: readonly [PipelineShard, ...PipelineShard[]];
  /** All shards of the queue, for jobs that another one has to process; by default these. */
  readonly homes?: Homes | undefined;
  /** The program that runs suspects, see suspects.ts. Without it, they run like all others. */
  readonly suspectsProgram?: string | undefined;
  readonly tracing?: Pick<Tracing, "telemetry" | "trace"> | undefined;
  /** Replacements for parts, in tests. */
  readonly parts?: {
    readonly resolve?: Resolve;
    readonly gate?: Gate;
    /** In place of the log, which it gets. */
    readonly log?: ((log: AttemptLog) => Pick<AttemptLog, "record">) | undefined;
    readonly completed?: (completed: Completed) => Completed;
    readonly random?: () => number;
    readonly policy?: RetryPolicy;
    readonly metrics?: Metrics;
    readonly holds?: Holds;
    readonly missed?: Missed | undefined;
  };
}

/** What the shards of a process share. */
export interface SharedParts {
  readonly sender: Sender;
  readonly gate: Gate;
  readonly metrics: Metrics;
  readonly holds: Holds;
  readonly random: () => number;
  /** Whether attempts fail because of ourselves, and who is told of endpoints that fail. */
  readonly watching: { readonly outage: OutageWatch; readonly notices: NoticeMode };
  /** How many jobs all of them hold; undefined with one shard, whose worker counts them itself. */
  readonly budget: Budget | undefined;
  /** How many jobs one worker may hold. */
  readonly capacity: number;
  /** A part of a shard holds this many jobs that occupy no slot. */
  readonly excuse: (part: string, jobs: number) => void;
}

export interface ShardWorker {
  readonly worker: DeliveryWorker;
  /** Undefined where suspects run like all others. */
  readonly suspects: Suspects | undefined;
}

/** Create a shard's worker, and what only it needs. */
export function createShardWorker(shard: PipelineShard, options: PipelineOptions, shared: SharedParts): ShardWorker {
  const { valkey, queue, label } = shard;
  const { config, logger, tracing, parts = {} } = options;
  const { sender, metrics, holds, random, excuse } = shared;
  const prefix = queueKey(queue);
  const suspects = createOwnSuspects(shard, options, shared, () => worker.holders);
  const streaks = createStreaks(valkey, {
    ...{ ...config, tag: shard.tag, label, metrics, logger },
    ...shared.watching,
  });
  const ownLog = createAttemptLog(valkey, { ...config, tag: shard.tag, endpoints: streaks });
  const log = parts.log?.(ownLog) ?? ownLog;
  const completed = createCompletion({ ...config, log, metrics, logger });
  const lookup = createLookup(valkey, shard.lookups ?? (() => valkey), shard.tag, (users) =>
    shared.gate.changed(users),
  );
  const fairQueue = createFairQueue({
    ...{ valkey, queue, prefix, logger },
    onLongScan: (isRunning) => {
      worker.isHeldBack = isRunning;
    },
    onScanned: (jobs) => worker.allow(jobs),
  });
  const deliver = createDeliver({
    ...{ ...config, holds, random },
    ...labeled(label, {
      gate: shared.gate,
      sender: tracing?.trace(sender) ?? sender,
      completed: parts.completed?.(completed) ?? completed,
    }),
    backlog: createBacklog({ ...config, valkey, queue, prefix, bound: config.maxBacklog, logger }),
    arrivedAt: createArrivals(valkey, prefix),
    ...createAtHome(shard, options.homes ?? homesOf(options), lookup.findEndpoints, {
      logger,
      forwarded: metrics.forwarded,
    }),
    fanOut: createFanOut(valkey, { ...config, queue, tag: shard.tag, metrics }),
    unwanted: metrics.unwanted,
    askPace: createRate({ valkey, prefix, tag: shard.tag, onWaiting: (jobs) => excuse(`rate ${queue}`, jobs) }),
    missed: parts.missed ?? createMissed(valkey, { ...config, queue, tag: shard.tag, metrics, logger }),
    rejected: (job, reason) => {
      metrics.rejected();
      logger.warn({ job: label + job.id, reason }, "job.rejected");
    },
    held: fairQueue.held,
    parked: ({ reason }, userId) => {
      metrics.parked(reason);
      if (reason !== "rate") fairQueue.held(userId); // no trouble: the user's other events need not yield
    },
  });
  const own = { watch: fairQueue, suspects, confirm: lookup.confirm };
  const worker = new DeliveryWorker(deliver, { ...describeWorker(shard, options, shared), ...own });
  worker.on("error", (error) => logger.debug({ reason: error.message, queue }, "worker.error"));
  worker.on("stalled", (id) => logger.warn({ job: label + id }, "job.stalled"));
  worker.on("lockRenewalFailed", (ids) => {
    for (const id of ids) {
      sender.cancel(label + id, "lock_lost");
      suspects?.cancel(id, "lock_lost");
    }
  });
  const looking = setInterval(lookup.lookForChanges, LOOK_MS).unref();
  worker.once("closing", () => clearInterval(looking));
  return { worker, suspects };
}

/** The shards of a pipeline that has all of the queue's. */
const homesOf = ({ shards }: PipelineOptions): Homes => ({
  shards,
  connect: ({ queue }) => (shards.find((shard) => shard.queue === queue) as PipelineShard).valkey,
});

function createOwnSuspects(
  { index, queue, valkey, label }: PipelineShard,
  { suspectsProgram, config, logger }: PipelineOptions,
  { metrics, excuse }: SharedParts,
  holders: () => DeliveryWorker["holders"],
): Suspects | undefined {
  if (suspectsProgram === undefined) return undefined;
  return createSuspects({
    program: suspectsProgram,
    ...{ shard: index, label },
    hungMs: lockMsFor(config.timeoutMs),
    endpointSlots: config.endpointConcurrency,
    onHeld: (jobs) => excuse(queue, jobs),
    prefix: queueKey(queue),
    ...{ holders, valkey, metrics, logger },
  });
}

/** What shards share, told of a shard's jobs by names that differ from those of other shards' jobs. */
type Labeled = Pick<DeliverOptions, "gate" | "sender" | "completed">;

function labeled(label: string, shared: Labeled): Labeled {
  if (label === "") return shared;
  const { gate, sender, completed } = shared;
  return {
    gate: {
      admit: (candidate) => gate.admit({ ...candidate, job: label + candidate.job }),
      release: (permit, outcome) => gate.release(permit, outcome),
    },
    sender: { send: (request, id) => sender.send(request, label + id) },
    completed: (completion) => completed({ ...completion, job: label + completion.job }),
  };
}

/** The worker's options, apart from the other parts. */
function describeWorker({ queue, valkey }: PipelineShard, options: PipelineOptions, shared: SharedParts) {
  const { config, logger, tracing, parts } = options;
  const { timeoutMs, retryDelaysMs, maxBodyBytes, keepCompleted, keepFailed } = config;
  const { capacity, budget } = shared;
  return {
    ...{ queue, valkey, timeoutMs, keepCompleted, keepFailed, budget },
    concurrency: capacity,
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
