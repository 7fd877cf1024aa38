/** From one Valkey into a cluster of six shards, and back to one, live. Under outages: test/chaos. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { Queue } from "bullmq";
import { type Cluster, startCluster } from "../src/dev/cluster.ts";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { startValkey, type ThrowawayValkey } from "../src/dev/valkey.ts";
import { rehome } from "../src/homes/rehome.ts";
import { createFluxhook, type Fluxhook } from "../src/index.ts";
import { createAttemptLog } from "../src/log/attempts.ts";
import { joinLogs } from "../src/log/joined-logs.ts";
import { homeOf, shardsOf } from "../src/queue/shards.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { startWorkerProcess, type WorkerProcess } from "./support/process.ts";
import { eventually } from "./support/stack.ts";

const PATIENCE_MS = 60_000;
const USERS = 20;
const quiet = { info() {}, warn() {} };
const endings: (() => unknown)[] = [];
let cluster: Cluster;
let old: ThrowawayValkey;
let receiver: Receiver;

beforeAll(async () => {
  [cluster, old, receiver] = await Promise.all([startCluster({ replicas: 0 }), startValkey(), startReceiver()]);
});
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});
afterAll(() => Promise.all([cluster.stop(), old.stop(), receiver.stop()]));

/** All shards of a cluster and of the Valkey before it. */
function openShards(queue: string, shards: number) {
  return shardsOf({ queue, shards, valkeyUrls: [cluster.url], drainUrl: old.url }).map((shard) => {
    const valkey = connectValkey(shard.url, "test:growing", quiet, { key: shard.queue });
    const client = new Queue(shard.queue, { connection: valkey });
    endings.push(() => valkey.disconnect());
    return { ...shard, valkey, client };
  });
}

type Opened = ReturnType<typeof openShards>;

const countOpen = async (shards: Opened): Promise<number> => {
  const counts = shards.map(({ client }) => client.getJobCountByTypes("waiting", "active", "delayed", "prioritized"));
  return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0);
};

const logOf = (shards: Opened) =>
  joinLogs(shards.map(({ valkey, tag }) => createAttemptLog(valkey, { tag, logSize: 1_000, logAgeMs: 60_000 })));

async function startReadyWorker(env: Record<string, string>): Promise<WorkerProcess> {
  const worker = startWorkerProcess({ WEBHOOK_LOG_SIZE: "1000", ...env });
  endings.push(() => worker.stop());
  await worker.line("worker.ready");
  return worker;
}

const connect = (valkeyUrl: string, queue: string, shards = 1): Fluxhook => {
  const backend = createFluxhook({ valkeyUrl, queue, shards, timeoutMs: 20_000 });
  endings.push(() => backend.close());
  return backend;
};

const eventOf = (index: number) => ({
  event: "file.created" as const,
  userId: `usr_${index % USERS}`,
  endpoint: { url: receiver.url("/growing"), secret: "s3cret-of-the-test" },
  data: { fileId: `file_${index}`, index },
});

test(
  "a worker serves the Valkey of WEBHOOK_DRAIN_URL beside the cluster, and its jobs are called old/",
  async () => {
    const queue = "drained";
    const shards = openShards(queue, 2);
    const left = shards.at(-1) as Opened[number];
    const { event, ...data } = eventOf(1_000_001);
    await left.client.add(event, data);
    const worker = await startReadyWorker({
      VALKEY_URL: cluster.url,
      WEBHOOK_SHARDS: "2",
      WEBHOOK_DRAIN_URL: old.url,
      WEBHOOK_QUEUE: queue,
    });
    const backend = createFluxhook({ valkeyUrl: cluster.url, shards: 2, drainUrl: old.url, queue });
    endings.push(() => backend.close());
    await backend.enqueue(eventOf(1_000_001));
    await worker.line("delivery.attempted", 2);
    await eventually(
      () => countOpen(shards),
      (open) => open === 0,
      10_000,
      20,
    );
    const attempts = await logOf(shards).list(data.userId, Date.now());
    expect(attempts.map(({ job }) => job).sort()).toEqual([expect.stringMatching(/^[01]\/./), "old/1"]);
    expect(await backend.readAttempts(data.userId)).toHaveLength(2);
    expect(await left.client.getJobCounts("completed")).toEqual({ completed: 1 });
    const metrics = await (await fetch(await worker.url("/metrics"))).text();
    expect(metrics).toContain('fluxhook_jobs{state="completed",shard="old"} 1');
  },
  PATIENCE_MS,
);

test(
  "registered endpoints move from one Valkey into a cluster: events in both reach them, before and after, and what was missed is replayed there",
  async () => {
    const queue = "registered";
    const shards = openShards(queue, 2);
    const left = shards.at(-1) as Opened[number];
    const users = Array.from({ length: 6 }, () => `usr_${crypto.randomUUID()}`);
    const known = { queue, allowPlainSecrets: true, timeoutMs: 20_000 };
    const before = createFluxhook({ ...known, valkeyUrl: old.url });
    const after = createFluxhook({ ...known, valkeyUrl: cluster.url, shards: 2, drainUrl: old.url });
    endings.push(() => Promise.all([before.close(), after.close()]));
    for (const user of users) await before.endpoints.put(user, "main", { url: receiver.url("/registered") });
    const cluster2 = { VALKEY_URL: cluster.url, WEBHOOK_SHARDS: "2", WEBHOOK_DRAIN_URL: old.url, WEBHOOK_QUEUE: queue };
    const worker = await startReadyWorker(cluster2);
    let enqueued = 0;
    /** An event of each user in each shard, and in the old Valkey. */
    const enqueue = async () => {
      for (const { client } of shards) {
        const data = (userId: string) => ({
          userId,
          endpoint: { id: "main" },
          data: { index: 2_000_000 + enqueued++ },
        });
        await client.addBulk(users.map((user) => ({ name: "file.created", data: data(user) })));
      }
    };
    const isArrived = () =>
      eventually(
        () => receiver.requests.filter(({ path }) => path === "/registered").length,
        (count) => count === enqueued,
        20_000,
        20,
      );
    await enqueue(); // none has moved: all are delivered from the old Valkey
    await isArrived();
    await eventually(
      () => left.client.getCompletedCount(),
      (completed) => completed === enqueued,
      PATIENCE_MS,
    );
    await after.endpoints.disable(users[0] as string, "main");
    await left.client.add("file.created", {
      userId: users[0],
      endpoint: { id: "main" },
      data: { index: 2_000_000 + enqueued++ },
    });
    await eventually(
      () => after.endpoints.missed(users[0] as string, "main"),
      ({ kept }) => kept === 1,
    );
    const done = await rehome(shards as unknown as Parameters<typeof rehome>[0]);
    expect(done).toMatchObject({ users: users.length - 1, unmoved: 0, present: 0 }); // the first one was moved by the backend
    await after.endpoints.enable(users[0] as string, "main", { replay: true });
    await enqueue();
    await isArrived();
    expect(await before.endpoints.list(users[1] as string).catch(({ code }) => code)).toBe("MOVED");
    await eventually(
      () => countOpen(shards),
      (open) => open === 0,
      20_000,
      20,
    );
    expect(await Promise.all(shards.map(({ client }) => client.getFailedCount()))).toEqual([0, 0, 0]);
    expect(worker.lines.filter(({ level }) => level === "error" || level === "warn")).toEqual([]);
  },
  PATIENCE_MS,
);

test(
  "growing from one Valkey to six shards of a cluster, and shrinking to one, loses nothing and doubles nothing",
  async () => {
    const queue = "growing";
    const shards = openShards(queue, 6);
    const cluster6 = { VALKEY_URL: cluster.url, WEBHOOK_SHARDS: "6", WEBHOOK_QUEUE: queue };
    let backend = connect(old.url, queue);
    let enqueued = 0;
    const pending = new Set<Promise<unknown>>();
    const timer = setInterval(() => {
      const adding = backend.enqueue(eventOf(enqueued++));
      pending.add(adding);
    }, 4);
    endings.push(() => clearInterval(timer));
    /** Let so many more events be enqueued as things are. */
    const load = (count: number, from = enqueued) =>
      eventually(
        () => enqueued,
        (now) => now >= from + count,
        20_000,
        5,
      );
    const isDrained = (...left: Opened) =>
      eventually(
        () => countOpen(left),
        (open) => open === 0,
        20_000,
        20,
      );

    const first = await startReadyWorker({ VALKEY_URL: old.url, WEBHOOK_QUEUE: queue });
    await load(50);
    // Growing: workers first, then backends.
    const second = await startReadyWorker({ ...cluster6, WEBHOOK_DRAIN_URL: old.url });
    expect(await first.stop()).toBe(0);
    await load(50);
    backend = connect(cluster.url, queue, 6);
    await load(100);
    await isDrained(shards[6] as Opened[number]);
    expect(await second.stop()).toBe(0);
    const third = await startReadyWorker(cluster6);
    await load(50);
    // Shrinking: backends first, then workers, once the other shards are empty.
    backend = connect(cluster.url, queue, 1);
    await load(50);
    expect(third.lines.filter(({ message }) => message === "shard.unserved")).toEqual([]);
    await isDrained(...shards.slice(1));
    const fourth = await startReadyWorker({ ...cluster6, WEBHOOK_SHARDS: "1" });
    expect(await third.stop()).toBe(0);
    await load(50);
    clearInterval(timer);
    await Promise.all(pending);
    await isDrained(...shards);
    expect(await fourth.stop()).toBe(0);

    const arrived = receiver.requests.map(({ json }) => (json as { data: { index: number } }).data.index);
    const own = arrived.filter((index) => index < 1_000_000).sort((a, b) => a - b);
    expect(own).toEqual(Array.from({ length: enqueued }, (_, index) => index));
    const log = logOf(shards);
    const lines = await Promise.all(Array.from({ length: USERS }, (_, user) => log.list(`usr_${user}`, Date.now())));
    expect(lines.flat().filter(({ endpoint }) => endpoint.endsWith("/growing")).length).toBeGreaterThanOrEqual(
      enqueued,
    );
    const perShard = await Promise.all(shards.map(({ client }) => client.getCompletedCount()));
    expect(perShard.every((count) => count > 0)).toBe(true);
  },
  PATIENCE_MS,
);

test(
  "a worker says which shards have events that nobody serves, since it knows fewer",
  async () => {
    const queue = "unserved";
    await connect(cluster.url, queue, 64).enqueueMany(Array.from({ length: USERS }, (_, index) => eventOf(index)));
    const homes = Array.from({ length: USERS }, (_, index) => homeOf(`usr_${index}`, 64));
    const worker = await startReadyWorker({ VALKEY_URL: cluster.url, WEBHOOK_SHARDS: "2", WEBHOOK_QUEUE: queue });
    const left = [...new Set(homes.filter((home) => home >= 2))].sort((a, b) => a - b);
    await worker.line("shard.unserved", left.length);
    const warnings = worker.lines.filter(({ message }) => message === "shard.unserved");
    expect(warnings.map(({ shard }) => shard)).toEqual(left);
    const [first] = left;
    const count = homes.filter((home) => home === first).length;
    const noun = count === 1 ? "event waits" : "events wait";
    expect(warnings[0]?.reason).toBe(
      `${count} ${noun} in shard ${first}, which nobody serves: WEBHOOK_SHARDS is too small`,
    );
  },
  PATIENCE_MS,
);
