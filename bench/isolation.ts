/**
 * Isolation: what dead, slow and hoarding endpoints do to the others, beside a plain BullMQ worker.
 *
 *   bun bench/isolation.ts [--seconds 20] [--only dead,slow] [--kinds plain,fluxhook] [--warm-up 3] [--rounds 1]
 *
 * `--only` takes parts of scenarios' names. With several rounds, the scenarios take turns and the times are medians.
 *
 * 115 events a second go to 20 healthy endpoints in every scenario, or each to a new one, and as many to others in most.
 * Prints how many of the healthy events arrived and how long they took from `queue.add`, or from the worker's start, to the
 * receiver. Baselines: the healthy ones alone, and a backlog of the healthy tenth alone; the last for a worker that is cold
 * and one that is warm. Beside 200 dead ones a new endpoint counts from 20 s on, when each of those has been tried.
 */
import { Queue } from "bullmq";
import { countOpen, fill, untilLeft } from "./backlog.ts";
import { epochMs, median, percentile } from "./clock.ts";
import { parseKinds, parseNumber, readOptions } from "./options.ts";
import { untilPrinted } from "./processes.ts";
import { buildTable, type Cell, describeMachine, formatNumber } from "./report.ts";
import { type Kind, type Rig, startRig } from "./rig.ts";

interface Scenario {
  readonly name: string;
  /** What the ones that follow are compared with. */
  readonly isBaseline?: boolean;
  /** Each of the healthy events goes to an endpoint that had none before. */
  readonly isNew?: boolean;
  /** How long the worker is to run before it counts, at least; ms. */
  readonly warmUpMs?: number;
  /** Where the other half of the traffic goes; none when absent. */
  readonly others?: { readonly kind: "fast" | "dead" | "slow"; readonly endpoints: number };
  /** Jobs that wait before the worker starts, or resumes when it is warm, and the share of them that is not the healthy ones'. */
  readonly backlog?: {
    readonly jobs: number;
    readonly share: number;
    readonly kind: "dead" | "slow" | "fast";
    /** How many share that share; one when absent. */
    readonly endpoints?: number;
    readonly isWarm?: boolean;
  };
}

const SCENARIOS: readonly Scenario[] = [
  { name: "healthy only", isBaseline: true },
  { name: "and 20 more healthy", others: { kind: "fast", endpoints: 20 } },
  { name: "and 20 dead", others: { kind: "dead", endpoints: 20 } },
  { name: "and 50 dead", others: { kind: "dead", endpoints: 50 } },
  { name: "and 20 slow (2 s)", others: { kind: "slow", endpoints: 20 } },
  { name: "new endpoints", isBaseline: true, isNew: true },
  { name: "new ones, and 200 dead", isNew: true, others: { kind: "dead", endpoints: 200 }, warmUpMs: 20_000 },
  { name: "backlog, the healthy tenth", isBaseline: true, backlog: { jobs: 2_000, share: 0, kind: "fast" } },
  { name: "backlog, 90 % one dead", backlog: { jobs: 20_000, share: 0.9, kind: "dead" } },
  { name: "backlog, 90 % one slow", backlog: { jobs: 20_000, share: 0.9, kind: "slow" } },
  { name: "backlog, 90 % fifty dead", backlog: { jobs: 20_000, share: 0.9, kind: "dead", endpoints: 50 } },
  { name: "backlog, 90 % fifty slow", backlog: { jobs: 20_000, share: 0.9, kind: "slow", endpoints: 50 } },
  { name: "warm, the healthy tenth", isBaseline: true, backlog: { jobs: 2_000, share: 0, kind: "fast", isWarm: true } },
  { name: "warm, 90 % one dead", backlog: { jobs: 20_000, share: 0.9, kind: "dead", isWarm: true } },
];
const HEALTHY_ENDPOINTS = 20;
const HEALTHY_PER_SECOND = 115;
const TICK_MS = 2; // events come one by one, not in batches
const GRACE_MS = 3 * 1000; // after the last event
const POLL_MS = 50;
const SETTLE_MS = 300; // with it, a backlog of 20,000 leaves the bench 6 ms of CPU in the next half second; 90 without
const WARM_UP_JOBS = 30_000; // of a worker that is to be warm

const { values } = readOptions({
  seconds: { type: "string", default: "20" },
  only: { type: "string" },
  kinds: { type: "string", default: "plain,fluxhook" },
  "warm-up": { type: "string", default: "3" },
  rounds: { type: "string", default: "1" },
});
const seconds = parseNumber("seconds", values.seconds, 120);
const warmUp = parseNumber("warm-up", values["warm-up"], 60, 0) * 1000;
const rounds = parseNumber("rounds", values.rounds, 20);
const kinds = parseKinds("kinds", values.kinds, ["plain", "fluxhook"]);
const only = values.only?.split(",");

const chosen = SCENARIOS.filter(({ name }) => only === undefined || only.some((part) => name.includes(part)));

interface Row {
  readonly kind: Kind;
  readonly scenario: Scenario;
  readonly runs: { readonly sent: number; readonly latencies: number[] }[];
}

const rows = kinds.flatMap((kind) => chosen.map((scenario): Row => ({ kind, scenario, runs: [] })));
const rig = await startRig({ receiver: ["bench/receiver.ts"] });
try {
  for (let round = 0; round < rounds; round++) {
    for (const { kind, scenario, runs } of rows) runs.push(await measure(rig, kind, scenario));
  }
} finally {
  await rig.stop();
}

const time = ({ runs }: Row, share: number): number =>
  median(runs.map(({ latencies }) => percentile(latencies, share)));
const sum = (counts: number[]): number => counts.reduce((total, count) => total + count, 0);
let baseline = Number.NaN;
const cells = rows.map((row): Cell[] => {
  const p99 = time(row, 0.99);
  if (row.scenario.isBaseline) baseline = p99;
  const sent = sum(row.runs.map((run) => run.sent));
  const arrived = sum(row.runs.map(({ latencies }) => latencies.length));
  return [row.scenario.name, row.kind, sent, arrived, ...[time(row, 0.5), p99, p99 / baseline].map(formatNumber)];
});
console.log(`## Isolation\n\n${describeMachine(rig.facts.server)}\n`);
console.log(
  `256 slots; ${HEALTHY_PER_SECOND} events a second to ${HEALTHY_ENDPOINTS} healthy endpoints for ${seconds} s, as many to the others; ` +
    `medians of ${rounds} round(s). ` +
    "Baseline: the healthy ones alone, or a backlog of the healthy tenth alone.\n",
);
console.log(
  buildTable(["scenario", "worker", "healthy events", "arrived", "p50 ms", "p99 ms", "p99 ÷ baseline"], cells),
);

async function measure(
  rig: Rig,
  kind: Kind,
  { others, backlog, isNew, warmUpMs = 0 }: Scenario,
): Promise<{ sent: number; latencies: number[] }> {
  const { valkeyUrl, receiverLine: receiverUrl, startWorker } = rig;
  const run = crypto.randomUUID();
  const queue = new Queue(run, { connection: { url: valkeyUrl } });
  let count = 0;
  const job = (path: "fast" | "dead" | "slow", endpoint: number, group: string = run) => {
    const url = `${receiverUrl}/${path}/${group}/${endpoint}`;
    const data = { sentAt: epochMs(), fileId: "file_0123456789", name: "report.pdf", size: 482_113 };
    return {
      name: "file.created",
      data: { userId: `usr_${endpoint}`, endpoint: { url, secret: "bench-secret" }, data },
    };
  };
  const healthy = () => job("fast", isNew ? count++ : count++ % HEALTHY_ENDPOINTS);

  const addBacklog = async ({ jobs, share, kind, endpoints = 1 }: NonNullable<Scenario["backlog"]>) => {
    await fill(queue, jobs, (index) => (index % 100 < share * 100 ? job(kind, 1000 + (index % endpoints)) : healthy()));
    // Collect our own garbage of that now: later it would take a third of a core from what is measured.
    Bun.gc(true);
    await Bun.sleep(SETTLE_MS);
  };

  if (backlog !== undefined && !backlog.isWarm) await addBacklog(backlog);
  const worker = startWorker(kind, run);
  await untilPrinted(worker, "worker.ready");
  if (backlog?.isWarm) {
    await fill(queue, WARM_UP_JOBS, (index) => job("fast", index % HEALTHY_ENDPOINTS, "warm-up"));
    await untilLeft(() => countOpen(rig, run), 0, [worker]);
    await queue.pause();
    await addBacklog(backlog);
  }
  await fetch(`${receiverUrl}/start/${run}`, { method: "PUT" });
  if (backlog?.isWarm) await queue.resume();
  // Code that has not run yet is slow, in every worker: without a backlog, the first seconds do not count.
  const skippedMs = backlog === undefined ? Math.max(warmUp, warmUpMs) : 0;
  const skipped = Math.round((skippedMs * HEALTHY_PER_SECOND) / 1000);
  const total = skipped + seconds * HEALTHY_PER_SECOND;
  const startedAt = performance.now();
  let otherCount = 0;
  let live = 0;
  while (live < total) {
    const due = Math.min(total, Math.ceil(((performance.now() - startedAt) / 1000) * HEALTHY_PER_SECOND));
    const jobs = [];
    for (; live < due; live++) {
      jobs.push(healthy());
      if (others !== undefined) jobs.push(job(others.kind, 1000 + (otherCount++ % others.endpoints), "others"));
    }
    if (jobs.length > 0) await queue.addBulk(jobs);
    await Bun.sleep(TICK_MS);
  }
  const until = performance.now() + GRACE_MS;
  let noted: number[] = [];
  do {
    await Bun.sleep(POLL_MS);
    noted = (await (await fetch(`${receiverUrl}/latencies/${run}`)).json()) as number[];
  } while (noted.length < count && performance.now() < until);
  await worker.stop();
  await queue.obliterate({ force: true });
  await queue.close();
  return { sent: count - skipped, latencies: noted.slice(skipped) };
}
