import { afterAll, describe, expect, test } from "bun:test";
import { startReceiver } from "../src/dev/receiver.ts";
import { readDeliveries } from "../src/log/deliveries.ts";
import { findFailed, redeliver, redeliverAll } from "../src/operations/redeliver.ts";
import { eventually, jobData, startStack } from "./support/stack.ts";

const stack = await startStack({ policy: { attempts: 2, delaysMs: [1], jitter: 0 } });
const receiver = await startReceiver();
afterAll(async () => {
  await receiver.stop();
  await stack.stop();
});

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

async function failed(event = "file.created") {
  receiver.answer({ status: 500 });
  const job = await stack.queue.add(event, jobData(receiver.url()));
  expect((await stack.settled(job)).state).toBe("failed");
  return job;
}

describe("redelivery", () => {
  test("of a failed event sends the same body with its whole schedule again, counted from 1", async () => {
    const job = await failed();
    const before = receiver.requests.length;
    receiver.answer((_, index) => ({ status: index === before ? 500 : 200 }));
    const settled = stack.settled(job);
    expect(await redeliver(stack.queue, job.id as string)).toBe("queued");
    expect((await settled).state).toBe("completed");
    const bodies = new Set(receiver.requests.slice(-4).map(({ body }) => body.toString()));
    expect(bodies.size).toBe(1);
    const attempts = await stack.attempts(job.data.userId);
    expect(attempts.map(({ attempt, success }) => [attempt, success])).toEqual([
      [2, true],
      [1, false],
      [2, false],
      [1, false],
    ]);
  });

  test("of a delivered event delivers it once more", async () => {
    receiver.answer({ status: 200 });
    const job = await stack.queue.add("file.created", jobData(receiver.url()));
    await stack.settled(job);
    const settled = stack.settled(job);
    expect(await redeliver(stack.queue, job.id as string)).toBe("queued");
    expect((await settled).state).toBe("completed");
    expect(await stack.attempts(job.data.userId)).toHaveLength(2);
  });

  test("of a failed event is written on its job, and outlives the attempts that follow", async () => {
    const job = await failed();
    const sources = { queue: stack.queue, valkey: stack.valkey, log: { list: () => stack.attempts(job.data.userId) } };
    const read = async () => (await readDeliveries(sources, job.data.userId, Date.now()))[0]?.redeliveredAt;
    expect(await read()).toBeUndefined();
    const startedAt = Date.now();
    const settled = stack.settled(job);
    await redeliver(stack.queue, job.id as string);
    await settled;
    const at = await eventually(read, (found) => found !== undefined);
    expect(at).toBeWithin(startedAt, Date.now() + 1);
  });

  test("of one that waits for its retry goes at once", async () => {
    receiver.answer({ status: 200 });
    const job = await stack.queue.add("file.created", jobData(receiver.url()), { delay: 3_600_000 });
    expect(await redeliver(stack.queue, job.id as string)).toBe("queued");
    expect((await stack.settled(job)).state).toBe("completed");
  });

  test("says so when the job is under way, or not kept any more", async () => {
    const arrived = Promise.withResolvers<void>();
    const held = Promise.withResolvers<void>();
    receiver.answer(async () => {
      arrived.resolve();
      await held.promise;
      return { status: 200 };
    });
    const job = await stack.queue.add("file.created", jobData(receiver.url()));
    await arrived.promise;
    expect(await redeliver(stack.queue, job.id as string)).toBe("pending");
    held.resolve();
    await stack.settled(job);
    expect(await redeliver(stack.queue, "no-such-job")).toBe("gone");
  });
});

describe("many redeliveries", () => {
  test("of one event by several operators at once are one", async () => {
    const job = await failed();
    await stack.worker.pause(true);
    const asked = await Promise.all(Array.from({ length: 5 }, () => redeliver(stack.queue, job.id as string)));
    expect(asked.sort()).toEqual(["pending", "pending", "pending", "pending", "queued"]);
    const settled = stack.settled(job);
    stack.worker.resume();
    await settled;
  });

  test("tell of each what came of it", async () => {
    receiver.answer({ status: 500 });
    const jobs = [await failed(), await failed()];
    const told = new Map<string, string>();
    await redeliverAll(stack.queue, [...jobs.map(({ id }) => id as string), "nowhere"], (id, what) =>
      told.set(id, what),
    );
    expect(Object.fromEntries(told)).toEqual({
      [jobs[0]?.id as string]: "queued",
      [jobs[1]?.id as string]: "queued",
      nowhere: "gone",
    });
  });

  test("stop at the first that Valkey refuses", async () => {
    const ids = Array.from({ length: 100 }, (_, index) => `nowhere-${index}`);
    await stack.valkey.set(stack.queue.toKey("nowhere-20"), "no job");
    const told: string[] = [];
    const failure = await redeliverAll(stack.queue, ids, (id) => told.push(id)).catch((error: Error) => error);
    expect(failure).toBeInstanceOf(Error);
    expect(told).not.toContain("nowhere-20");
    expect(told.length).toBeGreaterThan(0);
    expect(told.length).toBeLessThan(60); // those that were under way, and no more
  });
});

describe("failed events are found", () => {
  test("by user, by type and by when they failed, newest first", async () => {
    const first = await failed("file.deleted");
    const between = Date.now() + 1;
    await Bun.sleep(5);
    const second = await failed("file.deleted");
    const ids = async (filter: Parameters<typeof findFailed>[1]) =>
      (await collect(findFailed(stack.queue, filter))).map(({ id }) => id);
    expect(await ids({ event: "file.deleted" })).toEqual([second.id, first.id]);
    expect(await ids({ event: "file.deleted", sinceMs: between })).toEqual([second.id]);
    expect(await ids({ userId: first.data.userId })).toEqual([first.id]);
    expect(await ids({ userId: "nobody" })).toEqual([]);
  });
});
