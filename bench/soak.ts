/**
 * Soak: up to a million deliveries through one worker, then nothing. Does memory stay where it was after the first 10,000,
 * and does everything return when the work is done?
 *
 *   bun bench/soak.ts [--jobs 1000000] [--minutes 10] [--concurrency 64] [--endpoints 40] [--hosts 40] [--idle 20]
 *                     [--set NAME=value …]
 *
 * The queue always holds some thousand jobs. Ends after `--jobs` or `--minutes`, whichever comes first, and looks again
 * `--idle` seconds after the last delivery.
 */
import { Queue } from "bullmq";
import { buildJob, buildUrls, countOpen } from "./backlog.ts";
import { openSockets, peakBytes, residentBytes } from "./meters.ts";
import { parseNumber, parseSettings, readOptions } from "./options.ts";
import { buildTable, describeMachine, formatMegabytes, formatNumber } from "./report.ts";
import { type Rig, readSink, startRig } from "./rig.ts";

const { values } = readOptions({
  jobs: { type: "string", default: "1000000" },
  minutes: { type: "string", default: "10" },
  concurrency: { type: "string", default: "64" },
  endpoints: { type: "string", default: "40" },
  hosts: { type: "string", default: "40" },
  idle: { type: "string", default: "20" },
  set: { type: "string", multiple: true, default: [] },
});
const jobs = parseNumber("jobs", values.jobs, 10_000_000);
const minutes = parseNumber("minutes", values.minutes, 120);
const idleSeconds = parseNumber("idle", values.idle, 600, 0);
const hosts = parseNumber("hosts", values.hosts, 1_000);
const endpoints = parseNumber("endpoints", values.endpoints, 100_000);

const FIRST = Math.min(10_000, jobs); // the look that the others are compared with
const LOOKS = 10; // between it and the end
const BACKLOG = 5_000; // the queue is filled up to here
const CHUNK = 1_000;
const POLL_MS = 20;

/** Everything at one moment. */
interface Look {
  readonly when: string;
  readonly deliveries: number;
  readonly seconds: number;
  readonly residentBytes: number;
  readonly workerSockets: number;
  /** Connections open at the receiver. */
  readonly connections: number;
  readonly valkeyBytes: number;
  readonly valkeyKeys: number;
  readonly valkeyClients: number;
}

const rig = await startRig({ receiver: ["bench/sink.ts", "--hosts", String(hosts)], rewrites: true });
try {
  const name = crypto.randomUUID();
  const queue = new Queue(name, { connection: { url: rig.valkeyUrl } });
  const urls = buildUrls(rig, endpoints, hosts);
  const settings = { WEBHOOK_CONCURRENCY: values.concurrency, ...parseSettings(values.set) };
  const worker = rig.startWorker("fluxhook", name, settings);
  const startedAt = performance.now();
  const look = (when: string): Promise<Look> => lookAt(rig, worker.pid, when, startedAt);

  let added = 0;
  let limit = jobs;
  const looks: Look[] = [];
  const enough = FIRST + (jobs - FIRST) / LOOKS;
  let next = FIRST;
  for (;;) {
    if (worker.hasEnded()) throw new Error(`the worker ended: ${worker.output().slice(-1000)}`);
    if (performance.now() - startedAt > minutes * 60_000) limit = Math.min(limit, added);
    const open = await countOpen(rig, name);
    if (open === 0 && added >= limit) break;
    if (added - open >= next) {
      looks.push(await look(""));
      next += enough - FIRST;
    }
    for (let room = BACKLOG - open; room > 0 && added < limit; room -= CHUNK) {
      const count = Math.min(CHUNK, limit - added);
      await queue.addBulk(Array.from({ length: count }, (_, index) => buildJob(added + index, urls)));
      added += count;
    }
    await Bun.sleep(POLL_MS);
  }
  const end = await look("end");
  await Bun.sleep(idleSeconds * 1000);
  const idle = await look(`${idleSeconds} s idle`);
  await queue.close();
  const [first = end] = looks;
  print([...looks, end, idle]);
  const failed = await rig.client.zcard(`bull:${name}:failed`);
  console.log(
    `\nMemory at the end ÷ after ${formatNumber(first.deliveries)}: **${formatNumber(end.residentBytes / first.residentBytes)}**; ` +
      `peak ${formatMegabytes(peakBytes(worker.pid))} MB. Idle for ${idleSeconds} s: ${formatMegabytes(idle.residentBytes)} MB, ` +
      `${idle.connections} connections to receivers, Valkey at ${formatNumber(idle.valkeyBytes / first.valkeyBytes)} of its memory then. ` +
      `${formatNumber(added)} enqueued, ${formatNumber(end.deliveries)} received, ${failed} failed.`,
  );
} finally {
  await rig.stop();
}

async function lookAt(rig: Rig, pid: number, when: string, startedAt: number): Promise<Look> {
  const [sink, memory, clients, valkeyKeys] = await Promise.all([
    readSink(rig),
    rig.client.info("memory"),
    rig.client.info("clients"),
    rig.client.dbsize(),
  ]);
  return {
    when: when || `after ${formatNumber(Math.floor(sink.requests / 1000))}k`,
    deliveries: sink.requests,
    seconds: (performance.now() - startedAt) / 1000,
    residentBytes: residentBytes(pid),
    workerSockets: openSockets(pid),
    connections: sink.open,
    valkeyBytes: Number(/^used_memory:(\d+)/m.exec(memory)?.[1]),
    valkeyKeys,
    valkeyClients: Number(/^connected_clients:(\d+)/m.exec(clients)?.[1]),
  };
}

function print(looks: readonly Look[]): void {
  console.log(`## Soak\n\n${describeMachine(rig.facts.server)}\n`);
  console.log(
    `One worker, ${values.concurrency} in flight, ${endpoints} endpoints on ${hosts} hosts, the queue never empty; ` +
      `up to ${formatNumber(jobs)} deliveries or ${minutes} min.\n`,
  );
  const head = [
    "",
    "deliveries",
    "deliveries/s",
    "worker MB",
    "sockets",
    "to receivers",
    "Valkey MB",
    "keys",
    "clients",
  ];
  const rows = looks.map((look, index) => {
    const before = looks[index - 1] ?? { deliveries: 0, seconds: 0 };
    return [
      look.when,
      formatNumber(look.deliveries),
      formatNumber((look.deliveries - before.deliveries) / (look.seconds - before.seconds)),
      formatMegabytes(look.residentBytes),
      look.workerSockets,
      look.connections,
      formatMegabytes(look.valkeyBytes),
      formatNumber(look.valkeyKeys),
      look.valkeyClients,
    ];
  });
  console.log(buildTable(head, rows));
}
