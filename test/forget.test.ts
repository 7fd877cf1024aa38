/** Forgetting a user: nothing of it is left in Valkey, and nothing of anybody else is lost. */
import { beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { FlowProducer, Queue, Worker } from "bullmq";
import { startReceiver } from "../src/dev/receiver.ts";
import { hold } from "../src/operations/hold.ts";
import {
  endpointLogKey,
  healthKey,
  missedDataKey,
  missedKey,
  noticesQueue,
  rateKey,
  rateLineKey,
  rateReleasedKey,
} from "../src/queue/own-keys.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { createCommand, startCommand } from "./support/command.ts";
import { dumpAll } from "./support/dump.ts";
import { startMonitor } from "./support/monitor.ts";
import { startOwnQueue } from "./support/own-queue.ts";
import { startWorkerProcess } from "./support/process.ts";
import { eventually, jobData } from "./support/stack.ts";

setDefaultTimeout(60_000); // each command is a process that starts

const BUSY_MS = 90_000; // for what takes a moment, on a machine that may be busy
const USER = "usr_4";
const OTHER = "usr_42"; // its id has the other's in it
const own = await startOwnQueue("forget");
const { client, queue, key } = own;
const env = { ...own.env, WEBHOOK_TIMEOUT: "500ms" };
const fluxhook = createCommand(env);
beforeEach(() => client.flushall());

const data = (userId: string, url = "https://a.example/in") => jobData(url, { userId });

async function add(count: number, userId: string, opts = {}): Promise<string[]> {
  const jobs = Array.from({ length: count }, () => ({ name: "file.created", data: data(userId), opts }));
  return (await queue.addBulk(jobs)).map(({ id }) => id as string);
}

/** Move waiting jobs to the finished ones. */
async function finish(ids: readonly string[], set: "completed" | "failed"): Promise<void> {
  for (const id of ids) {
    await client.lrem(key("wait"), 0, id);
    await client.zadd(key(set), Date.now(), id);
    await client.hset(key(id), "finishedOn", Date.now(), "failedReason", "HTTP 410");
  }
}

/** What mentions a user by its whole id. */
const mentionsOf = async (userId: string) =>
  (await dumpAll(client)).filter((text) => new RegExp(`${userId}(?![0-9])`).test(text));

async function forget(userId: string, ...args: string[]) {
  const { out, err, code } = await fluxhook(["forget", userId, "--json", ...args]);
  return { ...(out === "" ? {} : JSON.parse(out)), err, code };
}

/** Some of everything that is kept of a user. */
async function fill(userId: string): Promise<void> {
  await add(3, userId);
  await add(2, userId, { delay: 60_000 });
  await add(2, userId, { priority: 5 });
  await finish(await add(4, userId), "completed");
  await finish(await add(5, userId), "failed");
  const [logged, stray] = await add(2, userId);
  await client.rpush(`${key(logged as string)}:logs`, `about ${userId}`);
  await client.lrem(key("wait"), 0, stray as string);
  await add(1, userId, { jobId: `${userId}-first`, deduplication: { id: `${userId}-once` } });
  const template = { name: "file.created", data: data(userId) };
  await queue.upsertJobScheduler(`hourly-${userId}`, { every: 3_600_000 }, template); // its next job waits
  const startDate = Date.now() + 60_000;
  await queue.upsertJobScheduler(`later-${userId}`, { every: 3_600_000, startDate }, template); // and this one is delayed
  const flow = new FlowProducer({ connection: client });
  const child = { name: "file.created", queueName: "forget", data: data(userId) };
  await flow.add({ ...child, children: [child, { ...child, data: data("usr_other") }] });
  await flow.close();
  await client.zadd(`webhooks:log:${userId}`, 1, "{}", 2, "{ }");
  await client.zadd(`webhooks:responses:${userId}`, 1, "{}");
  const heldUntil = { until: Date.now() + 60_000, reason: undefined, by: undefined };
  await hold([{ valkey: client, queue: "forget" }], { kind: "user", target: userId }, heldUntil, Date.now());
  const registry = createRegistry(client, { allowPlain: true });
  for (const id of ["main", "deleted"]) await registry.create(userId, { id, url: `https://a.example/${userId}` });
  await registry.disable(userId, "main");
  await registry.delete(userId, "deleted");
  await client.hset(healthKey(userId), "main.since", 1, "deleted.n", 1);
  for (const id of ["main", "deleted"]) {
    await client.rpush(endpointLogKey(userId, id), 1, `{"of":"${userId}"}`);
    await client.zadd(missedKey(userId, id), 1, "1", 2, "2");
    await client.hset(missedDataKey(userId, id), "id:1", userId);
    for (const keyOf of [rateKey, rateLineKey, rateReleasedKey]) await client.set(keyOf(userId, id), userId);
  }
  const notices = new Queue(noticesQueue(""), { connection: client });
  await notices.add("endpoint.disabled", { userId, endpointId: "main" }, { jobId: `${userId}.main.disabled.1` });
  await notices.close();
  await client.hset(key("fair:tags"), `u:${userId}`, 7, `e:https://a.example/in`, 9);
}

test("everything of a user goes, counted by kind, and nothing of another whose id is longer", async () => {
  await fill(OTHER);
  const others = (await mentionsOf(OTHER)).length;
  await fill(USER);
  const expected = {
    user: USER,
    jobs: { waiting: 7, prioritized: 2, delayed: 3, waiting_children: 1, completed: 4, failed: 5, other: 1 },
    ...{ schedulers: 2, attempts: 2, backlog: 0, tags: 1, holds: 1, active: 0, unreadable: 0 },
    ...{ endpoints: 2, missed: 4, endpoint_attempts: 2, notices: 1 },
  };
  const before = await dumpAll(client);
  const dry = await forget(USER, "--dry-run");
  expect(dry).toMatchObject({ dry_run: true, ...expected });
  expect(await dumpAll(client)).toEqual(before);

  const erased = await forget(USER, "--yes");
  expect([erased.err, erased.code, erased.done]).toEqual(["", 0, true]);
  // BullMQ removes a scheduler's next job with it where that is delayed.
  expect(erased).toMatchObject({ dry_run: false, ...expected, jobs: { ...expected.jobs, delayed: 2 } });
  expect(erased.events).toBeGreaterThan(0);
  expect(await mentionsOf(USER)).toEqual([]);
  expect((await mentionsOf(OTHER)).length).toBe(others);

  const again = await fluxhook(["forget", USER, "--yes"]);
  expect([again.out, again.err, again.code]).toEqual([`Nothing is stored for ${USER}.\n`, "", 0]);
});

test("a user of whom nothing is kept is no failure", async () => {
  for (const option of ["--dry-run", "--yes"]) {
    const { out, code } = await fluxhook(["forget", "nobody", option]);
    expect([out, code]).toEqual(["Nothing is stored for nobody.\n", 0]);
  }
});

test("an active job is left to its worker: the command ends with 1, and with 0 once the attempt is over", async () => {
  await add(1, USER);
  await add(2, OTHER);
  const worker = new Worker("forget", undefined, { connection: client });
  const job = await worker.getNextJob("token");
  const { out, code } = await fluxhook(["forget", USER, "--yes"]);
  expect(out).toContain("1 active: a job cannot be removed during an attempt. Run this again until it exits with 0.");
  expect(code).toBe(1);
  expect((await queue.getJob(job?.id as string))?.data.userId).toBe(USER);
  await job?.moveToCompleted("done", "token", false);
  await worker.close();
  expect((await forget(USER, "--yes")).code).toBe(0);
  expect(await mentionsOf(USER)).toEqual([]);
  expect(await queue.getWaitingCount()).toBe(2);
});

test("an attempt that ends meanwhile is waited for", async () => {
  await add(1, USER);
  const worker = new Worker("forget", undefined, { connection: client });
  const job = await worker.getNextJob("token");
  const monitor = await startMonitor(own.valkey.url);
  const looks = () => monitor.lines().filter((line) => line.toLowerCase().includes(`"lrange" "${key("active")}"`));
  const command = startCommand(["forget", USER, "--yes"], { ...env, WEBHOOK_TIMEOUT: "30s" });
  await eventually(looks, ({ length }) => length >= 2, BUSY_MS);
  await job?.moveToFailed(new Error("HTTP 500"), "token", false);
  expect(await command.exited).toBe(0);
  await monitor.stop();
  await worker.close();
  expect(await mentionsOf(USER)).toEqual([]);
});

test("in flows, a parent goes on without the erased child, and a child without the erased parent", async () => {
  const receiver = await startReceiver();
  const flow = new FlowProducer({ connection: client });
  const part = (userId: string, path: string) => ({
    ...{ name: "file.created", queueName: "forget", data: data(userId, receiver.url(path)) },
  });
  await flow.add({ ...part(OTHER, "/parent"), children: [part(USER, "/erased")] });
  await flow.add({ ...part(USER, "/erased"), children: [part(OTHER, "/child")] });
  await flow.close();
  expect((await forget(USER, "--yes")).code).toBe(0);
  const worker = startWorkerProcess({ ...env, LOG_LEVEL: "error" });
  try {
    await eventually(
      () => queue.getCompletedCount(),
      (count) => count === 2,
      BUSY_MS,
    );
    expect(receiver.requests.map(({ path }) => path).sort()).toEqual(["/child", "/parent"]);
  } finally {
    await worker.stop();
    await receiver.stop();
  }
});

test("it erases while Valkey refuses what takes memory", async () => {
  await fill(USER);
  await client.config("SET", "maxmemory", "1");
  try {
    expect((await forget(USER, "--yes")).code).toBe(0);
  } finally {
    await client.config("SET", "maxmemory", "0");
  }
  expect(await mentionsOf(USER)).toEqual([]);
});

test("jobs that nobody can read are told, and left", async () => {
  const [id] = await add(1, USER);
  await client.hset(key(id as string), "data", '{"userId":"usr_4"');
  const { out, code } = await fluxhook(["forget", USER, "--yes"]);
  expect(out).toContain("1 cannot be read, so their user is unknown. Check them in Bull Board.");
  expect(code).toBe(0);
  expect(await client.exists(key(id as string))).toBe(1);
});

test("on a terminal it shows what is kept, and erases it after a yes", async () => {
  await add(3, USER);
  const command = startCommand(["forget", USER], env, { isTerminal: true });
  const shown = await command.until("Erase all of it? [y/N]");
  expect(shown).toMatch(/waiting +3 +events/);
  command.type("y\r");
  expect(await command.exited).toBe(0);
  await command.until("Erased. Events enqueued from now on will be delivered.");
  expect(await mentionsOf(USER)).toEqual([]);
});

test.each([
  [["forget"], /missing required argument 'user'/],
  [["forget", "a b", "--yes"], /expected the user to be 1 to 128 visible ASCII characters/],
  [["forget", USER], /use --yes to erase without confirmation/],
])("%p is wrong usage", async (args, expected) => {
  const { err, code, out } = await fluxhook(args);
  expect(err).toMatch(expected);
  expect([out, code]).toEqual(["", 2]);
});
