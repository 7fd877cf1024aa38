/** Fewer shards, live and without registered endpoints: the shards that are to go are served, read and redelivered from until they do. */
import { afterAll, afterEach, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { Registry } from "prom-client";
import { createBoardApp } from "../src/board/app.ts";
import { type Cluster, startCluster } from "../src/dev/cluster.ts";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { startValkey, type ThrowawayValkey } from "../src/dev/valkey.ts";
import { createFluxhook, type Fluxhook, type FluxhookOptions } from "../src/index.ts";
import { type OpenShard, type OpenShards, openShard } from "../src/queue/open-shard.ts";
import { homeOf, shardsOf } from "../src/queue/shards.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { createCommand } from "./support/command.ts";
import { startWorkerProcess } from "./support/process.ts";
import { eventually } from "./support/stack.ts";

setDefaultTimeout(90_000); // processes that start, on a machine that may be busy

const BEFORE = 3;
const { logger } = createLogger("silent");
const endings: (() => unknown)[] = [];
let cluster: Cluster;
let valkeys: ThrowawayValkey[];
let receiver: Receiver;

beforeAll(async () => {
  [cluster, receiver] = await Promise.all([startCluster({ replicas: 0 }), startReceiver()]);
  valkeys = await Promise.all(Array.from({ length: BEFORE }, () => startValkey()));
});
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});
afterAll(() => Promise.all([cluster.stop(), receiver.stop(), ...valkeys.map((valkey) => valkey.stop())]));

const urlsOf = (where: "cluster" | "Valkeys", count: number) =>
  where === "cluster" ? [cluster.url] : valkeys.slice(0, count).map(({ url }) => url);

/** A user whose home is this shard among three. */
function userOf(home: number): string {
  for (;;) {
    const user = `usr_${crypto.randomUUID()}`;
    if (homeOf(user, BEFORE) === home) return user;
  }
}

test.each([
  ["cluster", 2],
  ["cluster", 1],
  ["Valkeys", 2],
  ["Valkeys", 1],
] as const)(
  "in %s, from three shards to %d: what is in those that go is delivered, shown and redelivered; then it is as if they had never been",
  async (where, count) => {
    const queue = `shrinking${count}`;
    const open = (shards: number, before?: number) =>
      shardsOf({ queue, shards, before, valkeyUrls: urlsOf(where, Math.max(shards, before ?? 0)) }).map((shard) => {
        const valkey = connectValkey(shard.url, "test:shrinking", logger, { key: shard.queue });
        endings.push(() => valkey.disconnect());
        return openShard(shard, valkey);
      }) as unknown as OpenShards;
    const envOf = (shards: number, before?: number) => ({
      VALKEY_URL: urlsOf(where, Math.max(shards, before ?? 0)).join(" "),
      ...{ WEBHOOK_SHARDS: `${shards}`, WEBHOOK_QUEUE: queue, ...(before && { WEBHOOK_SHARDS_BEFORE: `${before}` }) },
    });
    const start = async (env: Record<string, string>) => {
      const worker = startWorkerProcess(env);
      endings.push(() => worker.stop());
      await worker.line("worker.ready");
      return worker;
    };
    const connect = (options: FluxhookOptions) => {
      const backend = createFluxhook({ queue, timeoutMs: 20_000, ...options });
      endings.push(() => backend.close());
      return backend;
    };
    const all = open(count, BEFORE);
    const going = all[BEFORE - 1] as OpenShard;
    const users = [userOf(0), userOf(BEFORE - 1)] as const;
    const endpoint = { url: receiver.url(`/${where}/${count}`), secret: "s3cret-of-the-test" };
    const eventFor = (userId: string) => ({ event: "file.created" as const, userId, endpoint, data: { left: 1 } });
    const jobOf = (shard: OpenShard, id: string) => shard.client.getJob(id);

    const completed = (shard: OpenShard, id = "") =>
      eventually(
        async () => await (await jobOf(shard, id))?.getState(),
        (state) => state === "completed",
      );

    // With three shards: one event of each user fails, and one of the last shard waits for a retry.
    receiver.answer({ status: 410 });
    const first = await start({ ...envOf(BEFORE), WEBHOOK_RETRY_DELAYS: "2s" });
    const wide = connect({ valkeyUrl: urlsOf(where, BEFORE).join(" "), shards: BEFORE });
    const [stays, goes] = await Promise.all(users.map((user) => wide.enqueue(eventFor(user))));
    await first.line("delivery.attempted", 2);
    receiver.answer({ status: 500 });
    await wide.enqueue(eventFor(users[1]));
    await first.line("delivery.attempted", 3);
    receiver.answer({ status: 204 });

    // Backends first, then workers.
    const valkeyUrl = urlsOf(where, BEFORE).join(" ");
    const narrow = connect({ valkeyUrl, shards: count, shardsBefore: BEFORE });
    const readAttempts = (backend: Fluxhook, length: number) =>
      eventually(
        () => backend.readAttempts(users[1]),
        (attempts) => attempts.length === length,
      );
    await readAttempts(narrow, 2);
    await first.stop();
    const home = all[homeOf(users[1], count)] as OpenShard;
    const moved = await narrow.enqueue(eventFor(users[1]));
    const second = await start(envOf(count, BEFORE));
    await second.line("delivery.attempted", 2);
    expect(await jobOf(home, moved.id)).toBeDefined();
    expect(await jobOf(going, moved.id)).toBeUndefined();
    await eventually(
      () => going.client.getJobCountByTypes("waiting", "active", "delayed"),
      (left) => left === 0,
    );

    // What is left there can be read and redelivered.
    const attempts = await readAttempts(narrow, 4);
    expect(attempts.map(({ job = "" }) => job.slice(0, 2)).sort()).toEqual(["2/", "2/", "2/", home.label].sort());
    const fluxhook = createCommand(envOf(count, BEFORE));
    const listed = await fluxhook(["attempts", users[1], "--json"]);
    expect([JSON.parse(listed.out).length, listed.code]).toEqual([4, 0]);
    const { shards: shown } = JSON.parse((await fluxhook(["status", "--json"])).out);
    expect(shown).toMatchObject(all.map(({ queue: name }) => ({ queue: name, workers: 1 })));
    const build = (shards: OpenShards) =>
      createBoardApp({ config: BOARD_DEFAULTS, shards, registry: new Registry(), logger });
    const ask = async (shards: OpenShards, path: string, accept: string) =>
      await (await build(shards).request(path, { headers: { accept } })).text();
    expect(JSON.parse(await ask(all, `/users/${users[1]}/attempts`, "application/json")).attempts).toHaveLength(4);
    expect(await ask(all, `/users/${users[1]}`, "text/html")).toContain(`2/${goes?.id}`);
    expect((await fluxhook(["redeliver", `2/${goes?.id}`])).out).toStartWith("1 queued");
    await second.line("delivery.attempted", 3);
    await completed(going, goes?.id);
    expect(await second.stop()).toBe(0);

    // Without the shards that are gone, those that stay know their jobs by the names that they had.
    const third = await start(envOf(count));
    const after = createCommand(envOf(count));
    const rest = open(count);
    const [{ job }] = JSON.parse((await after(["attempts", users[0], "--json"])).out);
    expect(job).toBe(`0/${stays?.id}`);
    expect(await ask(rest, `/users/${users[0]}`, "text/html")).toContain(stays?.id as string);
    expect((await after(["redeliver", job])).out).toStartWith("1 queued");
    await third.line("delivery.attempted");
    await completed(rest[0], stays?.id);
  },
);
