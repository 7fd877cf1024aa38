/** The worker's own loop: which jobs it takes, how many, when. */
import { afterEach, expect, test } from "bun:test";
import { type Job, Queue } from "bullmq";
import { LoopWorker } from "../src/queue/worker-loop.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { bounded, eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const open: { stop(): Promise<unknown> }[] = [];
afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

const job = { name: "file.created", data: {} };

/** A queue, and a worker of it whose jobs end when they are let; it tells how often it asked for a job, and side by side. */
async function setUp(concurrency: number, options: { lockDuration?: number } = {}) {
  const name = `loop-${crypto.randomUUID()}`;
  const valkey = connectValkey(await testValkeyUrl(), "test:loop", { info() {}, warn() {} });
  const queue = new Queue(name, { connection: valkey });
  const begun: string[] = [];
  const ends = new Map<string, () => void>();
  let isOpen = false;
  const process = async ({ id }: Job): Promise<string> => {
    if (begun.push(id as string) === 1) asked.beforeTheFirst = asked.inAll;
    if (!isOpen) await new Promise<void>((resolve) => ends.set(id as string, resolve));
    return "";
  };
  const worker = new LoopWorker(name, process, { connection: valkey, concurrency, autorun: false, ...options });
  const asked = { now: 0, most: 0, inAll: 0, beforeTheFirst: 0 };
  const { backend } = worker;
  const take = backend.moveToActive.bind(backend);
  backend.moveToActive = async (...args) => {
    asked.now += 1;
    asked.inAll += 1;
    asked.most = Math.max(asked.most, asked.now);
    return await take(...args).finally(() => {
      asked.now -= 1;
    });
  };
  /** End these jobs, or all, those to come too. */
  const letGo = (ids?: readonly string[]): void => {
    isOpen ||= ids === undefined;
    for (const id of ids ?? [...ends.keys()]) ends.get(id)?.();
  };
  open.push({
    async stop() {
      letGo();
      await worker.close();
      await queue.close();
      valkey.disconnect();
    },
  });
  await worker.waitUntilReady();
  const add = async (count: number) =>
    (await queue.addBulk(Array.from({ length: count }, () => job))).map(({ id }) => id as string);
  /** Until so many jobs have begun. */
  const hasBegun = (count: number) =>
    eventually(
      () => begun.length,
      (length) => length >= count,
    );
  return { queue, valkey, worker, begun, asked, letGo, add, hasBegun };
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

test("a worker that is held back leaves most of its slots free, but for jobs that it is told to take", async () => {
  const { worker, begun, add, hasBegun, letGo } = await setUp(64);
  await add(300);
  worker.isHeldBack = true;
  worker.run();
  await hasBegun(64 / 8);
  await Bun.sleep(50); // for more that it might take
  expect(begun).toHaveLength(64 / 8);
  worker.take(20);
  await hasBegun(64 / 8 + 20);
  letGo(begun.slice(0, 20)); // still as many as it may fetch for by itself: none follows
  await Bun.sleep(50);
  expect(begun).toHaveLength(64 / 8 + 20);
  worker.isHeldBack = false;
  await hasBegun(64 + 20);
});

test("a worker that is held back takes one more with each acknowledgement for as many jobs as it was allowed", async () => {
  const { worker, begun, add, hasBegun, letGo } = await setUp(200);
  await add(400);
  worker.isHeldBack = true;
  worker.run();
  await hasBegun(200 / 8);
  worker.allow(64); // 39 at once, until 64 are in hand, and 25 more
  await hasBegun(64);
  letGo(begun.slice(0, 30));
  await hasBegun(64 + 25);
  await Bun.sleep(50); // for more that it might take
  expect(begun).toHaveLength(64 + 25);
  worker.isHeldBack = false;
  await hasBegun(200 + 30);
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

/** Add a job that wakes a worker before what it was told closes the connection on which it waits for jobs. */
async function addWhile(queue: Queue, { backend }: LoopWorker, tell: () => Promise<void>): Promise<void> {
  const disconnect = backend.disconnectBlocking.bind(backend);
  const { promise: added, resolve: disconnectNow } = Promise.withResolvers<void>();
  backend.disconnectBlocking = (wait) => added.then(() => disconnect(wait));
  const done = tell();
  await queue.add("file.created", {});
  const ending = Bun.sleep(50).then(disconnectNow); // it wakes first
  await bounded(done, () => "the end of what the worker was told");
  await ending;
}

test("a job that wakes a worker which was just told to stop is left, and wakes another", async () => {
  const { queue, worker, begun, asked, valkey } = await setUp(200);
  worker.run();
  await eventually(
    () => asked.inAll,
    (count) => count > 0,
  );
  await addWhile(queue, worker, () => worker.close());
  expect(begun).toEqual([]);
  expect(await queue.getWaitingCount()).toBe(1);
  expect(await valkey.zscore(queue.toKey("marker"), "0")).toBe("0"); // as BullMQ writes it
});

test("a job that wakes a worker which was just paused is left, and wakes another", async () => {
  const { queue, worker, begun, asked, valkey } = await setUp(5);
  worker.run();
  await eventually(
    () => asked.inAll,
    (count) => count > 0,
  );
  await addWhile(queue, worker, () => worker.pause());
  expect(begun).toEqual([]);
  expect(await valkey.zscore(queue.toKey("marker"), "0")).toBe("0");
  worker.resume();
  await eventually(
    () => begun.length,
    (count) => count === 1,
  );
});

test("runs once at a time, until it is closed", async () => {
  const { worker } = await setUp(5);
  expect(worker.isRunning()).toBe(false);
  const run = worker.run();
  expect(worker.isRunning()).toBe(true);
  expect(worker.run()).rejects.toThrow("already running");
  await worker.close();
  await bounded(run, () => "the end of run()");
  expect(worker.isRunning()).toBe(false);
});

test("paused, it takes nothing, and on when it is resumed, whether or not jobs are still in hand", async () => {
  const { worker, begun, letGo, add, hasBegun } = await setUp(5);
  worker.run();
  const [first] = (await add(1)) as [string];
  await hasBegun(1);
  await worker.pause(true); // does not wait for the job
  await add(1);
  await Bun.sleep(50); // for what it might take
  expect([begun.length, worker.isPaused(), worker.isRunning()]).toEqual([1, true, true]);
  await worker.resume();
  await hasBegun(2);

  const paused = worker.pause();
  letGo([first]);
  letGo(begun);
  await bounded(paused, () => "the pause");
  expect(worker.isRunning()).toBe(false);
  await add(1);
  await worker.resume();
  await hasBegun(3);
  expect(worker.isRunning()).toBe(true);
});

test("waits out a rate limit of the queue, and asks no more than it must", async () => {
  const { queue, worker, begun, asked, letGo, add, hasBegun } = await setUp(50);
  const [MAX, WINDOW_MS] = [5, 300];
  await queue.setGlobalRateLimit(MAX, WINDOW_MS);
  letGo();
  const startedAt = performance.now();
  worker.run();
  await add(4 * MAX);
  await hasBegun(4 * MAX);
  expect(performance.now() - startedAt).toBeGreaterThan(2 * WINDOW_MS); // the first window may have begun before it ran
  expect(performance.now() - startedAt).toBeLessThan(6 * WINDOW_MS);
  expect(begun).toHaveLength(4 * MAX);
  expect(asked.inAll).toBeLessThan(4 * MAX * 3);
});

test("waits out a rate limit that a producer sets, and can be closed meanwhile", async () => {
  const { queue, worker, begun, asked, letGo, add } = await setUp(50);
  letGo();
  await queue.setGlobalRateLimit(1, 20_000);
  worker.run();
  await add(3);
  await eventually(
    () => asked.inAll,
    (count) => count > 1,
  );
  await Bun.sleep(100); // for more that it might ask
  expect(asked.inAll).toBeLessThan(6);
  await bounded(worker.close(), () => "its end", 2_000);
  expect(begun).toHaveLength(1);
});

test("tells of a fetch that failed, pauses before the next, and goes on", async () => {
  const { queue, worker, asked, valkey, letGo, add, hasBegun } = await setUp(5);
  letGo();
  const errors: string[] = [];
  worker.on("error", ({ message }) => errors.push(message));
  await valkey.set(queue.toKey("wait"), "no list");
  worker.run();
  await eventually(
    () => errors.length,
    (count) => count > 0,
  );
  await Bun.sleep(200); // for what it might ask
  expect([errors.length, asked.inAll]).toEqual([1, 1]);
  expect(errors[0]).toContain("WRONGTYPE");
  await valkey.del(queue.toKey("wait"));
  await add(1);
  await hasBegun(1);
});

test("holds one job more for each that is excused, from that moment on", async () => {
  const { queue, worker, begun, letGo, add, hasBegun } = await setUp(5);
  worker.run();
  await add(40);
  await hasBegun(5);
  worker.excuse(3);
  await hasBegun(8);
  worker.excuse(30);
  await hasBegun(35);
  expect(worker.capacity).toBe(35);
  worker.excuse(0);
  letGo(begun.slice(0, 29)); // six are left, of five
  await eventually(
    () => queue.getActiveCount(),
    (count) => count === 6,
  );
  letGo(begun.slice(29, 31));
  await hasBegun(36); // one for the second of these two
  await Bun.sleep(50);
  expect(begun).toHaveLength(36);
  expect(await queue.getActiveCount()).toBe(5);
});

test("looks for jobs that nobody holds, and keeps the locks of its own", async () => {
  const { queue, worker, valkey, begun, hasBegun } = await setUp(5, { lockDuration: 300 });
  const { id } = await queue.add("file.created", {});
  // As a worker leaves it that was killed, when it was seen once.
  await valkey.lmove(queue.toKey("wait"), queue.toKey("active"), "RIGHT", "LEFT");
  await valkey.sadd(queue.toKey("stalled"), id as string);
  const { promise: renewed, resolve } = Promise.withResolvers<unknown>();
  worker.on("locksRenewed", resolve);
  worker.run();
  await hasBegun(1);
  expect(begun).toEqual([id as string]);
  await bounded(renewed, () => "a lock to be renewed");
  expect(await valkey.pttl(`${queue.toKey(id as string)}:lock`)).toBeGreaterThan(150);
});

test("is told of each job that is taken, and of each time that none was waiting", async () => {
  const { worker, letGo, add, hasBegun } = await setUp(2);
  const told: string[] = [];
  (worker as unknown as { watch: object }).watch = {
    taken: () => told.push("taken"),
    empty: () => told.push("empty"),
  };
  const [first] = (await add(3)) as [string];
  worker.run();
  await hasBegun(2);
  letGo([first]);
  await hasBegun(3);
  expect(told).toEqual(["taken", "taken", "taken"]); // at its limit it does not know what waits
  letGo();
  await eventually(
    () => told.includes("empty"),
    (isTold) => isTold,
  );
  expect(told.lastIndexOf("taken")).toBe(2);
});
