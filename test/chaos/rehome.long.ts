/** Registered endpoints while the number of shards changes, with events in wrong shards: none is lost, stale or doubled. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { Queue } from "bullmq";
import { type Receiver, startReceiver } from "../../src/dev/receiver.ts";
import { startValkey } from "../../src/dev/valkey.ts";
import { createFluxhook, EndpointsMoved, type Fluxhook } from "../../src/index.ts";
import { homeOf, type Shard, shardsOf } from "../../src/queue/shards.ts";
import { connectValkey, type Valkey } from "../../src/valkey/connection.ts";
import { type Chance, createChance } from "../support/chance.ts";
import { startLoad } from "../support/load.ts";
import { startWorkerProcess, type WorkerProcess } from "../support/process.ts";
import { eventually } from "../support/stack.ts";

const TEST_MS = 150 * 1000;
const PATIENCE_MS = 90 * 1000;
const PER_SECOND = 150;
const CLI = join(import.meta.dir, "../../src/cli.ts");
const quiet = { info() {}, warn() {} };

interface OpenQueue extends Shard {
  readonly valkey: Valkey;
  readonly client: Queue;
}

interface Rig {
  readonly urls: readonly string[];
  readonly shards: readonly OpenQueue[];
  readonly receiver: Receiver;
  readonly chance: Chance;
  /** Call this when the test is over; the last one first. */
  atEnd(end: () => unknown): void;
  startWorker(urls: readonly string[], env?: Record<string, string>): Promise<WorkerProcess>;
  /** A backend that knows these shards. */
  connect(urls: readonly string[], shardsBefore?: number): Fluxhook;
}

/** A test with three Valkeys, a shard on each, at the same time as the others. A failure names its seed; `CHAOS_SEED=…` repeats it. */
function chaos(name: string, run: (rig: Rig) => Promise<void>): void {
  test.concurrent(
    name,
    async () => {
      const seed = Number(process.env.CHAOS_SEED) || Math.floor(Math.random() * 2 ** 32);
      const endings: (() => unknown)[] = [];
      try {
        await run(await start(createChance(seed), endings));
      } catch (error) {
        if (error instanceof Error) error.message += `\n\nTo repeat it: CHAOS_SEED=${seed}`;
        throw error;
      } finally {
        for (const end of endings.reverse()) await end();
      }
    },
    TEST_MS,
  );
}

async function start(chance: Chance, endings: (() => unknown)[]): Promise<Rig> {
  const [receiver, ...valkeys] = await Promise.all([startReceiver(), startValkey(), startValkey(), startValkey()]);
  const atEnd = (end: () => unknown) => void endings.push(end);
  atEnd(() => Promise.all([receiver, ...valkeys].map((one) => one.stop())));
  const urls = valkeys.map(({ url }) => url);
  const shards = shardsOf({ queue: "webhooks", shards: 3, valkeyUrls: urls }).map((shard) => {
    const valkey = connectValkey(shard.url, "test:chaos", quiet);
    atEnd(() => valkey.disconnect());
    return { ...shard, valkey, client: new Queue(shard.queue, { connection: valkey }) };
  });
  return {
    ...{ urls, shards, receiver, chance, atEnd },
    async startWorker(known, env = {}) {
      const where = { VALKEY_URL: known.join(" "), WEBHOOK_SHARDS: String(known.length), WEBHOOK_CONCURRENCY: "32" };
      const worker = startWorkerProcess({ ...where, WEBHOOK_KEEP_COMPLETED: "100000", WEBHOOK_TIMEOUT: "30s", ...env });
      atEnd(() => worker.stop());
      await worker.line("worker.ready");
      return worker;
    },
    connect(known, shardsBefore) {
      const options = { valkeyUrl: known.join(" "), shards: known.length, shardsBefore };
      const backend = createFluxhook({ ...options, allowPlainSecrets: true, timeoutMs: 20_000 });
      atEnd(() => backend.close());
      return backend;
    },
  };
}

const settled = (shards: readonly OpenQueue[]) =>
  eventually(
    async () => {
      const open = shards.map(({ client }) => client.getJobCountByTypes("wait", "active", "delayed", "prioritized"));
      return (await Promise.all(open)).reduce((sum, count) => sum + count, 0);
    },
    (left) => left === 0,
    PATIENCE_MS,
    50,
  );

/** What arrived: the path, and the event's number. */
const arrivalsAt = ({ requests }: Receiver) =>
  requests.map(({ path, json }) => ({ path, index: (json as { data: { index: number } }).data.index }));

chaos(
  "from two shards to three under load, half of the events in wrong shards and rehome killed halfway: each arrives once, at what its endpoint was when it was enqueued or later",
  async (rig) => {
    const { urls, shards, receiver, chance, atEnd, startWorker, connect } = rig;
    const users = Array.from({ length: 60 }, () => `usr_${crypto.randomUUID()}`);
    const generations = new Map(users.map((user) => [user, 0])); // of their endpoints, as far as writers were told
    const enqueued: { readonly user: string; readonly generation: number }[] = [];
    let [known, backend] = [2, connect(urls.slice(0, 2))];
    const pathOf = (user: string, generation: number) => `/${user}/${generation}`;
    await Promise.all(users.map((user) => put(user, 0)));

    async function put(user: string, generation: number): Promise<void> {
      const { endpoints } = backend;
      try {
        // Every third time it is made anew: as long as it is deleted, its events go nowhere.
        if (generation % 3 === 2) await endpoints.delete(user, "main");
        await endpoints.put(user, "main", { url: receiver.url(pathOf(user, generation)) });
        generations.set(user, generation);
      } catch (error) {
        if (!(error instanceof EndpointsMoved) || endpoints === backend.endpoints) throw error;
        await put(user, generation); // it was begun by the backend before
      }
    }
    async function enqueue(): Promise<void> {
      const user = chance.pick(users);
      const index = enqueued.push({ user, generation: generations.get(user) as number }) - 1;
      const home = homeOf(user, known);
      const shard = chance.pick([home, Math.floor(chance.between(0, known))]);
      const data = { userId: user, endpoint: { id: "main" }, data: { index } };
      await shards[shard]?.client.add("file.created", data);
    }
    let isChanging = true;
    const change = async (): Promise<void> => {
      while (isChanging) {
        const user = chance.pick(users);
        await put(user, (generations.get(user) as number) + 1);
        await Bun.sleep(2);
      }
    };
    const rehome = (...args: string[]) => {
      const env = { PATH: process.env.PATH ?? "", VALKEY_URL: urls.join(" "), WEBHOOK_SHARDS: "3" };
      const command = [process.execPath, CLI, "endpoints", "rehome", "--from", "2", "--json", ...args];
      const child = Bun.spawn(command, { env, stdio: ["ignore", "pipe", "inherit"] });
      atEnd(() => child.kill("SIGKILL"));
      return child;
    };
    const moved = async () => (await Promise.all(shards.map(countMoved))).reduce((sum, count) => sum + count);

    const old = await startWorker(urls.slice(0, 2));
    const stopLoad = startLoad(PER_SECOND, enqueue, { limitMs: 30_000, atEnd });
    const changing = change();
    await Promise.all([0, 1].map(() => startWorker(urls, { WEBHOOK_SHARDS_BEFORE: "2" })));
    expect(await old.stop()).toBe(0);
    [known, backend] = [3, connect(urls, 2)];
    const before = await moved();
    const killed = rehome();
    await eventually(moved, (count) => count > before, PATIENCE_MS, 1);
    killed.kill("SIGKILL");
    await killed.exited;
    await Bun.sleep(500); // events in both homes
    const done = rehome();
    expect(await done.exited).toBe(0);
    await Bun.sleep(500);
    isChanging = false;
    await changing;
    await stopLoad();
    await settled(shards);
    const again = rehome("--dry-run");
    expect(JSON.parse(await new Response(again.stdout).text())).toMatchObject({ users: 0, unmoved: 0 });

    const times = enqueued.map(() => 0);
    const stale: object[] = [];
    for (const { path, index } of arrivalsAt(receiver)) {
      times[index] = (times[index] as number) + 1;
      const { user, generation } = enqueued[index] as (typeof enqueued)[number];
      const [, owner, at] = path.split("/");
      if (owner !== user || Number(at) < generation) stale.push({ path, user, generation });
    }
    expect(stale).toEqual([]);
    const failed = (await Promise.all(shards.map(({ client }) => client.getFailed()))).flat();
    expect(failed.map(({ failedReason }) => failedReason)).toEqual([]);
    // One that came while its endpoint was deleted was completed, and says so.
    const completed = (await Promise.all(shards.map(({ client }) => client.getCompleted(0, -1)))).flat();
    const into = (result: string) => completed.filter(({ returnvalue }) => returnvalue.startsWith(result));
    const gone = new Set(into("endpoint deleted").map(({ data }) => data.data.index as number));
    expect(times.filter((count, index) => count !== (gone.has(index) ? 0 : 1))).toEqual([]);
    expect(into("forwarded to shard ").length).toBeGreaterThan(enqueued.length / 10);
  },
);

/** How many users have left a shard. */
async function countMoved({ valkey, tag }: OpenQueue): Promise<number> {
  const keys = await valkey.keys(`webhooks:endpoints:${tag}*`);
  const all = await Promise.all(keys.map((key) => valkey.hexists(key, "/moved")));
  return all.reduce((sum, count) => sum + count, 0);
}

chaos("workers killed while they forward: each event is forwarded once, and arrives", async (rig) => {
  const { urls, shards, receiver, startWorker, connect } = rig;
  const [first, second] = urls as [string, string];
  const place = [first, second];
  const backend = connect(place);
  const users = Array.from({ length: 20 }, (_, index) => `usr_${index}`);
  await Promise.all(users.map((user) => backend.endpoints.put(user, "main", { url: receiver.url("/") })));
  const count = 3_000;
  const jobs = Array.from({ length: count }, (_, index) => {
    const userId = users[index % users.length] as string;
    return { shard: 1 - homeOf(userId, 2), data: { userId, endpoint: { id: "main" }, data: { index } } };
  });
  for (const [at, { client }] of shards.slice(0, 2).entries()) {
    const own = jobs.filter(({ shard }) => shard === at);
    await client.addBulk(own.map(({ data }) => ({ name: "file.created", data })));
  }
  for (let round = 0; round < 4; round++) {
    const worker = await startWorker(place);
    const seen = receiver.requests.length;
    await eventually(
      () => receiver.requests.length - seen,
      (more) => more > 50,
      PATIENCE_MS,
      1,
    );
    process.kill(worker.pid, "SIGKILL");
    await worker.exited;
  }
  await startWorker(place);
  await settled(shards);
  const arrived = new Set(arrivalsAt(receiver).map(({ index }) => index));
  expect(arrived.size).toBe(count);
  const completed = await Promise.all(shards.slice(0, 2).map(({ client }) => client.getCompleted(0, -1)));
  const forwarded = completed.flat().filter(({ returnvalue }) => returnvalue.startsWith("forwarded"));
  expect([forwarded.length, completed.flat().length]).toEqual([count, 2 * count]);
});
