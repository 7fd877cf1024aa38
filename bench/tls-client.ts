/**
 * Requests over TLS to many hosts in turn, a process of its own; see tls.ts.
 *
 * Environment: `BENCH_CLIENT` (`fetch`, `sender` or `sender-names`), `BENCH_HOSTS`, `BENCH_PORT`, `BENCH_REQUESTS`,
 * `BENCH_WARM_UP`, `BENCH_CONCURRENCY`, `BENCH_CONTROL` (the sink's) and `NODE_EXTRA_CA_CERTS`, which fetch trusts.
 *
 * Prints {@link ClientFigures} as JSON.
 */
import { readFileSync } from "node:fs";
import { buildBody, buildRequest, type WebhookRequest } from "../src/delivery/request.ts";
import { type Network, parseNetwork } from "../src/dns/address.ts";
import { createSender } from "../src/http/sender.ts";
import { buildEventData } from "./backlog.ts";
import { hostOf, nameOf } from "./hosts.ts";
import type { SinkCounts } from "./sink.ts";

export interface ClientFigures {
  readonly requests: number;
  readonly failed: number;
  /** Connections that the receiver accepted for them. */
  readonly connections: number;
  readonly seconds: number;
  /** µs of CPU for all of them. */
  readonly clientMicros: number;
  readonly receiverMicros: number;
}

const { BENCH_CLIENT = "", BENCH_PORT = "", BENCH_CONTROL = "", NODE_EXTRA_CA_CERTS = "" } = process.env;
const [hosts, requests, warmUp, concurrency] = ["HOSTS", "REQUESTS", "WARM_UP", "CONCURRENCY"].map((name) =>
  Number(process.env[`BENCH_${name}`]),
) as [number, number, number, number];

const sender = createSender({
  timeoutMs: 10_000,
  allowNetworks: [parseNetwork("127.0.0.0/8") as Network],
  resolve: async () => [{ address: "127.0.0.1", family: 4 }],
  ca: readFileSync(NODE_EXTRA_CA_CERTS, "utf8"),
});

/** Each of them signs and sends the same request; true when it was answered. */
const clients: Readonly<Record<string, (request: WebhookRequest, key: string) => Promise<boolean>>> = {
  async fetch({ url, head, body }) {
    const headers = head.split("\r\n").flatMap((line) => (line === "" ? [] : [line.split(": ") as [string, string]]));
    const response = await fetch(url, { method: "POST", headers, body, signal: AbortSignal.timeout(10_000) });
    await response.text();
    return response.ok;
  },
  sender: async (request, key) => (await sender.send(request, key)).kind === "response",
};
const post = clients[BENCH_CLIENT.startsWith("sender") ? "sender" : "fetch"] as (typeof clients)[string];
const host = BENCH_CLIENT === "sender-names" ? nameOf : hostOf;
const urls = Array.from(
  { length: hosts },
  (_, index) => new URL(`https://${host(index)}:${BENCH_PORT}/hooks/${index}`),
);

function buildFor(index: number): WebhookRequest {
  const id = crypto.randomUUID();
  const nowMs = Date.now();
  const body = buildBody(id, "file.created", nowMs, buildEventData(index));
  const endpoint = { url: urls[index % hosts] as URL, secrets: ["bench-secret"] as [string] };
  const event = { id, type: "file.created", timestampMs: nowMs, userId: "usr_1", endpoint, body };
  return buildRequest(event, crypto.randomUUID(), nowMs);
}

/** So many requests, to one host after the other, so many at a time. */
async function run(count: number): Promise<number> {
  let next = 0;
  let failed = 0;
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      while (next < count) {
        const index = next++;
        if (!(await post(buildFor(index), String(index)).catch(() => false))) failed += 1;
      }
    }),
  );
  return failed;
}

const readSink = async (): Promise<SinkCounts> => (await (await fetch(BENCH_CONTROL)).json()) as SinkCounts;

await run(warmUp);
const before = await readSink();
const cpuBefore = process.cpuUsage();
const startedAt = performance.now();
const failed = await run(requests);
const seconds = (performance.now() - startedAt) / 1000;
const { user, system } = process.cpuUsage(cpuBefore);
const after = await readSink();
const figures: ClientFigures = {
  requests,
  failed,
  connections: after.connections - before.connections,
  seconds,
  clientMicros: user + system,
  receiverMicros: after.cpuMicros - before.cpuMicros,
};
console.log(JSON.stringify(figures));
setInterval(() => {}, 60_000);
