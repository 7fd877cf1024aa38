/**
 * The load generator: enqueues events on a schedule that nothing slows, a process of its own.
 *
 * Environment: `VALKEY_URL`, `WEBHOOK_QUEUE`, `BENCH_URLS` (JSON array), `BENCH_RATE` (events a second), `BENCH_WARM_UP_MS`
 * and `BENCH_MS`. Open loop: an event is due at its place in the schedule, whatever became of those before it, and
 * carries that time as `sentAt`; so a stall of the load, of Valkey or of the worker counts in full (no coordinated
 * omission). Events of the warm-up carry no time. Waits for its end when all are enqueued.
 *
 * Prints a line `load.warm`, and `load.done` with `lagMs`: the 99th percentile of how late it was itself.
 */
import { Queue } from "bullmq";
import { buildJob } from "./backlog.ts";
import { epochMs, percentile } from "./clock.ts";

const { VALKEY_URL = "", WEBHOOK_QUEUE = "", BENCH_URLS = "[]", BENCH_RATE = "", BENCH_MS = "" } = process.env;
const urls = JSON.parse(BENCH_URLS) as string[];
const intervalMs = 1000 / Number(BENCH_RATE);
const warmUpEvents = Math.round(Number(process.env.BENCH_WARM_UP_MS) / intervalMs);
const events = Math.round(Number(BENCH_MS) / intervalMs);

const queue = new Queue(WEBHOOK_QUEUE, { connection: { url: VALKEY_URL } });
await queue.waitUntilReady();

const lags: number[] = [];
const enqueuing = new Set<Promise<unknown>>();
const startedAt = epochMs();
let next = 0;

/** Enqueue all that are due, without waiting for those before. */
function enqueueDue(): void {
  const due = Math.min(warmUpEvents + events, Math.floor((epochMs() - startedAt) / intervalMs) + 1);
  if (due === next) return;
  const jobs = [];
  for (; next < due; next++) {
    const job = buildJob(next, urls);
    const sentAt = startedAt + next * intervalMs;
    if (next === warmUpEvents) console.log(JSON.stringify({ message: "load.warm" }));
    if (next >= warmUpEvents) {
      Object.assign(job.data.data, { sentAt });
      lags.push(epochMs() - sentAt);
    }
    jobs.push(job);
  }
  const adding = queue.addBulk(jobs).finally(() => enqueuing.delete(adding));
  enqueuing.add(adding);
}

while (next < warmUpEvents + events) {
  enqueueDue();
  await Bun.sleep(1);
}
await Promise.all(enqueuing);
console.log(JSON.stringify({ message: "load.done", lagMs: percentile(lags, 0.99) }));
setInterval(() => {}, 60_000);
