/** Canceling events that wait: which match, what becomes of them, and that no other job is harmed. */
import { beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { FlowProducer, Worker } from "bullmq";
import { endMeant, WAITING } from "../src/operations/cancel.ts";
import { isMeant, parseHost } from "../src/operations/job-filter.ts";
import { createCommand, startCommand } from "./support/command.ts";
import { onlyShard } from "./support/only-shard.ts";
import { startOwnQueue } from "./support/own-queue.ts";
import { jobData } from "./support/stack.ts";

setDefaultTimeout(60_000); // each command is a process that starts

const { client, queue, env, key } = await startOwnQueue("cancel");
const fluxhook = createCommand(env);
const URL_A = "https://a.example/in?token=hush";
const shards = onlyShard("cancel", client);
beforeEach(() => client.flushall());

const data = (userId: string, url = URL_A) => jobData(url, { userId });

/** So many events of a user, in a state. */
async function add(count: number, userId: string, opts = {}, url = URL_A, name = "file.created"): Promise<string[]> {
  const jobs = Array.from({ length: count }, () => ({ name, data: data(userId, url), opts }));
  return (await queue.addBulk(jobs)).map(({ id }) => id as string);
}

async function cancel(...args: string[]) {
  const { out, err, code } = await fluxhook(["cancel", ...args, "--json"]);
  return { ...(out === "" ? {} : JSON.parse(out)), err, code };
}

describe("a filter", () => {
  const job = (url: unknown) => ({ name: "file.created", data: { userId: "u", endpoint: { url } } });
  test.each([
    ["hooks.example.com", "https://hooks.example.com/in", true],
    ["HOOKS.example.com", "https://Hooks.Example.COM/in", true],
    ["hooks.example.com", "http://hooks.example.com:80/in", true],
    ["hooks.example.com", "https://hooks.example.com:8443/in", false],
    ["hooks.example.com:8443", "https://hooks.example.com:8443/in", true],
    ["hooks.example.com:443", "https://hooks.example.com/in", true],
    ["hooks.example.com:443", "http://hooks.example.com/in", false],
    ["hooks.example.com:80", "http://hooks.example.com/in", true],
    ["example.com", "https://hooks.example.com/in", false],
    ["127.1", "http://127.0.0.1/", true],
    ["[::1]:8080", "http://[0:0::1]:8080/", true],
    ["[::1]", "http://[::1]:8080/", false],
    ["b\u00fccher.example", "https://xn--bcher-kva.example/", true],
    ["hooks.example.com", "not a URL", false],
    ["hooks.example.com", 7, false],
  ])("of host %p and the URL %p: %p", (host, url, expected) => {
    expect(isMeant(job(url), { host: parseHost(host) })).toBe(expected);
  });

  test.each(["", "a/b", "user@host", "::1", "host:99999", "a b", "host?x", "http://host"])("%p is no host", (text) => {
    expect(parseHost(text)).toBeUndefined();
  });

  test("of an endpoint compares the query when it has one", () => {
    const matches = (endpoint: string, url: string) => isMeant(job(url), { endpoint: new URL(endpoint) });
    expect(matches("https://a.example/in", "https://A.example:443/in?token=1")).toBe(true);
    expect(matches("https://a.example/in?token=1", "https://a.example/in?token=1")).toBe(true);
    expect(matches("https://a.example/in?token=2", "https://a.example/in?token=1")).toBe(false);
    expect(matches("https://a.example/in", "https://a.example/in/2")).toBe(false);
  });
});

test("a dry run counts all that wait, lists some without secrets and queries, and changes nothing", async () => {
  await add(30, "usr_1");
  await add(2, "usr_1", { delay: 60_000 });
  await add(3, "usr_1", { priority: 5 });
  await add(4, "usr_2");
  const before = await client.lrange(key("wait"), 0, -1);
  const { out, err, code } = await fluxhook(["cancel", "--user", "usr_1", "--dry-run"]);
  expect([err, code]).toEqual(["", 0]);
  const lines = out.trimEnd().split("\n");
  expect(lines[0]?.split(/ {2,}/)).toEqual(["job", "state", "event", "user", "endpoint"]);
  expect(lines).toHaveLength(1 + 20 + 2);
  expect(lines.at(-2)).toBe("and 15 more");
  expect(lines.at(-1)).toBe("35 would be canceled: 30 waiting, 3 prioritized, 2 delayed. Nothing was changed.");
  expect(out).not.toContain("hush");
  expect(out).not.toContain("s3cret");
  expect(await client.lrange(key("wait"), 0, -1)).toEqual(before);
  const { states, count, jobs } = await cancel("--user", "usr_1", "--dry-run");
  expect([states, count, jobs.length]).toEqual([{ waiting: 30, prioritized: 3, delayed: 2 }, 35, 20]);
});

test("canceled events are kept as failed, and redeliver restores them; the others keep their order", async () => {
  const others = await add(250, "usr_2");
  const theirs = await add(5, "usr_1");
  const more = await add(250, "usr_2");
  const rest = [...(await add(1, "usr_1", { delay: 60_000 })), ...(await add(1, "usr_1", { priority: 5 }))];
  await client.rename(key("wait"), key("paused")); // as clients before BullMQ 6 pause
  await add(1, "usr_2");
  const { err, code, ...document } = await cancel("--user", "usr_1", "--yes");
  expect([err, code]).toEqual(["", 0]);
  expect(document).toEqual({
    ...{ dry_run: false, count: 7, states: { waiting: 5, prioritized: 1, delayed: 1 }, kept: true },
    ...{ active: 0, left: { scheduled: 0, flow: 0, full: 0 }, unreadable: 0, done: true },
  });
  expect(await client.lrange(key("paused"), 0, -1)).toEqual([...others, ...more].reverse());
  const failed = await queue.getFailed();
  expect(failed.map(({ id }) => id).sort()).toEqual([...theirs, ...rest].sort() as string[]);
  expect(failed.every(({ failedReason, finishedOn }) => failedReason === "canceled by an operator" && finishedOn)).toBe(
    true,
  );

  const { out } = await fluxhook(["redeliver", "--failed", "--user", "usr_1", "--yes"]);
  expect(out).toBe("7 queued, 0 already pending, 0 gone.\n");
  expect(await queue.getFailedCount()).toBe(0);
  expect(await queue.getJobCounts("wait", "prioritized")).toEqual({ wait: 1 + 6, prioritized: 1 });
});

test("out of a long list, wherever they are, only those go that are meant, and the others keep their order", async () => {
  const jobs = Array.from({ length: 9_000 }, (_, index) => ({
    name: "file.created",
    data: data(index % 3 === 0 || (index > 4_000 && index < 4_600) ? "usr_1" : "usr_2"),
  }));
  const added = await queue.addBulk(jobs);
  const others = added.filter((job) => job.data.userId === "usr_2").map(({ id }) => id as string);
  const { total, isDone } = await endMeant(shards, { filter: { userId: "usr_1" }, lists: WAITING });
  expect([total, isDone]).toEqual([9_000 - others.length, true]);
  expect(await client.lrange(key("wait"), 0, -1)).toEqual(others.reverse());
  expect((await client.keys(key("[0-9]*"))).length).toBe(others.length);
});

test("all filters must match", async () => {
  await add(1, "usr_1");
  await add(1, "usr_1", {}, "https://b.example/in");
  await add(1, "usr_1", {}, URL_A, "file.deleted");
  await add(1, "usr_2");
  const count = async (...filter: string[]) => (await cancel(...filter, "--dry-run")).count;
  expect(await count("--user", "usr_1")).toBe(3);
  expect(await count("--host", "a.example")).toBe(3);
  expect(await count("--endpoint", "https://a.example/in", "--user", "usr_1")).toBe(2);
  expect(await count("--endpoint", "https://a.example/in?token=other")).toBe(0);
  expect(await count("--user", "usr_1", "--host", "A.example", "--event", "file.deleted")).toBe(1);
  expect(await count("--user", "nobody")).toBe(0);
});

test("more than are kept as failed are canceled with --remove only", async () => {
  await add(12_000, "usr_1");
  await add(1, "usr_2");
  const refused = await cancel("--user", "usr_1", "--yes");
  expect(JSON.parse(refused.err).error).toEqual({
    ...{ code: "failed", exit_code: 1 },
    message: expect.stringMatching(
      /^12000 match, but only 10000 more failed events can be kept\. Use --remove .* Nothing was changed\.$/,
    ),
  });
  expect(await client.llen(key("wait"))).toBe(12_001);
  const { count, kept, code } = await cancel("--user", "usr_1", "--remove", "--yes");
  expect([count, kept, code]).toEqual([12_000, false, 0]);
  expect(await queue.getJobCounts("wait", "failed")).toEqual({ wait: 1, failed: 0 });
  expect((await client.keys(`${key("")}[0-9]*`)).length).toBe(1);
});

test("what became full meanwhile pushes out no failed event", async () => {
  await add(3, "usr_1");
  const others = Array.from({ length: 9_999 }, (_, index) => [index, `other-${index}`]).flat();
  await client.zadd(key("failed"), ...others);
  const { total, left, isDone } = await endMeant(shards, {
    filter: { userId: "usr_1" },
    lists: WAITING,
    reason: "canceled",
  });
  expect([total, left.full, isDone]).toEqual([1, 2, true]);
  expect([await client.llen(key("wait")), await client.zcard(key("failed"))]).toEqual([2, 10_000]);
});

test("data that is no JSON object matches nothing and is counted", async () => {
  await add(1, "usr_1");
  for (const text of ['{"userId":"usr_1"', '"usr_1"', "[]", "null"]) {
    const [id] = await add(1, "usr_1");
    await client.hset(key(id as string), "data", text);
  }
  const { count, unreadable } = await cancel("--event", "file.created", "--yes");
  expect([count, unreadable]).toEqual([1, 4]);
  expect(await client.llen(key("wait"))).toBe(4);
});

test("a job that a worker has is left alone, also when its lock came after it was listed", async () => {
  const [running, locked] = await add(2, "usr_1");
  const worker = new Worker("cancel", undefined, { connection: client, prefix: "bull" });
  const token = "token";
  const job = await worker.getNextJob(token);
  expect(job?.id).toBe(running as string);
  await client.set(`${key(locked as string)}:lock`, "somebody");
  const { count, active, code, done } = await cancel("--user", "usr_1", "--yes");
  expect([count, active]).toEqual([0, 1]);
  expect([code, done]).toEqual([1, false]); // it found one in every pass, which stays
  expect(await client.exists(key(running as string), key(locked as string))).toBe(2);
  await job?.moveToCompleted("done", token, false);
  await worker.close();
});

test("jobs of schedulers and flows are left as they are, and told", async () => {
  await queue.upsertJobScheduler("nightly", { every: 3_600_000 }, { name: "file.created", data: data("usr_1") });
  const flow = new FlowProducer({ connection: client });
  const child = { name: "file.created", queueName: "cancel", data: data("usr_1") };
  await flow.add({ ...child, children: [child] });
  const before = await queue.getJobCounts();
  const { out, code } = await fluxhook(["cancel", "--user", "usr_1", "--yes"]);
  expect(out).toContain("0 canceled.");
  expect(out).toContain("1 not canceled: created by a job scheduler.");
  expect(out).toContain("1 not canceled: they have a parent or children.");
  expect(code).toBe(1);
  expect(await queue.getJobCounts()).toEqual(before);
  await flow.close();
});

test("a deduplicated event can be enqueued again", async () => {
  const opts = { deduplication: { id: "once" } };
  await add(1, "usr_1", opts);
  await cancel("--user", "usr_1", "--yes");
  await add(1, "usr_1", opts);
  expect(await client.llen(key("wait"))).toBe(1);
});

test("it works while Valkey refuses what takes memory", async () => {
  await add(300, "usr_1");
  await add(300, "usr_1", { delay: 60_000 });
  await client.config("SET", "maxmemory", "1");
  try {
    const { count, code } = await cancel("--user", "usr_1", "--remove", "--yes");
    expect([count, code]).toEqual([600, 0]);
  } finally {
    await client.config("SET", "maxmemory", "0");
  }
});

test("on a terminal it asks first, and anything but a yes changes nothing", async () => {
  await add(3, "usr_1");
  const command = startCommand(["cancel", "--user", "usr_1"], env, { isTerminal: true });
  await command.until("Cancel 3 events (3 waiting)? [y/N]");
  command.type("\r");
  expect(await command.exited).toBe(1);
  await command.until("nothing was changed");
  expect(await client.llen(key("wait"))).toBe(3);
});

test.each([
  [[], /expected at least one of --user, --host, --endpoint and --event/],
  [["--user", "u"], /use --yes to cancel without confirmation/],
  [["--host", "http://a", "--yes"], /expected --host to be a host/],
  [["--endpoint", "ftp://a/", "--yes"], /expected --endpoint to be an http or https URL/],
  [["--event", "file", "--yes"], /expected --event to be one of/],
])("%p is wrong usage", async (args, expected) => {
  const { err, code, out } = await fluxhook(["cancel", ...args]);
  expect(err).toMatch(expected);
  expect([out, code]).toEqual(["", 2]);
});
