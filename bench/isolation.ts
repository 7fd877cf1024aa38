/**
 * Isolation: what one endpoint, host or user does to the others, beside a plain BullMQ worker and beside the same traffic
 * undisturbed.
 *
 *   bun bench/isolation.ts [--short] [--seconds 20] [--only dead,slow] [--kinds plain,fluxhook] [--warm-up 3] [--rounds 1]
 *                          [--size 100] [--latency 100] [--seed 1] [--by url|user]
 *
 * `--only` takes parts of scenarios' names; `--short` is some of them, smaller and shorter: two minutes in all. `--size` and
 * `--latency` are percentages: of the numbers of jobs and endpoints, and of the time that answers take. With several rounds
 * the scenarios take turns and the times are medians.
 *
 * `--by user` registers the endpoints: a user's events name none and go to the user's first one; only those for others of a user name
 * them, by their ids, and beyond 50 by URL. For `--kinds fluxhook` alone.
 *
 * Prints for each scenario (isolation-scenarios.ts) how many of the measured events arrived and how long they took from
 * `queue.add`, or from when the worker was let at them, to the receiver; and of the rest how many arrived, and when the last
 * of them did.
 */
import { Queue } from "bullmq";
import { endpointChangesKey, endpointsKey } from "../src/queue/own-keys.ts";
import { VERSION_FIELD } from "../src/registry/endpoint.ts";
import { changeOf, countOpen, fill, storeEndpoint, untilLeft } from "./backlog.ts";
import { epochMs, median, percentile } from "./clock.ts";
import { hostOf } from "./hosts.ts";
import { type Aim, buildScenarios, createRandom, type Scenario } from "./isolation-scenarios.ts";
import { parseKinds, parseNumber, readOptions } from "./options.ts";
import { untilPrinted } from "./processes.ts";
import { buildTable, type Cell, describeMachine, formatNumber } from "./report.ts";
import { type Kind, type Rig, startRig } from "./rig.ts";

const TICK_MS = 2; // events come one by one, not in batches
const GRACE_MS = 3 * 1000; // after the last event
const POLL_MS = 50;
const SETTLE_MS = 300; // with it, a backlog of 20,000 leaves the bench 6 ms of CPU in the next half second; 90 without
const WARM_UP_JOBS = 20_000; // at full size, of a worker that is to be warm when a backlog comes
const MAX_ENDPOINTS = 50; // that a user registers
const SHORT = { seconds: 5, size: 25 };

const { values } = readOptions({
  short: { type: "boolean", default: false },
  seconds: { type: "string", default: "20" },
  only: { type: "string" },
  kinds: { type: "string", default: "plain,fluxhook" },
  "warm-up": { type: "string", default: "3" },
  rounds: { type: "string", default: "1" },
  size: { type: "string", default: "100" },
  latency: { type: "string", default: "100" },
  seed: { type: "string", default: "1" },
  by: { type: "string", default: "url" },
});
const isShort = values.short;
const seconds = isShort ? SHORT.seconds : parseNumber("seconds", values.seconds, 3_600);
const warmUpMs = parseNumber("warm-up", values["warm-up"], 60, 0) * 1000;
const rounds = parseNumber("rounds", values.rounds, 20);
const kinds = parseKinds("kinds", values.kinds, ["plain", "fluxhook"]);
const size = (parseNumber("size", values.size, 1_000) * (isShort ? SHORT.size : 100)) / 10_000;
const latency = parseNumber("latency", values.latency, 1_000, 0) / 100;
const seed = parseNumber("seed", values.seed, 2 ** 32 - 1, 0);
const only = values.only?.split(",");
const [by = "url"] = parseKinds("by", values.by, ["url", "user"]);
if (by !== "url" && kinds.some((kind) => kind !== "fluxhook"))
  throw new Error(`expected --by ${by} with --kinds fluxhook`);

const chosen = buildScenarios({ size, latency }).filter(
  (scenario) => (!isShort || scenario.isShort) && (!only || only.some((part) => scenario.name.includes(part))),
);

/** What became of a stream: how many events were sent, and how long each took that arrived, ms. */
interface Measured {
  readonly sent: number;
  readonly times: number[];
}
interface Row {
  readonly kind: Kind;
  readonly scenario: Scenario;
  readonly runs: { readonly measured: Measured; readonly rest: Measured }[];
}

const rows = kinds.flatMap((kind) => chosen.map((scenario): Row => ({ kind, scenario, runs: [] })));
const rig = await startRig({ receiver: ["bench/receiver.ts"] });
try {
  for (let round = 0; round < rounds; round++) {
    for (const { kind, scenario, runs } of rows) runs.push(await run(rig, kind, scenario));
  }
} finally {
  await rig.stop();
}
report();

function report(): void {
  const time = ({ runs }: Row, share: number) => median(runs.map(({ measured }) => percentile(measured.times, share)));
  const sum = (counts: number[]): number => counts.reduce((total, count) => total + count, 0);
  const cells = rows.map((row): Cell[] => {
    const { scenario, kind, runs } = row;
    const aloneRow = rows.find((other) => other.kind === kind && other.scenario.name === scenario.alone);
    const p99 = time(row, 0.99);
    const share = aloneRow === undefined ? Number.NaN : p99 / time(aloneRow, 0.99);
    const of = (count: (run: Row["runs"][number]) => number) => sum(runs.map(count));
    const rest = of(({ rest }) => rest.sent);
    const restMs = median(runs.map(({ rest }) => percentile(rest.times, 1)));
    return [
      ...[scenario.name, kind, of(({ measured }) => measured.sent), of(({ measured }) => measured.times.length)],
      ...[time(row, 0.5), p99, share].map(formatNumber),
      ...[rest, rest === 0 ? "–" : of(({ rest }) => rest.times.length), formatNumber(restMs / 1000)],
    ];
  });
  console.log(`## Isolation\n\n${describeMachine(rig.facts.server)}\n`);
  const scale = `${seconds} s, sizes ${formatNumber(size * 100)} %, answers ${formatNumber(latency * 100)} %, seed ${seed}`;
  console.log(`256 slots; ${scale}; medians of ${rounds} round(s). Alone: the measured traffic without the rest.\n`);
  const head = ["scenario", "worker", "events", "arrived", "p50 ms", "p99 ms", "p99 ÷ alone"];
  console.log(buildTable([...head, "the rest", "arrived", "its last, s"], cells));
}

/** Run one scenario with one worker. */
async function run(rig: Rig, kind: Kind, scenario: Scenario): Promise<Row["runs"][number]> {
  const { measured, others, backlog, graceSeconds = 0 } = scenario;
  const id = crypto.randomUUID();
  const queue = new Queue(id, { connection: by === "user" ? rig.client : { url: rig.valkeyUrl } });
  const random = createRandom(seed);
  const sent = { measured: 0, rest: 0 };
  const place = by === "user" ? createPlaces(rig.client) : undefined;
  const job = (stream: "measured" | "rest" | "warm-up", aim: Aim, index: number) => {
    const { user, host, path, answer } = aim(index, random);
    const url = `http://${hostOf(host)}:${rig.receiverLine}/${answer}/${id}/${stream}/${path}`;
    const data = { sentAt: epochMs(), fileId: "file_0123456789", name: "report.pdf", size: 482_113 };
    const endpoint = place === undefined ? { url, secret: "bench-secret" } : place(user, url);
    return { name: "file.created", data: { userId: user, endpoint, data } };
  };
  const nextMeasured = () => job("measured", measured.aim, sent.measured++);
  const nextOther = (aim: Aim) => job("rest", aim, sent.rest++);
  const addBacklog = async ({ jobs, share = 0, aim = measured.aim }: NonNullable<Scenario["backlog"]>) => {
    await fill(queue, jobs, (index) => (index % 100 < 100 - share * 100 ? nextOther(aim) : nextMeasured()));
    // Collect our own garbage of that now: later it would take a third of a core from what is measured.
    Bun.gc(true);
    await Bun.sleep(SETTLE_MS);
  };

  if (backlog?.isCold) await addBacklog(backlog);
  const worker = rig.startWorker(kind, id, by === "user" ? { WEBHOOK_REGISTRY: "1" } : {});
  await untilPrinted(worker, "worker.ready");
  if (backlog && !backlog.isCold) {
    const aim: Aim = (index) => ({ user: `usr_${index % 20}`, host: 0, path: `healthy/${index % 20}`, answer: 0 });
    await fill(queue, Math.ceil(WARM_UP_JOBS * Math.min(1, size)), (index) => job("warm-up", aim, index));
    await untilLeft(() => countOpen(rig, id), 0, [worker]);
    await queue.pause();
    await addBacklog(backlog);
  }
  await ask(`start/${id}`, "PUT");
  if (backlog && !backlog.isCold) await queue.resume();
  // Code that has not run yet is slow, in every worker: without a backlog, the first seconds do not count.
  const skippedMs = backlog ? 0 : Math.max(warmUpMs, (scenario.warmUpSeconds ?? 0) * 1000);
  const skipped = Math.round((skippedMs * measured.perSecond) / 1000);
  const totalMs = skippedMs + Math.max(seconds, scenario.seconds ?? 0) * 1000;

  const [before, startedAt] = [{ ...sent }, performance.now()];
  for (
    let elapsed = 0;
    elapsed < totalMs && (measured.perSecond > 0 || others);
    elapsed = performance.now() - startedAt
  ) {
    const jobs = [];
    const due = (perSecond: number) => Math.ceil((elapsed / 1000) * perSecond);
    while (sent.measured - before.measured < due(measured.perSecond)) jobs.push(nextMeasured());
    while (others && sent.rest - before.rest < due(others.perSecond)) jobs.push(nextOther(others.aim));
    if (jobs.length > 0) await queue.addBulk(jobs);
    await Bun.sleep(TICK_MS);
  }
  const until = performance.now() + Math.max(GRACE_MS, graceSeconds * 1000);
  const arrived = async () => ((await ask(`count/${id}/measured`)) as number) >= sent.measured;
  while (!(await arrived()) && performance.now() < until) await Bun.sleep(POLL_MS);

  const [times, restTimes] = [await ask(`times/${id}/measured`), await ask(`times/${id}/rest`)] as [number[], number[]];
  await worker.stop();
  await queue.obliterate({ force: true });
  await queue.close();
  const counted = { sent: sent.measured - skipped, times: times.slice(skipped) };
  return { measured: counted, rest: { sent: sent.rest, times: restTimes } };
}

/**
 * Register each endpoint ahead of its first event, on the connection that enqueues it. Returns how a job names its endpoint; undefined for
 * the user's first one, the only one that wants the events which name none.
 */
function createPlaces(client: Rig["client"]) {
  const known = new Map<string, string[]>(); // a user's URLs
  return (user: string, url: string): { id: string } | { url: string; secret: string } | undefined => {
    const urls = known.get(user) ?? [];
    known.set(user, urls);
    let at = urls.indexOf(url);
    if (at < 0 && urls.length === MAX_ENDPOINTS) return { url, secret: "bench-secret" };
    if (at < 0) {
      at = urls.push(url) - 1;
      const document = storeEndpoint(url, at === 0 ? null : ["org.updated"]);
      void client.hset(endpointsKey(user), { [VERSION_FIELD]: crypto.randomUUID(), [`ep_${at}`]: document });
      void client.lpush(endpointChangesKey(), changeOf(user));
    }
    return at === 0 ? undefined : { id: `ep_${at}` };
  };
}

/** Ask the receiver. */
async function ask(path: string, method = "GET"): Promise<unknown> {
  const response = await fetch(`http://127.0.0.1:${rig.receiverLine}/${path}`, { method });
  return method === "GET" ? await response.json() : undefined;
}
