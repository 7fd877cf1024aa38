/**
 * Throughput: the drain of a backlog with everything on (guard, gate, both signatures, log, metrics, a line of output per
 * attempt), against three baselines that run in turns with it.
 *
 *   bun bench/deliver.ts [--jobs 20000] [--concurrency 64,256] [--endpoints 1,40,1000] [--rounds 3]
 *                        [--kinds noop,plain,raw,fluxhook] [--hosts 1] [--warm-up 20000] [--set NAME=value …]
 *                        [--profile directory] [--by url,id,user]
 *
 * - noop: BullMQ with a processor that does nothing: the ceiling
 * - plain: a BullMQ worker with fetch, a signature and no log: what people write
 * - raw: the signed POSTs from a loop, no queue: the physical limit
 *
 * `--hosts` spreads the endpoints over so many loopback addresses; `--set` gives every worker a setting;
 * `--by` says how jobs name their endpoints, in turns: with URL and secret, by the id of a registered one, or, with one registered for each
 * user, not at all. All but `url` are for `--kinds fluxhook` alone;
 * `--profile` leaves a CPU profile of each fluxhook worker (Markdown), which slows it down.
 */
import { resolve } from "node:path";
import { type By, buildUrls, type Drained, drain } from "./backlog.ts";
import { median } from "./clock.ts";
import { parseKinds, parseNumber, parseNumbers, parseSettings, readOptions } from "./options.ts";
import { buildTable, describeMachine, formatMegabytes, formatNumber } from "./report.ts";
import { type Kind, startRig } from "./rig.ts";

const { values } = readOptions({
  jobs: { type: "string", default: "20000" },
  concurrency: { type: "string", default: "64,256" },
  endpoints: { type: "string", default: "1,40,1000" },
  rounds: { type: "string", default: "3" },
  kinds: { type: "string", default: "noop,plain,raw,fluxhook" },
  hosts: { type: "string", default: "1" },
  "warm-up": { type: "string", default: "20000" }, // while Bun compiles, its compilers share the cores with all the rest
  set: { type: "string", multiple: true, default: [] },
  profile: { type: "string" },
  by: { type: "string", default: "url" },
});
const jobs = parseNumber("jobs", values.jobs, 1_000_000);
const warmUpJobs = parseNumber("warm-up", values["warm-up"], 100_000);
const rounds = parseNumber("rounds", values.rounds, 20);
const hosts = parseNumber("hosts", values.hosts, 1_000);
const kinds = parseKinds("kinds", values.kinds, ["noop", "plain", "raw", "fluxhook"]);
const settings = parseSettings(values.set);
const bys = parseKinds("by", values.by, ["url", "id", "user"]);
if (values.by !== "url" && kinds.some((kind) => kind !== "fluxhook"))
  throw new Error(`expected --by ${values.by} with --kinds fluxhook`);
const profiling = values.profile === undefined ? [] : ["--cpu-prof-md", `--cpu-prof-dir=${resolve(values.profile)}`];

interface Row {
  readonly kind: Kind;
  readonly by: By;
  readonly concurrency: number;
  readonly endpoints: number;
  readonly runs: Drained[];
}

const NAMED: Readonly<Record<By, string>> = { url: "URL", id: "id", user: "user" };

const rows: Row[] = [];
let server = "";
for (const concurrency of parseNumbers("concurrency", values.concurrency, 10_000)) {
  for (const endpoints of parseNumbers("endpoints", values.endpoints, 100_000)) {
    const group = kinds.flatMap((kind) => bys.map((by): Row => ({ kind, by, concurrency, endpoints, runs: [] })));
    rows.push(...group);
    for (let round = 0; round < rounds; round++) for (const row of group) row.runs.push(await measure(row));
  }
}

/** A Valkey, a receiver and a worker of its own for each run. */
async function measure({ kind, by, concurrency, endpoints }: Row): Promise<Drained> {
  const rig = await startRig({ receiver: ["bench/sink.ts", "--hosts", String(hosts)] });
  try {
    ({ server } = rig.facts);
    const env = {
      WEBHOOK_CONCURRENCY: String(concurrency),
      // A quarter by default: with a single endpoint that would be what is measured.
      ...(endpoints === 1 ? { WEBHOOK_ENDPOINT_CONCURRENCY: String(concurrency) } : {}),
      ...(by === "user" ? { WEBHOOK_REGISTRY: "1" } : {}),
      ...settings,
    };
    const flags = kind === "fluxhook" ? profiling : [];
    return await drain(rig, { kind, jobs, warmUpJobs, urls: buildUrls(rig, endpoints, hosts), by, env, flags });
  } finally {
    await rig.stop();
  }
}

const rate = (run: Drained): number => run.jobs / run.seconds;
const rates = (row: Row): number[] => row.runs.map(rate);
const perJob = (row: Row, figure: (run: Drained) => number): string =>
  formatNumber(median(row.runs.map((run) => figure(run) / run.jobs)));

const isBeside = (row: Row) => (other: Row) =>
  other.concurrency === row.concurrency && other.endpoints === row.endpoints;

/** How the medians of two rows compare; NaN when there is none of the other kind. */
function ratio(row: Row, kind: Kind): number {
  const other = rows.filter(isBeside(row)).find((one) => one.kind === kind);
  return other === undefined ? Number.NaN : median(rates(row)) / median(rates(other));
}

/**
 * How a row compares to the one whose jobs have URLs, in the median of the rounds; NaN without one.
 *
 * @param figure  of a run
 */
function toUrls(row: Row, figure: (run: Drained) => number): number {
  const other = rows.filter(isBeside(row)).find(({ kind, by }) => kind === row.kind && by === "url");
  if (other === undefined || row === other) return Number.NaN;
  return median(row.runs.map((run, round) => figure(run) / figure(other.runs[round] as Drained)));
}

/**
 * Deliveries in the time that the receiver takes for one. It does the same for each, so that this stays as it is while the machine is slowed
 * down, which here may be by half, from one run to the next.
 */
const steadied = (run: Drained): number => (rate(run) * run.receiverMicros) / run.jobs;

const table = buildTable(
  [
    "worker",
    "a job names",
    "concurrency",
    "endpoints",
    "deliveries/s",
    "lowest–highest",
    "÷ no-op",
    "÷ plain",
    "÷ URL",
    "steadied",
    "worker µs",
    "Valkey µs",
    "scripts",
    "receiver µs",
    "peak MB",
  ],
  rows.map((row) => [
    row.kind,
    NAMED[row.by],
    row.concurrency,
    row.endpoints,
    formatNumber(median(rates(row))),
    `${formatNumber(Math.min(...rates(row)))}–${formatNumber(Math.max(...rates(row)))}`,
    formatNumber(ratio(row, "noop")),
    formatNumber(ratio(row, "plain")),
    formatNumber(toUrls(row, rate)),
    formatNumber(toUrls(row, steadied)),
    perJob(row, (run) => run.workerMicros),
    row.kind === "raw" ? "–" : perJob(row, (run) => run.valkeyMicros),
    row.kind === "raw" ? "–" : perJob(row, (run) => run.scripts),
    row.kind === "noop" ? "–" : perJob(row, (run) => run.receiverMicros),
    formatMegabytes(Math.max(...row.runs.map((run) => run.peakBytes))),
  ]),
);
console.log(`## Throughput\n\n${describeMachine(server)}\n`);
console.log(
  `Backlogs of ${formatNumber(jobs)} after ${formatNumber(warmUpJobs)} that do not count, endpoints on ${hosts} host(s), ` +
    `medians of ${rounds} round(s) in turns; µs of CPU and Valkey's scripts per delivery. ` +
    "WEBHOOK_ENDPOINT_CONCURRENCY is all of them with one endpoint, else its default. Output goes to a file. " +
    "÷ URL compares to jobs that name URLs, steadied the same in deliveries for each second of the receiver's, which does the same for each.\n",
);
console.log(table);
const headline = rows.find((row) => row.kind === "fluxhook" && row.concurrency === 64 && row.endpoints === 40);
if (headline !== undefined && kinds.length > 1) {
  console.log(
    `\nfluxhook at 64 in flight, 40 endpoints: **${formatNumber(ratio(headline, "noop"))}** of the no-op worker, ` +
      `**${formatNumber(ratio(headline, "plain"))}** of the plain worker.`,
  );
}
