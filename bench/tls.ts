/**
 * TLS to many hosts: how many connections are used again, and what a request costs, beside Bun's fetch.
 *
 *   bun bench/tls.ts [--hosts 1,60,300,1000] [--requests 10000] [--concurrency 64] [--rounds 3]
 *                    [--clients fetch,sender,sender-names]
 *
 * Every host is an address of loopback with a certificate of a test authority, which both check. fetch
 * cannot be told where a name leads, so it goes to addresses; the sender does too, and once more to as many names, as in
 * production. No queue: the same signed requests from a loop, to one host after the other.
 */
import { median } from "./clock.ts";
import { CA_FILE, certificateFiles, MAX_HOSTS } from "./hosts.ts";
import { parseKinds, parseNumber, parseNumbers, readOptions } from "./options.ts";
import { createProcesses, untilPrinted } from "./processes.ts";
import { buildTable, describeMachine, formatNumber } from "./report.ts";
import type { ClientFigures } from "./tls-client.ts";

const { values } = readOptions({
  hosts: { type: "string", default: "1,60,300,1000" },
  requests: { type: "string", default: "10000" },
  concurrency: { type: "string", default: "64" },
  rounds: { type: "string", default: "3" },
  clients: { type: "string", default: "fetch,sender,sender-names" },
});
const requests = parseNumber("requests", values.requests, 1_000_000);
const concurrency = parseNumber("concurrency", values.concurrency, 1_000);
const rounds = parseNumber("rounds", values.rounds, 20);
const clients = parseKinds("clients", values.clients, ["fetch", "sender", "sender-names"]);
const WITHIN_MS = 5 * 60 * 1000; // 5 min

interface Row {
  readonly client: string;
  readonly hosts: number;
  readonly runs: ClientFigures[];
}

const rows: Row[] = [];
for (const hosts of parseNumbers("hosts", values.hosts, MAX_HOSTS)) {
  const group = clients.map((client): Row => ({ client, hosts, runs: [] }));
  rows.push(...group);
  for (let round = 0; round < rounds; round++) for (const row of group) row.runs.push(await measure(row));
}

async function measure({ client, hosts }: Row): Promise<ClientFigures> {
  const processes = createProcesses();
  try {
    const receiver = processes.start("bench/sink.ts", [
      "--hosts",
      String(hosts),
      "--tls",
      certificateFiles(hosts).join(","),
    ]);
    const { port, control } = JSON.parse(await untilPrinted(receiver, "\n"));
    const running = processes.start("bench/tls-client.ts", [], {
      BENCH_CLIENT: client,
      BENCH_HOSTS: String(hosts),
      BENCH_PORT: String(port),
      BENCH_CONTROL: control,
      BENCH_REQUESTS: String(requests),
      BENCH_WARM_UP: String(Math.max(2 * hosts, Math.ceil(requests / 2))), // every host has been met
      BENCH_CONCURRENCY: String(concurrency),
      NODE_EXTRA_CA_CERTS: CA_FILE,
    });
    return JSON.parse(await untilPrinted(running, "\n", WITHIN_MS));
  } finally {
    await processes.stop();
  }
}

const figureOf = ({ runs }: Row, figure: (run: ClientFigures) => number): number => median(runs.map(figure));
const clientMicros = (row: Row): number => figureOf(row, (run) => run.clientMicros / run.requests);

function ratio(row: Row): number {
  const other = rows.find(({ client, hosts }) => client === "fetch" && hosts === row.hosts);
  return other === undefined ? Number.NaN : clientMicros(row) / clientMicros(other);
}

console.log(`## TLS\n\n${describeMachine()}\n`);
console.log(
  `${formatNumber(requests)} signed requests to one host after the other, ${concurrency} at a time, after a warm-up that has met ` +
    `every host; medians of ${rounds} round(s) in turns. Reuse: the share of requests that needed no new connection, as the ` +
    "receiver counts. µs of CPU per request. Certificates are verified by both; ECDSA P-256.\n",
);
console.log(
  buildTable(
    ["hosts", "client", "requests/s", "reuse %", "client µs", "÷ fetch", "receiver µs", "failed"],
    rows.map((row) => [
      row.hosts,
      row.client,
      formatNumber(figureOf(row, (run) => run.requests / run.seconds)),
      figureOf(row, (run) => 100 * (1 - run.connections / run.requests)).toFixed(1),
      formatNumber(clientMicros(row)),
      formatNumber(ratio(row)),
      formatNumber(figureOf(row, (run) => run.receiverMicros / run.requests)),
      row.runs.reduce((sum, { failed }) => sum + failed, 0),
    ]),
  ),
);
const compared = rows.filter((row) => row.client !== "fetch" && Number.isFinite(ratio(row)));
if (compared.length > 0) {
  const parts = compared.map((row) => `**${formatNumber(ratio(row))}** (${row.client}, ${row.hosts} hosts)`);
  console.log(`\nCPU per request ÷ that of Bun's fetch: ${parts.join(", ")}.`);
}
