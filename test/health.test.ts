/** How registered endpoints' attempts are counted, and what switches them off. Real Valkey, workers and receivers. */
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { createFluxhook, NotFoundError } from "../src/index.ts";
import { type Attempt, createAttemptLog } from "../src/log/attempts.ts";
import { endpointLogKey, healthKey, missedKey, noticesQueue } from "../src/queue/own-keys.ts";
import { type EndpointHealth, judgeStreak, readHealth } from "../src/registry/health.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { readEndpointLog } from "../src/streaks/endpoint-log.ts";
import { createOutageWatch, type OutageWatch } from "../src/streaks/outage.ts";
import { createStreaks } from "../src/streaks/streaks.ts";
import { connectValkey, type Valkey } from "../src/valkey/connection.ts";
import { endAll, inTurn, receiver, stack } from "./support/deliveries.ts";
import { eventually, jobData } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const DAY_MS = 24 * 60 * 60 * 1000;
const URL_A = "https://hooks.example.com/in";
const SECRET = "s3cret-of-this-test";

afterEach(endAll);
const connections: Valkey[] = [];
afterAll(() => {
  for (const valkey of connections) valkey.disconnect();
});

const working: OutageWatch = { attempted() {}, isOurs: false };

/** A user with an endpoint, and a worker's log of its attempts, whose clock is `clock.now` unless that is undefined. */
async function rig({ outage = working, id = "main", disableAfterMs = 5 * DAY_MS } = {}) {
  const valkey = connectValkey(await testValkeyUrl(), "test:health", { info() {}, warn() {} });
  connections.push(valkey);
  const userId = `usr:${crypto.randomUUID()}`;
  const registry = createRegistry(valkey, { allowPlain: true });
  await registry.create(userId, { id, url: `${URL_A}?token=1`, secret: SECRET });
  const clock: { now: number | undefined } = { now: undefined };
  const counted: string[] = [];
  const connect = (other: Valkey) => {
    const streaks = createStreaks(other, {
      ...{ tag: "", disableAfterMs, notices: "off" as const, outage, logger: { info() {}, error() {} } },
      metrics: { endpointDisabled: (reason) => counted.push(reason), endpointWarned: () => counted.push("warned") },
      now: () => clock.now ?? Date.now(),
    });
    return { streaks, log: createAttemptLog(other, { endpoints: streaks }) };
  };
  const { log, streaks } = connect(valkey);
  const attemptOf = (status: number | null, overrides: Partial<Attempt> = {}): Attempt => ({
    ...{ id: crypto.randomUUID(), delivery: crypto.randomUUID(), attempt: 1, event: "file.created", duration_ms: 12 },
    ...{ timestamp: new Date().toISOString(), endpoint: URL_A, endpoint_id: id, status_code: status, job: "1" },
    success: status === 200,
    error: status === 200 ? null : status === null ? "timeout" : `http_${status}`,
    ...overrides,
  });
  return {
    ...{ valkey, userId, registry, log, streaks, clock, counted, connect, attemptOf },
    record: (status: number | null, overrides: Partial<Attempt> = {}) =>
      log.record(userId, attemptOf(status, overrides)),
    async fail(times: number) {
      await Promise.all(Array.from({ length: times }, () => log.record(userId, attemptOf(503))));
    },
    state: async () => (await registry.get(userId, id)).state,
    health: async (): Promise<EndpointHealth | undefined> => (await readHealth(valkey, "", userId)).get(id),
  };
}

describe("an endpoint that fails", () => {
  test("five days and twenty attempts, not one of the two", async () => {
    const { fail, clock, state, health, counted } = await rig();
    const start = Date.now();
    await fail(30);
    expect((await state()).kind).toBe("enabled");
    const { failingSince, failures } = (await health()) as EndpointHealth;
    expect(failures).toBe(30);
    expect(Math.abs((failingSince as number) - start)).toBeLessThan(60_000);
    clock.now = (failingSince as number) + 5 * DAY_MS - 1;
    await fail(1);
    expect((await state()).kind).toBe("enabled");
    clock.now += 1;
    await fail(1);
    expect(await state()).toMatchObject({ kind: "disabled", reason: "failing" });
    expect(counted).toEqual(["warned", "failing"]);

    const rare = await rig();
    await rare.fail(1);
    rare.clock.now = Date.now() + 6 * DAY_MS;
    await rare.fail(18);
    expect([(await rare.state()).kind, (await rare.health())?.failures]).toEqual(["enabled", 19]);
    await rare.fail(1);
    expect((await rare.state()).kind).toBe("disabled");
  });

  test.each([
    ["a day and 8 attempts", DAY_MS, 8, false, "warn"],
    ["a day less a millisecond", DAY_MS - 1, 8, false, "none"],
    ["7 attempts", DAY_MS, 7, false, "none"],
    ["a warning that was given", 2 * DAY_MS, 8, true, "none"],
    ["five days and 20 attempts", 5 * DAY_MS, 20, true, "failing"],
    ["five days and 19 attempts", 5 * DAY_MS, 19, true, "none"],
  ] as const)("is judged by %s", (_, lastsMs, failures, isTold, judgment) => {
    const streak = { since: 1_000, failures, isTold };
    expect(judgeStreak(streak, false, 1_000 + lastsMs, 5 * DAY_MS)).toBe(judgment);
    expect(judgeStreak(streak, true, 1_000 + lastsMs, 5 * DAY_MS)).toBe("gone");
  });

  test("is never switched off where that is off, but for a 410", async () => {
    const { fail, clock, state, record } = await rig({ disableAfterMs: 0 });
    await fail(25);
    clock.now = Date.now() + 300 * DAY_MS;
    await fail(1);
    expect((await state()).kind).toBe("enabled");
    await record(410);
    expect(await state()).toMatchObject({ kind: "disabled", reason: "gone" });
  });

  test("is warned of once in a streak of failures", async () => {
    const { fail, clock, counted, health, record } = await rig();
    await fail(8);
    clock.now = Date.now() + 2 * DAY_MS;
    await fail(3);
    await fail(1);
    expect(counted).toEqual(["warned"]);
    expect((await health())?.warnedAt).toBeGreaterThan(0);
    await record(200);
    expect(await health()).toMatchObject({ failures: 0, lastSuccessAt: expect.any(Number) });
    expect((await health())?.warnedAt).toBeUndefined();
    clock.now = undefined;
    await fail(8);
    clock.now = Date.now() + 2 * DAY_MS;
    await fail(1);
    expect(counted).toEqual(["warned", "warned"]);
  });

  test("begins a new streak when it is enabled again, or gets another URL", async () => {
    const { fail, clock, state, health, registry, userId } = await rig();
    await fail(20);
    clock.now = Date.now() + 6 * DAY_MS;
    await fail(1);
    expect((await state()).kind).toBe("disabled");
    await registry.enable(userId, "main");
    expect(await health()).toEqual({ failures: 0 });
    await fail(19);
    expect((await state()).kind).toBe("enabled");
    expect((await health())?.failures).toBe(19);
    await registry.update(userId, "main", { url: "https://other.example.com/in" });
    expect((await health())?.failures).toBe(0);
    await registry.update(userId, "main", { description: "the same URL" });
    await fail(1);
    expect((await health())?.failures).toBe(1);
  });

  test("that is paused, deleted, or has another URL by now is not switched off", async () => {
    const { record, registry, userId, state } = await rig();
    await registry.pause(userId, "main");
    await record(410);
    expect((await state()).kind).toBe("paused");
    await registry.resume(userId, "main");
    await record(410, { endpoint: "https://hooks.example.com/before" });
    expect((await state()).kind).toBe("enabled");
    await registry.delete(userId, "main");
    await record(410);
    expect(await registry.list(userId)).toEqual([]);
  });
});

test("a 2xx that races with switching off wins", async () => {
  const { valkey, userId, fail, record, streaks, attemptOf, state, clock, connect, health } = await rig();
  await fail(20);
  const { failingSince } = (await health()) as EndpointHealth;
  // It comes between the script that counts and the one that switches off.
  await record(200);
  const stale = [String(failingSince), "21", ""];
  clock.now = Date.now() + 6 * DAY_MS;
  await streaks.recorded([{ userId, attempt: attemptOf(503), reply: stale }], clock.now);
  await streaks.recorded([{ userId, attempt: attemptOf(410), reply: stale }], clock.now);
  expect((await state()).kind).toBe("enabled");

  // Two workers: whatever comes first, the 2xx ends the streak, or reaches an endpoint that is off already.
  const other = connectValkey(await testValkeyUrl(), "test:health", { info() {}, warn() {} });
  connections.push(other);
  const { log } = connect(other);
  for (let round = 0; round < 50; round++) {
    clock.now = undefined;
    await fail(19);
    clock.now = Date.now() + 6 * DAY_MS;
    await Promise.all([fail(1), log.record(userId, attemptOf(200))]);
    const { failures } = (await health()) as EndpointHealth;
    const { kind } = await state();
    if (kind === "disabled")
      expect(failures).toBe(0); // the 2xx came last
    else expect(failures).toBeLessThan(20);
    const registry = createRegistry(valkey, { allowPlain: true });
    await registry.enable(userId, "main");
    await record(200);
  }
});

test("410 switches off at once, and what waits is kept", async () => {
  const customer = await receiver();
  customer.answer(inTurn(410));
  const system = await stack({ isIdle: true, concurrency: 1 });
  const userId = `usr_${crypto.randomUUID()}`;
  const registry = createRegistry(system.valkey, { allowPlain: true });
  await registry.create(userId, { id: "main", url: customer.url(), secret: SECRET });
  const data = { userId, endpoint: { id: "main" }, data: { n: 1 } };
  const jobs = await Promise.all(Array.from({ length: 20 }, () => system.queue.add("file.created", data)));
  system.worker.run();
  const settled = await Promise.all(jobs.map((job) => system.settled(job)));
  const ends = settled.map(({ state, job }) => (state === "failed" ? job.failedReason : job.returnvalue));
  expect(ends[0]).toStartWith("HTTP 410");
  expect(customer.requests.length).toBeLessThan(20); // some were in hand already
  expect(ends.at(-1)).toBe("held: endpoint disabled");
  expect(await registry.get(userId, "main")).toMatchObject({ state: { kind: "disabled", reason: "gone" } });
  expect(await system.valkey.zcard(missedKey(userId, "main"))).toBe(20);
  expect(await system.metrics.registry.metrics()).toContain('fluxhook_endpoints_disabled_total{reason="gone"} 1\n');
  expect(await system.line("endpoint.disabled")).toMatchObject({ user: userId, endpoint_id: "main", reason: "gone" });
});

describe("our own outage", () => {
  test("our own outage switches off nobody", async () => {
    const outage = createOutageWatch();
    const { fail, clock, state, counted, record } = await rig({ outage });
    await fail(20);
    for (let n = 0; n < 20; n++) outage.attempted(`https://customer-${n}.example.com/in`, n < 3);
    clock.now = Date.now() + 6 * DAY_MS;
    await fail(1);
    expect([(await state()).kind, counted]).toEqual(["enabled", []]);
    for (let n = 0; n < 20; n++) outage.attempted(`https://customer-${n}.example.com/in`, true);
    await fail(1);
    expect(await state()).toMatchObject({ kind: "disabled", reason: "failing" });

    // A 410 is an answer: it came through.
    const cut = await rig({ outage: { attempted() {}, isOurs: true } });
    await cut.record(410);
    expect(await cut.state()).toMatchObject({ kind: "disabled", reason: "gone" });
    expect(await record(410)).toBeUndefined();
  });

  test("is seen from few endpoints if there are no more, but not from one", () => {
    const clock = { now: 0 };
    const outage = createOutageWatch(() => clock.now);
    const attempt = (n: number, isSuccess = false) =>
      outage.attempted(`https://customer-${n}.example.com/in`, isSuccess);
    attempt(1);
    expect(outage.isOurs).toBe(false);
    attempt(2);
    expect(outage.isOurs).toBe(true);
    attempt(3, true);
    expect(outage.isOurs).toBe(false); // 1 in 3
    for (let n = 0; n < 3; n++) attempt(2);
    expect(outage.isOurs).toBe(true); // 1 in 6
    clock.now += 11 * 60 * 1000;
    attempt(1);
    attempt(2);
    expect(outage.isOurs).toBe(false); // the third one was not asked lately
    attempt(3);
    expect(outage.isOurs).toBe(true);
    clock.now += 25 * 60 * 60 * 1000;
    attempt(1);
    expect(outage.isOurs).toBe(false); // the others are forgotten
  });

  test("is seen from twenty endpoints among any number", () => {
    const outage = createOutageWatch(() => 0);
    for (let n = 0; n < 1_000; n++) outage.attempted(`https://customer-${n}.example.com/in`, n % 6 === 0);
    expect(outage.isOurs).toBe(true);
    for (let n = 0; n < 100; n++) outage.attempted("https://customer.example.com/in", true);
    expect(outage.isOurs).toBe(false);
  });
});

describe("an attempt", () => {
  test("counts once, however often it is sent again", async () => {
    const { log, userId, attemptOf, health, valkey } = await rig();
    const attempts = [attemptOf(503), attemptOf(503)];
    for (let times = 0; times < 3; times++) {
      await Promise.all(attempts.map((attempt) => log.record(userId, attempt)));
    }
    expect((await health())?.failures).toBe(2);
    expect(await readEndpointLog(valkey, "", userId, "main")).toHaveLength(2);
  });

  test.each(["resolver", "resources", "proxy", "shutdown", "lock_lost", "expired", "backlog_full"])(
    "that ended with %s does not count",
    async (error) => {
      const { record, health, valkey, userId } = await rig();
      await record(null, { error });
      expect(await health()).toBeUndefined();
      expect(await readEndpointLog(valkey, "", userId, "main")).toMatchObject([{ error }]);
    },
  );

  test("of a test event does not count, whatever its result", async () => {
    const { record, health, fail } = await rig();
    await record(503, { test: true });
    expect(await health()).toBeUndefined();
    await fail(1);
    await record(200, { test: true });
    expect((await health())?.failures).toBe(1);
  });

  test("with a URL in its job leaves nothing but its user's log", async () => {
    const customer = await receiver();
    const system = await stack();
    const userId = `usr_${crypto.randomUUID()}`;
    await system.settled(await system.queue.add("file.created", jobData(customer.url(), { userId })));
    const keys = await system.valkey.keys(`webhooks:*${userId}*`);
    expect(keys).toEqual([`webhooks:log:${userId}`]);
  });

  test("is recorded for its user and in the others' logs though a key of its endpoint is damaged", async () => {
    const { valkey, userId, log, attemptOf, health, record } = await rig();
    await valkey.set(endpointLogKey(userId, "main"), "not a list");
    await record(503);
    expect(await log.list(userId, Date.now())).toHaveLength(1);
    await valkey.del(endpointLogKey(userId, "main"));
    await valkey.set(healthKey(userId), "not a hash");
    await Promise.all([record(503), log.record(userId, attemptOf(503, { endpoint_id: "other" }))]);
    expect(await log.list(userId, Date.now())).toHaveLength(3);
    expect(await readEndpointLog(valkey, "", userId, "other")).toHaveLength(1);
    await valkey.del(healthKey(userId));
    await record(503);
    expect((await health())?.failures).toBe(1);
  });
});

describe("an endpoint's log", () => {
  test("keeps its last 25 attempts, newest first, beside its user's 10", async () => {
    const { valkey, userId, log, record } = await rig();
    for (let n = 0; n < 30; n++) await record(200, { job: String(n), endpoint_id: n % 2 === 0 ? "main" : "other" });
    for (let n = 30; n < 45; n++) await record(503, { job: String(n) });
    const own = (await readEndpointLog(valkey, "", userId, "main")).map(({ job }) => Number(job));
    expect(own).toEqual([...Array.from({ length: 15 }, (_, n) => 44 - n), ...[28, 26, 24, 22, 20, 18, 16, 14, 12, 10]]);
    expect(await readEndpointLog(valkey, "", userId, "other")).toHaveLength(15);
    expect(await log.list(userId, Date.now())).toHaveLength(10);
    expect(await valkey.pttl(endpointLogKey(userId, "main"))).toBeGreaterThan(6 * DAY_MS);
    expect(await readEndpointLog(valkey, "", userId, "nowhere")).toEqual([]);
  });

  test("is deleted with the endpoint, and so is its health", async () => {
    const { valkey, userId, registry, record } = await rig();
    await record(200);
    await record(503);
    await record(503, { endpoint_id: "other" });
    await registry.delete(userId, "main");
    expect(await valkey.exists(endpointLogKey(userId, "main"))).toBe(0);
    expect([...(await readHealth(valkey, "", userId)).keys()]).toEqual(["other"]);
  });
});

test("the last 2xx is known to the minute, and exactly after failures; the log lives on from each to the same accuracy", async () => {
  const { valkey, userId, record, health } = await rig();
  const lastSuccess = async () => (await health())?.lastSuccessAt as number;
  const log = endpointLogKey(userId, "main");
  await record(200);
  const first = await lastSuccess();
  await Bun.sleep(5);
  await record(200);
  expect(await lastSuccess()).toBe(first);
  await record(503);
  expect(await lastSuccess()).toBe(first);
  await record(200);
  expect(await lastSuccess()).toBeGreaterThan(first);
  expect(await valkey.hget(healthKey(userId, ""), "main.ok")).toMatch(/^\d+$/);
  await valkey.hset(healthKey(userId, ""), "main.ok", Date.now() - 60_000);
  await valkey.pexpire(log, 1_000);
  await record(200);
  expect(await lastSuccess()).toBeGreaterThan(first);
  expect(await valkey.pttl(log)).toBeGreaterThan(1_000);
});

test("endpoints are listed with their health, and no notice is written unless it is wanted", async () => {
  const { valkey, userId, registry, record, health } = await rig();
  expect((await registry.get(userId, "main")).health).toEqual({ failures: 0 });
  await record(200);
  await record(410);
  const known = (await health()) as EndpointHealth;
  expect(known).toMatchObject({ failures: 1, failingSince: expect.any(Number), lastSuccessAt: expect.any(Number) });
  expect((await registry.list(userId)).map((endpoint) => endpoint.health)).toEqual([known]);
  expect((await registry.get(userId, "main")).health).toEqual(known);
  expect(await valkey.exists(`bull:${noticesQueue("")}:wait`)).toBe(0);
});

test("a Valkey that is full counts attempts and switches off all the same", async () => {
  const { valkey, record, fail, state, clock, health } = await rig();
  await fail(19);
  await valkey.config("SET", "maxmemory", 1);
  try {
    clock.now = Date.now() + 6 * DAY_MS;
    await record(503);
    expect(await eventually(health, (known) => known?.failures === 20)).toBeDefined();
    expect((await state()).kind).toBe("disabled");
  } finally {
    await valkey.config("SET", "maxmemory", 0);
  }
});

test("a backend reads an endpoint's health and its attempts", async () => {
  const { userId, record } = await rig();
  const fluxhook = createFluxhook({ valkeyUrl: await testValkeyUrl() });
  try {
    await record(200);
    await record(503);
    expect(await fluxhook.endpoints.attempts(userId, "main")).toMatchObject([
      { status_code: 503 },
      { status_code: 200 },
    ]);
    expect((await fluxhook.endpoints.get(userId, "main")).health.failures).toBe(1);
    const missing = await fluxhook.endpoints.attempts(userId, "other").catch((error) => error);
    expect(missing).toBeInstanceOf(NotFoundError);
  } finally {
    await fluxhook.close();
  }
});
