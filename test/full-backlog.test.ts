/** More events wait for one endpoint, or of one user, than may. */
import { afterEach, describe, expect, test } from "bun:test";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { backlogLines, createBacklog, type Waiting } from "../src/isolation/backlog.ts";
import { queueKeys } from "../src/queue/layout.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { eventually, jobData, type Stack, type StackOptions, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

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
  const trickle = async () => {
    await add(system, 5, receiver.url("/silent"), "usr_silent");
    return await counts(system);
  };
  await add(system, 3 * BOUND, receiver.url("/silent"), "usr_silent", 60_000);
  const isBounded = ({ delayed = 0, failed = 0 }) => delayed <= 1.3 * BOUND && failed > 2 * BOUND;
  await eventually(trickle, isBounded, 20_000, 20);
});

test("below the bound nothing is given up, and an event that is delivered leaves no trace of having waited", async () => {
  const policy = { attempts: 51, delaysMs: [1], jitter: 0 }; // one event may get all of the failures
  const { system, receiver } = await setUp({ policy });
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

describe("an event that is older than those that wait already", () => {
  const ENDPOINT = "https://customer.example/in";

  /** A backlog with no worker: its answers come when the test awaits them. */
  async function setUpBacklog(bound: number) {
    const queue = `test-${crypto.randomUUID()}`;
    const valkey = connectValkey(await testValkeyUrl(), "test:backlog", { info() {}, warn() {} });
    open.push({ stop: async () => valkey.disconnect() });
    const prefix = `bull:${queue}`;
    const options = { valkey, queue, prefix, bound, maxAgeMs: 60_000, logger: { debug() {} } };
    const keys = queueKeys(prefix);
    /** An event that a worker holds; its age is its place in the alphabet. */
    const held = async (job: string): Promise<Waiting> => {
      await valkey.hset(`${keys.jobs}${job}`, "name", "file.created");
      return { job, endpoint: ENDPOINT, user: "usr", enqueuedAt: job.charCodeAt(0) };
    };
    const [endpointLine, userLine] = backlogLines(queue, ENDPOINT, "usr");
    /** Who is listed, once `count` are; the oldest first. */
    const listed = async (count: number) => {
      const [line] = await Promise.all(
        [endpointLine, userLine].map((key) =>
          eventually(
            () => valkey.zrange(key, "0", "-1"),
            (jobs) => jobs.length === count,
          ),
        ),
      );
      return line;
    };
    return { backlog: createBacklog(options), valkey, keys, held, listed };
  }

  test("may wait at once while its line is not known to be filling up, and is listed although that is over the bound", async () => {
    const { backlog, held, listed } = await setUpBacklog(2);
    const [a, b, c] = await Promise.all([held("a"), held("b"), held("c")]);
    expect([b, c, a].map((event) => backlog.join(event))).toEqual([true, true, true]);
    expect(await listed(3)).toEqual(["a", "b", "c"]);
  });

  test("goes by Valkey's answer once half of its line is taken, and is not listed when it must be given up", async () => {
    const { backlog, held, listed } = await setUpBacklog(2);
    const [a, b, c, d] = await Promise.all([held("a"), held("b"), held("c"), held("d")]);
    backlog.join(b);
    await eventually(
      () => backlog.join(b) instanceof Promise,
      (isAsked) => isAsked,
    );
    expect(await backlog.join(c)).toBe(true);
    expect(await backlog.join(a)).toBe(false);
    expect(await listed(2)).toEqual(["b", "c"]);
    expect(await backlog.join(d)).toBe(true);
  });

  test("that is parked in any case stays listed, so that it is promoted when the next one joins", async () => {
    const { backlog, valkey, keys, held, listed } = await setUpBacklog(2);
    for (const job of ["b", "c", "a"]) backlog.list(await held(job));
    expect(await listed(3)).toEqual(["a", "b", "c"]);
    await valkey.zadd(keys.delayed, 1, "a");
    expect(await backlog.join(await held("d"))).toBe(true);
    expect(Number(await valkey.zscore(keys.delayed, "a"))).toBeGreaterThan(1);
  });
});
