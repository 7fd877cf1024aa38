/** Redelivery by the command: a few hundred failed events, a real worker, a terminal where one is asked. */
import { afterAll, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { startReceiver } from "../src/dev/receiver.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { createCommand, startCommand } from "./support/command.ts";
import { startWorkerProcess, type WorkerProcess } from "./support/process.ts";
import { eventually } from "./support/stack.ts";

setDefaultTimeout(60_000); // each command is a process that starts

const MANY = 300;
const SECRET = "s3cret-of-the-customer";
const BUSY_MS = 20_000; // for what takes a moment, on a machine that may be busy
const valkey = await startValkey();
const receiver = await startReceiver();
const env = { VALKEY_URL: valkey.url, WEBHOOK_QUEUE: "redeliver" };
const fluxhook = createCommand(env);
const client = new Redis(valkey.url, { maxRetriesPerRequest: null });
const queue = new Queue("redeliver", { connection: client });
let worker: WorkerProcess;

beforeAll(async () => {
  worker = startWorkerProcess({ ...env, LOG_LEVEL: "error" });
  await eventually(
    () => queue.getWorkersCount(),
    (count) => count === 1,
    BUSY_MS,
  );
});
beforeEach(() => queue.obliterate({ force: true }));
afterAll(async () => {
  await worker.stop();
  await receiver.stop();
  await queue.close();
  client.disconnect();
  await valkey.stop();
});

/** So many events that failed: 410 ends a job at once. */
async function fail(count: number, { event = "file.created", userId = "usr_1", path = "/in" } = {}): Promise<string[]> {
  receiver.answer({ status: 410 });
  const before = await queue.getFailedCount();
  const url = receiver.url(path);
  const data = { userId, endpoint: { url, secret: SECRET }, data: {} };
  const jobs = await queue.addBulk(Array.from({ length: count }, () => ({ name: event, data })));
  await eventually(
    () => queue.getFailedCount(),
    (failed) => failed === before + count,
    BUSY_MS,
  );
  return jobs.map(({ id }) => id as string);
}

const delivered = (count: number) =>
  eventually(
    () => queue.getCompletedCount(),
    (done) => done === count,
    BUSY_MS,
  );

/** Everything that Valkey has of the queue, but for what its worker does all the time. */
async function stored() {
  const [failed, waiting, completed, delayed] = await Promise.all([
    client.zrange(queue.toKey("failed"), "0", "-1", "WITHSCORES"),
    client.lrange(queue.toKey("wait"), 0, -1),
    client.zrange(queue.toKey("completed"), "0", "-1", "WITHSCORES"),
    client.zrange(queue.toKey("delayed"), "0", "-1", "WITHSCORES"),
  ]);
  return { failed, waiting, completed, delayed };
}

test(`${MANY} failed events go again, all of them, once`, async () => {
  const ids = await fail(MANY);
  const before = receiver.requests.length;
  const failedBodies = receiver.requests.slice(-MANY).map(({ body }) => body.toString());
  receiver.answer({ status: 204 });
  const { out, err, code } = await fluxhook(["redeliver", "--failed", "--yes", "--json"]);
  const { jobs, ...counts } = JSON.parse(out);
  expect(counts).toEqual({ queued: MANY, pending: 0, gone: 0 });
  expect(jobs.map(({ job }: { job: string }) => job).sort()).toEqual(ids.sort());
  expect([err, code]).toEqual(["", 0]); // no progress where no terminal is
  await delivered(MANY);
  const bodies = receiver.requests.slice(before).map(({ body }) => body.toString());
  expect(bodies.sort()).toEqual(failedBodies.sort());
});

describe("a dry run", () => {
  test("lists what would go, without secrets, and changes nothing", async () => {
    const [id] = await fail(1, { path: "/in?token=hush" });
    const before = await stored();
    const { out, err, code } = await fluxhook(["redeliver", "--failed", "--dry-run"]);
    const [heading, row, end] = out.split("\n");
    expect(heading?.split(/ {2,}/)).toEqual(["job", "state", "ended", "event", "user", "endpoint", "reason"]);
    expect(row?.split(/ {2,}/)).toEqual([
      id,
      "failed",
      expect.stringMatching(/just now|ago/),
      "file.created",
      "usr_1",
      receiver.url("/in"),
      expect.stringMatching(/^HTTP 410 in \d+ ms/),
    ]);
    expect(end).toBe("1 would be redelivered. Nothing was changed.");
    expect([err, code, out.includes("hush"), out.includes(SECRET)]).toEqual(["", 0, false, false]);
    expect(await stored()).toEqual(before);
  });

  test("tells programs the same, also of named jobs", async () => {
    const [id] = await fail(2);
    const before = await stored();
    const { out } = await fluxhook(["redeliver", id as string, "nowhere", "--dry-run", "--json"]);
    expect(JSON.parse(out)).toEqual({
      dry_run: true,
      count: 2,
      jobs: [
        expect.objectContaining({ job: id, event: "file.created", user: "usr_1", endpoint: receiver.url("/in") }),
        expect.objectContaining({ job: "nowhere", user: null, reason: "the job is no longer kept" }),
      ],
    });
    expect(await stored()).toEqual(before);
  });
});

test("a dry run says of each job what it is", async () => {
  const [failed] = await fail(1);
  receiver.answer({ status: 204 });
  const data = { userId: "usr_1", endpoint: { url: receiver.url("/in"), secret: SECRET }, data: {} };
  const done = await queue.add("file.created", data);
  await delivered(1);
  const later = await queue.add("file.created", data, { delay: 3_600_000 });
  await queue.pause();
  const waiting = await queue.add("file.created", data);
  const ids = [failed, done.id, later.id, waiting.id, "nowhere"] as string[];
  const { out } = await fluxhook(["redeliver", ...ids, "--dry-run"]);
  const json = await fluxhook(["redeliver", ...ids, "--dry-run", "--json"]);
  await queue.resume();
  const lines = out.trimEnd().split("\n");
  const states = lines.slice(1, -1).map((line) => line.split(/ {2,}/)[1]);
  expect(states).toEqual(["failed", "completed", "delayed", "waiting", "gone"]);
  expect(lines.at(-1)).toBe("3 would be redelivered, 1 already pending, 1 gone. Nothing was changed.");
  const { jobs } = JSON.parse(json.out);
  expect(jobs.map(({ state }: { state: string | null }) => state)).toEqual([...states.slice(0, 4), null]);
  const ISO = expect.stringMatching(/^\d{4}-.*Z$/);
  expect(jobs[0]).toMatchObject({ ended_at: ISO, failed_at: ISO });
  expect(jobs[1]).toMatchObject({ ended_at: ISO, failed_at: null, reason: null });
});

test("only those of a user, a host, a type and a time go", async () => {
  await fail(1, { userId: "usr_1" });
  const [theirs] = await fail(1, { userId: "usr_2" });
  const [other] = await fail(1, { userId: "usr_2", event: "file.deleted" });
  const listed = async (...filter: string[]) => {
    const { out } = await fluxhook(["redeliver", "--failed", "--dry-run", "--json", ...filter]);
    return JSON.parse(out).jobs.map(({ job }: { job: string }) => job);
  };
  expect(await listed("--user", "usr_2")).toEqual([other, theirs]); // newest first
  expect(await listed("--user", "usr_2", "--event", "file.deleted")).toEqual([other]);
  expect(await listed("--host", `127.0.0.1:${receiver.port}`)).toHaveLength(3);
  expect(await listed("--host", "127.0.0.1")).toEqual([]); // another port
  expect(await listed("--since", "1h")).toHaveLength(3);
  expect(await listed("--since", new Date(Date.now() + 1000).toISOString())).toEqual([]);
  const job = await queue.getJob(other as string);
  expect(await listed("--since", new Date(job?.finishedOn as number).toISOString())).toEqual([other]);

  receiver.answer({ status: 204 });
  const { out } = await fluxhook(["redeliver", "--failed", "--user", "usr_1", "--yes"]);
  expect(out).toBe("1 queued, 0 already pending, 0 gone.\n");
  await delivered(1);
  expect(await queue.getFailedCount()).toBe(2);
});

test("named jobs go without asking; 1 when one of them is gone", async () => {
  const ids = await fail(2);
  receiver.answer({ status: 204 });
  const { out, code } = await fluxhook(["redeliver", ...ids, "nowhere"]);
  expect(out).toBe("2 queued, 0 already pending, 1 gone.\n  nowhere gone\n");
  expect(code).toBe(1);
  await delivered(2);
});

describe("on a terminal", () => {
  test("it asks first, and a yes shows how far it has come", async () => {
    await fail(20);
    receiver.answer({ status: 204 });
    const command = startCommand(["redeliver", "--failed"], env, { isTerminal: true });
    await command.until("Redeliver 20 failed events? [y/N]");
    command.type("y\r");
    expect(await command.exited).toBe(0);
    const output = await command.until("20 queued, 0 already pending, 0 gone.");
    expect(output).toContain(`\r[${".".repeat(30)}] 0/20`);
    expect(output).toContain(`\r[${"#".repeat(30)}] 20/20`);
    await delivered(20);
  });

  test("anything but a yes changes nothing", async () => {
    await fail(2);
    const before = await stored();
    const command = startCommand(["redeliver", "--failed"], env, { isTerminal: true });
    await command.until("[y/N]");
    command.type("\r");
    expect(await command.exited).toBe(1);
    await command.until("nothing was changed");
    expect(await stored()).toEqual(before);
  });

  test("nothing that failed is nothing to ask about", async () => {
    const command = startCommand(["redeliver", "--failed"], env, { isTerminal: true });
    expect(await command.exited).toBe(0);
    await command.until("0 queued");
  });
});
