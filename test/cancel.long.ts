/** Canceling events beside a worker that delivers them, with many of both. */
import { expect, test } from "bun:test";
import { startReceiver } from "../src/dev/receiver.ts";
import { endMeant, WAITING } from "../src/operations/cancel.ts";
import { onlyShard } from "./support/only-shard.ts";
import { startOwnQueue } from "./support/own-queue.ts";
import { startWorkerProcess } from "./support/process.ts";
import { eventually, jobData } from "./support/stack.ts";

const BUSY_MS = 90_000; // for what takes a moment, on a machine that may be busy
const { client, queue, env } = await startOwnQueue("cancel");
const shards = onlyShard("cancel", client);

test("while a worker delivers 20,000 mixed events, one user's are canceled and every other event arrives once", async () => {
  const receiver = await startReceiver();
  const url = receiver.url("/in");
  const jobs = Array.from({ length: 20_000 }, (_, index) => ({
    name: "file.created",
    data: jobData(url, { userId: index % 4 === 0 ? "usr_gone" : `usr_${index % 50}`, data: { index } }),
    opts: index % 7 === 0 ? { delay: 1_000 + (index % 500) } : index % 11 === 0 ? { priority: 3 } : {},
  }));
  for (let start = 0; start < jobs.length; start += 2_000) await queue.addBulk(jobs.slice(start, start + 2_000));
  const worker = startWorkerProcess({ ...env, LOG_LEVEL: "error" });
  try {
    await eventually(
      () => receiver.requests.length,
      (count) => count > 500,
      BUSY_MS,
    );
    const ended = await endMeant(shards, { filter: { userId: "usr_gone" }, lists: WAITING });
    expect(ended.isDone).toBe(true);
    expect(ended.total).toBeGreaterThan(500);
    const indexOf = (body: Buffer) => JSON.parse(body.toString()).data.index as number;
    await eventually(
      () => receiver.requests.length,
      (count) => count === 20_000 - ended.total,
      BUSY_MS,
      50,
    );
    const arrived = receiver.requests.map(({ body }) => indexOf(body)).sort((a, b) => a - b);
    expect(new Set(arrived).size).toBe(arrived.length);
    expect(arrived.filter((index) => index % 4 !== 0)).toHaveLength(15_000);
    await eventually(
      () => queue.getJobCounts("wait", "active", "delayed", "prioritized"),
      (counts) => Object.values(counts).every((n) => n === 0),
      BUSY_MS,
    );
  } finally {
    await worker.stop();
    await receiver.stop();
  }
}, 240_000);
