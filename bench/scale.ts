/**
 * Scale: one, two and four workers on one queue; where the limit moves, and what a number of events a second needs.
 *
 *   bun bench/scale.ts [--workers 1,2,4] [--jobs 20000] [--warm-up 5000] [--concurrency 64] [--endpoints 40] [--rounds 3]
 *                      [--set NAME=value …] [--write docs/sizing.md]
 *   bun bench/scale.ts --shards 1,2,6,24 [--workers 1] [--primaries 3] [--replicas 0] [--idle 5] [--jobs …] [--rounds …] …
 *
 * With `--shards` it measures what shards cost, with the first of `--workers`: see shards.ts;
 * its table goes into docs/scaling.md.
 *
 * `--write` puts the table into the document, between its two comments. A worker is one core. When all cores are taken, more workers change nothing; then what counts is the CPU per delivery,
 * of a worker and of Valkey, which runs all scripts of a queue on one core: that is the limit of a queue.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { buildUrls, type Drained, drain } from "./backlog.ts";
import { median } from "./clock.ts";
import { parseNumber, parseNumbers, parseSettings, readOptions } from "./options.ts";
import { buildTable, describeMachine, formatMegabytes, formatNumber } from "./report.ts";
import { startRig } from "./rig.ts";
import { measureShards } from "./shards.ts";
import { buildSizing } from "./sizing.ts";

const { values } = readOptions({
  workers: { type: "string", default: "1,2,4" },
  jobs: { type: "string", default: "20000" },
  "warm-up": { type: "string", default: "5000" },
  concurrency: { type: "string", default: "64" },
  endpoints: { type: "string", default: "40" },
  rounds: { type: "string", default: "3" },
  set: { type: "string", multiple: true, default: [] },
  write: { type: "string" },
  shards: { type: "string" },
  primaries: { type: "string", default: "3" },
  replicas: { type: "string", default: "0" },
  idle: { type: "string", default: "5" },
});
const jobs = parseNumber("jobs", values.jobs, 1_000_000);
const warmUpJobs = parseNumber("warm-up", values["warm-up"], 100_000);
const concurrency = parseNumber("concurrency", values.concurrency, 10_000);
const endpoints = parseNumber("endpoints", values.endpoints, 100_000);
const rounds = parseNumber("rounds", values.rounds, 20);
const settings = parseSettings(values.set);

if (values.shards !== undefined) {
  const measured = await measureShards({
    shards: parseNumbers("shards", values.shards, 256),
    workers: parseNumbers("workers", values.workers, 16)[0] as number,
    ...{ jobs, warmUpJobs, endpoints, rounds },
    primaries: parseNumber("primaries", values.primaries, 16),
    replicas: parseNumber("replicas", values.replicas, 2, 0),
    idleSeconds: parseNumber("idle", values.idle, 60, 0),
    env: { WEBHOOK_CONCURRENCY: String(concurrency), ...settings },
  });
  console.log(`## Shards\n\n${measured}`);
  if (values.write !== undefined) writeBetween(values.write, "<!-- from bench/scale.ts --shards -->\n", measured);
  process.exit(0);
}

const rows = parseNumbers("workers", values.workers, 16).map((workers) => ({ workers, runs: [] as Drained[] }));
let server = "";
for (let round = 0; round < rounds; round++) for (const row of rows) row.runs.push(await measure(row.workers));

async function measure(workers: number): Promise<Drained> {
  const rig = await startRig();
  try {
    ({ server } = rig.facts);
    const env = { WEBHOOK_CONCURRENCY: String(concurrency), ...settings };
    // Each worker has code to warm up.
    return await drain(rig, {
      kind: "fluxhook",
      jobs,
      warmUpJobs: warmUpJobs * workers,
      urls: buildUrls(rig, endpoints, 1),
      env,
      workers,
    });
  } finally {
    await rig.stop();
  }
}

const middle = (runs: readonly Drained[], figure: (run: Drained) => number): number => median(runs.map(figure));
const perSecond = (runs: readonly Drained[]): number => middle(runs, (run) => run.jobs / run.seconds);

console.log(`## Scale\n\n${describeMachine(server)}\n`);
console.log(
  `Backlogs of ${formatNumber(jobs)}, ${concurrency} in flight in each worker, ${endpoints} endpoints, medians of ${rounds} round(s) ` +
    "in turns; µs per delivery. Scripts: how long Valkey is in them, by its own clock (not CPU: more on a busy machine). Cores: what is used on average.\n",
);
console.log(
  buildTable(
    [
      "workers",
      "deliveries/s",
      `÷ ${rows[0]?.workers}`,
      "worker µs",
      "Valkey µs",
      "script µs",
      "scripts",
      "receiver µs",
      "worker cores",
      "Valkey cores",
      "peak MB a worker",
    ],
    rows.map(({ workers, runs }) => [
      workers,
      formatNumber(perSecond(runs)),
      formatNumber(perSecond(runs) / perSecond(rows[0]?.runs ?? [])),
      formatNumber(middle(runs, (run) => run.workerMicros / run.jobs)),
      formatNumber(middle(runs, (run) => run.valkeyMicros / run.jobs)),
      formatNumber(middle(runs, (run) => run.scriptMicros / run.jobs)),
      formatNumber(middle(runs, (run) => run.scripts / run.jobs)),
      formatNumber(middle(runs, (run) => run.receiverMicros / run.jobs)),
      formatNumber(middle(runs, (run) => run.workerMicros / run.seconds / 1e6)),
      formatNumber(middle(runs, (run) => run.valkeyMicros / run.seconds / 1e6)),
      formatMegabytes(Math.max(...runs.map((run) => run.peakBytes))),
    ]),
  ),
);
const measured = rows.map(({ workers, runs }) => ({
  workers,
  perSecond: perSecond(runs),
  workerMicros: middle(runs, (run) => run.workerMicros / run.jobs),
  valkeyMicros: middle(runs, (run) => run.valkeyMicros / run.jobs),
}));
const sizing = buildSizing(measured, availableParallelism());
console.log(`\n### Sizing\n\n${sizing}`);
if (values.write !== undefined) {
  writeBetween(values.write, "<!-- from bench/scale.ts -->\n", `${describeMachine(server)}\n\n${sizing}`);
}

/** Put a text into a document, between this comment and `<!-- to here -->`. */
function writeBetween(path: string, from: string, text: string): void {
  const [before, rest = ""] = readFileSync(path, "utf8").split(from);
  const [, after = ""] = rest.split("<!-- to here -->");
  writeFileSync(path, `${before}${from}\n${text}\n\n<!-- to here -->${after}`);
}
