/**
 * Prometheus metrics. Labels are event types, outcomes and address kinds, never URLs or users.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { errorCode, type Outcome } from "../delivery/outcome.ts";
import { JOB_STATES } from "../queue/layout.ts";
import { circuitsKey } from "../queue/own-keys.ts";
import { countFinished, type FinishedJobs, readOldestWaitingMs } from "../queue/pulse.ts";
import { readStrayCount } from "../queue/stray-jobs.ts";
import { DEFAULT_KEPT, type KeptJobs, type Queue } from "../queue/worker.ts";
import { within } from "../runtime/deadline.ts";
import { readFacts, type Valkey, type ValkeyFacts } from "../valkey/connection.ts";

const SCRAPE_MS = 2 * 1000; // 2 s: Prometheus gives up after 10
const RECENT_MS = 5 * 60 * 1000; // 5 min, as on the board's overview

export interface Metrics {
  readonly registry: Registry;
  /** Count one finished attempt. */
  attempted(event: string, outcome: Outcome): void;
  /** Count an attempt that could not be written to its user's log. */
  unlogged(): void;
  /** Count an event that was given up because too many were waiting. */
  backlogFull(): void;
  /** Count a job that broke the contract. */
  rejected(): void;
  /** Count a job that failed because it crashes or hangs the process. */
  poisoned(): void;
  /** Count a job that was parked. */
  parked(reason: string): void;
  /** What {@link Metrics.attempted} has counted since the process started, and how much of it was not answered with 2xx. */
  totals(): { readonly made: number; readonly failed: number };
}

/** Create the metrics of a worker process. */
export function createMetrics({
  inFlight,
  openCircuits,
  holds = () => 0,
}: {
  inFlight: () => number;
  openCircuits: () => number;
  holds?: () => number;
}): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  const counter = (name: string, help: string): (() => void) => {
    const counted = new Counter({ name, help, registers });
    return () => counted.inc();
  };
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read());
      },
    });
  const parked = new Counter({
    name: "fluxhook_parked_jobs_total",
    help: "Jobs put off by reason: circuit (open), limit (of the endpoint), share (of the worker), retry_after, memory (bodies in flight), held (by an operator)",
    labelNames: ["reason"],
    registers,
  });
  gauge(
    "fluxhook_open_circuits",
    "Circuits open in this process: of endpoints, of hosts, and of single users on a host",
    openCircuits,
  );
  gauge("fluxhook_holds", "Hosts, endpoints and users that operators hold, as far as this process knows", holds);
  gauge("fluxhook_attempts_in_flight", "Attempts in flight in this process", inFlight);
  return {
    registry,
    ...createAttemptMetrics(registers),
    unlogged: counter("fluxhook_unlogged_attempts_total", "Attempts that could not be written to their user's log"),
    backlogFull: counter(
      "fluxhook_backlog_full_total",
      "Events given up because too many were waiting for their endpoint or their user",
    ),
    rejected: counter("fluxhook_rejected_jobs_total", "Jobs that broke the contract"),
    poisoned: counter("fluxhook_poisoned_jobs_total", "Jobs that failed because they crash or hang the process"),
    parked: (reason) => parked.labels(reason).inc(),
  };
}

function createAttemptMetrics(registers: Registry[]): Pick<Metrics, "attempted" | "totals"> {
  // Counted here and passed on at each scrape: prom-client serializes the labels whenever it counts.
  const attempts = new Map<string, Map<string, number>>(); // by event type, then outcome
  new Counter({
    name: "fluxhook_attempts_total",
    help: "Finished attempts by event type and outcome; statuses as http_2xx, http_4xx, …",
    labelNames: ["event", "outcome"],
    registers,
    collect() {
      this.reset();
      for (const [event, counts] of attempts) {
        for (const [outcome, count] of counts) this.inc({ event, outcome }, count);
      }
    },
  });
  const duration = new Histogram({
    name: "fluxhook_attempt_duration_seconds",
    help: "Duration of attempts, DNS included",
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers,
  });
  const blocked = new Counter({
    name: "fluxhook_blocked_total",
    help: "Attempts refused because of the endpoint's address, by kind of address",
    labelNames: ["range"],
    registers,
  });
  const totals = { made: 0, failed: 0 };
  return {
    attempted(event, outcome) {
      const counts = attempts.get(event) ?? new Map<string, number>();
      const label = outcomeLabel(outcome);
      counts.set(label, (counts.get(label) ?? 0) + 1);
      attempts.set(event, counts);
      totals.made += 1;
      if (label !== SUCCESS) totals.failed += 1;
      duration.observe(outcome.durationMs / 1000);
      if (outcome.kind === "blocked" && outcome.range !== undefined) blocked.labels(outcome.range).inc();
    },
    totals: () => ({ ...totals }),
  };
}

const SUCCESS = "http_2xx";

/** Groups statuses by class: receivers choose their statuses, and must not control the number of time series. */
function outcomeLabel(outcome: Outcome): string {
  if (outcome.kind === "response") return `http_${Math.floor(outcome.status / 100)}xx`;
  return errorCode(outcome) as string;
}

/** Create the metrics of a board process: the queue's gauges. */
export function createBoardMetrics(queue: Queue, valkey: Valkey, kept: KeptJobs): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  watchQueue(registry, queue, valkey, kept);
  return registry;
}

/**
 * Add the queue's gauges to a registry. Each scrape asks Valkey once. While it does not answer, `fluxhook_valkey_up` is 0 and the
 * other gauges are absent, so that no stale value looks current.
 */
export function watchQueue(
  registry: Registry,
  queue: Queue,
  valkey: Valkey,
  kept: KeptJobs = DEFAULT_KEPT,
  now: () => number = Date.now,
): void {
  const registers = [registry];
  const ask = createAsk(() => readFigures(queue, valkey, kept, now()));
  new Gauge({
    name: "fluxhook_valkey_up",
    help: "1 while Valkey answers, else 0",
    registers,
    async collect() {
      this.set((await ask()) === undefined ? 0 : 1);
    },
  });
  /** Add a gauge with a value for each state, absent while they are unknown. */
  const byState = (name: string, help: string, of: (figures: QueueFigures) => Readonly<Record<string, number>>) =>
    new Gauge({
      name,
      help,
      labelNames: ["state"],
      registers,
      async collect() {
        const figures = await ask();
        this.reset();
        for (const [state, count] of Object.entries(figures ? of(figures) : {})) this.labels(state).set(count);
      },
    });
  byState("fluxhook_jobs", "Jobs in the queue by state", ({ counts }) =>
    Object.fromEntries(JOB_STATES.map((state) => [state, counts[state] ?? 0])),
  );
  byState(
    "fluxhook_recent_jobs",
    "Jobs that completed and failed in the last 5 minutes, or in as much of them as the queue keeps of both",
    ({ finished }) => ({ ...finished }),
  );
  /** Add a gauge that is absent while its value is unknown. */
  const gauge = (name: string, help: string, of: (figures: QueueFigures) => number | undefined) =>
    new Gauge({
      name,
      help,
      registers,
      async collect() {
        const figures = await ask();
        const value = figures && of(figures);
        if (value === undefined) this.remove();
        else this.set(value);
      },
    });
  gauge(
    "fluxhook_oldest_waiting_job_age_seconds",
    "Age of the job that has waited longest for a worker; 0 when none waits",
    ({ oldestAgeMs }) => oldestAgeMs / 1000,
  );
  gauge("fluxhook_silent_hosts", "Hosts with an open circuit in some worker", ({ silentHosts }) => silentHosts);
  gauge(
    "fluxhook_stray_jobs",
    "Jobs in none of the queue's lists, counted about once a minute: no worker will take them",
    ({ strays }) => strays,
  );
  gauge("fluxhook_valkey_memory_bytes", "Memory that Valkey uses", ({ facts }) => facts?.usedMemoryBytes);
  gauge(
    "fluxhook_valkey_max_memory_bytes",
    "Valkey's maxmemory; 0 when it has none",
    ({ facts }) => facts?.maxMemoryBytes,
  );
}

/** Reads the figures once for all gauges of a scrape; undefined while Valkey does not answer in time. */
function createAsk(read: () => Promise<QueueFigures>): () => Promise<QueueFigures | undefined> {
  let asked: Promise<QueueFigures | undefined> | undefined;
  return () => {
    asked ??= within(SCRAPE_MS, read(), undefined).finally(() => {
      asked = undefined;
    });
    return asked;
  };
}

interface QueueFigures {
  readonly counts: Readonly<Record<string, number>>;
  readonly oldestAgeMs: number;
  readonly finished: FinishedJobs;
  readonly silentHosts: number;
  readonly strays: number | undefined;
  readonly facts: ValkeyFacts | undefined;
}

async function readFigures(queue: Queue, valkey: Valkey, kept: KeptJobs, nowMs: number): Promise<QueueFigures> {
  const [counts, oldestAgeMs = 0, finished, silentHosts, strays, facts] = await Promise.all([
    queue.getJobCounts(...JOB_STATES),
    readOldestWaitingMs(queue, valkey, nowMs),
    countFinished(queue, valkey, RECENT_MS, nowMs, kept),
    valkey.zcount(circuitsKey(queue.name), nowMs, "+inf"),
    readStrayCount(queue.name, valkey),
    readFacts(valkey).catch(() => undefined), // some hosted Valkeys do not allow INFO
  ]);
  return { counts, oldestAgeMs, finished, silentHosts, strays, facts };
}
