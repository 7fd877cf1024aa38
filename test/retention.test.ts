/** How many finished events a queue keeps, and what depends on it. */
import { afterEach, expect, test } from "bun:test";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { endMeant, readFailedRoom, WAITING } from "../src/operations/cancel.ts";
import { readSummary } from "../src/operations/summary.ts";
import { onlyShard } from "./support/only-shard.ts";
import { jobData, type Stack, type StackOptions, startStack } from "./support/stack.ts";

const KEPT = { keepCompleted: 3, keepFailed: 2 };
const OPTIONS: StackOptions = { retention: KEPT, policy: { attempts: 1, delaysMs: [], jitter: 0 } };

let receiver: Receiver | undefined;
let stack: Stack | undefined;
afterEach(async () => {
  await Promise.all([receiver?.stop(), stack?.stop()]);
});

test("a queue keeps as many delivered and failed events as the settings say", async () => {
  const [customer, system] = [await startReceiver(), await startStack(OPTIONS)];
  [receiver, stack] = [customer, system];
  customer.answer(({ path }) => ({ status: path === "/bad" ? 500 : 204 }));
  const { queue } = system;
  for (const path of ["/good", "/bad"]) {
    const data = jobData(customer.url(path));
    const jobs = await queue.addBulk(
      Array.from({ length: 7 }, () => ({ name: "file.created", data: { ...data, id: undefined } })),
    );
    await Promise.all(jobs.map((job) => system.settled(job)));
  }
  expect(await queue.getJobCounts("completed", "failed")).toEqual({ completed: 3, failed: 2 });
  expect(system.worker.opts.removeOnComplete).toEqual({ count: 3, age: 24 * 60 * 60 });
  expect(system.worker.opts.removeOnFail).toEqual({ count: 2, age: 7 * 24 * 60 * 60 });

  const totals = async (kept?: typeof KEPT) => {
    const { completed, failed } = await readSummary(onlyShard(system.queue.name, system.valkey), Date.now(), kept);
    return { completed, failed };
  };
  expect(await totals(KEPT)).toEqual({ completed: { count: 3, isLeast: true }, failed: { count: 2, isLeast: true } });
  expect(await totals()).toEqual({ completed: { count: 3, isLeast: false }, failed: { count: 2, isLeast: false } });
});

test("canceled events push out no failed event where the settings keep few", async () => {
  const system = await startStack({ ...OPTIONS, isIdle: true });
  stack = system;
  const data = jobData("https://customer.example/");
  for (let n = 0; n < 5; n++) await system.queue.add("file.created", { ...data, id: undefined });
  const shards = onlyShard(system.queue.name, system.valkey);
  expect(await readFailedRoom(shards, 2)).toEqual([2]);
  const filter = { userId: data.userId };
  const { total, left } = await endMeant(shards, { filter, lists: WAITING, reason: "canceled", keepFailed: 2 });
  expect([total, left.full]).toEqual([2, 3]);
  expect(await readFailedRoom(shards, 2)).toEqual([0]);
});
