/** Everything that a worker, a backend and an operator do, in shards of a cluster, where a script may touch only one slot. */
import { expect } from "bun:test";
import { join } from "node:path";
import type { Job } from "bullmq";
import { Queue as Queue5 } from "bullmq5";
import { createFluxhook } from "../../src/index.ts";
import { hold, release } from "../../src/operations/hold.ts";
import { homeOf } from "../../src/queue/shards.ts";
import { whenReady } from "../support/chaos.ts";
import { type ClusterRig, clusterChaos, type OpenShard, SHARDS } from "../support/cluster-rig.ts";
import type { WorkerProcess } from "../support/process.ts";
import { eventually } from "../support/stack.ts";

const env = {
  BUN_OPTIONS: `--preload=${join(import.meta.dir, "../support/poison-program.ts")}`,
  WEBHOOK_MAX_BACKLOG: "100",
  WEBHOOK_RETRY_DELAYS: "1s,1s",
};
const BACKLOG = 100;
const BEHIND = 20;
const JUDGED_MS = 60_000;
const BRACED = ["{0}", "}{", "{", "a{1}b{2}", "{}x", "usr_{webhooks-{3}}"];

const shardAt = ({ shards }: ClusterRig, index: number) => shards[index] as OpenShard;
const endOf = (ask: () => Promise<Job | undefined>) =>
  eventually(ask, (job) => job?.finishedOn !== undefined, JUDGED_MS, 100);

clusterChaos(
  "every feature, with braces in users' ids and the same job ids in all shards: no key in another shard's slot",
  { replicas: 0, workers: 0, env },
  async (rig) => {
    const { cluster, shards } = rig;
    const backend = createFluxhook({ valkeyUrl: cluster.url, shards: SHARDS, timeoutMs: 30_000 });
    rig.atEnd(() => backend.close());
    const endpoint = { url: rig.receiverUrl, secret: "s3cret-of-the-test" };
    const add = (index: number, userId: string, data: object, jobId: string, url = rig.receiverUrl) =>
      shardAt(rig, index).client.add("file.created", { userId, endpoint: { ...endpoint, url }, data }, { jobId });

    const first = shardAt(rig, 0);
    const held = "usr_{held}";
    await hold(
      [first],
      { kind: "user", target: held },
      { until: Date.now() + 600_000, reason: "test", by: "test" },
      Date.now(),
    );
    await backend.enqueue({ event: "file.created", userId: held, endpoint, data: {} });
    await add(2, "usr_poison", { kills: true }, "poison");
    // As if three workers had died with it, and two processes of its own.
    await shardAt(rig, 2).valkey.hset("bull:webhooks-{2}:poison", { stc: 3, deaths: 2 });
    for (const { index } of shards) await add(index, "usr_same", {}, "same");
    const worker = await rig.startWorker();

    const events = BRACED.map((userId) => ({ event: "file.created", userId, endpoint, data: {} }) as const);
    expect((await backend.enqueueMany(events)).map(({ status }) => status)).toEqual(BRACED.map(() => "new"));
    const id = crypto.randomUUID();
    const twice = () => backend.enqueue({ event: "file.created", id, userId: "usr_twice", endpoint, data: {} });
    expect([(await twice()).status, (await twice()).status]).toEqual(["new", "known"]);
    // More than may wait for one endpoint, and a backlog to reorder: the dead one's shard has the living one's events behind.
    const dead = homeOf("usr_dead", SHARDS);
    for (let i = 0; i < 2 * BACKLOG; i++) await add(dead, "usr_dead", {}, `d${i}`, `${rig.deadUrl}silent`);
    for (let i = 0; i < BEHIND; i++) await add(dead, `usr_behind${i}`, {}, `b${i}`);
    // A client that knows only the `paused` list, on the node that has the shard.
    const { port } = await rig.ownerOf(3);
    const old = new Queue5("webhooks-{3}", { connection: { host: "127.0.0.1", port } });
    rig.atEnd(() => old.close());
    await old.pause();
    await old.add("file.created", { userId: "usr_paused", endpoint, data: {} }, { jobId: "added-while-paused" });
    await old.resume();

    const poison = await endOf(() => shardAt(rig, 2).client.getJob("poison"));
    expect(poison?.failedReason).toStartWith("poison: ");
    expect(worker.lines.find(({ message }) => message === "job.poisoned")?.job).toBe("2/poison");
    expect(poison?.failedReason).toEndWith("fluxhook redeliver 2/poison");
    const list = async (user: string) => (await backend.readAttempts(user)).map(({ job, success }) => [job, success]);
    for (const { index } of shards) await endOf(() => shardAt(rig, index).client.getJob("same"));
    expect((await list("usr_same")).map(String).sort()).toEqual(shards.map(({ index }) => `${index}/same,true`));
    for (const user of BRACED) {
      const log = await eventually(
        () => list(user),
        ({ length }) => length > 0,
        JUDGED_MS,
        50,
      );
      expect([user, log]).toEqual([user, [[expect.stringContaining(`${homeOf(user, SHARDS)}/`), true]]]);
    }
    await endOf(() => shardAt(rig, 3).client.getJob("added-while-paused"));
    await endOf(() => shardAt(rig, dead).client.getJob(`b${BEHIND - 1}`));
    const failed = () => shardAt(rig, dead).client.getFailed(0, -1);
    const isOverfull = (jobs: Job[]) => jobs.some(({ failedReason }) => failedReason?.startsWith("backlog_full"));
    await eventually(failed, isOverfull, JUDGED_MS, 100);
    expect(await list(held)).toEqual([]);
    expect((await release([first], { kind: "user", text: held }, Date.now())).length).toBe(1);
    await eventually(
      () => list(held),
      ({ length }) => length === 1,
      JUDGED_MS,
      100,
    );
    await expectClean(rig, worker);
  },
);

/** It is ready, counts its shards, stops as it should, and no node had to send a command elsewhere. */
async function expectClean(rig: ClusterRig, worker: WorkerProcess): Promise<void> {
  await whenReady(worker, true, JUDGED_MS);
  const metrics = await (await fetch(await worker.url("/metrics"))).text();
  expect(metrics).toContain('shard="5"');
  expect(await worker.stop()).toBe(0);
  rig.workers.length = 0;
  expect(worker.output()).not.toMatch(/CROSSSLOT|MOVED|TRYAGAIN/);
  const stats = await Promise.all(
    rig.cluster.nodes.map(
      async ({ client }) => (await client.info("errorstats")) + (await client.info("commandstats")),
    ),
  );
  expect(stats.join("")).not.toMatch(/errorstat_(CROSSSLOT|ASK|TRYAGAIN)/);
  // The search for events in shards that nobody serves asks every node for all of them.
  const refused = [...stats.join("").matchAll(/cmdstat_(\S+?):.*rejected_calls=[1-9]/g)].map(([, name]) => name);
  expect(refused.filter((name) => name !== "llen" && name !== "zcard")).toEqual([]);
  rig.figures({});
}
