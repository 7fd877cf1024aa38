/** What operators held in one Valkey before a move into a cluster: it stays held, in all shards, and can be released. */
import { afterAll, afterEach, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { Registry } from "prom-client";
import { createBoardApp } from "../src/board/app.ts";
import { type Cluster, startCluster } from "../src/dev/cluster.ts";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { startValkey, type ThrowawayValkey } from "../src/dev/valkey.ts";
import { changeHolds, readHolds } from "../src/isolation/hold-store.ts";
import { type OpenShard, type OpenShards, openShard } from "../src/queue/open-shard.ts";
import { shardsOf } from "../src/queue/shards.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { createCommand } from "./support/command.ts";
import { startWorkerProcess } from "./support/process.ts";
import { eventually, jobData } from "./support/stack.ts";

setDefaultTimeout(90_000); // processes that start, on a machine that may be busy

const AWAY_MS = 20_000;
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

/** The two shards in the cluster and the one it left behind, and how commands and workers find them. */
function open(queue: string) {
  const shards = shardsOf({ queue, shards: 2, valkeyUrls: [cluster.url], drainUrl: old.url }).map((shard) => {
    const valkey = connectValkey(shard.url, "test:holds", quiet, { key: shard.queue });
    endings.push(() => valkey.disconnect());
    return openShard(shard, valkey);
  }) as [OpenShard, OpenShard, OpenShard];
  const before = { VALKEY_URL: old.url, WEBHOOK_QUEUE: queue };
  const after = { ...before, VALKEY_URL: cluster.url, WEBHOOK_SHARDS: "2", WEBHOOK_DRAIN_URL: old.url };
  return { shards, before, after };
}

const start = async (env: Record<string, string>) => {
  const worker = startWorkerProcess(env);
  endings.push(() => worker.stop());
  await worker.line("worker.ready");
  return worker;
};

const addTo = (shards: readonly OpenShard[], url: string) =>
  Promise.all(shards.map(({ client }) => client.add("file.created", jobData(url))));
const parked = async (shards: readonly OpenShard[], count: number) =>
  await eventually(
    () => Promise.all(shards.map(({ client }) => client.getDelayedCount())),
    (counts) => counts.every((delayed) => delayed === count),
    AWAY_MS,
  );
const arrived = (at: Receiver, count: number) =>
  eventually(
    () => at.requests.length,
    (requests) => requests === count,
    AWAY_MS,
  );

test("a hold from before binds every shard, also while its Valkey is away, is shown, and is released by command and board", async () => {
  const { shards, before, after } = open("moving");
  const [free, blocked] = await Promise.all([startReceiver(), startReceiver()]);
  endings.push(() => Promise.all([free.stop(), blocked.stop()]));
  const fluxhook = createCommand(after);
  const { host } = new URL(blocked.url());
  const text = await createCommand(before)(["hold", host, "--for", "1h", "--json"]);
  const { id } = JSON.parse(text.out);
  const worker = await start(after);
  expect(await worker.line("hold.started")).toMatchObject({ kind: "host", target: host });
  const [first, second, left] = shards;
  await addTo(shards, blocked.url());
  await addTo(shards, free.url());
  await parked(shards, 1);
  await arrived(free, 3);
  const listed = await fluxhook(["holds", "--json"]);
  expect([JSON.parse(listed.out), listed.code]).toMatchObject([[{ id, kind: "host", target: host }], 0]);
  expect(JSON.parse((await fluxhook(["status", "--json"])).out).holds).toMatchObject([{ id }]);

  await old.kill();
  await addTo([first, second], blocked.url());
  await addTo([first, second], free.url());
  await parked([first, second], 2);
  await arrived(free, 5);
  const late = startWorkerProcess(after); // it does not wait for the holds there
  endings.push(() => late.stop());
  await eventually(
    () => Promise.all([first, second].map(({ client }) => client.getWorkersCount())),
    (counts) => counts.every((count) => count === 2),
    AWAY_MS,
  );
  await late.stop();
  const partly = await fluxhook(["hold", "--user", "usr_new", "--for", "1h"]);
  expect([partly.code, partly.err]).toEqual([1, expect.stringContaining("cannot use shard old of Valkey")]);
  expect(await readHolds(first.valkey, first.queue)).toMatchObject([{ kind: "user", target: "usr_new" }]);
  await old.restart();
  await eventually(
    async () => (await fluxhook(["holds", "--json"])).code,
    (code) => code === 0,
    AWAY_MS,
  );
  expect(blocked.requests).toEqual([]);

  // Prolonged, it is held in the cluster as well, so that it outlasts the Valkey before.
  const again = JSON.parse((await fluxhook(["hold", host, "--for", "2h", "--json"])).out);
  expect(again).toMatchObject({ id, was_held: true });
  const keptIn = async ({ valkey, queue }: OpenShard) =>
    (await readHolds(valkey, queue)).find((hold) => hold.id === id)?.until;
  expect([await keptIn(first), await keptIn(left)]).toEqual(Array(2).fill(Date.parse(again.until)));
  expect(JSON.parse((await fluxhook(["holds", "--json"])).out)).toHaveLength(2);

  expect((await fluxhook(["release", host])).code).toBe(0);
  await arrived(blocked, 5);
  expect((await fluxhook(["release", id])).code).toBe(1);

  // The board does the same.
  await createCommand(before)(["hold", "--user", "usr_7", "--for", "1h"]);
  const { logger } = createLogger("silent");
  const all = shards as unknown as OpenShards;
  const app = createBoardApp({ config: BOARD_DEFAULTS, shards: all, registry: new Registry(), logger });
  const read = async (path: string) => await (await app.request(path, { headers: { accept: "text/html" } })).text();
  const [held] = (await readHolds(left.valkey, left.queue)).filter(({ target }) => target === "usr_7");
  expect(await read("/")).toContain("User <code>usr_7</code>");
  expect(await read("/users/usr_7")).toContain("User <code>usr_7</code>");
  const headers = { origin: "http://localhost", accept: "text/html" };
  const body = new URLSearchParams({ hold: held?.id as string });
  const released = await app.request("/actions/release", { method: "POST", headers, body });
  expect(released.headers.get("location")).toBe("/?notice=released");
  expect(await read("/")).not.toContain("usr_7");
  expect(await readHolds(left.valkey, left.queue)).toHaveLength(2); // they count for the age of events
});

test("the time for which an event was held before the move does not count for its age", async () => {
  const { shards, after } = open("aging");
  const [first, second, left] = shards;
  const nowMs = Date.now();
  const over = { id: "h1", kind: "user", target: "usr_held", from: nowMs - 170_000, until: nowMs - 5_000 } as const;
  await changeHolds(left.valkey, left.queue, () => ({ write: [over] }));
  receiver.answer({ status: 500 });
  await start({ ...after, WEBHOOK_MAX_AGE: "1m", WEBHOOK_RETRY_DELAYS: "20s" });
  const add = async ({ client }: OpenShard, userId: string) =>
    await client.add("file.created", jobData(receiver.url(), { userId }), { timestamp: nowMs - 170_000 });
  const jobs = await Promise.all([add(first, "usr_held"), add(second, "usr_held"), add(second, "usr_other")]);
  const states = await eventually(
    () => Promise.all(jobs.map((job) => job.getState())),
    (all) => all.every((state) => state === "delayed" || state === "failed"),
    AWAY_MS,
  );
  expect(states).toEqual(["delayed", "delayed", "failed"]);
});
