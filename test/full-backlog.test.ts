/** More events wait for one endpoint, or of one user, than may. */
import { afterEach, expect, test } from "bun:test";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { eventually, jobData, type Stack, type StackOptions, startStack } from "./support/stack.ts";

const BOUND = 100;
const SLOW = { attempts: 3, delaysMs: [60_000], jitter: 0 };

const open: { stop(): Promise<unknown> }[] = [];
afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

async function setUp(options: StackOptions = {}): Promise<{ system: Stack; receiver: Receiver }> {
  const receiver = await startReceiver();
  const system = await startStack({ maxBacklog: BOUND, policy: SLOW, ...options });
  open.push(receiver, system);
  return { system, receiver };
}

/** Enqueue so many events, a millisecond apart as far as their age goes, oldest first; their ids in that order. */
async function add({ queue }: Stack, count: number, url: string, userId: string, ageMs = count): Promise<string[]> {
  const timestamp = Date.now() - ageMs;
  const jobs = Array.from({ length: count }, (_, index) => ({
    name: "file.created",
    data: jobData(url, { userId }),
    opts: { timestamp: timestamp + index },
  }));
  return (await queue.addBulk(jobs)).map(({ id }) => id as string);
}

const counts = ({ queue }: Stack) => queue.getJobCounts("wait", "prioritized", "active", "delayed", "failed");
const isSettled = (left: Record<string, number>) => !left.wait && !left.prioritized && !left.active;
const lines = ({ valkey, queue }: Stack) => valkey.keys(`webhooks:backlog:${queue.name}:*`);

test("an endpoint that answers 500 to all of them gives up the oldest beyond the bound, with their reason", async () => {
  const { system, receiver } = await setUp();
  receiver.answer({ status: 500 });
  const ids = await add(system, BOUND + 60, receiver.url("/in"), "usr_full");
  const left = await eventually(
    () => counts(system),
    (now) => isSettled(now) && now.failed === 60,
  );
  expect(left).toMatchObject({ delayed: BOUND, failed: 60 });
  const failed = await system.queue.getFailed();
  expect(failed.map(({ id }) => id as string).sort()).toEqual(ids.slice(0, 60).sort());
  for (const { failedReason } of failed) {
    expect(failedReason).toMatch(/^(backlog_full|HTTP 500 in \d+ ms), more events wait than WEBHOOK_MAX_BACKLOG$/);
  }
  expect(await system.metrics.registry.metrics()).toContain("fluxhook_backlog_full_total 60");
  const errors = (await system.attempts("usr_full")).map(({ error }) => error);
  expect([...new Set(errors)].filter((error) => error !== "http_500" && error !== "backlog_full")).toEqual([]);
});

test("the events of one user are bounded over all of his endpoints, and nobody else's are touched", async () => {
  const { system, receiver } = await setUp();
  receiver.answer({ status: 500 });
  const other = await add(system, 40, receiver.url("/other"), "usr_other");
  for (let endpoint = 0; endpoint < 5; endpoint++) await add(system, 30, receiver.url(`/${endpoint}`), "usr_many");
  await eventually(
    () => counts(system),
    (now) => isSettled(now) && now.failed === 50,
  );
  const kept = await Promise.all(other.map(async (id) => (await system.queue.getJob(id))?.getState()));
  expect(new Set(kept)).toEqual(new Set(["delayed"]));
});

test("parked events of a silent endpoint are bounded while more of them come", async () => {
  const { system, receiver } = await setUp({ timeoutMs: 300, concurrency: 8 });
  receiver.answer("hang");
  let added = 0;
  const trickle = async () => {
    added += (await add(system, 5, receiver.url("/silent"), "usr_silent")).length;
    return await counts(system);
  };
  await add(system, 3 * BOUND, receiver.url("/silent"), "usr_silent", 60_000);
  const left = await eventually(trickle, ({ delayed = 0 }) => added > BOUND && delayed <= 1.3 * BOUND, 20_000, 20);
  expect(left.failed).toBeGreaterThan(2 * BOUND);
});

test("below the bound nothing is given up, and an event that is delivered leaves no trace of having waited", async () => {
  const { system, receiver } = await setUp({ policy: { attempts: 3, delaysMs: [1], jitter: 0 } });
  let answers = 0;
  receiver.answer(() => ({ status: answers++ < 50 ? 503 : 200 }));
  await add(system, 50, receiver.url("/back"), "usr_back");
  await eventually(
    () => system.queue.getCompletedCount(),
    (count) => count === 50,
  );
  expect(await counts(system)).toMatchObject({ delayed: 0, failed: 0 });
  await eventually(
    () => lines(system),
    (keys) => keys.length === 0,
  );
});

test("places of jobs that are gone are found when their line is full, and cost nobody his", async () => {
  const { system, receiver } = await setUp();
  receiver.answer({ status: 500 });
  const removed = await add(system, BOUND, receiver.url("/in"), "usr_1", 60_000);
  await eventually(
    () => counts(system),
    (now) => isSettled(now) && now.delayed === BOUND,
  );
  for (const id of removed) await (await system.queue.getJob(id))?.remove();
  await add(system, BOUND, receiver.url("/in"), "usr_1");
  await eventually(
    () => counts(system),
    (now) => isSettled(now) && now.delayed === BOUND,
  );
  expect((await counts(system)).failed).toBe(0);
});

test("an event that goes at its first attempt is in no line", async () => {
  const { system, receiver } = await setUp();
  const [id] = await add(system, 1, receiver.url("/fine"), "usr_fine");
  await system.settled({ id });
  expect(await lines(system)).toEqual([]);
});
