/** Jobs and endpoints in another shard than their users' home: forwarded, and moved there. Real Valkeys, workers and receivers. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Queue } from "bullmq";
import { countForwards, forwardedId, originOf } from "../src/delivery/forwarded-id.ts";
import { eventIdOf } from "../src/delivery/request.ts";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { moveRest, moveUser, type Place } from "../src/homes/move.ts";
import { rehome } from "../src/homes/rehome.ts";
import { createFluxhook, type Fluxhook, type FluxhookOptions } from "../src/index.ts";
import { createFailedEvents } from "../src/operations/failed-events.ts";
import { createSearch } from "../src/operations/search.ts";
import { addForwarded } from "../src/queue/forward.ts";
import { type OpenShards, openShard } from "../src/queue/open-shard.ts";
import {
  endpointIndexKey,
  endpointLogKey,
  endpointOffKey,
  endpointsKey,
  healthKey,
  logKey,
  responsesKey,
} from "../src/queue/own-keys.ts";
import { formerHomeAmong, homeOf, type Shard, shardsOf } from "../src/queue/shards.ts";
import { connectValkey, type Valkey } from "../src/valkey/connection.ts";
import { createCommand } from "./support/command.ts";
import { startWorkerProcess } from "./support/process.ts";
import { eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

setDefaultTimeout(60_000);

const quiet = { info() {}, warn() {} };
const endings: (() => unknown)[] = [];
let receiver: Receiver;
let urls: string[]; // databases of one Valkey, as Valkeys of their own

beforeAll(async () => {
  receiver = await startReceiver();
  const base = (await testValkeyUrl()).replace(/\/\d*$/, "");
  urls = [8, 9, 10].map((database) => `${base}/${database}`);
});
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});
afterAll(() => receiver.stop());

interface OpenPlace extends Shard, Place {
  readonly valkey: Valkey;
  readonly client: Queue;
}

/** The shards, with connections. */
function open(queue: string, shards: number, before?: number, known = urls): [OpenPlace, ...OpenPlace[]] {
  const valkeyUrls = known.slice(0, Math.max(shards, before ?? 0));
  return shardsOf({ queue, shards, before, valkeyUrls }).map((shard) => {
    const valkey = connectValkey(shard.url, "test:rehome", quiet);
    endings.push(() => valkey.disconnect());
    return { ...shard, valkey, client: new Queue(shard.queue, { connection: valkey }) };
  }) as [OpenPlace, ...OpenPlace[]];
}

function backend(queue: string, shards: number, options: FluxhookOptions = {}): Fluxhook {
  const valkeyUrl = urls.slice(0, Math.max(shards, options.shardsBefore ?? 0)).join(" ");
  const made = createFluxhook({ valkeyUrl, shards, queue, allowPlainSecrets: true, timeoutMs: 20_000, ...options });
  endings.push(() => made.close());
  return made;
}

const newQueue = () => `rehome-${crypto.randomUUID()}`;

/** A user with a home among so many shards, for each of these pairs of shards and home. */
function userAt(...homes: [shards: number, home: number][]): string {
  for (;;) {
    const user = `usr_${crypto.randomUUID()}`;
    if (homes.every(([shards, home]) => homeOf(user, shards) === home)) return user;
  }
}

async function startWorker(queue: string, shards: number, env: Record<string, string> = {}) {
  const valkeyUrls = urls.slice(0, Math.max(shards, Number(env.WEBHOOK_SHARDS_BEFORE ?? 0)));
  const worker = startWorkerProcess({
    ...{ VALKEY_URL: valkeyUrls.join(" "), WEBHOOK_SHARDS: String(shards), WEBHOOK_QUEUE: queue },
    ...env,
  });
  endings.push(() => worker.stop());
  await worker.line("worker.ready");
  return worker;
}

const arrivals = (path: string) => receiver.requests.filter((request) => request.path === path);
const arrived = (path: string, count: number) =>
  eventually(
    () => arrivals(path),
    (requests) => requests.length >= count,
  );
const settled = (shards: readonly OpenPlace[]) =>
  eventually(
    async () => {
      const open = shards.map(({ client }) => client.getJobCountByTypes("wait", "active", "delayed", "prioritized"));
      return (await Promise.all(open)).reduce((sum, count) => sum + count, 0);
    },
    (left) => left === 0,
  );

describe("the id of a forwarded job", () => {
  test("names the job in the shard that it came from, and is neither an integer nor holds a colon", () => {
    const origin = { queue: "webhooks-{2}", id: "4711" };
    const id = forwardedId(origin);
    expect(id).toBe("forwarded.4711@webhooks-{2}");
    expect(originOf(id)).toEqual(origin);
    const again = { queue: "webhooks", id };
    expect(originOf(forwardedId(again))).toEqual(again);
    expect(["4711", "a@b", id, forwardedId(again)].map(countForwards)).toEqual([0, 0, 1, 2]);
  });

  test("leaves the id of its event as it was", () => {
    const job = { queueName: "webhooks-{2}", id: "4711", timestamp: 1 };
    const copy = { queueName: "webhooks", id: forwardedId({ queue: job.queueName, id: job.id }), timestamp: 1 };
    const third = { queueName: "a", id: forwardedId({ queue: copy.queueName, id: copy.id }), timestamp: 1 };
    expect([copy, third].map((one) => eventIdOf(one, undefined))).toEqual([
      eventIdOf(job, undefined),
      eventIdOf(job, undefined),
    ]);
  });
});

describe("a job that is forwarded", () => {
  test("has the data, options, timestamp, attempts and marks of the original, byte for byte", async () => {
    const [from, to] = open(newQueue(), 2) as [OpenPlace, OpenPlace];
    const { id = "" } = await from.client.add("file.created", { a: 1 }, { attempts: 7, timestamp: 123_456, delay: 5 });
    const key = (place: OpenPlace, job: string) => place.client.toKey(job);
    const data = Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x2e, 0x30, 0x7d]); // {"\xff":1.0}
    await from.valkey.hset(key(from, id), {
      data,
      atm: 3,
      ats: 5,
      redelivered: 99,
      to: "main",
      stc: 2,
      processedOn: 5,
    });
    await addForwarded(from, to, id);
    const copy = forwardedId({ queue: from.queue, id });
    const [before, after] = [
      await from.valkey.hgetallBuffer(key(from, id)),
      await to.valkey.hgetallBuffer(key(to, copy)),
    ];
    for (const field of ["name", "data", "opts", "timestamp", "atm", "redelivered", "to"]) {
      expect([field, after[field]]).toEqual([field, before[field]]);
    }
    expect([String(after.ats), String(after.delay), after.stc, after.processedOn]).toEqual([
      "4",
      "0",
      undefined,
      undefined,
    ]);
    expect(await to.client.getWaitingCount()).toBe(1);
  });

  test("is there once, however often it is forwarded; a finished one makes way when the original is redelivered", async () => {
    const [from, to] = open(newQueue(), 2) as [OpenPlace, OpenPlace];
    const { id = "" } = await from.client.add("file.created", {}, { priority: 4 });
    await Promise.all([addForwarded(from, to, id), addForwarded(from, to, id)]);
    await addForwarded(from, to, id);
    expect(await to.client.getJobCountByTypes("wait", "prioritized")).toBe(1);
    const copy = await to.client.getJob(forwardedId({ queue: from.queue, id }));
    expect(copy?.priority).toBe(4);
    await to.valkey.zrem(to.client.toKey("prioritized"), copy?.id as string);
    await to.valkey.zadd(to.client.toKey("completed"), 1_000, copy?.id as string);
    await to.valkey.hset(to.client.toKey(copy?.id as string), "finishedOn", 1_000);
    await addForwarded(from, to, id);
    expect(await to.client.getJobCountByTypes("wait", "prioritized")).toBe(0);
    await from.valkey.hset(from.client.toKey(id), "redelivered", 1_001);
    await addForwarded(from, to, id);
    expect(await to.client.getJobCountByTypes("wait", "prioritized", "completed")).toBe(1);
  });

  test("is written as Queue.add writes it", async () => {
    const [from, to] = open(newQueue(), 2) as [OpenPlace, OpenPlace];
    const { id = "" } = await from.client.add("file.created", { a: 1 }, { timestamp: 5 });
    await addForwarded(from, to, id);
    await to.client.add("file.created", { a: 1 }, { timestamp: 5, jobId: "added" });
    const [mine, theirs] = await Promise.all(
      [forwardedId({ queue: from.queue, id }), "added"].map((job) => to.valkey.hgetall(to.client.toKey(job))),
    );
    expect({ ...mine, opts: undefined, ats: undefined }).toEqual({ ...theirs, opts: undefined, ats: undefined });
    const events = await to.valkey.xrange(to.client.toKey("events"), "-", "+");
    const kinds = events.map(([, fields]) => fields.filter((_, index) => index % 2 === 0).join());
    expect(kinds.slice(0, kinds.length / 2)).toEqual(kinds.slice(kinds.length / 2));
    expect(await to.valkey.zrange(to.client.toKey("marker"), "0", "-1", "WITHSCORES")).toEqual(["0", "0"]);
  });
});

test("jobs without a URL in another shard than their user's home are delivered from there, once, each with its own event", async () => {
  const queue = newQueue();
  const shards = open(queue, 3);
  const fluxhook = backend(queue, 3);
  const users = [0, 1, 2].map((home) => userAt([3, home]));
  for (const userId of users) await fluxhook.endpoints.put(userId, "main", { url: receiver.url("/anywhere") });
  const worker = await startWorker(queue, 3);
  // The same ids in each shard: BullMQ counts from 1.
  for (const { client } of shards) {
    for (const userId of users)
      await client.add("file.created", { userId, endpoint: { id: "main" }, data: { userId } });
  }
  await arrived("/anywhere", 9);
  await settled(shards);
  const ids = arrivals("/anywhere").map(({ headers }) => headers["webhook-id"]);
  expect([ids.length, new Set(ids).size]).toEqual([9, 9]);
  const metrics = await (await fetch(await worker.url("/metrics"))).text();
  expect(metrics).toContain("fluxhook_forwarded_jobs_total 6\n");
  for (const [index, { client, valkey }] of shards.entries()) {
    const completed = await client.getCompleted();
    const results = completed.filter(({ id = "" }) => originOf(id) === undefined).map(({ returnvalue }) => returnvalue);
    const others = [0, 1, 2].filter((other) => other !== index).map((other) => `forwarded to shard ${other}`);
    expect(results.sort()).toEqual([expect.stringMatching(/^HTTP 200/), ...others]);
    expect(await valkey.keys(`webhooks:log:*${users[(index + 1) % 3]}`)).toEqual([]);
  }
});

test("an event whose job was forwarded is found as the job that it is now", async () => {
  const queue = newQueue();
  const [from, to] = open(queue, 2) as [OpenPlace, OpenPlace];
  const userId = userAt([2, 1]);
  const id = crypto.randomUUID();
  await from.client.add("file.created", { userId, id, endpoint: { id: "main" }, data: {} }, { jobId: id });
  await addForwarded(from, to, id);
  await from.valkey.lrem(from.client.toKey("wait"), 0, id);
  await from.valkey.zadd(from.client.toKey("completed"), Date.now(), id);
  const shards = [from, to].map((shard) => openShard(shard, shard.valkey)) as unknown as OpenShards;
  const { finds } = await createSearch({ shards, failed: createFailedEvents(shards) })(id);
  const copy = `1/${forwardedId({ queue: from.queue, id })}`;
  expect(finds).toMatchObject([{ kind: "event", found: id, job: copy, state: "waiting" }]);
});

test("while another shard is away, jobs for it wait without an attempt, and other jobs of their shard go", async () => {
  const queue = newQueue();
  const [shard] = open(queue, 1);
  const [here, away] = [userAt([2, 0]), userAt([2, 1])];
  await backend(queue, 1).endpoints.put(here, "main", { url: receiver.url("/here") });
  const worker = startWorkerProcess({
    ...{ VALKEY_URL: `${urls[0]} redis://127.0.0.1:1`, WEBHOOK_SHARDS: "2", WEBHOOK_QUEUE: queue },
  });
  endings.push(() => worker.stop());
  const data = (userId: string) => ({ userId, endpoint: { id: "main" }, data: {} });
  const waiting = await shard.client.addBulk(
    Array.from({ length: 400 }, () => ({ name: "file.created", data: data(away) })), // more than the worker may hold
  );
  await shard.client.add("file.created", data(here));
  await arrived("/here", 1);
  await eventually(
    () => shard.client.getDelayedCount(),
    (count) => count === 400,
  );
  const stored = await shard.valkey.hgetall(shard.client.toKey(waiting[0]?.id as string));
  expect([stored.atm ?? "0", stored.failedReason]).toEqual(["0", undefined]);
});

describe("a user's endpoints, after a change of the number of shards,", () => {
  test("are found and changed where they are served now; who knows the old number alone is refused", async () => {
    const queue = newQueue();
    const userId = userAt([2, 1], [3, 2]);
    const old = backend(queue, 2);
    const { secret } = await old.endpoints.create(userId, { id: "main", url: receiver.url("/moved") });
    await old.endpoints.pause(userId, "main");
    const grown = backend(queue, 3, { shardsBefore: 2 });
    expect((await grown.endpoints.list(userId)).map(({ id, state }) => [id, state.kind])).toEqual([["main", "paused"]]);
    await grown.endpoints.resume(userId, "main");
    expect(secret).toStartWith("whsec_");
    for (const refused of [
      old.endpoints.put(userId, "second", { url: receiver.url("/") }),
      old.endpoints.list(userId),
      old.endpoints.disable(userId, "main"),
      old.endpoints.delete(userId, "main"),
    ]) {
      expect(await refused.catch(({ name, code }) => [name, code])).toEqual(["EndpointsMoved", "MOVED"]);
    }
    expect((await grown.endpoints.get(userId, "main")).state.kind).toBe("enabled");
  });

  test("are where they were first when it is changed back", async () => {
    const queue = newQueue();
    const userId = userAt([2, 1], [3, 2]);
    await backend(queue, 2).endpoints.put(userId, "main", { url: receiver.url("/back") });
    await backend(queue, 3, { shardsBefore: 2 }).endpoints.put(userId, "second", { url: receiver.url("/back") });
    const shrunk = backend(queue, 2, { shardsBefore: 3 });
    await shrunk.endpoints.delete(userId, "main");
    expect((await shrunk.endpoints.list(userId)).map(({ id }) => id)).toEqual(["second"]);
    const shards = open(queue, 2, 3);
    expect(shards.map(({ isDrained }) => isDrained ?? false)).toEqual([false, false, true]);
    expect(formerHomeAmong(shards, userId)?.index).toBe(2);
    await startWorker(queue, 2, { WEBHOOK_SHARDS_BEFORE: "3" });
    await shards[2]?.client.add("file.created", { userId, endpoint: { id: "second" }, data: {} });
    await arrived("/back", 1);
  });

  test("have every change that was answered with success, by writers with the old and the new number at once", async () => {
    const queue = newQueue();
    const users = Array.from({ length: 10 }, () => userAt([2, 1], [3, 2]));
    const [old, grown] = [backend(queue, 2), backend(queue, 3, { shardsBefore: 2 })];
    const written = new Map(users.map((user) => [user, new Set<string>()]));
    const write = async ({ endpoints }: Fluxhook, user: string, id: string) => {
      const done = await endpoints.put(user, id, { url: receiver.url("/") }).then(
        () => true,
        ({ name }) => {
          expect(name).toBe("EndpointsMoved");
          return false;
        },
      );
      if (done) written.get(user)?.add(id);
    };
    await Promise.all(
      users.flatMap((user) => [
        ...Array.from({ length: 10 }, (_, index) => write(old, user, `old${index}`)),
        ...Array.from({ length: 3 }, (_, index) => Bun.sleep(index).then(() => write(grown, user, `new${index}`))),
      ]),
    );
    for (const user of users) {
      const ids = (await grown.endpoints.list(user)).map(({ id }) => id);
      expect(ids.sort()).toEqual([...(written.get(user) as Set<string>)].sort());
      expect(ids.filter((id) => id.startsWith("new"))).toHaveLength(3);
    }
  });

  test("arrive once, whichever step of the move is the last of the process that began it", async () => {
    const queue = newQueue();
    const places = open(queue, 3, 2);
    const [, from, to] = places as unknown as [OpenPlace, OpenPlace, OpenPlace];
    for (const steps of [0, 1, 2, 3, 4, 5, 6]) {
      const userId = userAt([2, 1], [3, 2]);
      await backend(queue, 2).endpoints.put(userId, "main", { url: receiver.url("/") });
      let left = steps;
      const mortal = <P extends Place>(place: P): P => ({
        ...place,
        run: async (work: () => Promise<unknown>) => {
          if (left-- === 0) throw new Error("killed");
          const done = await work();
          return done;
        },
      });
      const moved = await moveUser(places, mortal(from), mortal(to), userId)
        .then(
          ({ left: ids }) => moveRest(mortal(from), mortal(to), userId, ids),
          () => undefined,
        )
        .catch(() => undefined);
      expect([steps, moved !== undefined]).toEqual([steps, steps === 6]); // 6 steps
      const grown = backend(queue, 3, { shardsBefore: 2 });
      expect((await grown.endpoints.list(userId)).map(({ id }) => id)).toEqual(["main"]);
      await grown.endpoints.delete(userId, "main");
      await moveUser(places, from, to, userId); // the process that froze goes on
      expect(await grown.endpoints.list(userId)).toEqual([]);
    }
  });

  test("that waited in the old shard go where it says, and jobs there follow", async () => {
    const queue = newQueue();
    const userId = userAt([2, 1], [3, 2]);
    const shards = open(queue, 3, 2);
    await backend(queue, 2).endpoints.put(userId, "main", { url: receiver.url("/first") });
    await startWorker(queue, 3, { WEBHOOK_SHARDS_BEFORE: "2" });
    const enqueue = (shard: number) =>
      shards[shard]?.client.add("file.created", { userId, endpoint: { id: "main" }, data: {} });
    await enqueue(1); // not moved yet: delivered where it is
    await arrived("/first", 1);
    await settled(shards);
    const counts = await Promise.all(shards.map(({ client }) => client.getCompletedCount()));
    expect(counts).toEqual([0, 1, 0]);
    await backend(queue, 3, { shardsBefore: 2 }).endpoints.update(userId, "main", { url: receiver.url("/second") });
    for (const shard of [0, 1, 2]) await enqueue(shard);
    await arrived("/second", 3);
    await settled(shards);
    expect(arrivals("/first")).toHaveLength(1);
  });

  test("stay until somebody who knows the new number changes them: events in the new shard go to the old one", async () => {
    const queue = newQueue();
    const userId = userAt([2, 1], [3, 2]);
    const shards = open(queue, 3, 2);
    const [, from, to] = shards as unknown as [OpenPlace, OpenPlace, OpenPlace];
    const old = backend(queue, 2);
    await old.endpoints.put(userId, "main", { url: receiver.url("/stays") });
    await startWorker(queue, 3, { WEBHOOK_SHARDS_BEFORE: "2" });
    const enqueue = async () => {
      for (const { client } of shards) {
        await client.add("file.created", { userId, endpoint: { id: "main" }, data: {} });
      }
    };
    await enqueue();
    await arrived("/stays", 3);
    await old.endpoints.put(userId, "main", { url: receiver.url("/stays-2") });
    await enqueue();
    await arrived("/stays-2", 3);
    // A process that moves the user dies in between: workers go on with it.
    const dying = {
      ...to,
      run: () => Promise.reject(new Error("killed")),
    };
    await expect(moveUser(shards, from, dying, userId)).rejects.toThrow("killed");
    await enqueue();
    await arrived("/stays-2", 6);
    await settled(shards);
    expect(await to.valkey.hexists(endpointsKey(userId, to.tag), "main")).toBe(1);
    const failed = await Promise.all(shards.map(({ client }) => client.getFailedCount()));
    expect([failed, arrivals("/stays").length, arrivals("/stays-2").length]).toEqual([[0, 0, 0], 3, 6]);
  });
});

describe("fluxhook endpoints rehome", () => {
  const own = [11, 12, 13]; // databases: it looks at all users
  let shards: [OpenPlace, ...OpenPlace[]];
  let env: Record<string, string>;
  let run: ReturnType<typeof createCommand>;
  let [queue, valkeyUrls] = ["", [""]];

  beforeEach(async () => {
    queue = newQueue();
    valkeyUrls = own.map((database) => `${(urls[0] as string).replace(/\/\d+$/, "")}/${database}`);
    shards = open(queue, 3, 2, valkeyUrls);
    for (const { valkey } of shards) await valkey.flushdb();
    env = { VALKEY_URL: valkeyUrls.join(" "), WEBHOOK_SHARDS: "3", WEBHOOK_QUEUE: queue };
    run = createCommand(env);
  });

  const two = () => backend(queue, 2, { valkeyUrl: valkeyUrls.slice(0, 2).join(" ") });
  const three = () => backend(queue, 3, { valkeyUrl: valkeyUrls.join(" "), shardsBefore: 2 });

  test("moves what each user has, with what was missed, health and logs; --dry-run counts; a second run finds nothing", async () => {
    const [first, stays] = [userAt([2, 1], [3, 2]), userAt([2, 1], [3, 1])];
    const worker = await startWorker(queue, 2, { VALKEY_URL: valkeyUrls.slice(0, 2).join(" ") });
    const { endpoints } = two();
    receiver.answer((request) => ({ status: request.path === "/gone" ? 410 : 200 }));
    for (const userId of [first, stays]) {
      await endpoints.put(userId, "main", { url: receiver.url("/kept") });
      await endpoints.put(userId, "off", { url: receiver.url("/gone") });
    }
    const [, left, home] = shards as unknown as [OpenPlace, OpenPlace, OpenPlace];
    const { id: job } = await left.client.add("file.created", { userId: first, endpoint: { id: "off" }, data: {} });
    await arrived("/gone", 1);
    await eventually(
      () => endpoints.missed(first, "off"),
      ({ kept }) => kept === 1,
    );
    await eventually(
      () => endpoints.get(first, "off"),
      ({ state }) => state.kind === "disabled",
    );
    await worker.stop();
    const given = arrivals("/gone").map(({ headers }) => headers["webhook-id"]);

    const dry = await run(["endpoints", "rehome", "--dry-run", "--json"]);
    expect(JSON.parse(dry.out)).toMatchObject({ dry_run: true, users: 1, endpoints: 2 });
    expect(await left.valkey.hexists(endpointsKey(first, left.tag), "main")).toBe(1);
    const done = await run(["endpoints", "rehome"]);
    expect([done.out, done.code]).toEqual([
      "Moved 2 endpoints of 1 user, with 1 missed event and 1 attempt in their logs.\n",
      0,
    ]);
    const again = await run(["endpoints", "rehome", "--json"]);
    expect(JSON.parse(again.out)).toMatchObject({ users: 0, endpoints: 0, missed: 0, attempts: 0, unmoved: 0 });

    // Readers of the user's log read all shards.
    const staying = [endpointsKey, logKey, responsesKey].map((keyOf) => keyOf(first, left.tag));
    expect((await left.valkey.keys(`webhooks:*${first}*`)).sort()).toEqual(staying.sort());
    expect(await left.valkey.hgetall(endpointsKey(first, left.tag))).toEqual({ "/moved": home.queue });
    expect(await left.valkey.hexists(endpointsKey(stays, left.tag), "main")).toBe(1);
    const moved = three().endpoints;
    const [page, { health }, log] = await Promise.all([
      moved.missed(first, "off"),
      moved.get(first, "off"),
      moved.attempts(first, "off"),
    ]);
    expect([page.events.map(({ job: id }) => id), health?.failures, log.length]).toEqual([
      [forwardedId({ queue: left.queue, id: job as string })],
      1,
      1,
    ]);
    expect(await home.valkey.zrange(endpointOffKey(home.tag), "0", "-1")).toEqual([`${first} off`]);
    expect(await left.valkey.zrange(endpointIndexKey(left.tag), "0", "-1")).toEqual([`${stays} main`, `${stays} off`]);

    receiver.answer(() => ({ status: 200 }));
    await startWorker(queue, 3, env);
    await moved.enable(first, "off", { replay: true });
    await arrived("/gone", 2);
    expect(arrivals("/gone").map(({ headers }) => headers["webhook-id"])).toEqual([...given, ...given]);
  });

  test("moves many users while they are changed, also when it is interrupted and begun again", async () => {
    const users = Array.from({ length: 120 }, () => `usr_${crypto.randomUUID()}`);
    const before = two().endpoints;
    await Promise.all(users.map((userId) => before.put(userId, "main", { url: receiver.url("/") })));
    const after = three().endpoints;
    let calls = 0;
    const mortal = shards.map((shard) => ({
      ...shard,
      run: async <T>(work: () => Promise<T>): Promise<T> => {
        if (calls++ > 100) throw new Error("killed");
        return await work();
      },
    })) as unknown as typeof shards;
    await Promise.all([
      expect(rehome(mortal)).rejects.toThrow("killed"),
      ...users.slice(0, 20).map((userId) => after.update(userId, "main", { description: "changed" })),
    ]);
    await rehome(shards);
    for (const userId of users) {
      const home = shards[homeOf(userId, 3)] as OpenPlace;
      expect(await home.valkey.hexists(endpointsKey(userId, home.tag), "main")).toBe(1);
    }
    const changed = await Promise.all(users.slice(0, 20).map((userId) => after.get(userId, "main")));
    expect(changed.map(({ description }) => description)).toEqual(changed.map(() => "changed"));
    expect(await rehome(shards, { dryRun: true })).toMatchObject({ users: 0, endpoints: 0 });
  });

  test("moves what is written in the old shard by attempts that began before", async () => {
    const userId = userAt([2, 1], [3, 2]);
    await two().endpoints.put(userId, "main", { url: receiver.url("/") });
    const [, left, home] = shards as unknown as [OpenPlace, OpenPlace, OpenPlace];
    await rehome(shards);
    await left.valkey.hset(healthKey(userId, left.tag), { "main.since": 5, "main.n": 1, "gone.n": 7 });
    await left.valkey.rpush(endpointLogKey(userId, "main", left.tag), 5, "{}");
    await rehome(shards);
    expect(await home.valkey.hgetall(healthKey(userId, home.tag))).toEqual({ "main.since": "5", "main.n": "1" });
    expect(await home.valkey.lrange(endpointLogKey(userId, "main", home.tag), 0, -1)).toEqual(["5", "{}"]);
    expect(await left.valkey.keys(`webhooks:*${userId}*`)).toEqual([endpointsKey(userId, left.tag)]);
  });
});
