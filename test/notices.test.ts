/** Notices of endpoints that fail, are switched off, or recover. Real Valkey, workers and receivers. */
import { afterAll, afterEach, expect, test } from "bun:test";
import { type Job, Queue, Worker } from "bullmq";
import { type Attempt, createAttemptLog } from "../src/log/attempts.ts";
import { endpointsKey, healthKey, missedKey, noticesQueue } from "../src/queue/own-keys.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { NOTICE_TYPES, type NoticeData, noticeArgs, noticeKeys, noticeOptions } from "../src/streaks/notices.ts";
import { createStreaks } from "../src/streaks/streaks.ts";
import { connectValkey, type Valkey } from "../src/valkey/connection.ts";
import { verify } from "../src/verify.ts";
import { endAll, inTurn, open, receiver, stack } from "./support/deliveries.ts";
import { startWorkerProcess } from "./support/process.ts";
import { findSnippet } from "./support/snippets.ts";
import { eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const DAY_MS = 24 * 60 * 60 * 1000;
const SECRET = "s3cret-of-this-test";
const TOKEN = "t0ken-in-the-path";
const HOST = "hooks.example.com:8443";
const URL_A = `https://${HOST}/${TOKEN}?key=${TOKEN}`;

const connections: Valkey[] = [];
const connect = async (): Promise<Valkey> => {
  const valkey = connectValkey(await testValkeyUrl(), "test:notices", { info() {}, warn() {} });
  connections.push(valkey);
  return valkey;
};
const valkey = await connect();
const notices = new Queue(noticesQueue(""), { connection: valkey, skipMetasUpdate: true });
afterEach(async () => {
  await endAll();
  await notices.obliterate({ force: true });
});
afterAll(async () => {
  await notices.close();
  for (const one of connections) one.disconnect();
});

/** A worker's log of attempts. */
function logOf(own: Valkey, { tag = "", now = undefined as (() => number) | undefined, dies = false } = {}) {
  const streaks = createStreaks(own, {
    ...{ tag, disableAfterMs: 5 * DAY_MS, notices: "queue" as const, now, logger: { info() {}, error() {} } },
    outage: { attempted() {}, isOurs: false },
    metrics: { endpointDisabled() {}, endpointWarned() {} },
  });
  return createAttemptLog(own, { tag, endpoints: dies ? { ...streaks, recorded: async () => {} } : streaks });
}

const attemptOf = (status: number, id = "main"): Attempt => ({
  ...{ id: crypto.randomUUID(), delivery: crypto.randomUUID(), attempt: 1, event: "file.created", duration_ms: 12 },
  ...{ timestamp: new Date().toISOString(), endpoint: `https://${HOST}/${TOKEN}`, endpoint_id: id, job: "1" },
  ...{ status_code: status, success: status === 200, error: status === 200 ? null : `http_${status}` },
});

async function register({ tag = "", url = URL_A, userId = `usr:${crypto.randomUUID()}` } = {}): Promise<string> {
  await createRegistry(valkey, { tag, allowPlain: true }).create(userId, { id: "main", url, secret: SECRET });
  return userId;
}

/** The notices of a user, oldest first: type and data. */
async function told(userId: string, queue = notices): Promise<[type: string, data: NoticeData][]> {
  const jobs = (await queue.getJobs(["waiting", "delayed", "completed", "failed"], 0, -1, true)) as Job<NoticeData>[];
  return jobs.filter(({ data }) => data.userId === userId).map(({ name, data }) => [name, data]);
}

test("an endpoint's life gives three notices: failing, disabled, recovered", async () => {
  const userId = await register();
  const registry = createRegistry(valkey, { allowPlain: true });
  let ageMs = 0;
  const log = logOf(valkey, { now: () => Date.now() + ageMs });
  const fail = async (times: number) => {
    for (let n = 0; n < times; n++) await log.record(userId, attemptOf(503));
  };
  await fail(7);
  ageMs = DAY_MS + 1000;
  await fail(3);
  await valkey.zadd(missedKey(userId, "main"), 1, "a", 2, "b");
  ageMs = 6 * DAY_MS;
  await fail(10);
  await registry.enable(userId, "main");
  await fail(1);
  expect(await told(userId)).toHaveLength(2);
  await log.record(userId, attemptOf(200));
  await log.record(userId, attemptOf(200));
  const since = (await told(userId))[0]?.[1].since as string;
  expect(Math.abs(Date.parse(since) - Date.now())).toBeLessThan(60_000);
  const about = { userId, endpointId: "main", host: HOST, reason: "failing", since } as const;
  expect(await told(userId)).toEqual([
    ["endpoint.failing", { ...about, failedAttempts: 8, lastError: "http_503", missed: 0 }],
    ["endpoint.disabled", { ...about, failedAttempts: 20, lastError: "http_503", missed: 2 }],
    ["endpoint.recovered", { ...about, failedAttempts: 20, lastError: null, missed: 2 }],
  ]);

  // Gone, and back.
  await log.record(userId, attemptOf(410));
  await registry.enable(userId, "main");
  await log.record(userId, attemptOf(200));
  expect((await told(userId)).slice(3)).toMatchObject([
    ["endpoint.disabled", { reason: "gone", failedAttempts: 1, lastError: "http_410" }],
    ["endpoint.recovered", { reason: "gone", failedAttempts: 1, lastError: null }],
  ]);
  const all = JSON.stringify(await notices.getJobs());
  for (const secret of [SECRET, TOKEN]) expect(all).not.toContain(secret);
});

test("a recovery after a warning counts all that failed until then", async () => {
  const userId = await register();
  const log = logOf(valkey, { now: () => Date.now() + 2 * DAY_MS });
  for (let n = 0; n < 15; n++) await log.record(userId, attemptOf(503));
  await log.record(userId, attemptOf(200));
  expect((await told(userId)).map(([type, { failedAttempts }]) => [type, failedAttempts])).toEqual([
    ["endpoint.failing", 8],
    ["endpoint.recovered", 15],
  ]);
});

test("exactly one notice, whoever dies", async () => {
  const now = () => Date.now() + 6 * DAY_MS;
  const workers = await Promise.all(Array.from({ length: 6 }, connect));
  const logs = workers.map((own) => logOf(own, { now }));
  const dying = logOf(valkey, { now, dies: true });
  const users = await Promise.all(Array.from({ length: 10 }, () => register()));
  const attempts = (status: number, of: typeof logs) =>
    Promise.all(users.flatMap((userId) => of.map((log) => log.record(userId, attemptOf(status)))));
  const names = async () =>
    (await Promise.all(users.map((userId) => told(userId)))).map((all) => all.map(([name]) => name.split(".")[1]));
  const expectEach = async (...each: string[]) => expect(await names()).toEqual(users.map(() => each));

  for (let n = 0; n < 20; n++) await attempts(503, [dying]); // each dies before it draws the conclusion
  await expectEach();
  await attempts(503, logs); // all others at once
  await expectEach("disabled");
  await attempts(503, logs);
  const registry = createRegistry(valkey, { allowPlain: true });
  for (const userId of users) await registry.enable(userId, "main");
  await attempts(200, [dying]);
  await expectEach("disabled");
  await attempts(503, logs.slice(0, 1)); // whatever the next attempt's result
  await expectEach("disabled", "recovered");
  await attempts(200, logs);
  await expectEach("disabled", "recovered");

  // Connections are cut: what was sent is sent again.
  for (let round = 0; round < 10; round++) {
    const recorded = attempts(503, logs);
    await valkey.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    await recorded;
  }
  await attempts(503, logs);
  await expectEach("disabled", "recovered", "failing", "disabled");
});

test("exactly one notice, while worker processes are killed", async () => {
  const dead = await receiver();
  dead.answer(inTurn(503));
  const valkeyUrl = await testValkeyUrl();
  const name = `notices-${crypto.randomUUID()}`;
  const users = await Promise.all(Array.from({ length: 12 }, () => register({ url: dead.url() })));
  const since = String(Date.now() - 6 * DAY_MS);
  for (const userId of users) await valkey.hset(healthKey(userId), { "main.since": since, "main.n": "17" });
  const queue = new Queue(name, { connection: valkey });
  const env = { VALKEY_URL: valkeyUrl, WEBHOOK_QUEUE: name, WEBHOOK_RETRY_DELAYS: "20ms,20ms,20ms,20ms,20ms,20ms" };
  try {
    const jobs = users.flatMap((userId) => [1, 2].map(() => ({ userId, endpoint: { id: "main" }, data: {} })));
    await queue.addBulk(jobs.map((data) => ({ name: "file.created", data, opts: { attempts: 7 } })));
    const isDone = async () => {
      const states = await Promise.all(users.map((userId) => valkey.hget(endpointsKey(userId), "main/state")));
      return states.every((state) => state?.startsWith("disabled failing "));
    };
    const before = dead.requests.length;
    for (let round = 0; round < 3; round++) {
      const worker = startWorkerProcess({ ...env, WEBHOOK_NOTICES: "1" });
      open.push({ stop: async () => void (await worker.stop()) });
      await worker.line("worker.ready");
      if (round === 2) await eventually(isDone, (done) => done);
      else
        await eventually(
          () => dead.requests.length,
          (count) => count > before + 6 * (round + 1),
        );
      process.kill(worker.pid, "SIGKILL");
      await worker.exited;
    }
    // The warning was due before, so it came first; whoever died, each came once.
    for (const userId of users) {
      const types = (await told(userId)).map(([type]) => type).sort();
      expect(types.filter((type) => type === "endpoint.disabled")).toHaveLength(1);
      expect(new Set(types).size).toBe(types.length);
    }
  } finally {
    await queue.obliterate({ force: true });
    await queue.close();
  }
}, 60_000);

test("a notice is what Queue.add makes", async () => {
  const userId = await register();
  await logOf(valkey).record(userId, attemptOf(410));
  const [ours] = (await notices.getWaiting()) as [Job];
  const plain = new Queue(`plain-${crypto.randomUUID()}`, { connection: valkey });
  try {
    const { jobId, ...opts } = noticeOptions(ours.id as string, "queue") as { jobId: string };
    const theirs = await plain.add(ours.name, ours.data, { ...opts, jobId, timestamp: ours.timestamp });
    const hashOf = async (queue: Queue, { id }: Job) => {
      const { opts: text, ...fields } = await valkey.hgetall(queue.toKey(id as string));
      const { timestamp, ...rest } = JSON.parse(text ?? ""); // the option sets the field
      return { ...fields, opts: rest, timestamp: fields.timestamp };
    };
    expect(await hashOf(notices, ours)).toEqual(await hashOf(plain, theirs));
    const restOf = async (queue: Queue) => ({
      wait: await valkey.lrange(queue.toKey("wait"), 0, -1),
      marker: await valkey.zrange(queue.toKey("marker"), "0", "-1", "WITHSCORES"),
      events: (await valkey.xrange(queue.toKey("events"), "-", "+")).map(([, fields]) => fields),
    });
    expect(await restOf(notices)).toEqual(await restOf(plain));
    expect(JSON.stringify(ours.data)).toBe((await valkey.hget(notices.toKey(jobId), "data")) as string);
  } finally {
    await plain.obliterate({ force: true });
    await plain.close();
  }
});

test("a plain BullMQ worker takes notices, and failures of its own are retried", async () => {
  const userId = await register();
  const { promise, resolve } = Promise.withResolvers<[string, NoticeData]>();
  let tries = 0;
  const consumer = new Worker(
    notices.name,
    async ({ name, data }: Job<NoticeData>) => {
      tries += 1;
      if (tries === 1) throw new Error("the mail server is away");
      resolve([name, data]);
    },
    { connection: valkey },
  );
  open.push({ stop: () => consumer.close() });
  await logOf(valkey).record(userId, attemptOf(410));
  await eventually(
    () => notices.getDelayedCount(),
    (count) => count === 1,
  );
  await (await notices.getDelayed())[0]?.promote();
  expect(await promise).toMatchObject(["endpoint.disabled", { userId, host: HOST, reason: "gone" }]);
});

test("workers deliver them as signed webhooks, and no job, log or line holds the secret", async () => {
  const [customer, ours] = [await receiver(), await receiver()];
  customer.answer(inTurn(410, 200));
  ours.answer(inTurn(503, 200));
  const secret = "whsec_bm90aWNlcyBvZiB0aGlzIHRlc3Qgb25seQ==";
  const noticeUrl = new URL(ours.url(`/hook?key=${TOKEN}`));
  const system = await stack({ noticeUrl, noticeSecret: secret });
  const userId = await register({ url: customer.url(), userId: `usr_${crypto.randomUUID()}` });
  const job = await system.queue.add("file.created", { userId, endpoint: { id: "main" }, data: {} });
  expect((await system.settled(job)).state).toBe("failed");
  const [first, second] = await ours.waitFor(2);
  if (first === undefined || second === undefined) throw new Error("expected two requests");
  expect(second.body).toEqual(first.body);
  const { id, timestamp, ...body } = JSON.parse(second.body.toString());
  expect(body).toEqual({
    event: "endpoint.disabled",
    data: {
      ...{ userId, endpointId: "main", host: new URL(customer.url()).host, reason: "gone", since: expect.any(String) },
      ...{ failedAttempts: 1, lastError: "http_410", missed: 1 },
    },
  });
  expect([id, timestamp]).toEqual([expect.any(String), expect.any(String)]);
  expect(verify(second.body, second.headers as Record<string, string>, secret).ok).toBe(true);
  expect(second.headers["x-fluxdrop-event"]).toBe("endpoint.disabled");
  await eventually(
    () => notices.getCompletedCount(),
    (count) => count === 1,
  );
  expect((await system.attempts(userId)).map(({ event }) => event)).toEqual(["file.created"]);
  expect(await valkey.exists("webhooks:log:notices")).toBe(0);
  const [stored] = await notices.getCompleted();
  const everything = JSON.stringify([
    await valkey.hgetall(notices.toKey(stored?.id as string)),
    await valkey.xrange(notices.toKey("events"), "-", "+"),
    system.lines,
    await system.metrics.registry.metrics(),
  ]);
  for (const hidden of [secret, TOKEN]) expect(everything).not.toContain(hidden);
  // The dashboards' attempts are those of customers' events.
  const counted = (await system.metrics.registry.metrics()).split("\n");
  expect(
    counted.filter((line) =>
      /^fluxhook_(attempts_total|notice_attempts_total|attempt_duration_seconds_count)/.test(line),
    ),
  ).toEqual([
    'fluxhook_attempts_total{event="file.created",outcome="http_4xx"} 1',
    "fluxhook_attempt_duration_seconds_count 1",
    'fluxhook_notice_attempts_total{outcome="http_2xx"} 1',
    'fluxhook_notice_attempts_total{outcome="http_5xx"} 1',
  ]);
  expect(system.metrics.totals()).toEqual({ made: 1, failed: 1 });
});

test("at most 10,000 wait: beyond them the oldest go", async () => {
  const fill = `for n = 1, 9999 do
    redis.call("LPUSH", KEYS[1], "old." .. n)
    redis.call("HSET", KEYS[2] .. "old." .. n, "name", "endpoint.failing", "data", "{}")
  end`;
  await valkey.eval(fill, 2, notices.toKey("wait"), notices.toKey(""));
  const users = await Promise.all(Array.from({ length: 3 }, () => register()));
  const log = logOf(valkey);
  for (const userId of users) await log.record(userId, attemptOf(410));
  expect(await notices.getWaitingCount()).toBe(10_000);
  expect(await valkey.exists(notices.toKey("old.1"), notices.toKey("old.2"), notices.toKey("old.3"))).toBe(1);
  const newest = await valkey.lrange(notices.toKey("wait"), 0, 2);
  const ids = await Promise.all(newest.map((id) => valkey.hget(notices.toKey(id), "data")));
  expect(ids.map((data) => JSON.parse(data as string).userId).sort()).toEqual([...users].sort());
});

test("a shard's notices are in the slot of its users", async () => {
  const tag = "{3}:";
  const userId = await register({ tag });
  const keys: string[] = [];
  const spied = Object.create(valkey, {
    eval: {
      value: (script: string, count: number, ...given: string[]) => {
        keys.push(...given.slice(0, count));
        return valkey.eval(script, count, ...given);
      },
    },
  }) as Valkey;
  await logOf(spied, { tag }).record(userId, attemptOf(410));
  expect(keys.length).toBeGreaterThan(10);
  expect(keys.filter((key) => /\{[^}]*\}/.exec(key)?.[0] !== "{3}")).toEqual([]);
  const queue = new Queue("webhooks-notices-{3}", { connection: valkey, skipMetasUpdate: true });
  try {
    expect(await told(userId, queue)).toMatchObject([["endpoint.disabled", { userId }]]);
    expect(await told(userId)).toEqual([]);
  } finally {
    await queue.obliterate({ force: true });
    await queue.close();
  }
});

test("a queue of notices that is paused gets no marker, and a change is never without its notice", async () => {
  await notices.pause();
  const userId = await register();
  await logOf(valkey).record(userId, attemptOf(410));
  expect(await told(userId)).toHaveLength(1);
  expect(await valkey.zscore(notices.toKey("marker"), "0")).toBeNull();
  await notices.resume();
});

test("every type has its arguments, and none when notices are off", () => {
  const data = { userId: "a:b.c", endpointId: "main", host: "h", reason: "gone", since: "s" } as const;
  for (const type of NOTICE_TYPES) {
    const notice = { type, since: "17", data: { ...data, failedAttempts: 1, lastError: null } };
    const [prefix, id, name, head, tail] = noticeArgs(notice, "", "queue");
    expect([prefix, id, name]).toEqual(["bull:webhooks-notices:", `a%3Ab.c.main.${type.slice(9)}.17`, type]);
    expect(JSON.parse(`${head}3${tail}`)).toEqual({ ...notice.data, missed: 3 });
    expect(noticeArgs(notice, "", "off").join("")).toBe("");
  }
  expect(noticeKeys("").every((key) => key.startsWith("bull:webhooks-notices:"))).toBe(true);
});

test("docs/notices.md: its consumer takes a notice, which has the fields of its example", async () => {
  const code = findSnippet("docs/notices.md", "js", { heading: "From the queue" });
  const said: string[] = [];
  const body = `${code.replace(/^import .* from "bullmq";$/m, "")}\nreturn consumer;`;
  const run = new Function("Worker", "process", "console", body);
  const env = { VALKEY_URL: await testValkeyUrl() };
  const consumer: Worker = run(Worker, { env }, { log: (line: string) => said.push(line) });
  open.push({ stop: () => consumer.close() });
  const done = new Promise<Job>((resolve) => consumer.once("completed", (job) => resolve(job)));
  const userId = await register();
  await logOf(valkey).record(userId, attemptOf(410));
  const { data } = await done;
  expect(said).toEqual([`write to ${userId}: ${HOST} gets no events any more`]);
  const example = JSON.parse(findSnippet("docs/notices.md", "json", { marker: "failedAttempts" }));
  expect(Object.keys(data)).toEqual(Object.keys(example));
});
