/**
 * The physical limit: the same signed POSTs from a loop, without a queue, over node:http with kept connections.
 *
 * Environment: `BENCH_URLS` (JSON array), `BENCH_JOBS`, `WEBHOOK_CONCURRENCY`. Does them once, then waits for its end:
 * what it used is read while it is there.
 */
import { createHmac } from "node:crypto";
import http from "node:http";
import { buildEventData } from "./backlog.ts";

const { BENCH_URLS = "[]", BENCH_JOBS = "0", WEBHOOK_CONCURRENCY = "256" } = process.env;
const urls = (JSON.parse(BENCH_URLS) as string[]).map((url) => new URL(url));
const concurrency = Number(WEBHOOK_CONCURRENCY);
const agent = new http.Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY });
let left = Number(BENCH_JOBS);

function post(index: number): Promise<void> {
  const url = urls[index % urls.length] as URL;
  const body = JSON.stringify({
    id: crypto.randomUUID(),
    event: "file.created",
    timestamp: new Date().toISOString(),
    data: buildEventData(index),
  });
  const headers = {
    "Content-Type": "application/json",
    "Content-Length": Buffer.byteLength(body),
    "X-Fluxdrop-Signature": createHmac("sha256", "bench-secret").update(body).digest("hex"),
  };
  const target = { host: url.hostname, port: url.port, path: url.pathname, method: "POST", headers, agent };
  return new Promise((resolve, reject) => {
    const request = http.request(target, (response) => {
      response.on("end", resolve).on("error", reject).resume();
    });
    request.on("error", reject);
    request.end(body);
  });
}

setInterval(() => {}, 60_000);
await Promise.all(
  Array.from({ length: concurrency }, async () => {
    while (left > 0) await post(left--);
  }),
);
