/** Events that name no endpoint: to which endpoints they go, and what is made of them. Real workers and receivers. */
import { afterEach, describe, expect, test } from "bun:test";
import { Queue } from "bullmq";
import { eventIdOf } from "../src/delivery/request.ts";
import { createFanOut } from "../src/endpoints/fan-out.ts";
import { readMissedCounts } from "../src/missed/missed.ts";
import { replayMissed } from "../src/missed/replay.ts";
import { redeliver } from "../src/operations/redeliver.ts";
import { endpointsKey } from "../src/queue/own-keys.ts";
import { flowTagsKey } from "../src/queue/turns.ts";
import type { Job } from "../src/queue/worker.ts";
import { ADDRESSING } from "../src/registry/addressing.ts";
import { createRegistry, type NewEndpoint, type Registry } from "../src/registry/registry.ts";
import type { Valkey } from "../src/valkey/connection.ts";
import { addRaw, endAll, HOUR_MS, inTurn, receiver, stack, tellOfChange } from "./support/deliveries.ts";
import { eventually, type Stack, type StackOptions } from "./support/stack.ts";

afterEach(endAll);

const newUser = () => `usr_${crypto.randomUUID()}`;
const registryOf = (valkey: Valkey) => createRegistry(valkey, { allowPlain: true });
const start = (options: StackOptions = {}) => stack({ registry: true, ...options });

/** A user with these endpoints. */
async function userWith(valkey: Valkey, ...endpoints: NewEndpoint[]): Promise<{ userId: string; registry: Registry }> {
  const userId = newUser();
  const registry = registryOf(valkey);
  for (const endpoint of endpoints) await registry.create(userId, endpoint);
  return { userId, registry };
}

const dataOf = (userId: string) => ({ userId, data: { n: 1 } });

const bodyOf = ({ body }: { readonly body: Buffer }) => body.toString();
const childrenOf = async ({ queue, valkey }: Stack, id: string | undefined) =>
  (await valkey.keys(queue.toKey(`${id}.*`)))
    .map((key) => key.slice(queue.toKey("").length))
    .filter((child) => !child.includes(":"))
    .sort();
const result = async (system: Stack, job: { id?: string | undefined }) =>
  (await system.settled(job)).job.returnvalue as unknown as string;
const reason = async (system: Stack, job: { id?: string | undefined }) => (await system.settled(job)).job.failedReason;
const finished = (system: Stack, id: string) =>
  eventually(
    () => system.queue.getJobState(id),
    (state) => state === "completed",
  );

describe("an event that names no endpoint", () => {
  test("goes to all of the user's endpoints that want its type", async () => {
    const [all, some, none] = [await receiver(), await receiver(), await receiver()];
    const system = await start();
    const { userId } = await userWith(
      system.valkey,
      { id: "all", url: all.url() },
      { id: "some", url: some.url(), events: ["file.*", "share.linked"] },
      { id: "none", url: none.url(), events: ["org.updated"] },
    );
    const job = await system.queue.add("file.created", dataOf(userId));
    expect(await result(system, job)).toBe("to 2 endpoints");
    const [one, other] = [await all.next(), await some.next()];
    expect(one.body).toEqual(other.body);
    expect(one.headers["webhook-id"]).toBe(other.headers["webhook-id"] as string);
    expect(none.requests).toHaveLength(0);
    expect(await childrenOf(system, job.id)).toEqual([`${job.id}.all`, `${job.id}.some`]);
    expect(await system.metrics.registry.metrics()).toContain("fluxhook_fanned_out_jobs_total 2");
  });

  test("is completed when no endpoint wants it, and counted", async () => {
    const system = await start();
    const { userId } = await userWith(system.valkey, { url: "http://127.0.0.1:9/", events: ["org.updated"] });
    const job = await system.queue.add("file.created", dataOf(userId));
    expect(await result(system, job)).toBe("no endpoint wants it");
    expect(await system.metrics.registry.metrics()).toContain("fluxhook_unwanted_events_total 1");
  });

  test("fails with a misspelled endpoint, for a user without a registry, and without WEBHOOK_REGISTRY", async () => {
    const [system, without] = [await start(), await stack()];
    const { userId } = await userWith(system.valkey, { url: "http://127.0.0.1:9/" });
    const endpiont = { url: "http://127.0.0.1:9/", secret: "a-secret-of-this-test" };
    expect(await reason(system, await system.queue.add("file.created", { ...dataOf(userId), endpiont }))).toBe(
      "data: expected endpoint, or no other field than userId, data, id, expiresAt, got endpiont",
    );
    expect(await reason(system, await system.queue.add("file.created", { ...dataOf(userId), endpoint: null }))).toBe(
      "data.endpoint: expected an object with url and secret, or with the id of a registered endpoint",
    );
    expect(await reason(system, await system.queue.add("file.created", dataOf(newUser())))).toBe(
      "no_registry: the event names no endpoint, and its user has registered none",
    );
    expect(await reason(without, await without.queue.add("file.created", dataOf(userId)))).toBe(
      "data.endpoint: expected an object with url and secret, or with the id of a registered endpoint",
    );
  });

  test("no event older than the endpoint", async () => {
    const customer = await receiver();
    const system = await start();
    const { userId, registry } = await userWith(system.valkey, { id: "main", url: customer.url() });
    const timestamp = Date.now() - 6 * 60 * 1000;
    const old = await system.queue.add("file.created", dataOf(userId), { timestamp });
    expect(await result(system, old)).toBe("no endpoint wants it; not to younger ones: main");
    await system.valkey.hset(endpointsKey(userId), {
      "/version": crypto.randomUUID(),
      ...(await backdated(system.valkey, userId, "main", timestamp)),
    });
    await tellOfChange(system.valkey, userId);
    await registry.create(userId, { id: "later", url: customer.url() });
    const other = await system.queue.add("file.created", dataOf(userId), { timestamp });
    await system.settled(other);
    expect(customer.requests).toHaveLength(1);
    expect(await childrenOf(system, other.id)).toEqual([]);
  });

  test("keeps its numbers as they were written, for each endpoint", async () => {
    const customers = [await receiver(), await receiver()] as const;
    const system = await start();
    const { userId } = await userWith(system.valkey, { url: customers[0].url() }, { url: customers[1].url() });
    const orders = [
      `{ "userId" : "${userId}" , "data" : {"big": 12345678901234567890, "one": 1.0, "empty": []} }`,
      `{"data":{"big":12345678901234567890,"one":1.0,"empty":[]},"userId":"${userId}"}`,
    ];
    for (const data of orders) {
      await addRaw(system, "file.created", data, "{}");
      for (const customer of customers) {
        expect(bodyOf(await customer.next())).toContain('"data":{"big":12345678901234567890,"one":1.0,"empty":[]}');
      }
    }
  });

  test("goes to the endpoints of then when it is redelivered, and not to new ones", async () => {
    const [one, other, later] = [await receiver(), await receiver(), await receiver()];
    const system = await start();
    const { userId, registry } = await userWith(
      system.valkey,
      { id: "one", url: one.url() },
      { id: "other", url: other.url() },
    );
    const job = await system.queue.add("file.created", dataOf(userId));
    await system.settled(job);
    for (const id of ["one", "other"]) await finished(system, `${job.id}.${id}`);
    await registry.create(userId, { id: "later", url: later.url() });
    await system.valkey.del(system.queue.toKey(`${job.id}.other`)); // as if it had been trimmed
    await system.valkey.zrem(system.queue.toKey("completed"), `${job.id}.other`);
    const again = system.settled(job);
    expect(await redeliver(system.queue, job.id as string)).toBe("queued");
    expect((await again).job.returnvalue as unknown).toBe("again to 2 endpoints");
    const [first, second] = await one.waitFor(2);
    await other.waitFor(2);
    expect(first?.body).toEqual(second?.body as Buffer);
    // And as Bull Board does it, which resets nothing.
    const third = system.settled(job);
    for (const id of ["one", "other"]) await finished(system, `${job.id}.${id}`);
    await (await system.queue.getJob(job.id as string))?.retry("completed");
    expect((await third).job.returnvalue as unknown).toBe("again to 2 endpoints");
    await Promise.all([one.waitFor(3), other.waitFor(3)]);
    expect([one.requests.length, other.requests.length, later.requests.length]).toEqual([3, 3, 0]);
  });
});

/** An endpoint's stored document, as if it had been created at another time. */
async function backdated(valkey: Valkey, userId: string, id: string, createdAt: number) {
  const [version, ...json] = ((await valkey.hget(endpointsKey(userId), id)) as string).split(" ");
  return { [id]: `${version} ${JSON.stringify({ ...JSON.parse(json.join(" ")), createdAt })}` };
}

describe("of a user with one endpoint that wants it", () => {
  test("one endpoint: no second job, nothing written before the request", async () => {
    const customer = await receiver();
    const system = await start();
    const { userId } = await userWith(system.valkey, { id: "main", url: customer.url() });
    const seen: unknown[] = [];
    const jobId = crypto.randomUUID();
    customer.answer(async () => {
      const { atm, ats, processedOn, pb, ...fields } = await system.stored({ id: jobId });
      seen.push(Object.keys(fields).sort(), await system.queue.getJobCounts("active", "waiting", "completed"));
      return {};
    });
    const job = await system.queue.add("file.created", dataOf(userId), { jobId });
    const ended = await system.settled(job);
    expect(ended.job.returnvalue as unknown).toMatch(/^HTTP 200/);
    expect(seen).toEqual([
      ["data", "delay", "name", "opts", "priority", "timestamp"],
      { active: 1, waiting: 0, completed: 0 },
    ]);
    const stored = await system.stored(job);
    expect([stored.data, stored.to]).toEqual([JSON.stringify(dataOf(userId)), "main"]);
    expect(await system.attempts(userId)).toMatchObject([{ endpoint_id: "main" }]);
  });

  test("stays at the endpoint where it began, when it is retried and when it is redelivered", async () => {
    const [first, second] = [await receiver(), await receiver()];
    first.answer(inTurn(500, 200));
    const system = await start({ policy: { attempts: 2, delaysMs: [HOUR_MS], jitter: 0 } });
    const { userId, registry } = await userWith(system.valkey, { id: "first", url: first.url() });
    const job = await system.queue.add("file.created", dataOf(userId));
    await eventually(
      () => system.queue.getDelayedCount(),
      (count) => count === 1,
    );
    expect((await system.stored(job)).to).toBe("first");
    await registry.create(userId, { id: "second", url: second.url() });
    await (await system.queue.getJob(job.id as string))?.promote();
    await system.settled(job);
    const again = system.settled(job);
    await redeliver(system.queue, job.id as string);
    await again;
    expect([first.requests.length, second.requests.length]).toEqual([3, 0]);
    expect(await childrenOf(system, job.id)).toEqual([]);
  });

  test("waits while that one is paused, and goes there afterwards", async () => {
    const [first, second] = [await receiver(), await receiver()];
    const system = await start();
    const { userId, registry } = await userWith(system.valkey, { id: "first", url: first.url() });
    await registry.pause(userId, "first");
    const job = await system.queue.add("file.created", dataOf(userId));
    await eventually(
      () => system.queue.getDelayedCount(),
      (count) => count === 1,
    );
    expect((await system.stored(job)).to).toBe("first");
    await registry.create(userId, { id: "second", url: second.url() });
    await registry.resume(userId, "first");
    await (await system.queue.getJob(job.id as string))?.promote();
    await system.settled(job);
    expect([first.requests.length, second.requests.length]).toEqual([1, 0]);
  });

  test("is kept as missed while that one is disabled, and replayed to it alone", async () => {
    const [first, second] = [await receiver(), await receiver()];
    const system = await start();
    const { userId, registry } = await userWith(system.valkey, { id: "first", url: first.url() });
    await registry.disable(userId, "first");
    const job = await system.queue.add("file.created", dataOf(userId));
    expect(await result(system, job)).toBe("held: endpoint disabled");
    await registry.create(userId, { id: "second", url: second.url() });
    await registry.enable(userId, "first");
    const again = system.settled(job);
    expect(await replayMissed(shardOf(system), userId, "first")).toMatchObject({ replayed: 1, left: 0 });
    await again;
    expect([first.requests.length, second.requests.length]).toEqual([1, 0]);
  });
});

const shardOf = ({ queue, valkey }: Stack) => ({ queue: queue.name, tag: "", valkey });

describe("of a user with several", () => {
  /** An event of a user with three endpoints, of which one is disabled and one is paused. */
  async function addForThree() {
    const [live, off, paused] = [await receiver(), await receiver(), await receiver()];
    const system = await start();
    const { userId, registry } = await userWith(
      system.valkey,
      { id: "live", url: live.url() },
      { id: "off", url: off.url() },
      { id: "paused", url: paused.url() },
    );
    await registry.disable(userId, "off");
    await registry.pause(userId, "paused");
    const job = await system.queue.add("file.created", dataOf(userId));
    return { live, off, paused, system, userId, registry, job };
  }

  test("is kept as missed for one that is disabled, and waits for one that is paused", async () => {
    const { live, off, paused, system, userId, registry, job } = await addForThree();
    expect(await result(system, job)).toBe("to 2 endpoints, 1 missed");
    await live.next();
    await eventually(
      () => system.queue.getJobState(`${job.id}.paused`),
      (state) => state === "delayed",
    );
    expect((await readMissedCounts(system.valkey, "", userId, ["off"])).get("off")).toMatchObject({ kept: 1 });
    await registry.enable(userId, "off");
    expect(await replayMissed(shardOf(system), userId, "off")).toMatchObject({ replayed: 1 });
    await registry.resume(userId, "paused");
    await (await system.queue.getJob(`${job.id}.paused`))?.promote();
    const bodies = [await live.waitFor(1), await off.waitFor(1), await paused.waitFor(1)].map(([first]) => first?.body);
    expect(new Set(bodies.map(String)).size).toBe(1);
  });

  test("is redelivered to those whose delivery is over, and to one that missed it; one that waits goes on waiting", async () => {
    const { live, off, paused, system, userId, registry, job } = await addForThree();
    await system.settled(job);
    await finished(system, `${job.id}.live`);
    await registry.enable(userId, "off");
    const again = system.settled(job);
    await redeliver(system.queue, job.id as string);
    expect((await again).job.returnvalue as unknown).toBe("again to 3 endpoints");
    await Promise.all([live.waitFor(2), off.waitFor(1)]);
    expect((await readMissedCounts(system.valkey, "", userId, ["off"])).get("off")).toMatchObject({ kept: 0 });
    await registry.resume(userId, "paused");
    await eventually(
      () => system.queue.getJobState(`${job.id}.paused`),
      (state) => state === "delayed",
    );
    await (await system.queue.getJob(`${job.id}.paused`))?.promote();
    await finished(system, `${job.id}.paused`);
    expect([live.requests.length, off.requests.length, paused.requests.length]).toEqual([2, 1, 1]);
  });

  test("ends at once when it is run again after a worker's death, whatever was trimmed meanwhile", async () => {
    const customers = [await receiver(), await receiver()] as const;
    const system = await start({ isIdle: true });
    const { userId } = await userWith(
      system.valkey,
      { id: "one", url: customers[0].url() },
      { id: "other", url: customers[1].url() },
    );
    const job = await system.queue.add("file.created", dataOf(userId));
    const { fanOut, plan, event } = await byHand(system, userId, job);
    const held = await take(system);
    expect(await fanOut(held, event, plan)).toMatchObject({ kind: "done", added: 2 });
    expect(await fanOut(held, event, plan)).toMatchObject({ kind: "done", added: 2, isAgain: false }); // sent again
    for (const child of await childrenOf(system, job.id)) await system.queue.remove(child);
    await system.valkey.del(system.queue.toKey(`${job.id}:lock`)); // the worker is gone
    for (let check = 0; check < 2; check++) {
      await system.valkey.del(system.queue.toKey("stalled-check"));
      await system.worker.backend.moveStalledJobsToWait();
    }
    expect((await system.stored(job)).stc).toBe("1");
    system.worker.run();
    expect(await result(system, job)).toBe("to 2 endpoints");
    expect(await childrenOf(system, job.id)).toEqual([]);
    expect(await system.queue.getJobCounts("waiting", "active", "delayed")).toEqual({
      waiting: 0,
      active: 0,
      delayed: 0,
    });
  });

  test("a worker that lost its lock adds nothing", async () => {
    const system = await start({ isIdle: true });
    const { userId } = await userWith(
      system.valkey,
      { id: "one", url: "http://127.0.0.1:9/" },
      { id: "other", url: "http://127.0.0.1:9/" },
    );
    const job = await system.queue.add("file.created", dataOf(userId));
    const { fanOut, plan, event } = await byHand(system, userId, job);
    const held = await take(system);
    await system.valkey.set(system.queue.toKey(`${job.id}:lock`), "another");
    expect(await fanOut(held, event, plan)).toEqual({ kind: "lost" });
    expect([await childrenOf(system, job.id), (await system.stored(job)).fan]).toEqual([[], undefined]);
  });

  test("nothing is made for endpoints that have changed since they were looked up", async () => {
    const system = await start({ isIdle: true });
    const { userId, registry } = await userWith(
      system.valkey,
      { id: "one", url: "http://127.0.0.1:9/" },
      { id: "other", url: "http://127.0.0.1:9/" },
    );
    const job = await system.queue.add("file.created", dataOf(userId));
    const { fanOut, plan, event } = await byHand(system, userId, job);
    const held = await take(system);
    await registry.disable(userId, "one");
    expect(await fanOut(held, event, plan)).toEqual({ kind: "changed" });
    expect(await childrenOf(system, job.id)).toEqual([]);
  });

  test("that is enqueued again once its job is gone is not delivered twice, but again to where it failed", async () => {
    const [fine, broken] = [await receiver(), await receiver()];
    broken.answer(() => ({ status: 410 }));
    const system = await start();
    const { userId, registry } = await userWith(
      system.valkey,
      { id: "fine", url: fine.url() },
      { id: "broken", url: broken.url() },
    );
    const jobId = crypto.randomUUID();
    const ends = ["fine", "broken"].map((id) => system.settled({ id: `${jobId}.${id}` }));
    await system.queue.add("file.created", dataOf(userId), { jobId });
    await Promise.all(ends);
    await registry.enable(userId, "broken");
    broken.answer(() => ({}));
    await finished(system, jobId);
    await system.queue.remove(jobId);
    const again = system.settled({ id: `${jobId}.broken` });
    await system.queue.add("file.created", dataOf(userId), { jobId });
    expect((await again).state).toBe("completed");
    expect([fine.requests.length, broken.requests.length]).toEqual([1, 2]);
  });

  test("of a job scheduler is delivered to each of them, at each of its runs", async () => {
    const customers = [await receiver(), await receiver()] as const;
    const system = await start();
    const { userId } = await userWith(
      system.valkey,
      { id: "one", url: customers[0].url() },
      { id: "other", url: customers[1].url() },
    );
    await system.queue.upsertJobScheduler("daily", { every: 50 }, { name: "file.created", data: dataOf(userId) });
    for (const customer of customers) await customer.waitFor(2);
    await system.queue.removeJobScheduler("daily");
    const [child] = (await system.valkey.keys(system.queue.toKey("repeat:daily:*.one"))) as [string];
    const { rjk, opts } = await system.valkey.hgetall(child);
    expect([rjk, JSON.parse(opts as string).repeat]).toEqual([undefined, undefined]);
  });

  test("more than 8 MB of jobs take several scripts, and each is made once", async () => {
    const system = await start({ isIdle: true });
    const ids = ["one", "other", "third"];
    const { userId } = await userWith(system.valkey, ...ids.map((id) => ({ id, url: "http://127.0.0.1:9/" })));
    const data = { userId, data: { text: "x".repeat(5 * 1024 * 1024) } };
    const job = await system.queue.add("file.created", data);
    const { fanOut, plan, event } = await byHand(system, userId, job);
    const held = await take(system);
    expect(await fanOut(held, event, plan)).toMatchObject({ kind: "done", added: 3 });
    expect(await system.queue.getWaitingCount()).toBe(3);
    expect(await system.metrics.registry.metrics()).toContain("fluxhook_fanned_out_jobs_total 3");
  });
});

/** What a worker of this system makes an event's deliveries with, without one that runs. */
async function byHand({ queue, valkey, metrics }: Stack, userId: string, job: { id?: string | undefined }) {
  const fanOut = createFanOut(valkey, { queue: queue.name, tag: "", missedMax: 10, metrics });
  const fields = await valkey.hgetall(endpointsKey(userId));
  const endpointIds = Object.keys(fields).filter((field) => !field.includes("/"));
  const plan = { version: fields["/version"] as string, endpointIds };
  return { fanOut, plan, event: { id: eventIdOf({ ...job, queueName: queue.name, timestamp: 1 }, undefined), userId } };
}

/** Take the next job, as a worker does. */
async function take({ worker }: Stack): Promise<Job> {
  const token = crypto.randomUUID();
  const job = (await worker.getNextJob(token)) as Job;
  job.token = token;
  return job;
}

describe("a delivery", () => {
  /** The state of a queue: its keys, and what a new job changes in them. */
  async function picture({ queue, valkey }: { queue: Queue; valkey: Valkey }, id: string) {
    const { opts, data, ...fields } = await valkey.hgetall(queue.toKey(id));
    const entries = await valkey.xrange(queue.toKey("events"), "-", "+");
    const events = entries.map(([, entry]) => entry.map((text) => text)).filter((entry) => entry.includes(id));
    return {
      fields,
      opts: JSON.parse(opts as string),
      data: JSON.parse(data as string),
      events,
      marker: await valkey.zrange(queue.toKey("marker"), "0", "-1"),
      wait: (await valkey.lrange(queue.toKey("wait"), 0, -1)).includes(id),
      prioritized: (await valkey.zscore(queue.toKey("prioritized"), id)) !== null,
    };
  }

  /** A delay that is over stays in the options: an event is due after it. */
  const pick = (opts: { readonly delay?: number; readonly [name: string]: unknown }) =>
    opts.delay === undefined ? {} : { delay: opts.delay };

  for (const [how, opts, prepare] of [
    ["plain", {}, async () => {}],
    ["with options", { attempts: 4, backoff: { type: "fixed", delay: 7 }, delay: 5, keepLogs: 3 }, async () => {}],
    ["with a priority", { priority: 9 }, async () => {}],
    ["in a queue that is paused", {}, async (queue: Queue) => await queue.pause()],
    ["beyond the queue's concurrency", {}, async (queue: Queue) => await queue.setGlobalConcurrency(1)],
  ] as const) {
    test(`a child is what Queue.add makes: ${how}`, async () => {
      const system = await start({ isIdle: true });
      const { userId } = await userWith(
        system.valkey,
        { id: "one", url: "http://127.0.0.1:9/" },
        { id: "other", url: "http://127.0.0.1:9/" },
      );
      const timestamp = Date.now() - 1_000;
      const id = "a/b-c";
      const job = await system.queue.add("file.created", dataOf(userId), { ...opts, jobId: id, timestamp, delay: 0 });
      const held = await take(system);
      const stored = { ...JSON.parse((await system.stored(job)).opts as string), ...pick(opts) };
      await system.valkey.hset(system.queue.toKey(id), { opts: JSON.stringify(stored) });
      await prepare(system.queue);
      await system.valkey.del(system.queue.toKey("marker"));
      const { fanOut, plan, event } = await byHand(system, userId, job);
      await fanOut(held, event, plan);

      const other = new Queue(`test-${crypto.randomUUID()}`, { connection: system.valkey });
      await system.valkey.lpush(other.toKey("active"), "another");
      await prepare(other);
      const child = `${id}.one`;
      const data = { userId, endpoint: { id: "one" }, id: event.id, data: { n: 1 } };
      await other.add("file.created", data, { ...opts, delay: 0, jobId: child, timestamp });
      const made = await picture(system, child);
      const usual = await picture({ queue: other, valkey: system.valkey }, child);
      expect(made).toEqual({ ...usual, opts: { ...usual.opts, ...pick(opts) } });
      expect(JSON.stringify(made.data)).toBe(JSON.stringify(data)); // in this order
      await other.close();
    });
  }

  test("takes its event's place: ahead of what waits", async () => {
    const system = await start({ isIdle: true });
    const { userId } = await userWith(
      system.valkey,
      { id: "one", url: "http://127.0.0.1:9/" },
      { id: "other", url: "http://127.0.0.1:9/" },
    );
    const job = await system.queue.add("file.created", dataOf(userId));
    const next = await system.queue.add("file.created", dataOf(userId));
    const { fanOut, plan, event } = await byHand(system, userId, job);
    await fanOut(await take(system), event, plan);
    const waiting = await system.valkey.lrange(system.queue.toKey("wait"), 0, -1);
    expect(waiting.reverse()).toEqual([
      `${job.id}.${plan.endpointIds[0]}`,
      `${job.id}.${plan.endpointIds[1]}`,
      next.id as string,
    ]);
  });
});

test("an endpoint is put into data of any spelling, and nothing else is changed", async () => {
  const { valkey } = await start({ isIdle: true });
  const script = `${ADDRESSING}\nlocal head, tail = splitData(ARGV[1], ARGV[2]) return head and head .. "main" .. tail`;
  const put = async (data: string, id = "") => (await valkey.eval(script, 0, data, id)) as string | null;
  const rest = '"data":{"userId":"x","a":[1.0,{}],"t":"}\\"{"}';
  for (const [data, expected] of [
    [`{"userId":"u",${rest}}`, `{"userId":"u","endpoint":{"id":"main"},${rest}}`],
    [` {\n "userId" : "u" ,\t${rest} } `, `{"userId" : "u" ,"endpoint":{"id":"main"},${rest} } `],
    [`{${rest},"userId":"u"}`, `{"endpoint":{"id":"main"},${rest},"userId":"u"}`],
    [`{"userId":"\\u0075",${rest}}`, `{"endpoint":{"id":"main"},"userId":"\\u0075",${rest}}`],
  ] as const) {
    expect(await put(data)).toBe(expected);
    const parsed = JSON.parse((await put(data, "an-id")) as string);
    expect(parsed).toEqual({ ...JSON.parse(data), endpoint: { id: "main" }, id: "an-id" });
  }
  expect(await put("[]")).toBeNull();
});

describe("a backlog", () => {
  test("of a yielding user's deliveries takes turns with others: one for each turn, in the place of their events", async () => {
    const system = await start({ isIdle: true });
    const ids = ["one", "other"];
    const { userId } = await userWith(system.valkey, ...ids.map((id) => ({ id, url: "http://127.0.0.1:9/" })));
    const jobs = [
      await system.queue.add("file.created", dataOf(userId)),
      await system.queue.add("file.created", dataOf(userId)),
    ];
    const held = [await take(system), await take(system)];
    const [tags, prioritized] = [flowTagsKey(system.queue.toKey("").slice(0, -1)), system.queue.toKey("prioritized")];
    await system.valkey.zadd(prioritized, 3, "another");
    await system.valkey.hset(tags, { [`u:${userId}`]: "40" });
    for (const [index, job] of jobs.entries()) {
      const { fanOut, plan, event } = await byHand(system, userId, job);
      await fanOut(held[index] as Job, event, { ...plan, endpointIds: ids });
    }
    const children = jobs.flatMap(({ id }) => ids.map((endpoint) => `${id}.${endpoint}`));
    const scores = await Promise.all(children.map((child) => system.valkey.zscore(prioritized, child)));
    expect(scores.map(Number)).toEqual([3, 4, 5, 6]);
    expect(await system.valkey.hget(tags, `u:${userId}`)).toBe("40");
  });

  test("of events for one endpoint that is silent does not hold up those of other users", async () => {
    const [dead, healthy] = [await receiver(), await receiver()];
    dead.answer(() => "hang");
    const system = await start({ isIdle: true, timeoutMs: 2_000 });
    const { userId: flooded } = await userWith(system.valkey, { url: dead.url() });
    const others = await Promise.all(
      Array.from({ length: 10 }, async () => (await userWith(system.valkey, { url: healthy.url() })).userId),
    );
    const add = (users: readonly string[]) =>
      system.queue.addBulk(users.map((userId) => ({ name: "file.created", data: dataOf(userId) })));
    await add(Array<string>(2_000).fill(flooded));
    await add(others);
    system.worker.run();
    await healthy.waitFor(others.length);
    expect(dead.requests.length).toBeLessThan(system.worker.capacity); // it never has all slots
    const { waiting, prioritized } = await system.queue.getJobCounts("waiting", "prioritized");
    expect((waiting ?? 0) + (prioritized ?? 0)).toBeGreaterThan(500); // they were not looked at one by one before
  });
});
