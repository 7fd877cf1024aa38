import { afterAll, describe, expect, test } from "bun:test";
import { startReceiver } from "../src/dev/receiver.ts";
import { groupByEvent } from "../src/log/deliveries.ts";
import { countBy, createFailedEvents } from "../src/operations/failed-events.ts";
import { redeliver, redeliverAll } from "../src/operations/redeliver.ts";
import { openQueue, type Queue } from "../src/queue/worker.ts";
import { onlyShard } from "./support/only-shard.ts";
import { eventOf, eventually, jobData, startStack } from "./support/stack.ts";

const stack = await startStack({ policy: { attempts: 2, delaysMs: [1], jitter: 0 } });
const receiver = await startReceiver();
afterAll(async () => {
  await receiver.stop();
  await stack.stop();
});

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
    const read = async () =>
      (await groupByEvent(onlyShard(stack.queue.name, stack.valkey), await stack.attempts(job.data.userId)))[0]
        ?.redeliveredAt;
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
    await redeliverAll(
      onlyShard(stack.queue.name, stack.valkey),
      [...jobs.map(({ id }) => id as string), "nowhere"],
      (id, what) => told.set(id, what),
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
    const failure = await redeliverAll(onlyShard(stack.queue.name, stack.valkey), ids, (id) => told.push(id)).catch(
      (error: Error) => error,
    );
    expect(failure).toBeInstanceOf(Error);
    expect(told).not.toContain("nowhere-20");
    expect(told.length).toBeGreaterThan(0);
    expect(told.length).toBeLessThan(60); // those that were under way, and no more
  });
});

describe("failed events", () => {
  test("are listed by user, type, host, cause and time of failure, newest first, without secrets", async () => {
    const first = await failed("file.deleted");
    const between = Date.now() + 1;
    await eventually(
      () => Date.now(),
      (now) => now > between,
    );
    const second = await failed("file.deleted");
    const events = createFailedEvents(onlyShard(stack.queue.name, stack.valkey));
    expect(await events.refresh()).toBe(0);
    const ids = (filter: Parameters<typeof events.list>[0]) => events.list(filter).map(({ job }) => job);
    expect(ids({ event: "file.deleted" })).toEqual([second.id as string, first.id as string]);
    expect(ids({ event: "file.deleted", sinceMs: between })).toEqual([second.id as string]);
    expect(ids({ event: "file.deleted", untilMs: between })).toEqual([first.id as string]);
    expect(ids({ userId: first.data.userId })).toEqual([first.id as string]);
    expect(ids({ userId: "nobody" })).toEqual([]);
    const host = `127.0.0.1:${receiver.port}`;
    expect(ids({ event: "file.deleted", host })).toHaveLength(2);
    expect(ids({ event: "file.deleted", host: "127.0.0.1" })).toEqual([]);
    expect(ids({ event: "file.deleted", cause: "HTTP 500, no attempts left" })).toHaveLength(2);
    expect(ids({ cause: "timeout" })).toEqual([]);
    expect(events.list({ event: "file.deleted" })[0]).toMatchObject({
      ...{ job: second.id, userId: second.data.userId, host, endpoint: receiver.url() },
      ...{ id: eventOf(stack.queue, second).id, cause: "HTTP 500, no attempts left" },
    });
    expect(JSON.stringify(events.list())).not.toContain("s3cret-of-the-test");
  });

  test("are read once: those that left are dropped, those that failed again are read again", async () => {
    const [first, second] = [await failed("org.updated"), await failed("org.updated")];
    const events = createFailedEvents(onlyShard(stack.queue.name, stack.valkey));
    await events.refresh();
    const before = events.list({ event: "org.updated" });
    await first.remove();
    receiver.answer({ status: 410 });
    const settled = stack.settled(second);
    await redeliver(stack.queue as Queue, second.id as string);
    await settled;
    await events.refresh();
    const after = events.list({ event: "org.updated" });
    expect(before.map(({ job }) => job)).toEqual([second.id as string, first.id as string]);
    expect(after.map(({ job, cause }) => [job, cause])).toEqual([[second.id as string, "HTTP 410"]]);
  });

  test("that cannot be read in time are read by the next calls", async () => {
    const queue = openQueue(`failed-${crypto.randomUUID()}`, stack.valkey);
    const jobs = await queue.addBulk(
      Array.from({ length: 250 }, () => ({ name: "file.created", data: jobData("https://a.example/") })),
    );
    for (const [n, { id }] of jobs.entries()) await stack.valkey.zadd(queue.toKey("failed"), 1_000 + n, id as string);
    const events = createFailedEvents(onlyShard(queue.name, stack.valkey), clock(1));
    expect(await events.refresh(1)).toBe(150);
    expect(events.list().map(({ failedAt }) => failedAt)).toEqual(Array.from({ length: 100 }, (_, n) => 1_249 - n));
    expect(await events.refresh(1)).toBe(50);
    expect(await events.refresh(1)).toBe(0);
    expect(events.list({ host: "A.example" })).toHaveLength(250);
    expect(countBy(events.list(), ({ host }) => host)).toEqual([{ value: "a.example", count: 250 }]);
    await queue.close();
  });

  test("are left alone by a redelivery of failed ones once they are delivered", async () => {
    const job = await failed();
    receiver.answer({ status: 200 });
    const settled = stack.settled(job);
    expect(await redeliver(stack.queue as Queue, job.id as string, true)).toBe("queued");
    await settled;
    expect(await redeliver(stack.queue as Queue, job.id as string, true)).toBe("pending");
    expect(await stack.queue.getJobState(job.id as string)).toBe("completed");
  });
});

/** A clock that is a step further each time it is read. */
function clock(stepMs: number): () => number {
  let now = 0;
  return () => {
    now += stepMs;
    return now;
  };
}
