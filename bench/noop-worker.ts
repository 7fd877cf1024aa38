/**
 * The ceiling: a BullMQ worker that does nothing with a job, with the lock and retention of `src/queue/worker.ts`. What a delivery
 * costs beyond this is ours.
 */
import { Worker } from "bullmq";
import { Redis } from "ioredis";

const { VALKEY_URL = "", WEBHOOK_QUEUE = "webhooks", WEBHOOK_CONCURRENCY = "256" } = process.env;

new Worker(WEBHOOK_QUEUE, async () => {}, {
  connection: new Redis(VALKEY_URL, { maxRetriesPerRequest: null }),
  concurrency: Number(WEBHOOK_CONCURRENCY),
  lockDuration: 15_000,
  stalledInterval: 5_000,
  maxStalledCount: Number.MAX_SAFE_INTEGER,
  removeOnComplete: { count: 1_000, age: 24 * 60 * 60 },
  removeOnFail: { count: 10_000, age: 7 * 24 * 60 * 60 },
});
console.log(JSON.stringify({ message: "worker.ready" }));
process.on("SIGTERM", () => process.exit(0));
