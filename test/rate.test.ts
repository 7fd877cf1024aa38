/** Rate limits of registered endpoints: what receivers get, and when. Real workers, receivers and Valkey. */
import { afterAll, afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Receiver } from "../src/dev/receiver.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { createRate, type Pace } from "../src/endpoints/rate.ts";
import { queueKey } from "../src/queue/layout.ts";
import { rateKey, rateLineKey, rateReleasedKey } from "../src/queue/own-keys.ts";
import type { EndpointDocument, RateLimit } from "../src/registry/endpoint.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { openValkey } from "../src/valkey/connection.ts";
import { endAll, inTurn, receiver, stack } from "./support/deliveries.ts";
import { eventually, jobData, type Stack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

setDefaultTimeout(60_000); // limits take their time, and a busy machine is later still
afterEach(endAll);
const valkey = openValkey(await testValkeyUrl(), {});
afterAll(() => valkey.disconnect());

const registry = createRegistry(valkey, { allowPlain: true });
const newUser = () => `usr_${crypto.randomUUID()}`;
const ROUNDING_MS = 2; // of clocks

/** A user with an endpoint that has this limit. */
async function limited(customer: Receiver, rateLimit: RateLimit | null, id = "main"): Promise<string> {
  const userId = newUser();
  await registry.create(userId, { url: customer.url(), id, rateLimit });
  return userId;
}

const enqueue = ({ queue }: Stack, userId: string, count: number, id = "main") =>
  queue.addBulk(
    Array.from({ length: count }, (_, n) => ({
      name: "file.created",
      data: { userId, endpoint: { id }, data: { n } },
    })),
  );

/** When the schedule of an endpoint's moments ends, epoch ms. */
const freeAt = async (userId: string) => Number(((await valkey.get(rateKey(userId, "main"))) ?? "").split(" ")[3]);

/** Check that at no time since `from` more has arrived than the limit allows. */
function expectWithin({ perSecond, burst = 1 }: RateLimit, times: readonly number[], from: number): void {
  const early = times.filter((at, index) => at < from + ((index + 1 - burst) * 1000) / perSecond - ROUNDING_MS);
  expect(early).toEqual([]);
}

const arrivals = ({ requests }: Receiver) => requests.map(({ receivedAt }) => receivedAt).sort((a, b) => a - b);
const parkedCount = ({ queue }: Stack, count: number) =>
  eventually(
    () => queue.getDelayedCount(),
    (found) => found >= count,
  );

describe("an endpoint with a rate limit", () => {
  test("three workers together keep to 50 a second, and use 95 % of it", async () => {
    const [EVENTS, limit] = [200, { perSecond: 50 }];
    const customer = await receiver();
    const first = await stack();
    await stack({ queue: first.queue.name });
    await stack({ queue: first.queue.name });
    const userId = await limited(customer, limit);
    const from = Date.now();
    await enqueue(first, userId, EVENTS);
    await customer.waitFor(EVENTS, 20_000);
    const times = arrivals(customer);
    expectWithin(limit, times, from);
    // Of a second: a busy machine is too late for more. Of hours, in virtual time: rate-simulation.test.ts.
    const spans = times.slice(limit.perSecond).map((at, index) => at - (times[index] as number));
    expect(1000 / Math.min(...spans)).toBeGreaterThan(0.95);
    expect(new Set(customer.requests.map(({ headers }) => headers["webhook-id"])).size).toBe(EVENTS);
    expect(await valkey.zcard(rateLineKey(userId, "main"))).toBe(0);
  });

  test("has its events parked, not failed, with no attempt used, and each pays once", async () => {
    const limit = { perSecond: 2 };
    const customer = await receiver();
    const system = await stack();
    const userId = await limited(customer, limit);
    const from = Date.now();
    const jobs = await enqueue(system, userId, 3);
    for (const job of jobs) {
      const settled = await system.settled(job);
      expect([settled.state, settled.job.attemptsMade]).toEqual(["completed", 1]);
      expect((await system.stored(job)).rate).toBeUndefined();
    }
    const times = arrivals(customer);
    expectWithin(limit, times, from);
    const free = await freeAt(userId);
    expect(free - (times[0] as number)).toBeLessThanOrEqual(3 * 500 + ROUNDING_MS);
    expect(await system.metrics.registry.metrics()).toMatch(/parked_jobs_total\{reason="rate"\} [12]\n/);
  });

  test("has an event that is promoted by hand wait until its moment all the same", async () => {
    const limit = { perSecond: 1 };
    const customer = await receiver();
    const system = await stack();
    const userId = await limited(customer, limit);
    const from = Date.now();
    const jobs = await enqueue(system, userId, 2);
    await parkedCount(system, 1);
    for (const job of jobs) if (await job.isDelayed()) await (await system.queue.getJob(job.id as string))?.promote();
    await customer.waitFor(2, 20_000);
    expectWithin(limit, arrivals(customer), from);
  });

  test("has a retry, and an event that is redelivered by hand, wait for their turns", async () => {
    const limit = { perSecond: 2 };
    const customer = await receiver();
    customer.answer(inTurn(500, 200));
    const system = await stack();
    const userId = await limited(customer, limit);
    const from = Date.now();
    const [job] = await enqueue(system, userId, 1);
    await system.settled(job as { id?: string });
    await (await system.queue.getJob(job?.id as string))?.retry("completed");
    await customer.waitFor(3, 20_000);
    expectWithin(limit, arrivals(customer), from);
  });

  test("and what waits for its limit goes at the new one within seconds when it is raised", async () => {
    const customer = await receiver();
    const system = await stack();
    const userId = await limited(customer, { perSecond: 1 });
    await enqueue(system, userId, 60); // for a minute: half have a moment, half stand in line
    await parkedCount(system, 58);
    await registry.update(userId, "main", { rateLimit: { perSecond: 1_000 } });
    await customer.waitFor(60, 20_000);
    expect(await valkey.exists(rateReleasedKey(userId, "main"))).toBe(0);
  });

  test("and what waits for its limit goes at once when it is removed", async () => {
    const customer = await receiver();
    const system = await stack();
    const userId = await limited(customer, { perSecond: 1 });
    await enqueue(system, userId, 60);
    await parkedCount(system, 58);
    await registry.update(userId, "main", { rateLimit: null });
    await customer.waitFor(60, 20_000);
    expect(await valkey.exists(rateKey(userId, "main"), rateReleasedKey(userId, "main"))).toBe(0);
  });

  test("still gets its events evenly spaced after an outage of all workers, and all of them", async () => {
    const limit = { perSecond: 20 };
    const customer = await receiver();
    const before = await stack();
    const userId = await limited(customer, limit);
    await enqueue(before, userId, 60);
    await parkedCount(before, 40);
    await before.stop();
    const { queue } = await stack({ queue: before.queue.name, isIdle: true });
    const due = () => valkey.zcount(queue.toKey("delayed"), "-inf", Date.now() * 0x1000);
    await eventually(due, (count) => count >= 20);
    const arrived = customer.requests.length;
    const from = Date.now();
    await stack({ queue: before.queue.name });
    await customer.waitFor(60, 20_000);
    expectWithin(limit, arrivals(customer).slice(arrived), from);
  });

  test("has an event end as expired at once when its moment is beyond its lifetime", async () => {
    const customer = await receiver();
    const system = await stack({ maxAgeMs: 5_000 });
    const userId = await limited(customer, { perSecond: 1 });
    await enqueue(system, userId, 20);
    await eventually(
      () => system.queue.getFailedCount(),
      (count) => count >= 13,
    );
    expect(customer.requests.length).toBeLessThan(5);
    const [failed] = await system.queue.getFailed(0, 0);
    expect(failed?.failedReason).toBe("expired (rate_limit), older than WEBHOOK_MAX_AGE");
    const own = { expiresAt: new Date(Date.now() + 3_000).toISOString() };
    const late = await system.queue.add("file.created", { userId, endpoint: { id: "main" }, data: {}, ...own });
    expect((await system.settled(late)).job.failedReason).toBe("expired (rate_limit), no attempt after its expiresAt");
  });

  test("slows neither its user's other endpoints nor other users", async () => {
    const [slow, own, other] = [await receiver(), await receiver(), await receiver()];
    const system = await stack();
    const userId = await limited(slow, { perSecond: 5 });
    await registry.create(userId, { url: own.url(), id: "unlimited" });
    await enqueue(system, userId, 1_000);
    const from = Date.now();
    await enqueue(system, userId, 20, "unlimited");
    await system.queue.addBulk(
      Array.from({ length: 20 }, () => ({ name: "file.created", data: jobData(other.url(), { userId: newUser() }) })),
    );
    await Promise.all([own.waitFor(20), other.waitFor(20)]);
    expect(slow.requests.length).toBeLessThan(1 + 5 * ((Date.now() - from) / 1000 + 1));
    expect(await system.metrics.registry.metrics()).not.toMatch(/parked_jobs_total\{reason="circuit"/);
    await eventually(
      () => system.queue.getDelayedCount(),
      (count) => count > 900,
    );
    const job = await system.queue.add("file.created", jobData(other.url(), { userId: newUser() }));
    expect((await system.settled(job)).state).toBe("completed");
  });
});

describe("asking for a turn", () => {
  const prefix = queueKey(`test-${crypto.randomUUID()}`);
  const document = (rateLimit: RateLimit | null | undefined, updatedAt = 1): EndpointDocument => ({
    ...{ url: "https://example.com/", events: null, secrets: [], createdAt: 1, updatedAt },
    ...(rateLimit === undefined ? {} : { rateLimit }),
  });
  const rateOf = () => {
    const askPace = createRate({ valkey, prefix, tag: "" });
    return async (userId: string, job: string, given: EndpointDocument, lifeMs?: number): Promise<Pace | undefined> => {
      await valkey.hset(`${prefix}:${job}`, { name: "file.created" });
      return await askPace({ job, userId, endpointId: "main", document: given, lifeMs });
    };
  };
  const afterOf = (pace: Pace | undefined) => (pace?.kind === "park" ? pace.afterMs : 0);
  const newJob = () => crypto.randomUUID();

  test("as many as the burst go at once after a lull, and then one after the other", async () => {
    const ask = rateOf();
    const [userId, limit] = [newUser(), document({ perSecond: 10, burst: 5 })];
    const from = Date.now();
    const times = new Map<number, number>();
    const paces = await Promise.all(
      Array.from({ length: 10 }, async (_, index) => {
        const pace = await ask(userId, newJob(), limit);
        times.set(index, Date.now() - from);
        return pace;
      }),
    );
    expect(paces.map((pace) => pace?.kind)).toEqual([
      ...["go", "go", "go", "go", "go", "go", "go"], // two of them within 250 ms, waiting in the process
      ...["park", "park", "park"],
    ] as Pace["kind"][]);
    expect(times.get(5)).toBeGreaterThanOrEqual(100 - ROUNDING_MS);
    expect(times.get(6)).toBeGreaterThanOrEqual(200 - ROUNDING_MS);
    const [eighth, ninth, tenth] = paces.slice(7).map(afterOf) as [number, number, number];
    expect(eighth).toBeWithin(250, 301);
    expect([ninth - eighth, tenth - ninth]).toEqual([expect.closeTo(100, -1), expect.closeTo(100, -1)]);
  });

  test("two endpoints, and two users, have turns of their own", async () => {
    const ask = rateOf();
    const limit = document({ perSecond: 1 });
    const [one, other] = [newUser(), newUser()];
    expect((await ask(one, newJob(), limit))?.kind).toBe("go");
    expect((await ask(other, newJob(), limit))?.kind).toBe("go");
    expect((await ask(one, newJob(), limit))?.kind).toBe("park");
  });

  test("without a limit there is nothing to ask, and no key", async () => {
    const [ask, userId] = [rateOf(), newUser()];
    expect(await ask(userId, newJob(), document(undefined))).toBeUndefined();
    expect(
      createRate({ valkey, prefix, tag: "" })({ job: "1", userId, endpointId: "main", document: document(undefined) }),
    ).toBeUndefined();
    expect(await valkey.exists(rateKey(userId, "main"))).toBe(0);
  });

  test("a limit that is lowered holds for what has a moment already, and for workers that do not know of it", async () => {
    const [ask, userId, job] = [rateOf(), newUser(), newJob()];
    const [before, after] = [document({ perSecond: 3 }, 1), document({ perSecond: 0.1 }, 2)];
    await ask(userId, newJob(), before);
    expect(afterOf(await ask(userId, job, before))).toBeWithin(250, 335);
    expect(afterOf(await ask(userId, newJob(), after))).toBeWithin(9_000, 10_002);
    expect(afterOf(await ask(userId, job, before))).toBeWithin(19_000, 20_002);
    expect(afterOf(await ask(userId, newJob(), before))).toBeWithin(29_000, 30_002);
  });

  test("at most 30 s are reserved; the rest stands in line, first come, first served", async () => {
    const [ask, userId, limit] = [rateOf(), newUser(), document({ perSecond: 10 })];
    const jobs = Array.from({ length: 400 }, newJob);
    const all = await Promise.all(jobs.map((job) => ask(userId, job, limit)));
    const marks = await Promise.all(jobs.map((job) => valkey.hget(`${prefix}:${job}`, "rate")));
    const kinds = marks.map((mark) => mark?.split(" ")[0]);
    expect(kinds.filter((kind) => kind === "reserved").length).toBeWithin(290, 302);
    const inLine = all.filter((_, index) => kinds[index] === "line").map(afterOf);
    expect(inLine.length).toBeWithin(95, 105);
    expect(inLine).toEqual(inLine.toSorted((a, b) => a - b));
    expect(inLine[0]).toBeWithin(14_000, 15_001);
    expect(inLine.at(-1)).toBeWithin(23_000, 25_500);
    const returning = jobs[kinds.indexOf("line")] as string;
    expect(afterOf(await ask(userId, returning, limit))).toBeGreaterThan(29_000); // asks, and is refused: it came too early
  });

  test("costs nothing when the moment is beyond the event's life", async () => {
    const [ask, userId, limit] = [rateOf(), newUser(), document({ perSecond: 1 })];
    await ask(userId, newJob(), limit);
    const free = await freeAt(userId);
    expect(await ask(userId, newJob(), limit, 500)).toEqual({ kind: "expired" });
    expect(await freeAt(userId)).toBe(free);
    expect((await ask(userId, newJob(), limit, 2_000))?.kind).toBe("park");
  });

  test("works again after the key was damaged, and leaves nothing of a job that is gone", async () => {
    const [ask, userId, limit] = [rateOf(), newUser(), document({ perSecond: 1 })];
    await valkey.hset(rateKey(userId, "main"), { what: "is this" });
    expect((await ask(userId, newJob(), limit))?.kind).toBe("go");
    const gone = newJob();
    const askPace = createRate({ valkey, prefix, tag: "" });
    expect((await askPace({ job: gone, userId, endpointId: "main", document: limit }))?.kind).toBe("park");
    expect(await valkey.exists(`${prefix}:${gone}`)).toBe(0);
    expect(await valkey.pttl(rateKey(userId, "main"))).toBeWithin(60_000, 63_000);
  });

  test("a Valkey that is full keeps to the limit all the same", async () => {
    const own = await startValkey({ appendonly: false });
    const client = openValkey(own.url, {});
    try {
      const [userId, limit] = [newUser(), document({ perSecond: 1 })];
      const jobs = [newJob(), newJob()] as [string, string];
      for (const job of jobs) await client.hset(`${prefix}:${job}`, { name: "file.created" });
      const askPace = createRate({ valkey: client, prefix, tag: "" });
      await client.config("SET", "maxmemory", "100kb");
      await expect(client.set("any", "thing") as Promise<unknown>).rejects.toThrow("OOM");
      const paced = (job: string) => askPace({ job, userId, endpointId: "main", document: limit });
      expect((await paced(jobs[0]))?.kind).toBe("go");
      expect((await paced(jobs[1]))?.kind).toBe("park");
      expect(await client.hget(`${prefix}:${jobs[1]}`, "rate")).toStartWith("reserved ");
    } finally {
      client.disconnect();
      await own.stop();
    }
  });
});

describe("a rate limit in the registry", () => {
  test.each([
    [{}, "rateLimit.perSecond: expected a number"],
    [{ perSecond: 0 }, "rateLimit.perSecond: expected a number from 0.01 to 10000"],
    [{ perSecond: 10_001 }, "rateLimit.perSecond: expected a number from 0.01 to 10000"],
    [{ perSecond: "10" }, "rateLimit.perSecond: expected a number"],
    [{ perSecond: 1, burst: 0 }, "rateLimit.burst: expected a whole number from 1 to 10000"],
    [{ perSecond: 1, burst: 1.5 }, "rateLimit.burst: expected a whole number from 1 to 10000"],
    [
      { perSecond: 1, perMinute: 60 },
      "rateLimit: expected null for no limit, or an object with perSecond, and burst or not",
    ],
    [10, "rateLimit: expected null for no limit, or an object with perSecond, and burst or not"],
  ])("is refused when it is %j", async (rateLimit, message) => {
    const refused = registry.create(newUser(), { url: "https://example.com/", rateLimit: rateLimit as RateLimit });
    await expect(refused as Promise<unknown>).rejects.toThrow(message);
  });

  test("stays when a change leaves it out, goes with null or another put, and is written once", async () => {
    const userId = newUser();
    const settings = { url: "https://example.com/", rateLimit: { perSecond: 0.5 } };
    const { endpoint } = await registry.create(userId, { ...settings, id: "main" });
    expect(endpoint.rateLimit).toEqual({ perSecond: 0.5 });
    const same = await registry.put(userId, "main", { ...settings, rateLimit: { perSecond: 0.5, burst: 1 } });
    expect(same.endpoint.version).toBe(endpoint.version);
    expect((await registry.update(userId, "main", { description: "CRM" })).rateLimit).toEqual({ perSecond: 0.5 });
    const without = await registry.put(userId, "main", { url: settings.url });
    expect(without.endpoint.rateLimit).toBeNull();
    const again = await registry.update(userId, "main", { rateLimit: null });
    expect(again.version).toBe(without.endpoint.version);
  });
});
