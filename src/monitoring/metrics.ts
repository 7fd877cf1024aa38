/**
 * Prometheus metrics. Labels are event types, outcomes and address kinds, never URLs or users.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { errorCode, type Outcome } from "../delivery/outcome.ts";

export interface Metrics {
  readonly registry: Registry;
  /** Count one finished attempt. */
  attempted(event: string, outcome: Outcome): void;
  /** Count one finished attempt of a notice, which is none of a customer's event. */
  noticeAttempted(outcome: Outcome): void;
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
  /** Count events that a registered endpoint missed: `kept`, `dropped` beyond the bounds, or `no_memory`. */
  missed(result: "kept" | "dropped" | "no_memory", events: number): void;
  /** Count an event that names no endpoint, and that no endpoint of its user wants. */
  unwanted(): void;
  /** Count the jobs that were made for an event that goes to several endpoints. */
  fannedOut(jobs: number): void;
  /** Count a job that was forwarded to the shard that serves its user. */
  forwarded(): void;
  /** Count a registered endpoint that was disabled because of its attempts. */
  endpointDisabled(reason: "failing" | "gone"): void;
  /** Count a registered endpoint that has been failing for a day. */
  endpointWarned(): void;
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
    help: "Jobs put off by reason: circuit (open), limit (of the endpoint), share (of the worker), retry_after, memory (bodies in flight), held (by an operator), rate (limit of a registered endpoint)",
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
    endpointWarned: counter(
      "fluxhook_endpoints_warned_total",
      "Registered endpoints that have been failing for a day, and at least 8 attempts long",
    ),
    forwarded: counter("fluxhook_forwarded_jobs_total", "Jobs that were forwarded to the shard that serves their user"),
    ...createEndpointMetrics(registers),
    ...createNoticeMetrics(registers),
  };
}

function createNoticeMetrics(registers: Registry[]): Pick<Metrics, "noticeAttempted"> {
  const attempts = new Counter({
    name: "fluxhook_notice_attempts_total",
    help: "Finished attempts of notices by outcome; statuses as http_2xx, http_4xx, …",
    labelNames: ["outcome"],
    registers,
  });
  attempts.labels(SUCCESS).inc(0);
  return { noticeAttempted: (outcome) => attempts.labels(outcomeLabel(outcome)).inc() };
}

function createEndpointMetrics(
  registers: Registry[],
): Pick<Metrics, "missed" | "endpointDisabled" | "unwanted" | "fannedOut"> {
  const missed = new Counter({
    name: "fluxhook_missed_events_total",
    help: "Events that registered endpoints missed by result: kept (to be replayed), dropped (more than are kept), no_memory (Valkey is too full to keep them)",
    labelNames: ["result"],
    registers,
  });
  for (const result of ["kept", "dropped", "no_memory"]) missed.labels(result).inc(0);
  const fannedOut = new Counter({
    name: "fluxhook_fanned_out_jobs_total",
    help: "Jobs that were made for events that go to several endpoints",
    registers,
  });
  const unwanted = new Counter({
    name: "fluxhook_unwanted_events_total",
    help: "Events that name no endpoint, and that no endpoint of their user wants",
    registers,
  });
  const disabled = new Counter({
    name: "fluxhook_endpoints_disabled_total",
    help: "Registered endpoints that were disabled by reason: failing (for WEBHOOK_DISABLE_AFTER), gone (410)",
    labelNames: ["reason"],
    registers,
  });
  for (const reason of ["failing", "gone"]) disabled.labels(reason).inc(0);
  return {
    unwanted: () => unwanted.inc(),
    fannedOut: (jobs) => fannedOut.inc(jobs),
    missed: (result, events) => missed.labels(result).inc(events),
    endpointDisabled: (reason) => disabled.labels(reason).inc(),
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
