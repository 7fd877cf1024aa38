import { afterEach, expect, test } from "bun:test";
import { Queue, type RedisQueueBackend } from "bullmq";
import { DeliveryWorker } from "../src/queue.ts";
import { connectValkey } from "../src/valkey.ts";
import { bounded, eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const open: { stop(): Promise<unknown> }[] = [];
afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

const job = { name: "file.created", data: {} };

/** A queue, and a worker of it whose jobs end when they are let; it tells how often it asked for a job, and side by side. */
async function setUp(concurrency: number) {
  const name = `queue-${crypto.randomUUID()}`;
  const valkey = connectValkey(await testValkeyUrl(), "test:queue", { info() {}, warn() {} });
  const queue = new Queue(name, { connection: valkey });
  const begun: string[] = [];
  const { promise: letGo, resolve: end } = Promise.withResolvers<void>();
  const worker = new DeliveryWorker(
    async ({ id }) => {
      if (begun.push(id as string) === 1) asked.beforeTheFirst = asked.inAll;
      await letGo;
      return "";
    },
    { queue: name, valkey, concurrency, timeoutMs: 10_000, policy: { attempts: 1, delaysMs: [1], jitter: 0 } },
  );
  const asked = { now: 0, most: 0, inAll: 0, beforeTheFirst: 0 };
  const { backend } = worker as unknown as { backend: { moveToActive(...args: unknown[]): Promise<unknown> } };
  const take = backend.moveToActive.bind(backend);
  backend.moveToActive = async (...args) => {
    asked.now += 1;
    asked.inAll += 1;
    asked.most = Math.max(asked.most, asked.now);
    return await take(...args).finally(() => {
      asked.now -= 1;
    });
  };
  open.push({
    async stop() {
      end();
      await worker.close();
      await queue.close();
      valkey.disconnect();
    },
  });
  await worker.waitUntilReady();
  return { queue, valkey, worker, begun, asked, letGo: end };
}

test("jobs that wait are taken side by side, and no more of them than may be in hand", async () => {
  const { queue, worker, begun, asked } = await setUp(200);
  const ids = (await queue.addBulk(Array.from({ length: 300 }, () => job))).map(({ id }) => id as string);
  worker.run();
  await eventually(
    () => begun.length,
    (count) => count >= 200,
  );
  expect(asked.most).toBeGreaterThan(20);
  expect(await queue.getActiveCount()).toBe(200);
  expect(begun.toSorted()).toEqual(ids.slice(0, 200).toSorted());
});

test("of those that wait the first begin while the others are still being taken", async () => {
  const { queue, worker, begun, asked } = await setUp(200);
  await queue.addBulk(Array.from({ length: 300 }, () => job));
  worker.run();
  await eventually(
    () => begun.length,
    (count) => count >= 200,
  );
  expect(asked.beforeTheFirst).toBeLessThanOrEqual(2);
});

test("a worker that is held back takes one after the other, and side by side again when it no longer is", async () => {
  const { queue, worker, begun, asked } = await setUp(200);
  await queue.addBulk(Array.from({ length: 300 }, () => job));
  worker.isHeldBack = true;
  worker.run();
  await eventually(
    () => begun.length,
    (count) => count > 20,
  );
  expect(asked.most).toBe(1);
  worker.isHeldBack = false;
  await eventually(
    () => asked.most,
    (most) => most > 20,
  );
});

test("it takes so many at once when it is told to, within what may be in hand", async () => {
  const { queue, worker, begun, asked } = await setUp(50);
  await queue.addBulk(Array.from({ length: 100 }, () => job));
  worker.isHeldBack = true;
  worker.take(5);
  expect(asked.now).toBe(0); // it does not run
  worker.run();
  await eventually(
    () => begun.length,
    (count) => count > 2,
  );
  worker.take(20);
  expect(asked.now).toBeGreaterThanOrEqual(20);
  expect(asked.now).toBeLessThanOrEqual(21);
  worker.take(1_000);
  await eventually(
    () => begun.length,
    (count) => count === 50,
  );
  expect(asked.most).toBeLessThanOrEqual(50);
  expect(await queue.getActiveCount()).toBe(50);
});

test("for a job that comes alone no more are asked for than by BullMQ itself", async () => {
  const { queue, worker, begun, asked } = await setUp(200);
  worker.run();
  await eventually(
    () => asked.inAll,
    (count) => count > 0,
  );
  for (let count = 1; count <= 5; count++) {
    await queue.add("file.created", {});
    await eventually(
      () => begun.length,
      (length) => length === count,
    );
    await Bun.sleep(20); // for what is asked for beyond it
  }
  expect(asked.inAll).toBeLessThanOrEqual(1 + 3 * 5); // three for each
  expect(asked.most).toBe(1);
});

test("a worker that is closed while it takes jobs leaves none of them in its hand", async () => {
  const { queue, worker, begun, asked, letGo } = await setUp(200);
  await queue.addBulk(Array.from({ length: 300 }, () => job));
  worker.run();
  await eventually(
    () => asked.now,
    (count) => count > 4,
  );
  const closed = worker.close();
  letGo();
  await bounded(closed, () => "the end of the jobs in hand");
  expect(begun.length).toBeGreaterThan(0);
  expect(await queue.getJobCounts("active", "wait", "completed")).toEqual({
    active: 0,
    wait: 300 - begun.length,
    completed: begun.length,
  });
});

test("a job that wakes a worker which was just told to stop is left, and wakes another", async () => {
  const { queue, worker, begun, asked, valkey } = await setUp(200);
  worker.run();
  await eventually(
    () => asked.inAll,
    (count) => count > 0,
  );
  const { backend } = worker as unknown as { backend: RedisQueueBackend };
  const disconnect = backend.disconnectBlocking.bind(backend);
  const { promise: added, resolve: disconnectNow } = Promise.withResolvers<void>();
  backend.disconnectBlocking = (wait) => added.then(() => disconnect(wait));
  const closed = worker.close();
  await queue.add("file.created", {});
  const ending = Bun.sleep(50).then(disconnectNow); // it wakes first
  await bounded(closed, () => "its end");
  await ending;
  expect(begun).toEqual([]);
  expect(await queue.getWaitingCount()).toBe(1);
  expect(await valkey.zscore(queue.toKey("marker"), "0")).toBe("0"); // as BullMQ writes it
});
