/**
 * What an event costs that goes to several registered endpoints, and as many jobs that name their endpoints in full.
 *
 * `bun bench/fan-out.ts --endpoints 1,3,10`: for each number of endpoints, `--jobs` deliveries as events without an endpoint, and as
 * inline jobs. Valkey's time is from the first job that is enqueued to the last that is acknowledged.
 */
import { Queue } from "bullmq";
import { endpointChangesKey, endpointsKey } from "../src/queue/own-keys.ts";
import { EVERYONE } from "../src/registry/changes.ts";
import { VERSION_FIELD } from "../src/registry/endpoint.ts";
import {
  buildEventData,
  buildJob,
  buildUrls,
  changeOf,
  countOpen,
  fill,
  storeEndpoint,
  USERS,
  untilLeft,
} from "./backlog.ts";
import { median } from "./clock.ts";
import { cpuMicros, readValkeyMeters } from "./meters.ts";
import { parseNumber, parseNumbers, readOptions } from "./options.ts";
import { buildTable, describeMachine, formatNumber } from "./report.ts";
import { type Rig, readSink, startRig } from "./rig.ts";

const { values } = readOptions({
  endpoints: { type: "string", default: "1,3,10" },
  jobs: { type: "string", default: "30000" },
  "warm-up": { type: "string", default: "3000" },
  concurrency: { type: "string", default: "64" },
  rounds: { type: "string", default: "3" },
});
const counts = parseNumbers("endpoints", values.endpoints, 50);
const jobs = parseNumber("jobs", values.jobs, 10_000_000);
const warmUpJobs = parseNumber("warm-up", values["warm-up"], 10_000_000);
const concurrency = parseNumber("concurrency", values.concurrency, 10_000);
const rounds = parseNumber("rounds", values.rounds, 100);

type How = "events" | "inline";

/** Per event, µs. */
interface Run {
  readonly valkeyMicros: number;
  readonly scriptMicros: number;
  readonly workerMicros: number;
  readonly deliveriesPerSecond: number;
}

interface Row {
  readonly how: How;
  readonly endpoints: number;
  readonly runs: Run[];
}

const HOWS: readonly How[] = ["inline", "events"];
const rig = await startRig();
const rows: Row[] = counts.flatMap((endpoints) => HOWS.map((how): Row => ({ how, endpoints, runs: [] })));
try {
  for (let round = 0; round < rounds; round++) for (const row of rows) row.runs.push(await measure(row));
} finally {
  await rig.stop();
}

/** Register endpoints for each user, and return their URLs. */
async function register({ client }: Rig, endpoints: number): Promise<string[]> {
  const urls = buildUrls(rig, endpoints, 1);
  const pipeline = client.pipeline();
  for (let user = 0; user < USERS; user++) {
    const fields = Object.fromEntries(urls.map((url, index) => [`ep_${index}`, storeEndpoint(url)]));
    pipeline.del(endpointsKey(`usr_${user}`));
    pipeline.hset(endpointsKey(`usr_${user}`), { [VERSION_FIELD]: crypto.randomUUID(), ...fields });
  }
  pipeline.lpush(endpointChangesKey(), changeOf(EVERYONE));
  await pipeline.exec();
  return urls;
}

/** Add so many events, and wait until all of their deliveries are done. */
async function run(queue: Queue, worker: ReturnType<Rig["startWorker"]>, row: Row, urls: string[], events: number) {
  const build = (index: number) => {
    const user = Math.floor(row.how === "events" ? index : index / row.endpoints) % USERS;
    const userId = `usr_${user}`;
    if (row.how === "events") return { name: "file.created", data: { userId, data: buildEventData(index) } };
    const { name, data } = buildJob(index, urls);
    return { name, data: { ...data, userId } };
  };
  await fill(queue, row.how === "events" ? events : events * row.endpoints, build);
  await untilLeft(() => countOpen(rig, queue.name), 0, [worker]);
}

async function measure(row: Row): Promise<Run> {
  const { endpoints } = row;
  const urls = await register(rig, endpoints);
  const queue = new Queue(crypto.randomUUID(), { connection: { url: rig.valkeyUrl } });
  const settings = {
    ...{ WEBHOOK_REGISTRY: "1", WEBHOOK_CONCURRENCY: String(concurrency) },
    // A quarter by default: with few endpoints that would be what is measured.
    WEBHOOK_ENDPOINT_CONCURRENCY: String(concurrency),
  };
  const worker = rig.startWorker("fluxhook", queue.name, settings);
  await run(queue, worker, row, urls, Math.ceil(warmUpJobs / endpoints));
  const events = Math.ceil(jobs / endpoints);
  const seenBefore = (await readSink(rig)).requests;
  const before = { valkey: await readValkeyMeters(rig), worker: cpuMicros(worker.pid) };
  const startedAt = performance.now();
  await run(queue, worker, row, urls, events);
  const seconds = (performance.now() - startedAt) / 1000;
  const after = { valkey: await readValkeyMeters(rig), worker: cpuMicros(worker.pid) };
  const seen = (await readSink(rig)).requests - seenBefore;
  if (seen < events * endpoints) throw new Error(`expected ${events * endpoints} deliveries, got ${seen}`);
  await worker.stop();
  await queue.close();
  return {
    valkeyMicros: (after.valkey.cpuMicros - before.valkey.cpuMicros) / events,
    scriptMicros: (after.valkey.scriptMicros - before.valkey.scriptMicros) / events,
    workerMicros: (after.worker - before.worker) / events,
    deliveriesPerSecond: (events * endpoints) / seconds,
  };
}

const of = (row: Row, figure: keyof Run): number => median(row.runs.map((one) => one[figure]));
const inline = ({ endpoints }: Row) => rows.find((row) => row.how === "inline" && row.endpoints === endpoints) as Row;
const { server } = rig.facts;
console.log(`## Events for several endpoints\n\n${describeMachine(server)}\n`);
console.log(
  `${formatNumber(jobs)} deliveries a run after ${formatNumber(warmUpJobs)} that do not count, ${concurrency} in flight, ` +
    `medians of ${rounds} round(s) in turns; µs of CPU for each event, enqueueing included.\n`,
);
console.log(
  buildTable(
    ["endpoints", "jobs", "Valkey µs", "÷ inline", "in scripts", "worker µs", "deliveries/s"],
    rows.map((row) => [
      row.endpoints,
      row.how === "events" ? "one event" : "as many inline",
      formatNumber(of(row, "valkeyMicros")),
      formatNumber(of(row, "valkeyMicros") / of(inline(row), "valkeyMicros")),
      formatNumber(of(row, "scriptMicros")),
      formatNumber(of(row, "workerMicros")),
      formatNumber(of(row, "deliveriesPerSecond")),
    ]),
  ),
);
