/**
 * What is wrong with a queue, and from when on it counts as wrong: for the board's overview and `fluxhook status`. The rules of
 * docs/monitoring/alerts.yml have the same thresholds and severities. Pure.
 */
import { howToSettle, leftBehind } from "../homes/past-homes.ts";
import type { AttemptTally } from "../log/attempt-tally.ts";
import type { FinishedJobs } from "../queue/pulse.ts";
import { nameShards, type Shard } from "../queue/shards.ts";
import { capitalize } from "../runtime/printable.ts";
import { evictionProblem, replicaProblem, type ValkeyFacts } from "../valkey/facts.ts";
import { formatSpan } from "./moments.ts";

/** From when on something is a problem. Shares are exclusive: exactly half of the attempts may fail. */
export const THRESHOLDS = {
  /** How far back shares and growth look, minutes. */
  minutes: 5,
  /** How long the next job may wait for a worker, ms. With enough workers it waits milliseconds. */
  lateMs: 60 * 1000, // 1 min
  veryLateMs: 10 * 60 * 1000, // 10 min
  /** Share of failed attempts, or of failed events, that says that something is wrong with more than a few endpoints. */
  failedShare: 0.5,
  /** Share of failed attempts at which the cause is most likely on our side. */
  nearlyAllShare: 0.9,
  /** Fewer attempts in these minutes say nothing about a share: one of one is no disaster. */
  minAttempts: 30,
  /** Fewer finished events in these minutes say nothing either. */
  minEvents: 10,
  /** How many more jobs may be pending than at the beginning of these minutes, whatever was delivered. */
  minGrowth: 100,
  /** Share of the events of these minutes that may still be pending. */
  pendingShare: 0.5,
  /** Hosts with an open circuit. */
  openCircuits: 50,
  /** Share of Valkey's maxmemory. */
  memoryShare: 0.7,
  /** Share of the failed jobs that the queue keeps: beyond them, the oldest are dropped. */
  failedKeptShare: 0.9,
} as const;

/** Page somebody, or have somebody look today. */
export type Severity = "critical" | "warning";

/** All problems, worst first. Those with an alert have its severity. */
export const PROBLEMS = {
  valkey_full: { severity: "critical", alert: "FluxhookValkeyMemory" },
  valkey_refuses: { severity: "critical", alert: undefined }, // /readyz says so
  valkey_replica: { severity: "critical", alert: undefined },
  shard_away: { severity: "critical", alert: undefined }, // while the others are there
  unserved: { severity: "critical", alert: undefined },
  no_worker: { severity: "critical", alert: "FluxhookNoWorker" },
  paused: { severity: "critical", alert: "FluxhookNothingMoves" },
  stuck: { severity: "critical", alert: "FluxhookNothingMoves" },
  strays: { severity: "critical", alert: "FluxhookStrayJobs" },
  valkey_evicts: { severity: "critical", alert: undefined },
  nearly_all_fail: { severity: "critical", alert: "FluxhookNearlyAllAttemptsFail" },
  very_late: { severity: "critical", alert: "FluxhookQueueVeryLate" },
  valkey_memory: { severity: "critical", alert: "FluxhookValkeyMemory" },
  most_fail: { severity: "warning", alert: "FluxhookMostAttemptsFail" },
  events_fail: { severity: "warning", alert: "FluxhookMostEventsFail" },
  backlog_grows: { severity: "warning", alert: "FluxhookBacklogGrows" },
  late: { severity: "warning", alert: "FluxhookQueueLate" },
  open_circuits: { severity: "warning", alert: "FluxhookManyOpenCircuits" },
  failed_full: { severity: "warning", alert: "FluxhookFailedSetFull" },
  unmoved: { severity: "warning", alert: undefined }, // the worker's line endpoints.unmoved says so, when it matters
} as const satisfies Readonly<Record<string, { severity: Severity; alert: string | undefined }>>;

export type ProblemCode = keyof typeof PROBLEMS;

/** Something that keeps events from being delivered on time, or soon will. */
export interface QueueProblem {
  readonly code: ProblemCode;
  readonly severity: Severity;
  /** What is wrong: a sentence without its period. */
  readonly text: string;
  /** What to do about it: a sentence without its period. */
  readonly todo: string;
}

/** What a queue is judged by. Everything that may be undefined is not judged then. */
export interface JudgedQueue {
  readonly isPaused: boolean;
  readonly workers: number | undefined;
  readonly counts: { readonly waiting: number; readonly delayed: number; readonly failed: number };
  /** How many failed jobs a shard keeps. */
  readonly keepFailed: number;
  readonly oldestWaitingMs: number | undefined;
  readonly strays: number | undefined;
  /** Hosts with an open circuit. */
  readonly circuits: readonly string[];
  /** In the last {@link THRESHOLDS.minutes}. */
  readonly attempts: AttemptTally;
  /** In the last {@link THRESHOLDS.minutes}, or less. */
  readonly finished: FinishedJobs;
  readonly valkey: ValkeyFacts | undefined;
  /** Valkey's reason to refuse writes. */
  readonly refusal?: string | undefined;
  /** Each shard alone, where there are several. */
  readonly shards?: readonly JudgedShard[];
  /** Numbers of shards of past changes: users may still have endpoints where they had them. */
  readonly pastCounts?: readonly number[];
  /** Those that do not answer. */
  readonly away?: readonly Pick<JudgedShard, "label">[];
}

/** What a shard is judged by. */
export interface JudgedShard {
  /** As in {@link Shard}. */
  readonly label: string;
  readonly isPaused: boolean;
  readonly workers: number | undefined;
  readonly counts: { readonly waiting: number; readonly failed: number };
}

type Say = (code: ProblemCode, text: string, todo: string) => void;
const AGO = `in the last ${THRESHOLDS.minutes} minutes`;

/** Every problem of a queue, worst first. A queue that delivers nothing is not reported as late as well. */
export function judgeQueue(queue: JudgedQueue): QueueProblem[] {
  const problems: QueueProblem[] = [];
  const say: Say = (code, text, todo) => problems.push({ code, severity: PROBLEMS[code].severity, text, todo });
  judgeValkey(queue, say);
  judgeWorkers(queue, say);
  const stands = problems.some(({ code }) => STANDS.has(code));
  if (!stands) judgePace(queue, say);
  judgeFailures(queue, say);
  const codes = Object.keys(PROBLEMS);
  return problems.sort((a, b) => codes.indexOf(a.code) - codes.indexOf(b.code));
}

/** With one of these, nothing is delivered. */
const STANDS: ReadonlySet<ProblemCode> = new Set([
  ...(["valkey_full", "valkey_refuses", "valkey_replica", "no_worker", "paused"] as const),
]);

function judgeValkey({ valkey, refusal }: JudgedQueue, say: Say): void {
  const { usedMemoryBytes: used = 0, maxMemoryBytes: max = 0 } = valkey ?? {};
  const replica = valkey && replicaProblem(valkey);
  const eviction = valkey && evictionProblem(valkey);
  const share = max > 0 ? used / max : 0;
  if (share >= 1 && refusal !== undefined) {
    const todo = "Give Valkey more memory, or remove jobs that are not needed";
    say("valkey_full", "Valkey's memory is full: no events can be enqueued, and none are delivered", todo);
  } else if (refusal !== undefined) {
    say("valkey_refuses", refusal, "Fix what Valkey names: until then nothing is enqueued or delivered");
  } else if (share > THRESHOLDS.memoryShare) {
    const text = `Valkey uses ${percent(share)} of its memory`;
    say("valkey_memory", text, "Find out what fills it before it is full: then no events can be enqueued");
  }
  if (replica !== undefined) say("valkey_replica", replica, "Point VALKEY_URL to the primary");
  if (eviction !== undefined) say("valkey_evicts", eviction, "Set Valkey's maxmemory-policy to noeviction");
}

function judgeWorkers(queue: JudgedQueue, say: Say): void {
  const { workers, isPaused, strays = 0, shards = [], pastCounts = [], away = [] } = queue;
  if (away.length > 0) {
    const [verb, whose] = away.length === 1 ? ["does", "its"] : ["do", "their"];
    const text = `${capitalize(nameShards(away))} ${verb} not answer: ${whose} events are not being delivered`;
    say("shard_away", text, "Find out why: until then they wait, and so do backends that add some");
  }
  if (workers === 0) say("no_worker", "No workers are connected: nothing is being delivered", "Start a worker");
  const unserved = shards.filter((shard) => workers !== 0 && shard.workers === 0 && shard.counts.waiting > 0);
  if (unserved.length > 0) {
    const todo = "Set VALKEY_URL and WEBHOOK_SHARDS of all workers to what they are here, and restart them";
    say("unserved", `Events wait in ${nameShards(unserved)}, which nobody serves`, todo);
  }
  const paused = shards.filter((shard) => shard.isPaused);
  const isPart = paused.length < shards.length;
  const text = isPart
    ? `The queue is paused in ${nameShards(paused)}: nothing is being delivered from there`
    : "The queue is paused: nothing is being delivered";
  if (isPaused) say("paused", text, "Run fluxhook resume to continue");
  for (const past of away.length > 0 ? [] : pastCounts) {
    const text = `${capitalize(leftBehind(past))}, from a change that has not ended`;
    say("unmoved", text, capitalize(howToSettle(past)));
  }
  if (strays > 0) {
    const text = `${count(strays, "event is", "events are")} in none of the queue's lists and will not be delivered`;
    say("strays", text, "Run fluxhook recover");
  }
}

function judgePace({ oldestWaitingMs: ageMs = 0, attempts, counts }: JudgedQueue, say: Say): void {
  const { minutes, lateMs, veryLateMs, minGrowth, pendingShare } = THRESHOLDS;
  const { made, failed, pendingBefore } = attempts;
  const late = `Events are waiting for a worker, the next one for ${formatSpan(ageMs)}`;
  if (pendingBefore !== undefined && made === 0 && ageMs > minutes * 60 * 1000) {
    const text = `Events are waiting, and no attempt was made ${AGO}`;
    say("stuck", text, "Restart the workers one at a time, and keep their output");
  } else if (ageMs > veryLateMs) say("very_late", late, "Start more workers now");
  else if (ageMs > lateMs) say("late", late, "Start more workers");
  const growth = counts.waiting + counts.delayed - (pendingBefore ?? Number.POSITIVE_INFINITY);
  if (growth > minGrowth && growth / (growth + made - failed) > pendingShare) {
    const text = `${count(growth, "more event is", "more events are")} pending than ${minutes} minutes ago, and ${format(made - failed)} were delivered`;
    say("backlog_grows", text, "Look for endpoints that fail, do not respond or are held, or start more workers");
  }
}

function judgeFailures(queue: JudgedQueue, say: Say): void {
  const { attempts, finished, circuits, counts, keepFailed, shards = [] } = queue;
  const { failedShare, nearlyAllShare, minAttempts, minEvents, openCircuits, failedKeptShare } = THRESHOLDS;
  const share = attempts.made >= minAttempts ? attempts.failed / attempts.made : 0;
  const text = `${percent(share)} of attempts failed ${AGO} (${format(attempts.failed)} of ${format(attempts.made)})`;
  if (share > nearlyAllShare) {
    say("nearly_all_fail", text, "Check your own network, DNS and egress proxy first");
  } else if (share > failedShare) {
    say("most_fail", text, "See whose endpoints fail, and whether they have something in common");
  }
  const { completed, failed } = finished;
  const eventShare = completed + failed >= minEvents ? failed / (completed + failed) : 0;
  if (eventShare > failedShare) {
    const events = `${percent(eventShare)} of the events that finished ${AGO} failed for good`;
    say("events_fail", events, "See the reasons among the failed events, and redeliver them once the cause is fixed");
  }
  if (circuits.length > openCircuits) {
    const hosts = `${format(circuits.length)} hosts do not respond`;
    say("open_circuits", hosts, "If they do not belong to one provider, check your own network");
  }
  const fullest = shards.length > 1 ? shards.reduce((a, b) => (b.counts.failed > a.counts.failed ? b : a)) : undefined;
  const most = fullest?.counts.failed ?? counts.failed;
  if (most > failedKeptShare * keepFailed) {
    const where = fullest === undefined ? "" : ` in ${nameShards([fullest])}`;
    const kept = `${format(most)} failed events are kept${where}; beyond ${format(keepFailed)}, the oldest are dropped`;
    say("failed_full", kept, "Redeliver those that should arrive, and remove the rest");
  }
}

const format = (number: number): string => number.toLocaleString("en-US");
const count = (number: number, one: string, many: string) => `${format(number)} ${number === 1 ? one : many}`;
const percent = (share: number): string => `${Math.floor(share * 100)}%`;
