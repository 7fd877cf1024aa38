/** A second change of the number of shards before the endpoints of the first have moved. Real Valkeys, workers and receivers. */
import { afterAll, afterEach, beforeAll, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { Queue } from "bullmq";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { createFluxhook, type Fluxhook } from "../src/index.ts";
import { homesKey } from "../src/queue/own-keys.ts";
import { homeOf, type Shard, shardsOf } from "../src/queue/shards.ts";
import { openValkey, type Valkey } from "../src/valkey/connection.ts";
import { createCommand } from "./support/command.ts";
import { startWorkerProcess, type WorkerProcess } from "./support/process.ts";
import { eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

setDefaultTimeout(60_000);

type OpenShard = Shard & { readonly valkey: Valkey; readonly client: Queue };

const endings: (() => unknown)[] = [];
let receiver: Receiver;
let urls: string[]; // databases of one Valkey, as Valkeys of their own
let queue: string;
let shards: [OpenShard, OpenShard, OpenShard];

beforeAll(async () => {
  receiver = await startReceiver();
  const base = (await testValkeyUrl()).replace(/\/\d*$/, "");
  urls = [5, 6, 7].map((database) => `${base}/${database}`);
});
beforeEach(async () => {
  queue = `past-${crypto.randomUUID()}`;
  shards = shardsOf({ queue, shards: 3, valkeyUrls: urls }).map((shard) => {
    const valkey = openValkey(shard.url, {});
    endings.push(() => valkey.disconnect());
    return { ...shard, valkey, client: new Queue(shard.queue, { connection: valkey }) };
  }) as unknown as typeof shards;
  for (const { valkey } of shards) await valkey.flushdb(); // rehome looks at all users
});
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});
afterAll(() => receiver.stop());

/** The settings of a process that knows so many shards, and so many before. */
const settings = (count: number, before?: number): Record<string, string> => ({
  ...{ VALKEY_URL: urls.slice(0, Math.max(count, before ?? 0)).join(" "), WEBHOOK_QUEUE: queue },
  ...{ WEBHOOK_SHARDS: String(count), ...(before && { WEBHOOK_SHARDS_BEFORE: String(before) }) },
});

function backend(count: number, before?: number): Fluxhook {
  const { VALKEY_URL: valkeyUrl } = settings(count, before);
  const sharding = { valkeyUrl, shards: count, ...(before && { shardsBefore: before }) };
  const made = createFluxhook({ ...sharding, queue, allowPlainSecrets: true, timeoutMs: 20_000 });
  endings.push(() => made.close());
  return made;
}

async function startWorker(count: number, before?: number): Promise<WorkerProcess> {
  const worker = startWorkerProcess(settings(count, before));
  endings.push(() => worker.stop());
  await worker.line("worker.ready");
  return worker;
}

function userAt(home2: number, home3: number): string {
  for (;;) {
    const user = `usr_${crypto.randomUUID()}`;
    if (homeOf(user, 2) === home2 && homeOf(user, 3) === home3) return user;
  }
}

const enqueue = (userId: string, shard: 0 | 1 | 2) =>
  shards[shard].client.add("file.created", { userId, endpoint: { id: "main" }, data: {} });
const arrivals = (path: string, count: number) =>
  eventually(
    () => receiver.requests.filter((request) => request.path === path).length,
    (found) => found === count,
  );
const countFailed = async () =>
  (await Promise.all(shards.map(({ client }) => client.getFailedCount()))).reduce((sum, count) => sum + count, 0);
const known = () => shards[0].valkey.get(homesKey(queue));

test("from one shard to two to three: endpoints that never moved serve their events, and move when they are changed", async () => {
  const [changed, stays] = [userAt(1, 2), userAt(1, 2)];
  for (const userId of [changed, stays]) {
    await backend(1).endpoints.put(userId, "main", { url: receiver.url(`/${userId}`) });
  }
  await (await startWorker(2, 1)).stop();
  await startWorker(3, 2);
  for (const userId of [changed, stays]) for (const shard of [0, 1, 2] as const) await enqueue(userId, shard);
  for (const userId of [changed, stays]) await arrivals(`/${userId}`, 3);
  const { endpoints } = backend(3, 2);
  expect((await endpoints.list(changed)).map(({ id }) => id)).toEqual(["main"]);
  await endpoints.update(changed, "main", { url: receiver.url(`/${changed}/new`) });
  for (const shard of [0, 1, 2] as const) await enqueue(changed, shard);
  await arrivals(`/${changed}/new`, 3);
  expect([await countFailed(), await known()]).toEqual([0, "2 1 3"]);

  const run = createCommand(settings(3, 2));
  expect((await run(["endpoints", "rehome"])).out).toStartWith("Moved 1 endpoint of 2 users"); // and the other's log
  expect(await known()).toBe("2 1 3"); // until a run finds nothing to move
  await run(["endpoints", "rehome"]);
  expect(await known()).toBe("3");
  await startWorker(3, 2);
  expect(await known()).toBe("3");
  await enqueue(stays, 0);
  await arrivals(`/${stays}`, 4);
});

test("from three shards to two to one: events wait until the third shard is named, and nothing is registered meanwhile", async () => {
  const userId = userAt(1, 2);
  await backend(3).endpoints.put(userId, "main", { url: receiver.url(`/${userId}`) });
  await (await startWorker(2, 3)).stop();
  const worker = await startWorker(1, 2);
  await enqueue(userId, 0);
  const reason =
    "users may have endpoints where 3 shards had them: run fluxhook endpoints rehome --from 3 until it finds nothing to move";
  expect(await worker.line("endpoints.unmoved")).toMatchObject({ reason });
  const refused = backend(1, 2).endpoints.put(userId, "main", { url: receiver.url("/other") });
  expect(await refused.catch(({ code, message }) => [code, message])).toEqual(["MOVED", reason]);
  const partial = await createCommand(settings(1, 2))(["endpoints", "rehome"]);
  expect([partial.code === 0, partial.out]).toEqual([false, expect.stringContaining(`Not all: ${reason}.`)]);
  expect([await countFailed(), await known()]).toEqual([0, "2 3 1"]);
  const status = await createCommand(settings(1, 2))(["status"]);
  expect(status.out).toContain("Users may have endpoints where 3 shards had them, from a change that has not ended.");
  expect(status.out).toContain("Run fluxhook endpoints rehome --from 3 until it finds nothing to move.");
  const run = createCommand({ ...settings(1, 2), VALKEY_URL: urls.join(" ") });
  for (const out of ["Moved 1 endpoint of 1 user", "Moved 0 endpoints of 0 users"]) {
    const done = await run(["endpoints", "rehome", "--from", "3"]);
    expect([done.code, done.out]).toEqual([0, expect.stringContaining(out)]);
  }
  await arrivals(`/${userId}`, 1);
  expect([await countFailed(), await known()]).toEqual([0, "1"]);
});

test("without registered endpoints, a change of the number of shards leaves nothing behind", async () => {
  await startWorker(2, 3);
  expect(await known()).toBeNull();
  const userId = userAt(1, 2);
  await backend(2, 3).endpoints.put(userId, "main", { url: receiver.url(`/${userId}`) });
  await enqueue(userId, 0);
  await arrivals(`/${userId}`, 1);
});
