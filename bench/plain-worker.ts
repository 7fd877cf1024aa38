/**
 * What people write: a BullMQ worker, fetch, a timeout. No guard, no log, no isolation. The baseline of the benches.
 */
import { createHmac } from "node:crypto";
import { Worker } from "bullmq";
import { Redis } from "ioredis";

const { VALKEY_URL = "", WEBHOOK_QUEUE = "webhooks", WEBHOOK_CONCURRENCY = "256" } = process.env;

const connection = new Redis(VALKEY_URL, { maxRetriesPerRequest: null });
new Worker(
  WEBHOOK_QUEUE,
  async (job) => {
    const { endpoint, data } = job.data;
    const body = JSON.stringify({
      id: job.id,
      event: job.name,
      timestamp: new Date(job.timestamp).toISOString(),
      data,
    });
    const signature = createHmac("sha256", endpoint.secret).update(body).digest("hex");
    const response = await fetch(endpoint.url, {
      method: "POST",
      headers: { "content-type": "application/json", "x-fluxdrop-signature": signature },
      body,
      signal: AbortSignal.timeout(10_000),
    });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
  },
  {
    connection,
    concurrency: Number(WEBHOOK_CONCURRENCY),
    removeOnComplete: { count: 1000 },
    removeOnFail: { count: 1000 },
  },
);
console.log(JSON.stringify({ message: "worker.ready" }));
process.on("SIGTERM", () => process.exit(0));
