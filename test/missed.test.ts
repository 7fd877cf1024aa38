/** What registered endpoints miss: kept, listed and replayed. Real workers, receivers and Valkeys. */
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { startCluster } from "../src/dev/cluster.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { createFluxhook } from "../src/index.ts";
import {
  createMissed,
  listMissed,
  type MissedCause,
  type MissedCounts,
  type MissedMetrics,
  readMissedCounts,
} from "../src/missed/missed.ts";
import { type Replayed, type ReplayQuery, replayMissed } from "../src/missed/replay.ts";
import { redeliver } from "../src/operations/redeliver.ts";
import { readRedelivered } from "../src/queue/marks.ts";
import { missedDataKey, missedKey } from "../src/queue/own-keys.ts";
import { homeOf } from "../src/queue/shards.ts";
import { openQueue } from "../src/queue/worker.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { connectValkey, openValkey, type Valkey } from "../src/valkey/connection.ts";
import { verify } from "../src/verify.ts";
import { addRaw, endAll, HOUR_MS, inTurn, open, receiver, stack } from "./support/deliveries.ts";
import { eventually, type Stack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const valkeyUrl = await testValkeyUrl();
const valkey = openValkey(valkeyUrl, {});
const registry = createRegistry(valkey, { allowPlain: true });
afterEach(endAll);
afterAll(() => valkey.disconnect());

const SECRET = "a-secret-of-this-test";
const DAY_MS = 24 * HOUR_MS;
const newUser = () => `usr_${crypto.randomUUID()}`;
const dataOf = (userId: string, id = "main", n = 1) => ({ userId, endpoint: { id }, data: { n } });
const countsOf = async (userId: string, id = "main", at: Valkey = valkey): Promise<MissedCounts> =>
  (await readMissedCounts(at, "", userId, [id])).get(id) as MissedCounts;
const jobsOf = async (userId: string, id = "main", at: Valkey = valkey): Promise<string[]> =>
  (await listMissed(at, "", userId, id, { limit: 1_000 })).events.map(({ job }) => job);
const replay = ({ queue }: Pick<Stack, "queue">, userId: string, query?: ReplayQuery, id = "main"): Promise<Replayed> =>
  replayMissed({ queue: queue.name, tag: "", valkey }, userId, id, query);
const nowMs = async (at: Valkey = valkey): Promise<number> => {
  const [seconds, micros] = await at.time();
  return Number(seconds) * 1000 + Math.floor(Number(micros) / 1000);
};

/** A user with an endpoint. */
async function register(url = "http://127.0.0.1/", id = "main", userId = newUser()): Promise<string> {
  await registry.create(userId, { id, url, secret: SECRET });
  return userId;
}

/** Enqueue events, and wait for their ends. */
async function settle(system: Stack, userId: string, count = 1, id = "main") {
  const events = Array.from({ length: count }, (_, n) => ({ name: "file.created", data: dataOf(userId, id, n) }));
  const jobs = await system.queue.addBulk(events);
  return await Promise.all(jobs.map((job) => system.settled(job)));
}

interface Kept {
  readonly timestamp: number;
  readonly data?: string;
  readonly id?: string;
  readonly opts?: string;
}

/** A keeper, and jobs that a worker holds. */
function createKeeper(at: Valkey, missedMax = 1_000) {
  const queue = `test-${crypto.randomUUID()}`;
  const counted: Record<string, number> = {};
  const lines: string[] = [];
  const metrics: MissedMetrics = {
    missed: (result, events) => {
      counted[result] = (counted[result] ?? 0) + events;
    },
  };
  const write = (_: object, message: string) => void lines.push(message);
  const missed = createMissed(at, { queue, tag: "", missedMax, metrics, logger: { warn: write, error: write } });
  const token = "a-token";
  const hold = async ({ timestamp, data = "{}", id, opts = "{}" }: Kept) => {
    const job = { id: id ?? crypto.randomUUID(), token };
    await at.hset(`bull:${queue}:${job.id}`, { name: "file.created", data, opts, timestamp });
    await at.set(`bull:${queue}:${job.id}:lock`, token);
    return job;
  };
  const keep = async (userId: string, event: Kept, cause: MissedCause = "gone") => {
    const job = await hold(event);
    const isKept = await missed.keep(job, { id: `evt-${job.id}`, userId, endpoint: { id: "main" } }, cause);
    await at.ping(); // sent behind it
    return { isKept, job };
  };
  return { queue: { name: queue }, missed, hold, keep, counted, lines };
}

describe("an event is kept as missed", () => {
  test("when its endpoint is disabled: completed as held, without an attempt", async () => {
    const customer = await receiver();
    const system = await stack();
    const userId = await register(customer.url());
    await registry.disable(userId, "main");
    const [settled] = await settle(system, userId);
    expect([settled?.state, settled?.job.returnvalue]).toEqual(["completed", "held: endpoint disabled"]);
    const { events, kept, dropped, oldest, newest } = await listMissed(valkey, "", userId, "main");
    const timestamp = settled?.job.timestamp as number;
    expect([kept, dropped, oldest, newest]).toEqual([1, 0, timestamp, timestamp]);
    expect(events).toMatchObject([{ job: settled?.job.id, event: "file.created", timestamp, cause: "disabled" }]);
    expect(customer.requests).toEqual([]);
    expect(await system.metrics.registry.metrics()).toContain('fluxhook_missed_events_total{result="kept"} 1');
  });

  test("when it is exhausted, answered with 410 or expired, and fails all the same", async () => {
    const customer = await receiver();
    customer.answer(inTurn(500, 500, 410));
    const system = await stack({ policy: { attempts: 2, delaysMs: [1], jitter: 0 } });
    const userId = await register(customer.url());
    await settle(system, userId);
    const expiresAt = new Date(Date.now() - 1).toISOString();
    const late = await system.queue.add(
      "file.created",
      { ...dataOf(userId), expiresAt },
      { timestamp: Date.now() - HOUR_MS },
    );
    expect((await system.settled(late)).state).toBe("failed");
    expect((await settle(system, userId))[0]?.state).toBe("failed");
    const { events } = await listMissed(valkey, "", userId, "main");
    expect(events.map(({ cause }) => cause).sort()).toEqual(["exhausted", "gone", "past_expiry"]);
    expect(await system.queue.getFailedCount()).toBe(3);
  });

  test("but not when its address is blocked, its endpoint was deleted before, or it is a test", async () => {
    const system = await stack({ allowNetworks: [] });
    const userId = await register("http://127.0.0.1:9/");
    expect((await settle(system, userId))[0]?.state).toBe("failed");
    await registry.disable(userId, "main");
    const job = await system.queue.add("file.created", dataOf(userId), { test: true } as object);
    expect((await system.settled(job)).job.returnvalue).toBe("held: endpoint disabled");
    expect((await countsOf(userId)).kept).toBe(0);
    const { keep } = createKeeper(valkey);
    await registry.delete(userId, "main");
    expect((await keep(userId, { timestamp: 1 })).isKept).toBe(true); // a failure fails, whatever becomes of it here
    expect((await keep(userId, { timestamp: 1 }, "disabled")).isKept).toBe(false); // looked up anew
    expect(await valkey.exists(missedKey(userId, "main"), missedDataKey(userId, "main"))).toBe(0);
  });

  test("once, however often it is kept, and only by the worker that holds its job", async () => {
    const userId = await register();
    const { keep, missed, counted } = createKeeper(valkey);
    const { job } = await keep(userId, { timestamp: 7, id: "one", data: '{"a":1}' });
    await keep(userId, { timestamp: 7, id: "one", data: '{"a":1}' });
    const { bytes } = await countsOf(userId);
    await keep(userId, { timestamp: 8, id: "one", data: '{"a":12}' }); // enqueued anew under the same id
    expect(await countsOf(userId)).toMatchObject({ kept: 1, bytes: bytes + 1, oldest: 8 });
    const event = { id: "two", userId, endpoint: { id: "main" } };
    expect(await missed.keep({ ...job, id: "two", token: "another" }, event, "gone")).toBe(true);
    await valkey.ping();
    expect([await jobsOf(userId), counted]).toEqual([["one"], { kept: 1 }]);
  });

  test("for a disabled endpoint only if it still is", async () => {
    const userId = await register();
    const { keep } = createKeeper(valkey);
    expect((await keep(userId, { timestamp: 1 }, "disabled")).isKept).toBe(false);
    await registry.disable(userId, "main");
    expect((await keep(userId, { timestamp: 1 }, "disabled")).isKept).toBe(true);
    expect((await countsOf(userId)).kept).toBe(1);
  });

  test("with all that end in the same turn, by one script", async () => {
    const userId = await register();
    const { missed, keep } = createKeeper(valkey);
    const jobs = await Promise.all(Array.from({ length: 20 }, () => keep(userId, { timestamp: 1 })));
    const before = evals(await valkey.info("commandstats"));
    const event = { id: "any", userId, endpoint: { id: "main" } };
    await Promise.all(jobs.map(({ job }) => missed.keep(job, event, "gone")));
    expect(evals(await valkey.info("commandstats")) - before).toBe(1);
  });

  test("ahead of its acknowledgement, however often the connection is cut", async () => {
    const customer = await receiver();
    const system = await stack({ policy: { attempts: 1, delaysMs: [], jitter: 0 } });
    customer.answer((_, index) => {
      if (index % 25 === 24) system.valkey.stream?.destroy();
      return { status: 500 };
    });
    const userId = await register(customer.url());
    const events = Array.from({ length: 200 }, () => ({ name: "file.created", data: dataOf(userId) }));
    const queue = openQueue(system.queue.name, valkey);
    open.push({ stop: () => queue.close() });
    await queue.addBulk(events);
    await eventually(
      () => queue.getFailedCount(),
      (count) => count >= 100, // a cut may leave jobs active until their locks are gone
    );
    const failed = await valkey.zrange(queue.toKey("failed"), "0", "-1");
    expect(await jobsOf(userId)).toEqual(expect.arrayContaining(failed));
  });

  test("unless a key has the wrong type: then a failure is reported, and a held event is tried again", async () => {
    const [userId, other] = [await register(), await register()];
    await registry.disable(userId, "main");
    await valkey.set(missedKey(userId, "main"), "text");
    const { keep, lines } = createKeeper(valkey);
    const [held] = await Promise.allSettled([
      keep(userId, { timestamp: 1 }, "disabled"),
      keep(other, { timestamp: 1 }),
      keep(userId, { timestamp: 1 }),
    ]);
    expect(held.status).toBe("rejected");
    expect([lines, (await countsOf(other)).kept]).toEqual([["missed.unkept", "missed.unkept"], 1]);
    await valkey.del(missedKey(userId, "main"));
  });
});

const evals = (stats: string) => Number(/cmdstat_eval:calls=(\d+)/.exec(stats)?.[1] ?? 0);

describe("what an endpoint missed is bounded", () => {
  test("by a number of events: the oldest go, and are counted", async () => {
    const userId = await register();
    const { keep, counted } = createKeeper(valkey, 3);
    for (const timestamp of [50, 10, 40, 30, 20]) await keep(userId, { timestamp, id: `at-${timestamp}` });
    expect(await countsOf(userId)).toMatchObject({ kept: 3, dropped: 2, oldest: 30, newest: 50 });
    expect(await jobsOf(userId)).toEqual(["at-50", "at-40", "at-30"]);
    expect(counted).toEqual({ kept: 5, dropped: 2 });
    const { droppedSince = 0 } = await countsOf(userId);
    expect(Math.abs(droppedSince - (await nowMs()))).toBeLessThan(60_000);
    expect(await valkey.pttl(missedKey(userId, "main"))).toBeGreaterThan(6 * DAY_MS);
    expect(await valkey.pttl(missedDataKey(userId, "main"))).toBeGreaterThan(6 * DAY_MS);
  });

  test("by 4 MiB, and an event that is larger pushes out no other", async () => {
    const userId = await register();
    const { keep } = createKeeper(valkey);
    const data = "x".repeat(1024 * 1024);
    for (const timestamp of [1, 2, 3, 4, 5]) await keep(userId, { timestamp, id: `at-${timestamp}`, data });
    expect(await jobsOf(userId)).toEqual(["at-5", "at-4", "at-3"]);
    expect((await countsOf(userId)).bytes).toBeLessThan(4 * 1024 * 1024);
    await keep(userId, { timestamp: 6, data: data.repeat(5) });
    expect([await jobsOf(userId), (await countsOf(userId)).dropped]).toEqual([["at-5", "at-4", "at-3"], 3]);
  });

  test("by 7 days since it was missed", async () => {
    const userId = await register();
    const { keep } = createKeeper(valkey);
    await keep(userId, { timestamp: 1, id: "old" });
    await keep(userId, { timestamp: 2, id: "young" });
    const entry = (await valkey.hget(missedDataKey(userId, "main"), "id:old")) as string;
    const old = entry.replace(/^(\S+) \d+/, `$1 ${(await nowMs()) - 7 * DAY_MS - 1}`);
    await valkey.hset(missedDataKey(userId, "main"), "id:old", old);
    await keep(userId, { timestamp: 3, id: "new" });
    expect([await jobsOf(userId), (await countsOf(userId)).dropped]).toEqual([["new", "young"], 1]);
  });

  test("to nothing by a setting of 0: it is counted", async () => {
    const userId = await register();
    const { keep } = createKeeper(valkey, 0);
    await keep(userId, { timestamp: 1 });
    expect(await countsOf(userId)).toMatchObject({ kept: 0, dropped: 1, bytes: 0 });
  });

  test("by Valkey's memory: above 80 % of maxmemory events are only counted, also when it is full", async () => {
    const server = await startValkey({ appendonly: false });
    const own = openValkey(server.url, {});
    try {
      const userId = newUser();
      await createRegistry(own, { allowPlain: true }).create(userId, { id: "main", url: "http://127.0.0.1/" });
      const { keep, hold, missed, counted, lines } = createKeeper(own);
      const used = async () => Number(/used_memory:(\d+)/.exec(await own.info("memory"))?.[1]);
      const limit = async (share: number) => own.config("SET", "maxmemory", String(Math.ceil((await used()) / share)));
      await limit(0.5);
      await keep(userId, { timestamp: 1, id: "one" });
      await limit(0.9);
      await keep(userId, { timestamp: 2, id: "two" });
      expect(await countsOf(userId, "main", own)).toMatchObject({ kept: 1, dropped: 1 });
      const three = await hold({ timestamp: 3, id: "three" });
      await limit(1.1);
      await expect(own.set("any", "x")).rejects.toThrow("OOM");
      await missed.keep(three, { id: "three", userId, endpoint: { id: "main" } }, "gone");
      await own.config("SET", "maxmemory", "0");
      expect(await countsOf(userId, "main", own)).toMatchObject({ kept: 1, dropped: 2 });
      await keep(userId, { timestamp: 4, id: "four" });
      expect(await jobsOf(userId, "main", own)).toEqual(["four", "one"]);
      expect(counted).toEqual({ kept: 2, no_memory: 2 });
      expect(lines).toEqual(["missed.no_memory"]);
    } finally {
      own.disconnect();
      await server.stop();
    }
  });
});

describe("a list of what an endpoint missed", () => {
  test("comes in pages, newest first, each event once, though some go meanwhile", async () => {
    const userId = await register();
    const { keep } = createKeeper(valkey);
    for (let n = 0; n < 12; n++) await keep(userId, { timestamp: 100 + Math.floor(n / 5), id: `j${n}` });
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await listMissed(valkey, "", userId, "main", { limit: 4, ...(cursor && { cursor }) });
      seen.push(...page.events.map(({ job }) => job));
      cursor = page.cursor;
      await valkey.zrem(missedKey(userId, "main"), seen.at(-1) as string);
    } while (cursor !== undefined);
    expect(seen).toEqual(["j11", "j10", "j9", "j8", "j7", "j6", "j5", "j4", "j3", "j2", "j1", "j0"]);
  });

  test("keeps endpoints apart, of one user and of users whose ids look alike", async () => {
    const userId = newUser();
    const places = [
      [userId, "main"],
      [userId, "crm"],
      [`${userId}:main`, "main"],
      [`${userId}:main`, "crm"],
    ] as const;
    const customer = await receiver();
    const system = await stack();
    for (const [user, id] of places) {
      await register(customer.url(`/${user}/${id}`), id, user);
      await registry.disable(user, id);
    }
    const jobs = await Promise.all(places.map(([user, id]) => settle(system, user, 1, id)));
    for (const [index, [user, id]] of places.entries()) {
      expect(await jobsOf(user, id)).toEqual([jobs[index]?.[0]?.job.id as string]);
    }
    const [user, id] = places[2];
    await registry.enable(user, id);
    expect(await replay(system, user, {}, id)).toEqual({ replayed: 1, skipped: 0, left: 0 });
    expect((await customer.next()).path).toBe(`/${user}/${id}`);
    await registry.delete(userId, "main");
    const kept = await Promise.all(places.map(async ([user, id]) => (await countsOf(user, id)).kept));
    expect(kept).toEqual([0, 1, 0, 1]);
  });
});

describe("a replay", () => {
  test("delivers each event with the body as it was, byte for byte, and its whole retry schedule", async () => {
    const customer = await receiver();
    customer.answer(inTurn(500, 500, 500, 500, 500, 200));
    const system = await stack({ policy: { attempts: 3, delaysMs: [1], jitter: 0 } });
    const userId = await register(customer.url());
    const data = `{ "userId":"${userId}","endpoint":{"id":"main"} , "data":{"big":12345678901234567890.10,"e":1e2,"t":"\\u00fc\\/","none":[],"o":{}}}`;
    const opts = '{"attempts":0,"delay":0,"backoff":null,"tm":"trace"}';
    const { id } = await addRaw(system, "file.created", data, opts);
    expect((await system.settled({ id })).state).toBe("failed");
    const before = await system.stored({ id });
    expect(await replay(system, userId)).toEqual({ replayed: 1, skipped: 0, left: 0 });
    const { state, job } = await system.settled({ id });
    expect([state, job.attemptsMade]).toEqual(["completed", 3]);
    const [first, ...rest] = await customer.waitFor(6);
    for (const request of rest) {
      expect(request.body.equals(first?.body as Buffer)).toBe(true);
      expect(request.headers["webhook-id"]).toBe(first?.headers["webhook-id"] as string);
      expect(verify(request.body, request.headers as Record<string, string>, SECRET).ok).toBe(true);
    }
    const after = await system.stored({ id });
    expect([after.name, after.data, after.timestamp]).toEqual([before.name, data, before.timestamp] as string[]);
    const { delay, ...kept } = JSON.parse(after.opts as string);
    expect(kept).toEqual({ attempts: 0, backoff: null, tm: "trace" });
    const replayedAt = Number(after.replayed);
    expect(Math.abs(Number(after.timestamp) + delay - replayedAt)).toBeLessThan(1_000);
    const marks = await readRedelivered(system.queue, valkey, [id]);
    expect(marks.get(id)).toEqual({ lastAt: replayedAt, firstAt: replayedAt });
  });

  test("of an event that is older than any may wait gives it the time of a new one", async () => {
    const customer = await receiver();
    customer.answer(inTurn(500, 200));
    const system = await stack({ maxAgeMs: HOUR_MS });
    const userId = await register(customer.url());
    await registry.disable(userId, "main");
    const timestamp = Date.now() - 2 * HOUR_MS;
    const held = await system.queue.add("file.created", dataOf(userId), { timestamp });
    await system.settled(held);
    await registry.enable(userId, "main");
    const end = system.settled(held);
    expect((await replay(system, userId)).replayed).toBe(1);
    const { state, job } = await end;
    expect([state, job.attemptsMade, job.timestamp]).toEqual(["completed", 2, timestamp]);
  });

  test("adds a job as Queue.add does: woken, paused, limited and prioritized", async () => {
    const customer = await receiver();
    const userId = await register(customer.url());
    const { keep, queue } = createKeeper(valkey);
    const added = openQueue(queue.name, valkey);
    const other = openQueue(`test-${crypto.randomUUID()}`, valkey);
    open.push({ stop: async () => void (await Promise.all([added.close(), other.close()])) });
    const shapeOf = async ({ name }: { name: string }) => {
      const key = (place: string) => `bull:${name}:${place}`;
      const streamed = (await valkey.xrange(key("events"), "-", "+")).map(([, fields]) => fields);
      const prioritized = await valkey.zrange(key("prioritized"), "0", "-1", "WITHSCORES");
      const marker = await valkey.zrange(key("marker"), "0", "-1", "WITHSCORES");
      const { replayed, redelivered, firstRedelivered, ...hash } = await valkey.hgetall(key("a"));
      return { streamed, prioritized, marker, wait: await valkey.lrange(key("wait"), 0, -1), hash };
    };
    const timestamp = await nowMs();
    const cases: { opts?: object; rest?: (queue: string) => Promise<unknown> }[] = [
      {},
      { opts: { priority: 7 } },
      { rest: (name) => valkey.hset(`bull:${name}:meta`, "paused", 1) },
      { rest: (name) => valkey.hset(`bull:${name}:meta`, "concurrency", 0) },
    ];
    for (const { opts = {}, rest } of cases) {
      for (const { name } of [queue, other]) {
        const keys = await valkey.keys(`bull:${name}:*`);
        if (keys.length > 0) await valkey.del(...keys);
      }
      const data = JSON.stringify(dataOf(userId));
      await keep(userId, { timestamp, id: "a", data, opts: JSON.stringify({ attempts: 0, ...opts }) });
      await valkey.del(`bull:${queue.name}:a`, `bull:${queue.name}:a:lock`);
      for (const { name } of [queue, other]) await rest?.(name);
      expect((await replay({ queue: added as never }, userId)).replayed).toBe(1);
      const { delay } = JSON.parse((await valkey.hget(`bull:${queue.name}:a`, "opts")) as string);
      await other.add("file.created", dataOf(userId), { timestamp, jobId: "a", ...opts });
      const [ours, theirs] = [await shapeOf(queue), await shapeOf(other)];
      expect(JSON.parse(ours.hash.opts as string)).toEqual({ attempts: 0, ...opts, delay });
      expect({ ...ours, hash: { ...ours.hash, opts: "" } }).toEqual({ ...theirs, hash: { ...theirs.hash, opts: "" } });
    }
  });

  test("replaces a finished job with its id, and leaves one that is live with its entry", async () => {
    const system = await stack({ isIdle: true });
    const userId = await register();
    const { keep } = createKeeper(valkey);
    const places = ["completed", "failed", "nowhere", "gone", "delayed", "prioritized", "wait"];
    for (const [index, place] of places.entries()) await keep(userId, { timestamp: index + 1, id: `j-${place}` });
    const key = (name: string) => system.queue.toKey(name);
    for (const place of places) {
      if (place === "gone") continue;
      const id = `j-${place}`;
      await valkey.hset(key(id), { name: "file.created", data: "[]", opts: "{}", timestamp: "5", old: "1" });
      if (place === "wait") await valkey.lpush(key("wait"), id);
      else if (place !== "nowhere") await valkey.zadd(key(place), 1, id);
    }
    expect(await replay(system, userId, { dryRun: true })).toEqual({ replayed: 4, skipped: 3, left: 7 });
    expect(await replay(system, userId)).toEqual({ replayed: 4, skipped: 3, left: 3 });
    expect(await valkey.lrange(key("wait"), 0, -1)).toEqual([
      ...["j-gone", "j-nowhere", "j-failed", "j-completed", "j-wait"],
    ]);
    expect(await system.queue.getJobCounts("completed", "failed")).toEqual({ completed: 0, failed: 0 });
    expect(await Promise.all(["j-completed", "j-wait"].map((id) => valkey.hget(key(id), "old")))).toEqual([null, "1"]);
    expect((await jobsOf(userId)).sort()).toEqual(["j-delayed", "j-prioritized", "j-wait"]);
  });

  test("takes only events of a time, and changes nothing in a dry run", async () => {
    const system = await stack({ isIdle: true });
    const userId = await register();
    const { keep } = createKeeper(valkey);
    for (const timestamp of [10, 20, 30, 40]) await keep(userId, { timestamp, id: `at-${timestamp}` });
    expect(await replay(system, userId, { since: 20, until: 30, dryRun: true })).toMatchObject({
      replayed: 2,
      left: 4,
    });
    expect(await system.queue.getWaitingCount()).toBe(0);
    expect(await replay(system, userId, { since: 20, until: 30 })).toEqual({ replayed: 2, skipped: 0, left: 2 });
    expect(await jobsOf(userId)).toEqual(["at-40", "at-10"]);
    expect(await replay(system, userId, { since: 50 })).toEqual({ replayed: 0, skipped: 0, left: 2 });
  });

  test("that is sent again, since an answer was lost, adds and counts each event once", async () => {
    const system = await stack({ isIdle: true });
    const userId = await register();
    const { keep } = createKeeper(valkey);
    for (let n = 0; n < 120; n++) await keep(userId, { timestamp: n });
    const shard = { queue: system.queue.name, tag: "", valkey };
    const twice = async <T>(work: () => Promise<T>): Promise<T> => {
      await work();
      return await work();
    };
    expect(await replayMissed(shard, userId, "main", {}, twice)).toEqual({ replayed: 120, skipped: 0, left: 0 });
    expect(await system.queue.getWaitingCount()).toBe(120);
  });

  test("is refused for an endpoint that is disabled, or not there", async () => {
    const system = await stack({ isIdle: true });
    const userId = await register();
    await expect(replay(system, userId, {}, "mian")).rejects.toMatchObject({ code: "NOT_FOUND" });
    await registry.disable(userId, "main");
    await expect(replay(system, userId)).rejects.toMatchObject({ code: "CONFLICT" });
    await expect(replay(system, userId, { since: Number.NaN })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });

  test("replay killed halfway is resumed: each event once", async () => {
    const customer = await receiver();
    const system = await stack();
    const userId = await register(customer.url());
    await registry.disable(userId, "main");
    await settle(system, userId, 450);
    await registry.enable(userId, "main");
    const program = join(import.meta.dir, "support/replay-program.ts");
    const child = Bun.spawn([process.execPath, program, valkeyUrl, system.queue.name, userId, "main", "4"], {
      stdout: "pipe",
    });
    open.push({ stop: async () => child.kill("SIGKILL") });
    await child.stdout.getReader().read(); // it has sent two batches, and is about to send the third
    child.kill("SIGKILL");
    await child.exited;
    expect((await countsOf(userId)).kept).toBe(250);
    expect(await replay(system, userId)).toEqual({ replayed: 250, skipped: 0, left: 0 });
    const requests = await customer.waitFor(450);
    await eventually(
      () => system.queue.getJobCounts("waiting", "active"),
      ({ waiting, active }) => waiting === 0 && active === 0,
    );
    expect(new Set(requests.map(({ headers }) => headers["webhook-id"])).size).toBe(450);
    expect(customer.requests).toHaveLength(450);
  });

  test("with enabling races the events that are just being kept: each is delivered once, and none stays", async () => {
    const customer = await receiver();
    const system = await stack({ concurrency: 4 });
    const userId = await register(customer.url());
    const rounds = 12;
    for (let round = 0; round < rounds; round++) {
      await registry.disable(userId, "main");
      const events = Array.from({ length: 10 }, (_, n) => ({ name: "file.created", data: dataOf(userId, "main", n) }));
      const added = system.queue.addBulk(events);
      if (round % 3 > 0) await added;
      if (round % 3 > 1)
        await eventually(
          () => countsOf(userId),
          ({ kept }) => kept > 0,
          20_000,
          0,
        );
      await registry.enable(userId, "main");
      const { skipped } = await replay(system, userId);
      expect(skipped).toBe(0);
      await added;
    }
    const requests = await customer.waitFor(10 * rounds);
    expect(new Set(requests.map(({ headers }) => headers["webhook-id"])).size).toBe(10 * rounds);
    expect((await countsOf(userId)).kept).toBe(0);
  });
});

describe("an event that is answered with 2xx after all is missed no longer", () => {
  test("when it was redelivered by hand, or enqueued anew under its id", async () => {
    const customer = await receiver();
    customer.answer(inTurn(500, 500, 500, 200));
    const system = await stack({ policy: { attempts: 1, delaysMs: [], jitter: 0 } });
    const userId = await register(customer.url());
    const ids = [crypto.randomUUID(), crypto.randomUUID(), crypto.randomUUID()] as const;
    const [first, second, third] = ids;
    for (const jobId of ids) await system.settled(await system.queue.add("file.created", dataOf(userId), { jobId }));
    expect((await countsOf(userId)).kept).toBe(3);
    const again = [first, second].map((id) => system.settled({ id }));
    const queue = openQueue(system.queue.name, valkey);
    open.push({ stop: () => queue.close() });
    expect(await redeliver(queue, first)).toBe("queued");
    await valkey.zrem(system.queue.toKey("failed"), second);
    await valkey.del(system.queue.toKey(second));
    await queue.add("file.created", dataOf(userId), { jobId: second });
    expect((await Promise.all(again)).map(({ state }) => state)).toEqual(["completed", "completed"]);
    await eventually(
      () => jobsOf(userId),
      (jobs) => jobs.length === 1,
    );
    expect(await jobsOf(userId)).toEqual([third]);
    expect(await countsOf(userId)).toMatchObject({ kept: 1, dropped: 0 });
  });

  test("but not while it is answered otherwise, and other endpoints' events are left alone", async () => {
    const customer = await receiver();
    customer.answer(inTurn(500, 500, 200));
    const system = await stack({ policy: { attempts: 1, delaysMs: [], jitter: 0 } });
    const userId = await register(customer.url());
    await register(customer.url(), "other", userId);
    const [failed] = await settle(system, userId);
    const [end] = [system.settled(failed?.job as object)];
    const queue = openQueue(system.queue.name, valkey);
    open.push({ stop: () => queue.close() });
    await redeliver(queue, failed?.job.id as string);
    expect((await end).state).toBe("failed");
    await settle(system, userId, 1, "other");
    expect(await jobsOf(userId)).toEqual([failed?.job.id as string]);
  });
});

describe("a backend", () => {
  test("lists what an endpoint missed, and replays it, also while enabling it", async () => {
    const customer = await receiver();
    const system = await stack();
    const fluxhook = createFluxhook({
      valkeyUrl,
      queue: system.queue.name,
      timeoutMs: 10_000,
      allowPlainSecrets: true,
    });
    open.push({ stop: () => fluxhook.close() });
    const { endpoints } = fluxhook;
    const userId = newUser();
    await endpoints.create(userId, { id: "main", url: customer.url(), secret: SECRET });
    await endpoints.disable(userId, "main");
    const event = { event: "file.created", userId, endpoint: { id: "main" }, data: { n: 1 } } as const;
    const sent = await fluxhook.enqueueMany([event, event, event]);
    await Promise.all(sent.map((one) => system.settled(one)));
    const page = await endpoints.missed(userId, "main", { limit: 2 });
    expect([page.kept, page.dropped, page.events.length]).toEqual([3, 0, 2]);
    const rest = await endpoints.missed(userId, "main", { limit: 2, cursor: page.cursor });
    expect([rest.events.length, rest.cursor]).toEqual([1, undefined]);
    const ids = [...page.events, ...rest.events].map(({ id }) => id);
    expect(ids.sort()).toEqual(sent.map(({ id }) => id).sort());
    await expect(endpoints.replay(userId, "main")).rejects.toMatchObject({ code: "CONFLICT" });
    const later = new Date(Date.now() + HOUR_MS);
    const enabled = await endpoints.enable(userId, "main", { replay: later });
    expect([enabled.state.kind, enabled.replay]).toEqual(["enabled", { replayed: 0, skipped: 0, left: 3 }]);
    expect((await endpoints.enable(userId, "main")).replay).toBeUndefined();
    expect(await endpoints.replay(userId, "main", { dryRun: true })).toEqual({ replayed: 3, skipped: 0, left: 3 });
    expect(await endpoints.replay(userId, "main", { until: page.oldest })).toMatchObject({ skipped: 0 });
    expect((await endpoints.enable(userId, "main", { replay: true })).replay).toMatchObject({ left: 0 });
    await customer.waitFor(3);
    expect((await endpoints.missed(userId, "main")).events).toEqual([]);
  });

  test.each([
    ["missed", { limit: 0 }, "expected limit to be a whole number from 1 to 1000"],
    ["missed", { cursor: "x" }, "expected cursor to be that of a page before"],
    ["replay", { since: "yesterday" }, "expected since to be a Date or epoch ms"],
    ["replay", { until: new Date("x") }, "expected until to be a Date or epoch ms"],
    ["replay", { dryrun: true }, "dryrun is not an option; did you mean dryRun?"],
    ["enable", { replay: "all" }, "expected replay to be true, or the time of the oldest event: a Date or epoch ms"],
  ] as const)("is told what is wrong with %s(%j)", async (name, options, message) => {
    const fluxhook = createFluxhook({ valkeyUrl, allowPlainSecrets: true });
    open.push({ stop: () => fluxhook.close() });
    const call = fluxhook.endpoints[name] as (...args: unknown[]) => Promise<unknown>;
    await expect(call("usr_1", "main", options)).rejects.toMatchObject({ code: "INVALID_ARGUMENT", message });
    await expect(call("usr_1", "main")).rejects.toMatchObject({ code: "NOT_FOUND" });
  });
});

test("in a cluster, all of it is in the slot of the user's shard", async () => {
  const cluster = await startCluster({ replicas: 0 });
  open.push({ stop: () => cluster.stop() });
  const userId = "usr:with:colons";
  const [shards, home] = [3, homeOf(userId, 3)];
  const [queue, tag] = [`webhooks-{${home}}`, `{${home}}:`];
  const own = connectValkey(cluster.url, "test:missed", { info() {}, warn() {} }, { key: queue });
  const fluxhook = createFluxhook({ valkeyUrl: cluster.url, shards, timeoutMs: 10_000, allowPlainSecrets: true });
  open.push({
    async stop() {
      await fluxhook.close();
      own.disconnect();
    },
  });
  await fluxhook.endpoints.create(userId, { id: "main", url: "http://127.0.0.1/" });
  const logger = { warn() {}, error() {} };
  const missed = createMissed(own, { queue, tag, missedMax: 10, metrics: { missed() {} }, logger });
  const job = { id: "one", token: "a-token" };
  const data = JSON.stringify(dataOf(userId));
  await own.hset(`bull:${queue}:one`, { name: "file.created", data, opts: "{}", timestamp: 5 });
  await own.set(`bull:${queue}:one:lock`, job.token);
  expect(await missed.keep(job, { id: "evt", userId, endpoint: { id: "main" } }, "gone")).toBe(true);
  await own.ping();
  expect(await fluxhook.endpoints.missed(userId, "main")).toMatchObject({ kept: 1, events: [{ id: "evt" }] });
  expect(await fluxhook.endpoints.replay(userId, "main")).toEqual({ replayed: 1, skipped: 0, left: 0 });
  expect(await own.lrange(`bull:${queue}:wait`, 0, -1)).toEqual(["one"]);
});
