/**
 * Latency: from when an event is due to its receipt, at fixed rates, beside the plain worker.
 *
 *   bun bench/latency.ts [--rates 100,1000,3000] [--seconds 20] [--warm-up 5] [--rounds 3] [--kinds plain,fluxhook]
 *                        [--endpoints 40] [--set NAME=value …]
 *
 * The load is an open loop in a process of its own, see load.ts: measured from the intended time, so corrected for
 * coordinated omission. An event that has not arrived 10 s after the last one was enqueued is missing,
 * and counts as later than all others.
 */
import { buildUrls } from "./backlog.ts";
import { median, percentile } from "./clock.ts";
import { cpuMicros } from "./meters.ts";
import { parseKinds, parseNumber, parseNumbers, parseSettings, readOptions } from "./options.ts";
import { untilPrinted } from "./processes.ts";
import { buildTable, describeMachine, formatNumber } from "./report.ts";
import { type Kind, type Rig, readSink, startRig } from "./rig.ts";

const { values } = readOptions({
  rates: { type: "string", default: "100,1000,3000" },
  seconds: { type: "string", default: "20" },
  "warm-up": { type: "string", default: "5" },
  rounds: { type: "string", default: "3" },
  kinds: { type: "string", default: "plain,fluxhook" },
  endpoints: { type: "string", default: "40" },
  set: { type: "string", multiple: true, default: [] },
});
const seconds = parseNumber("seconds", values.seconds, 300);
const warmUpSeconds = parseNumber("warm-up", values["warm-up"], 60);
const rounds = parseNumber("rounds", values.rounds, 20);
const endpoints = parseNumber("endpoints", values.endpoints, 10_000);
const kinds = parseKinds("kinds", values.kinds, ["plain", "fluxhook"]);
const settings = parseSettings(values.set);

const GRACE_MS = 10 * 1000; // 10 s
const POLL_MS = 50;

/** What came of one run; times in ms. */
interface Run {
  readonly sent: number;
  readonly arrived: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly lagMs: number;
  /** µs of CPU per event. */
  readonly workerMicros: number;
  readonly receiverMicros: number;
  readonly loadMicros: number;
}

const rows: { kind: Kind; rate: number; runs: Run[] }[] = [];
let server = "";
for (const rate of parseNumbers("rates", values.rates, 20_000)) {
  const group = kinds.map((kind) => ({ kind, rate, runs: [] as Run[] }));
  rows.push(...group);
  for (let round = 0; round < rounds; round++) for (const row of group) row.runs.push(await measure(row.kind, rate));
}

async function measure(kind: Kind, rate: number): Promise<Run> {
  const rig = await startRig({ receiver: ["bench/sink.ts", "--times"] });
  try {
    ({ server } = rig.facts);
    const queue = crypto.randomUUID();
    const worker = rig.startWorker(kind, queue, settings);
    await untilPrinted(worker, "worker.ready");
    const load = rig.start("bench/load.ts", [], {
      VALKEY_URL: rig.valkeyUrl,
      WEBHOOK_QUEUE: queue,
      BENCH_URLS: JSON.stringify(buildUrls(rig, endpoints, 1)),
      BENCH_RATE: String(rate),
      BENCH_WARM_UP_MS: String(warmUpSeconds * 1000),
      BENCH_MS: String(seconds * 1000),
    });
    const withinMs = (seconds + warmUpSeconds) * 1000 + GRACE_MS;
    const pids = [worker, rig.receiver, load].map(({ pid }) => pid);
    await untilPrinted(load, "load.warm", withinMs);
    const before = pids.map(cpuMicros);
    const lines = (await untilPrinted(load, "load.done", withinMs)).trim().split("\n");
    const { lagMs } = JSON.parse(lines.at(-1) as string);
    const events = rate * seconds;
    const times = await readTimes(rig, events + rate * warmUpSeconds);
    const [workerMicros, receiverMicros, loadMicros] = pids.map(
      (pid, i) => (cpuMicros(pid) - (before[i] as number)) / events,
    ) as [number, number, number];
    const arrived = times.length;
    while (times.length < events) times.push(Number.POSITIVE_INFINITY); // later than any that was seen
    return {
      sent: events,
      arrived,
      p50: percentile(times, 0.5),
      p99: percentile(times, 0.99),
      p999: percentile(times, 0.999),
      lagMs,
      workerMicros,
      receiverMicros,
      loadMicros,
    };
  } finally {
    await rig.stop();
  }
}

/** The times of all that arrived, as soon as all have, or the grace is over. */
async function readTimes(rig: Rig, total: number): Promise<number[]> {
  const until = performance.now() + GRACE_MS;
  while ((await readSink(rig)).requests < total && performance.now() < until) await Bun.sleep(POLL_MS);
  return (await (await fetch(`${JSON.parse(rig.receiverLine).control}/times`)).json()) as number[];
}

const middle = (runs: readonly Run[], figure: (run: Run) => number): string => formatNumber(median(runs.map(figure)));
const sum = (runs: readonly Run[], figure: (run: Run) => number): number =>
  runs.reduce((total, run) => total + figure(run), 0);

console.log(`## Latency\n\n${describeMachine(server)}\n`);
console.log(
  `From when an event was due to its receipt: ${seconds} s after ${warmUpSeconds} s that do not count, ${endpoints} endpoints, ` +
    `medians of ${rounds} round(s) in turns. CPU per event. Load lag: how late the load was itself, in the times. ∞: more were missing.\n`,
);
console.log(
  buildTable(
    [
      "events/s",
      "worker",
      "sent",
      "arrived",
      "p50 ms",
      "p99 ms",
      "p99.9 ms",
      "load lag p99 ms",
      "worker µs",
      "receiver µs",
      "load µs",
    ],
    rows.map(({ kind, rate, runs }) => [
      rate,
      kind,
      sum(runs, (run) => run.sent),
      sum(runs, (run) => run.arrived),
      middle(runs, (run) => run.p50),
      middle(runs, (run) => run.p99),
      middle(runs, (run) => run.p999),
      middle(runs, (run) => run.lagMs),
      middle(runs, (run) => run.workerMicros),
      middle(runs, (run) => run.receiverMicros),
      middle(runs, (run) => run.loadMicros),
    ]),
  ),
);
const p99Of = (wanted: Kind, rate: number): number =>
  median(rows.find((row) => row.kind === wanted && row.rate === rate)?.runs.map(({ p99 }) => p99) ?? []);
const ratios = [...new Set(rows.map(({ rate }) => rate))]
  .map((rate) => ({ rate, ratio: p99Of("fluxhook", rate) / p99Of("plain", rate) }))
  .filter(({ ratio }) => !Number.isNaN(ratio));
if (ratios.length > 0) {
  const parts = ratios.map(({ rate, ratio }) => `**${formatNumber(ratio)}** at ${formatNumber(rate)} a second`);
  console.log(`\np99 of fluxhook ÷ p99 of the plain worker: ${parts.join(", ")}.`);
}
