import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Redis } from "ioredis";
import { startReceiver } from "../src/dev/receiver.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { ALL_KEPT, type Attempt, type AttemptLog, createAttemptLog, type KeptResponse } from "../src/log/attempts.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { jobData, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const DAY_MS = 24 * 60 * 60 * 1000;

let valkey: Redis;
let log: AttemptLog;

beforeAll(async () => {
  valkey = new Redis(await testValkeyUrl());
  log = createAttemptLog(valkey);
});

afterAll(() => valkey.disconnect());

const newUser = () => `usr_${crypto.randomUUID()}`;
const keyOf = (userId: string) => `webhooks:log:${userId}`;

function attemptAt(timeMs: number, overrides: Partial<Attempt> = {}): Attempt {
  return {
    id: crypto.randomUUID(),
    delivery: crypto.randomUUID(),
    attempt: 1,
    timestamp: new Date(timeMs).toISOString(),
    endpoint: "https://customer.example/hook",
    event: "file.created",
    status_code: 200,
    duration_ms: 12,
    success: true,
    error: null,
    job: "1",
    ...overrides,
  };
}

/** How many scripts Valkey has run. */
async function scriptCalls(): Promise<number> {
  const stats = await valkey.info("commandstats");
  return [...stats.matchAll(/cmdstat_eval(?:sha)?:calls=(\d+)/g)].reduce((sum, [, calls]) => sum + Number(calls), 0);
}

describe("the log", () => {
  test("is empty for a user who had no attempt", async () => {
    expect(await log.list(newUser(), Date.now())).toEqual([]);
  });

  test("gives back what was written, field by field", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const failed = attemptAt(nowMs, { status_code: null, success: false, error: "timeout", attempt: 3 });
    await log.record(user, failed);
    expect(await log.list(user, nowMs)).toEqual([failed]);
  });

  test("gives back the cause of an error, and fields of a newer version as they are", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const failed = attemptAt(nowMs, { status_code: null, success: false, error: "tls", cause: "expired" });
    await log.record(user, { ...failed, from_the_future: 1 } as Attempt);
    expect(await log.list(user, nowMs)).toEqual([{ ...failed, from_the_future: 1 } as Attempt]);
  });

  test("takes attempts that end together in one script, and a key that holds something else costs only its own", async () => {
    const users = Array.from({ length: 30 }, newUser);
    const broken = users[7] as string;
    await valkey.set(keyOf(broken), "a text");
    const nowMs = Date.now();
    const before = await scriptCalls();
    const ends = users.map((user) => log.record(user, attemptAt(nowMs)).catch((error: Error) => error.message));
    expect((await Promise.all(ends)).map((end, index) => [index, end]).filter(([, end]) => end)).toEqual([
      [7, expect.stringContaining("WRONGTYPE")],
    ]);
    expect((await scriptCalls()) - before).toBe(1);
    for (const user of users.filter((user) => user !== broken)) expect(await log.list(user, nowMs)).toHaveLength(1);
    expect(await valkey.get(keyOf(broken))).toBe("a text");
  });

  test("takes several attempts of one user that end together", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const all = Array.from({ length: 15 }, () => attemptAt(nowMs));
    await Promise.all(all.map((attempt) => log.record(user, attempt)));
    expect(await log.list(user, nowMs)).toEqual(all.slice(5).reverse());
  });

  test("keeps the newest 10, newest first", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const all = Array.from({ length: 12 }, (_, n) => attemptAt(nowMs - (12 - n) * 1000));
    for (const attempt of all) await log.record(user, attempt);
    expect(await log.list(user, nowMs)).toEqual(all.slice(2).reverse());
    expect(await valkey.zcard(keyOf(user))).toBe(10);
  });

  test("is in the order in which attempts ended, so that a slow one is seen beside many fast ones", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const slow = attemptAt(nowMs - 10_000, {
      status_code: null,
      success: false,
      error: "timeout",
      duration_ms: 10_000,
    });
    for (let n = 30; n > 0; n--) await log.record(user, attemptAt(nowMs - n * 300));
    await log.record(user, slow);
    expect((await log.list(user, nowMs))[0]).toEqual(slow);
  });

  test("is in that order, and takes new lines, when clocks were an hour ahead and have been set back", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const ahead = Array.from({ length: 10 }, (_, n) => attemptAt(nowMs + 60 * 60_000 + n));
    for (const attempt of ahead) {
      await valkey.zadd(keyOf(user), Date.parse(attempt.timestamp), JSON.stringify(attempt)); // as the last release did
    }
    const all = Array.from({ length: 3 }, () => attemptAt(nowMs));
    for (const attempt of all) await log.record(user, attempt);
    expect(await log.list(user, nowMs)).toEqual([...all.reverse(), ...ahead.slice(3).reverse()]);
  });

  test("takes many writers at once", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const all = Array.from({ length: 50 }, (_, n) => attemptAt(nowMs - (50 - n)));
    await Promise.all(all.map((attempt) => log.record(user, attempt)));
    expect(await log.list(user, nowMs)).toEqual(all.slice(40).reverse());
  });

  test("is written while memory is full, as the acknowledgement behind it is", async () => {
    const full = await startValkey();
    const client = new Redis(full.url);
    await client.config("SET", "maxmemory", 1);
    expect(await client.set("a", "b").catch((error: Error) => error.message)).toStartWith("OOM ");
    const nowMs = Date.now();
    const attempt = attemptAt(nowMs);
    await createAttemptLog(client).record("usr_1", attempt);
    expect(await createAttemptLog(client).list("usr_1", nowMs)).toEqual([attempt]);
    client.disconnect();
    await full.stop();
  });

  test("expires 7 days after the last write", async () => {
    const user = newUser();
    const nowMs = Date.now();
    await log.record(user, attemptAt(nowMs));
    await valkey.pexpire(keyOf(user), 1000);
    await log.record(user, attemptAt(nowMs));
    const leftMs = await valkey.pttl(keyOf(user));
    expect(leftMs).toBeGreaterThan(7 * DAY_MS - 60_000);
    expect(leftMs).toBeLessThanOrEqual(7 * DAY_MS);
  });

  test("does not return what is older than 7 days, and drops it with the next write", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const old = attemptAt(nowMs - 7 * DAY_MS - 1);
    const recent = attemptAt(nowMs - 7 * DAY_MS + 60_000);
    for (const attempt of [old, recent]) {
      await valkey.zadd(keyOf(user), Date.parse(attempt.timestamp), JSON.stringify(attempt));
    }
    expect(await log.list(user, nowMs)).toEqual([recent]);
    const fresh = attemptAt(nowMs);
    await log.record(user, fresh);
    expect(await log.list(user, nowMs)).toEqual([fresh, recent]);
    expect(await valkey.zcard(keyOf(user))).toBe(2);
  });

  test("has an attempt once, however often it is written", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const attempt = attemptAt(nowMs);
    await log.record(user, attempt);
    await log.record(user, attempt);
    expect(await log.list(user, nowMs)).toEqual([attempt]);
  });

  test("has two attempts of the same moment", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const [one, two] = [attemptAt(nowMs), attemptAt(nowMs)];
    await log.record(user, one);
    await log.record(user, two);
    const found = await log.list(user, nowMs);
    expect(new Set(found.map(({ delivery }) => delivery))).toEqual(new Set([one.delivery, two.delivery]));
  });

  test("is each user's own", async () => {
    const nowMs = Date.now();
    const user = newUser();
    const others = [`${user}:x`, `${user}*`, user.toUpperCase(), `{${user}}`];
    const mine = attemptAt(nowMs);
    await log.record(user, mine);
    for (const other of others) expect(await log.list(other, nowMs)).toEqual([]);
    for (const other of others) await log.record(other, attemptAt(nowMs));
    expect(await log.list(user, nowMs)).toEqual([mine]);
  });

  test("is read around a member that is no attempt", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const attempt = attemptAt(nowMs);
    await log.record(user, attempt);
    for (const [n, member] of ["{cut off", "null", "7", "[]", "{}"].entries()) {
      await valkey.zadd(keyOf(user), nowMs - n, member);
    }
    expect(await log.list(user, nowMs)).toEqual([attempt]);
  });

  test("refuses to write over a key that is something else, and leaves it alone", async () => {
    const user = newUser();
    const nowMs = Date.now();
    await valkey.set(keyOf(user), "not ours");
    await expect(log.record(user, attemptAt(nowMs))).rejects.toThrow("WRONGTYPE");
    await expect(log.list(user, nowMs)).rejects.toThrow("WRONGTYPE");
    expect(await valkey.get(keyOf(user))).toBe("not ours");
    expect(await valkey.pttl(keyOf(user))).toBe(-1);
  });

  test("waits for a primary that has become a replica, and is written when it takes writes again", async () => {
    const own = await startValkey({ appendonly: false });
    const admin = new Redis(own.url);
    const connection = connectValkey(own.url, "test:log", createLogger("silent").logger);
    try {
      const later = createAttemptLog(connection);
      const [user, nowMs] = [newUser(), Date.now()];
      await admin.replicaof("127.0.0.1", 1); // nobody is there: it keeps its data, and answers READONLY
      const refused = new Promise((resolve) => connection.once("reconnecting", resolve));
      const recorded = later.record(user, attemptAt(nowMs));
      await Promise.race([refused, recorded]);
      await admin.replicaof("NO", "ONE");
      await recorded;
      expect(await later.list(user, nowMs)).toHaveLength(1);
    } finally {
      connection.disconnect();
      admin.disconnect();
      await own.stop();
    }
  });
});

describe("the log's settings", () => {
  test("keep as many attempts as they say, and a worker that keeps fewer trims the log", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const long = createAttemptLog(valkey, { logSize: 25 });
    const all = Array.from({ length: 30 }, () => attemptAt(nowMs));
    for (const attempt of all) await long.record(user, attempt);
    expect(await long.list(user, nowMs)).toEqual(all.slice(5).reverse());
    expect(await log.list(user, nowMs)).toHaveLength(10); // reads as many as it would keep
    await log.record(user, attemptAt(nowMs));
    expect(await valkey.zcard(keyOf(user))).toBe(10);
  });

  test("keep attempts as long as they say", async () => {
    const user = newUser();
    const long = createAttemptLog(valkey, { logAgeMs: 30 * DAY_MS });
    const nowMs = Date.now();
    const old = attemptAt(nowMs - 29 * DAY_MS);
    await valkey.zadd(keyOf(user), nowMs - 29 * DAY_MS, JSON.stringify(old));
    const fresh = attemptAt(nowMs);
    await long.record(user, fresh);
    expect(await long.list(user, nowMs)).toEqual([fresh, old]);
    expect(await valkey.pttl(keyOf(user))).toBeGreaterThan(30 * DAY_MS - 60_000);
    expect(await log.list(user, nowMs)).toEqual([fresh]);
  });

  test("are not needed to read: what workers let expire is left out", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const reader = createAttemptLog(valkey, ALL_KEPT);
    const short = createAttemptLog(valkey, { logSize: 500, logAgeMs: 60 * 60 * 1000 });
    const all = Array.from({ length: 12 }, () => attemptAt(nowMs));
    for (const attempt of all) await short.record(user, attempt);
    const old = attemptAt(nowMs - 61 * 60 * 1000); // written in time, but no write has trimmed it since
    await valkey.zadd(keyOf(user), nowMs - 61 * 60 * 1000, JSON.stringify(old));
    expect(await reader.list(user, nowMs)).toEqual(all.reverse());
  });
});

describe("responses", () => {
  const RESPONSE: KeptResponse = {
    status_line: "HTTP/1.1 503 Service Unavailable",
    headers: { server: "nginx" },
    body: "<h1>busy\u0000</h1>",
    is_truncated: true,
  };
  const responsesOf = (user: string) => `webhooks:responses:${user}`;
  const failedAt = (timeMs: number, response?: KeptResponse) =>
    attemptAt(timeMs, { status_code: 503, success: false, error: "http_503", ...(response && { response }) });
  const bare = ({ response: _, ...attempt }: Attempt) => attempt;

  test("are read by those who ask for them, and no member of the log has one", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const all = [attemptAt(nowMs), failedAt(nowMs, RESPONSE), attemptAt(nowMs), failedAt(nowMs)];
    await Promise.all(all.map((attempt) => log.record(user, attempt)));
    expect(await log.list(user, nowMs, { withResponses: true })).toEqual(all.toReversed());
    expect(await log.list(user, nowMs)).toEqual(all.toReversed().map(bare));
    expect((await valkey.zrange(keyOf(user), "0", "-1")).join()).not.toContain("busy");
    expect(await valkey.zcard(responsesOf(user))).toBe(1);
    expect(await log.list(user, nowMs, { withResponses: true, outcome: "failed", limit: 1 })).toEqual([
      all[3] as Attempt,
    ]);
    expect(await log.list(user, nowMs, { withResponses: true, outcome: "failed" })).toEqual([
      all[3] as Attempt,
      all[1] as Attempt,
    ]);
  });

  test("are written by the script that writes the attempts", async () => {
    const users = Array.from({ length: 10 }, newUser);
    const nowMs = Date.now();
    const before = await scriptCalls();
    await Promise.all(users.map((user, n) => log.record(user, failedAt(nowMs, { ...RESPONSE, body: `${n}` }))));
    expect((await scriptCalls()) - before).toBe(1);
    for (const [n, user] of users.entries()) {
      expect((await log.list(user, nowMs, { withResponses: true }))[0]?.response?.body).toBe(`${n}`);
    }
  });

  test("go when their attempts go, and expire like the log", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const all = Array.from({ length: 14 }, (_, n) => failedAt(nowMs, { ...RESPONSE, body: `${n}` }));
    for (const attempt of all) await log.record(user, attempt);
    expect(await valkey.zcard(responsesOf(user))).toBe(10);
    expect(await log.list(user, nowMs, { withResponses: true })).toEqual(all.slice(4).reverse());
    const [logLeftMs, leftMs] = await Promise.all([valkey.pttl(keyOf(user)), valkey.pttl(responsesOf(user))]);
    expect(Math.abs(logLeftMs - leftMs)).toBeLessThan(1000);
    await log.record(user, all[13] as Attempt); // as when resent
    expect(await valkey.zcard(responsesOf(user))).toBe(10);
  });

  test("become part of the log's members where customers may see them", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const shown = createAttemptLog(valkey, { showResponse: true });
    const failed = failedAt(nowMs, RESPONSE);
    await shown.record(user, failed);
    expect(await log.list(user, nowMs)).toEqual([failed]);
    expect(await log.list(user, nowMs, { withResponses: true })).toEqual([failed]);
    expect(await valkey.exists(responsesOf(user))).toBe(0);
  });

  test("do not keep an attempt from its log when they cannot be written", async () => {
    const [broken, other] = [newUser(), newUser()];
    const nowMs = Date.now();
    await valkey.set(responsesOf(broken), "not ours");
    await Promise.all([broken, other].map((user) => log.record(user, failedAt(nowMs, RESPONSE))));
    expect(await log.list(broken, nowMs)).toHaveLength(1);
    expect((await log.list(other, nowMs, { withResponses: true }))[0]?.response).toEqual(RESPONSE);
    expect(await valkey.get(responsesOf(broken))).toBe("not ours");
  });

  test("are read around what is none", async () => {
    const user = newUser();
    const nowMs = Date.now();
    const failed = failedAt(nowMs, RESPONSE);
    await log.record(user, failed);
    const score = Number(await valkey.zscore(keyOf(user), JSON.stringify(bare(failed))));
    for (const member of ["{cut off", "null", "7", "{}"]) await valkey.zadd(responsesOf(user), score, member);
    expect(await log.list(user, nowMs, { withResponses: true })).toEqual([failed]);
  });
});

describe("a delivery", () => {
  test("is logged with exactly the documented fields, and without the query", async () => {
    const [receiver, stack] = [await startReceiver(), await startStack()];
    receiver.answer({ status: 503 });
    const url = receiver.url("/hook/é?token=leak#part");
    const data = jobData(url);
    const beganAt = Date.now();
    const job = await stack.queue.add("org.updated", data, { attempts: 1 });
    await stack.settled(job);
    const { headers } = await receiver.next();
    const found = await stack.attempts(data.userId);
    expect<unknown>(found).toEqual([
      {
        id: headers["webhook-id"] as string,
        delivery: headers["x-fluxdrop-delivery"] as string,
        attempt: 1,
        timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
        endpoint: receiver.url("/hook/%C3%A9"),
        event: "org.updated",
        status_code: 503,
        duration_ms: expect.any(Number),
        success: false,
        error: "http_503",
        job: job.id,
      },
    ]);
    expect(Object.keys(found[0] as Attempt)).toEqual([
      "id",
      "delivery",
      "attempt",
      "timestamp",
      "endpoint",
      "event",
      "status_code",
      "duration_ms",
      "success",
      "error",
      "job",
    ]);
    const startedAt = Date.parse(found[0]?.timestamp as string);
    expect(startedAt).toBeGreaterThanOrEqual(beganAt);
    expect(Math.floor(startedAt / 1000)).toBe(Number(headers["x-fluxdrop-timestamp"]));
    expect(await valkey.zrange(keyOf(data.userId), "0", "-1")).toEqual([JSON.stringify(found[0])]);
    const endedAt = Number(await valkey.zscore(keyOf(data.userId), JSON.stringify(found[0])));
    expect(endedAt).toBeGreaterThanOrEqual(startedAt);
    expect(endedAt).toBeLessThanOrEqual(Date.now());
    await Promise.all([stack.stop(), receiver.stop()]);
  });

  test.each([
    [200, "completed"],
    [410, "failed"],
  ] as const)("keeps its verdict on %i when the log cannot be written, and is counted", async (status, expected) => {
    const [receiver, stack] = [await startReceiver(), await startStack()];
    receiver.answer({ status });
    const data = jobData(receiver.url("/?leak-query"), { endpoint: { url: receiver.url(), secret: "leak-secret" } });
    await valkey.set(keyOf(data.userId), "not ours");
    const job = await stack.queue.add("file.created", data);
    const { state, job: ended } = await stack.settled(job);
    expect(state).toBe(expected);
    expect(ended.attemptsMade).toBe(1);
    expect(receiver.requests.length).toBe(1);
    expect(await stack.line("attempt.unlogged")).toEqual({
      level: "error",
      message: "attempt.unlogged",
      job: job.id,
      user: data.userId,
      delivery: receiver.requests[0]?.headers["x-fluxdrop-delivery"],
      reason: expect.stringContaining("WRONGTYPE"),
    });
    expect(await stack.metrics.registry.metrics()).toContain("fluxhook_unlogged_attempts_total 1");
    expect(JSON.stringify(stack.lines)).not.toContain("leak");
    await Promise.all([stack.stop(), receiver.stop()]);
  });
});
