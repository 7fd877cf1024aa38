/**
 * The queue's gauges, read from Valkey at each scrape.
 */
import { collectDefaultMetrics, Gauge, Registry } from "prom-client";
import { JOB_STATES } from "../queue/layout.ts";
import { circuitsKey } from "../queue/own-keys.ts";
import { countFinished, type FinishedJobs, readOldestWaitingMs } from "../queue/pulse.ts";
import { shardName } from "../queue/shards.ts";
import { readStrayCount } from "../queue/stray-jobs.ts";
import { DEFAULT_KEPT, type KeptJobs, type Queue } from "../queue/worker.ts";
import { within } from "../runtime/deadline.ts";
import { readFacts, type Valkey, type ValkeyFacts } from "../valkey/connection.ts";

const SCRAPE_MS = 2 * 1000; // 2 s: Prometheus gives up after 10
const RECENT_MS = 5 * 60 * 1000; // 5 min, as on the board's overview

/** A shard of the queue, as far as its gauges need it. */
export interface WatchedShard {
  readonly index: number;
  /** As of a shard; tells it apart where there are several. Its index by default. */
  readonly label?: string;
  readonly queue: Queue;
  readonly valkey: Valkey;
}

/** Create the metrics of a board process: the queue's gauges. */
export function createBoardMetrics(shards: readonly WatchedShard[], kept: KeptJobs): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  watchQueue(registry, shards, kept);
  return registry;
}

/**
 * Add the queue's gauges to a registry, with the label `shard` when there are several. Each scrape asks each shard's Valkey once.
 * While it does not answer, `fluxhook_valkey_up` is 0 and the shard's other gauges are absent, so that no stale value looks current.
 */
export function watchQueue(
  registry: Registry,
  shards: readonly WatchedShard[],
  kept: KeptJobs = DEFAULT_KEPT,
  now: () => number = Date.now,
): void {
  const isSharded = shards.length > 1;
  const asked = shards.map((shard) => ({
    label: isSharded ? { shard: shardName({ label: `${shard.index}/`, ...shard }) } : {},
    ask: shareReading(shard, kept, now),
  }));
  /** Add a gauge; `read` gives its values with their labels, none while they are unknown. */
  const gauge = (name: string, help: string, labels: readonly string[], read: Read) =>
    new Gauge({
      name,
      help,
      labelNames: [...labels, ...(isSharded ? ["shard"] : [])],
      registers: [registry],
      async collect() {
        const all = await Promise.all(asked.map(async ({ label, ask }) => ({ label, figures: await ask() })));
        this.reset();
        if (!isSharded && labels.length === 0) this.remove();
        for (const { label, figures } of all) {
          for (const [value, own] of read(figures)) this.set({ ...own, ...label }, value);
        }
      },
    });
  const plain = (name: string, help: string, of: (figures: QueueFigures) => number | undefined) =>
    gauge(name, help, [], (figures) => {
      const value = figures && of(figures);
      return value === undefined ? [] : [[value]];
    });

  gauge("fluxhook_valkey_up", "1 while Valkey answers, else 0", [], (figures) => [[figures === undefined ? 0 : 1]]);
  gauge("fluxhook_jobs", "Jobs in the queue by state", ["state"], (figures) =>
    figures === undefined ? [] : JOB_STATES.map((state) => [figures.counts[state] ?? 0, { state }]),
  );
  gauge(
    "fluxhook_recent_jobs",
    "Jobs that completed and failed in the last 5 minutes, or in as much of them as the queue keeps of both",
    ["state"],
    (figures) => Object.entries(figures?.finished ?? {}).map(([state, count]) => [count, { state }]),
  );
  plain(
    "fluxhook_oldest_waiting_job_age_seconds",
    "Age of the job that has waited longest for a worker; 0 when none waits",
    ({ oldestAgeMs }) => oldestAgeMs / 1000,
  );
  plain("fluxhook_silent_hosts", "Hosts with an open circuit in some worker", ({ silentHosts }) => silentHosts);
  plain(
    "fluxhook_stray_jobs",
    "Jobs in none of the queue's lists, counted about once a minute: no worker will take them",
    ({ strays }) => strays,
  );
  plain("fluxhook_valkey_memory_bytes", "Memory that Valkey uses", ({ facts }) => facts?.usedMemoryBytes);
  plain(
    "fluxhook_valkey_max_memory_bytes",
    "Valkey's maxmemory; 0 when it has none",
    ({ facts }) => facts?.maxMemoryBytes,
  );
}

/** What one shard's figures say: values, each with its labels. */
type Read = (figures: QueueFigures | undefined) => readonly (readonly [number, Record<string, string>?])[];

/** Reads a shard's figures once for all gauges of a scrape; undefined when its Valkey does not answer in time. */
function shareReading(shard: WatchedShard, kept: KeptJobs, now: () => number): () => Promise<QueueFigures | undefined> {
  let asked: Promise<QueueFigures | undefined> | undefined;
  return () => {
    asked ??= within(SCRAPE_MS, readFigures(shard, kept, now()), undefined).finally(() => {
      asked = undefined;
    });
    return asked;
  };
}

interface QueueFigures {
  readonly counts: Readonly<Record<string, number>>;
  readonly oldestAgeMs: number;
  readonly finished: FinishedJobs;
  /** Undefined except for the first shard, where workers publish circuits. */
  readonly silentHosts: number | undefined;
  readonly strays: number | undefined;
  readonly facts: ValkeyFacts | undefined;
}

async function readFigures(
  { index, queue, valkey }: WatchedShard,
  kept: KeptJobs,
  nowMs: number,
): Promise<QueueFigures> {
  const [counts, oldestAgeMs = 0, finished, silentHosts, strays, facts] = await Promise.all([
    queue.getJobCounts(...JOB_STATES),
    readOldestWaitingMs(queue, valkey, nowMs),
    countFinished(queue, valkey, RECENT_MS, nowMs, kept),
    index === 0 ? valkey.zcount(circuitsKey(queue.name), nowMs, "+inf") : undefined,
    readStrayCount(queue.name, valkey),
    readFacts(valkey).catch(() => undefined), // some hosted Valkeys do not allow INFO
  ]);
  return { counts, oldestAgeMs, finished, silentHosts, strays, facts };
}
