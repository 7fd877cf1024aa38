/** The order in which workers take jobs when there is a backlog, in a real Valkey. */
import { describe, expect, test } from "bun:test";
import { type Job, Worker } from "bullmq";
import { createFairQueue, type FairQueue } from "../src/isolation/fair-queue.ts";
import { queueKey } from "../src/queue/layout.ts";
import { LoopWorker, type QueueWatch } from "../src/queue/worker-loop.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { inOrder } from "./isolation/fair-model.ts";
import { closeAfterEach, many, open, type Rig, setUp, users, waiting } from "./support/fair-rig.ts";
import { eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

closeAfterEach();

describe("a worker's fair queue", () => {
  interface Looked {
    readonly seen: number;
    readonly moved: number;
  }

  /** A rig with a fair queue, what it logged, and what it told its worker. */
  async function setUpFair() {
    const rig = await setUp();
    const looked: Looked[] = [];
    const failed: string[] = [];
    const underWay: boolean[] = [];
    const left: number[] = [];
    const fair = createFairQueue({
      valkey: rig.valkey,
      queue: rig.name,
      prefix: queueKey(rig.name),
      logger: {
        debug(fields: Looked & { reason: string }, message: string) {
          if (message === "queue.looked") looked.push({ seen: fields.seen, moved: fields.moved });
          else failed.push(fields.reason);
        },
      } as never,
      onLongScan: (isRunning) => void underWay.push(isRunning),
      onScanned: (jobs) => void left.push(jobs),
    });
    const take = (times: number) => {
      for (let i = 0; i < times; i++) fair.taken();
    };
    const hasLooked = (times: number) =>
      eventually(
        () => looked.length + failed.length,
        (length) => length === times,
      );
    return { ...rig, fair, looked, failed, underWay, left, take, hasLooked };
  }

  test("looks after 64 jobs in a row, and is put off where nobody dominates", async () => {
    const rig = await setUpFair();
    await rig.add(users(400));
    rig.take(63);
    rig.fair.empty();
    rig.take(63);
    expect(rig.left).toEqual([]);
    rig.take(1);
    await rig.hasLooked(1);
    expect([rig.looked, rig.left]).toEqual([[{ seen: 128, moved: 0 }], [96]]); // and 32 of the newest
    rig.take(255);
    await rig.valkey.ping();
    expect([rig.looked.length, rig.underWay.length]).toEqual([1, 0]);
    rig.take(1);
    await rig.hasLooked(2);
    rig.fair.empty(); // and then the next look is as near as the first was
    rig.take(64);
    await rig.hasLooked(3);
    expect(rig.failed).toEqual([]);
  });

  test("goes through a long backlog in growing pieces, telling each time what stays at the head", async () => {
    const rig = await setUpFair();
    await rig.add(many("hog", 3_000));
    await rig.add(users(30));
    rig.take(64);
    await rig.hasLooked(1);
    const [look] = rig.looked as [Looked];
    expect(look.moved).toBeGreaterThan(2_900);
    expect(rig.left.length).toBeGreaterThan(4);
    expect(rig.left[0]).toBe(1 + 30); // one of theirs, and all the others
    expect(rig.underWay).toEqual([true, false]);
    expect((await waiting(rig)).length).toBeLessThan(130);
    rig.take(64); // the next is near
    await rig.hasLooked(2);
  });

  test("looks at once when many jobs may not go, for users who have many of those", async () => {
    const rig = await setUpFair();
    const ids = await rig.add(Array.from({ length: 200 }, (_, i) => `usr_${i % 100}`));
    for (let i = 0; i < 31; i++) rig.fair.held(`usr_${i < 4 ? 7 : i + 10}`);
    rig.take(1);
    expect(rig.left).toEqual([]);
    rig.fair.held("usr_99");
    rig.take(1);
    await rig.hasLooked(1);
    expect(inOrder((await rig.line()).prioritized)).toEqual([ids[7]] as string[]); // of the first piece
  });

  test("never throws, also when Valkey refuses the script", async () => {
    const rig = await setUpFair();
    await rig.valkey.set(rig.keys.wait, "no list");
    rig.take(64);
    await rig.hasLooked(1);
    expect(rig.failed[0]).toContain("WRONGTYPE");
    await rig.valkey.del(rig.keys.wait);
    await rig.add(users(100));
    rig.take(64);
    await rig.hasLooked(2);
    expect(rig.looked).toEqual([{ seen: 100, moved: 0 }]);
  });
});

describe("workers on one queue", () => {
  /** A worker with a fair queue that notes the jobs it is done with. */
  async function startFair(rig: Rig, done: string[], concurrency = 8): Promise<LoopWorker> {
    const connection = connectValkey(await testValkeyUrl(), "test:fair", { info() {}, warn() {} });
    class FairWorker extends LoopWorker {
      constructor(process: (job: Job) => Promise<string>, watch: QueueWatch) {
        super(rig.name, process, { connection, concurrency, autorun: false });
        this.watch = watch;
      }
    }
    const fair: FairQueue = createFairQueue({
      valkey: connection,
      queue: rig.name,
      prefix: queueKey(rig.name),
      logger: { debug() {} } as never,
      onLongScan: (isRunning) => {
        worker.isHeldBack = isRunning;
      },
      onScanned: (jobs) => worker.take(jobs),
    });
    const worker: LoopWorker = new FairWorker(process(done), fair);
    open.push({
      async stop() {
        await worker.close();
        connection.disconnect();
      },
    });
    return worker;
  }

  const process = (done: string[]) => async (job: Job) => {
    await Bun.sleep(2);
    done.push(job.id as string);
    return "";
  };
  const all = (rig: Rig, count: number) =>
    eventually(
      () => rig.queue.getJobCounts("completed", "failed"),
      ({ completed, failed }) => completed === count && failed === 0,
    );

  test("deliver everybody else's jobs before the rest of one user's, and each job once", async () => {
    const rig = await setUp();
    const hogs = await rig.add(many("hog", 3_000));
    const others = await rig.add(users(100));
    const done: string[] = [];
    const workers = await Promise.all([startFair(rig, done), startFair(rig, done), startFair(rig, done)]);
    for (const worker of workers) worker.run();
    await all(rig, 3_100);
    expect(done.toSorted()).toEqual([...hogs, ...others].toSorted());
    const places = others.map((id) => done.indexOf(id));
    expect(Math.max(...places)).toBeLessThan(1_000); // in `wait` they would have been the last
  });

  test("give one user a share although others' jobs never end", async () => {
    const rig = await setUp();
    const hogs = await rig.add(many("hog", 400));
    await rig.add(Array.from({ length: 3_000 }, (_, i) => `usr_${i % 300}`));
    const done: string[] = [];
    const worker = await startFair(rig, done);
    worker.run();
    await eventually(
      () => done.length,
      (length) => length >= 2_000,
    );
    await worker.pause();
    const share = done.slice(500, 2_000).filter((id) => hogs.includes(id)).length / 1_500;
    expect(share).toBeGreaterThan(0.03);
    expect(share).toBeLessThan(0.2);
  });

  test("that know nothing of it take such jobs too, and hand the queue back as they found it", async () => {
    const rig = await setUp();
    const ids = await rig.add([...many("hog", 2_000), ...users(50)]);
    const done: string[] = [];
    const plain = new Worker(rig.name, process(done), {
      connection: connectValkey(await testValkeyUrl(), "test:plain", { info() {}, warn() {} }),
      concurrency: 8,
      autorun: false,
    });
    open.push({
      async stop() {
        await plain.close();
        (plain.opts.connection as { disconnect(): void }).disconnect();
      },
    });
    const fair = await startFair(rig, done);
    fair.run();
    await eventually(
      () => rig.queue.getPrioritizedCount(),
      (count) => count > 500,
    );
    plain.run(); // side by side
    await eventually(
      () => done.length,
      (length) => length > 500,
    );
    await fair.pause(); // and alone
    await rig.add(many("hog", 200)).then((more) => ids.push(...more));
    await eventually(
      () => done.length,
      (length) => length > 1_200,
    );
    await fair.resume(); // and back
    await all(rig, ids.length);
    expect(done.toSorted()).toEqual(ids.toSorted());
    expect(await rig.queue.getJobCounts("wait", "prioritized", "active", "delayed")).toEqual({
      wait: 0,
      prioritized: 0,
      active: 0,
      delayed: 0,
    });
  });

  test("keep to the queue's concurrency and its pause", async () => {
    const rig = await setUp();
    await rig.queue.setGlobalConcurrency(2);
    await rig.add([...many("hog", 300), ...users(20)]);
    const done: string[] = [];
    const worker = await startFair(rig, done);
    worker.run();
    let most = 0;
    await eventually(
      async () => {
        most = Math.max(most, await rig.queue.getActiveCount());
        return done.length;
      },
      (length) => length > 100,
    );
    expect(most).toBeLessThanOrEqual(2);
    await rig.queue.pause();
    await eventually(
      () => rig.queue.getActiveCount(),
      (count) => count === 0,
    );
    const { length } = done;
    await Bun.sleep(100); // for what it might take
    expect(done).toHaveLength(length);
    await rig.queue.removeGlobalConcurrency();
    await rig.queue.resume();
    await all(rig, 320);
  });
});
