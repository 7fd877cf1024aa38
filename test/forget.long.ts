/** Forgetting a user beside a worker that delivers, with many events of the user and of others. */
import { expect, test } from "bun:test";
import { startReceiver } from "../src/dev/receiver.ts";
import { eraseUser } from "../src/operations/erase.ts";
import { dumpAll } from "./support/dump.ts";
import { onlyShard } from "./support/only-shard.ts";
import { startOwnQueue } from "./support/own-queue.ts";
import { startWorkerProcess } from "./support/process.ts";
import { eventually, jobData } from "./support/stack.ts";

const BUSY_MS = 90_000; // for what takes a moment, on a machine that may be busy
const USER = "usr_4";
const own = await startOwnQueue("forget");
const { client, queue } = own;
const env = { ...own.env, WEBHOOK_TIMEOUT: "500ms" };

/** What mentions a user by its whole id. */
const mentionsOf = async (userId: string) =>
  (await dumpAll(client)).filter((text) => new RegExp(`${userId}(?![0-9])`).test(text));

test("under a worker with 20,000 mixed jobs nothing of the user is left, and every other event arrives", async () => {
  const receiver = await startReceiver();
  receiver.answer(({ path }) => (path === "/down" ? { status: 503 } : { status: 204 }));
  const jobs = Array.from({ length: 20_000 }, (_, index) => ({
    name: "file.created",
    data: jobData(receiver.url(index % 40 === 4 ? "/down" : "/in"), {
      userId: index % 4 === 0 ? USER : `usr_4${index % 50}`,
      data: { index },
    }),
    opts: index % 7 === 0 ? { delay: 1_000 + (index % 500) } : index % 11 === 0 ? { priority: 3 } : {},
  }));
  for (let start = 0; start < jobs.length; start += 2_000) await queue.addBulk(jobs.slice(start, start + 2_000));
  const worker = startWorkerProcess({ ...env, LOG_LEVEL: "error" });
  const shards = onlyShard("forget", client);
  try {
    await eventually(
      () => receiver.requests.length,
      (count) => count > 1_000,
      BUSY_MS,
    );
    const erasure = await eraseUser(shards, USER, 10_000);
    expect(erasure.isDone).toBe(true);
    expect(await mentionsOf(USER)).toEqual([]);
    const healthy = () => {
      const bodies = receiver.requests.map(({ body }) => JSON.parse(body.toString()).data.index as number);
      return new Set(bodies.filter((index) => index % 4 !== 0));
    };
    await eventually(
      () => healthy().size,
      (size) => size === 15_000,
      BUSY_MS,
      100,
    );
    expect(await mentionsOf(USER)).toEqual([]);
  } finally {
    await worker.stop();
    await receiver.stop();
  }
}, 240_000);
