/** A Valkey that dies, freezes, hangs up, vanishes and changes its role. */
import { describe, expect } from "bun:test";
import { Redis } from "ioredis";
import { startValkey } from "../../src/dev/valkey.ts";
import { expectFlawless, unexplained } from "../support/books.ts";
import { BEYOND_LOCK_MS, chaos, type RigOptions, SETTLE_MS, SLOTS, whenReady } from "../support/chaos.ts";
import type { WorkerProcess } from "../support/process.ts";
import { startProxy } from "../support/proxy.ts";
import { PRIMARY, startSentinels } from "../support/sentinels.ts";
import { eventually } from "../support/stack.ts";

const PER_SECOND = 10;
/** Until Sentinels have agreed that a Valkey is gone, and its replica has taken over. */
const REPLACED_MS = 20_000;
const SYNC_MS = 2_000; // 2 s: what `appendfsync everysec` may leave unwritten when the disk is slow
const SENT_MS = 100; // what a dying primary had confirmed and not yet passed on to its replica
const BEFORE_MS = 2_000; // how long before an outage an attempt may have begun that was in flight then

/** Make one the replica of another; resolves when it has all of its data. */
async function replicate(replica: Redis, primary: Redis, port: number): Promise<void> {
  await primary.config("SET", "repl-diskless-sync-delay", 0);
  await replica.replicaof("127.0.0.1", port);
  await become(replica, "master_link_status:up");
}

async function become(client: Redis, fact: string): Promise<void> {
  const ask = () => client.info("replication");
  await eventually(ask, (info) => info.includes(fact), 10_000);
}

/** Give a Valkey a replica, and three Sentinels that watch the two. */
const behindSentinels: RigOptions["via"] = async ({ url, port }, atEnd) => {
  const replica = await startValkey();
  atEnd(() => replica.stop());
  const clients = [new Redis(replica.url), new Redis(url)] as const;
  await replicate(...clients, port);
  for (const client of clients) client.disconnect();
  const sentinels = await startSentinels(3, port, { replicas: 1 });
  atEnd(() => sentinels.stop());
  return `redis+sentinel://${sentinels.hosts}/${PRIMARY}`;
};

describe("Valkey", () => {
  for (const way of ["SIGSTOP", "CLIENT PAUSE"] as const) {
    chaos(`paused for longer than a lock lasts (${way})`, {}, async (rig) => {
      const [worker] = rig.workers as [WorkerProcess];
      const stop = rig.load(PER_SECOND);
      await Bun.sleep(rig.chance.between(1_000, 2_000));
      const from = Date.now();
      if (way === "SIGSTOP") rig.valkey.pause();
      else await rig.admin.client("PAUSE", BEYOND_LOCK_MS, "ALL");
      expect(await whenReady(worker, false)).toEqual(["Valkey does not answer"]);
      await Bun.sleep(from + BEYOND_LOCK_MS - Date.now());
      const to = Date.now();
      if (way === "SIGSTOP") rig.valkey.resume();
      await whenReady(worker, true);
      await stop();
      await rig.settled(SETTLE_MS);

      // What was in flight when it froze came to its end, but could not be acknowledged, and its lock is gone.
      const { repeated, ...balance } = await rig.closeBooks();
      expectFlawless(balance);
      expect(unexplained(repeated, [{ from, to }], BEFORE_MS)).toEqual([]);
      expect(repeated.length).toBeLessThanOrEqual(2 * SLOTS);
      rig.figures({ repeated: repeated.length });
    });
  }

  chaos("whose machine vanishes without a word, and whose successor takes its address", { workers: 0 }, async (rig) => {
    const proxy = await startProxy(rig.valkey.port);
    rig.atEnd(() => proxy.stop());
    const worker = await rig.startWorker({ VALKEY_URL: proxy.url });
    const stop = rig.load(PER_SECOND);
    await Bun.sleep(rig.chance.between(1_000, 2_000));
    proxy.forget();
    const from = Date.now();
    expect(await whenReady(worker, false)).toEqual(["Valkey does not answer"]);
    await stop();
    await rig.settled(SETTLE_MS);
    await whenReady(worker, true);
    const { repeated, ...balance } = await rig.closeBooks();
    expectFlawless(balance);
    expect(unexplained(repeated, [{ from, to: from + 1_000 }], BEFORE_MS)).toEqual([]);
    rig.figures({ settledMs: Date.now() - from, repeated: repeated.length });
  });

  for (const appendfsync of ["always", "everysec"] as const) {
    chaos(
      `killed and restarted under load, appendfsync ${appendfsync}`,
      { workers: 1, valkey: { appendfsync } },
      async (rig) => {
        const [worker] = rig.workers as [WorkerProcess];
        const stop = rig.load(PER_SECOND);
        const kills: { from: number; to: number }[] = [];
        for (let i = 0; i < 2; i++) {
          await Bun.sleep(rig.chance.between(1_000, 2_500));
          await rig.valkey.kill();
          const from = Date.now();
          expect(await whenReady(worker, false)).toEqual(["Valkey does not answer"]);
          await Bun.sleep(rig.chance.between(0, 2_000));
          await rig.valkey.restart();
          kills.push({ from, to: Date.now() });
          await whenReady(worker, true);
        }
        await stop();
        await rig.settled(SETTLE_MS);

        const { lost, repeated, undocumented, unlogged, ...balance } = await rig.closeBooks();
        expectFlawless(balance);
        if (appendfsync === "always") expectFlawless({ lost, repeated, undocumented, unlogged });
        const isRecent = (at: number) => kills.some(({ from, to }) => at > from - SYNC_MS && at < to);
        expect(lost.filter((event) => !isRecent(rig.enqueued.get(event) ?? 0))).toEqual([]);
        expect(unexplained([...repeated, ...unlogged], kills, SYNC_MS)).toEqual([]);
        rig.figures({ lost: lost.length, repeated: repeated.length, unlogged: unlogged.length });
      },
    );
  }

  chaos("that cuts every connection, ten times, loses and repeats nothing", { workers: 1 }, async (rig) => {
    const stop = rig.load(PER_SECOND);
    for (let i = 0; i < 10; i++) {
      await Bun.sleep(rig.chance.between(200, 600));
      await rig.admin.call("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes");
    }
    await stop();
    const stoppedAt = Date.now();
    await rig.settled(SETTLE_MS);
    expectFlawless(await rig.closeBooks());
    rig.figures({ settledMs: Date.now() - stoppedAt });
  });

  chaos(
    "that takes no writes for a while (READONLY), and then does, loses and repeats nothing",
    { workers: 1 },
    async (rig) => {
      const [worker] = rig.workers as [WorkerProcess];
      const stop = rig.load(PER_SECOND);
      for (let i = 0; i < 2; i++) {
        await Bun.sleep(rig.chance.between(500, 1_500));
        await Promise.all(Array.from({ length: 2 * SLOTS }, () => rig.enqueue())); // a busy moment
        await rig.admin.replicaof("127.0.0.1", 1); // nobody is there: it keeps its data
        // Not `expect().rejects`: in Bun it holds up the loop, and with it all the tests beside this one.
        expect(await rig.admin.set("a", "b").catch((error: Error) => error.message)).toStartWith("READONLY");
        expect(await whenReady(worker, false)).toEqual(["Valkey takes no writes: it is a replica"]);
        await Bun.sleep(rig.chance.between(0, 1_500));
        await rig.admin.replicaof("NO", "ONE");
        await whenReady(worker, true);
      }
      await stop();
      const stoppedAt = Date.now();
      await rig.settled(SETTLE_MS);
      expectFlawless(await rig.closeBooks());
      expect(worker.errors()).toBe("");
      rig.figures({ settledMs: Date.now() - stoppedAt });
    },
  );

  chaos(
    "that dies, and that Sentinels replace by its replica, loses nothing",
    { workers: 1, via: behindSentinels },
    async (rig) => {
      const [worker] = rig.workers as [WorkerProcess];
      const stop = rig.load(PER_SECOND);
      await Bun.sleep(rig.chance.between(1_000, 2_000));
      await rig.valkey.kill();
      const from = Date.now();
      // Nobody need be told that the worker is not ready: they may be faster than an answer of `/readyz` may take.
      const isReplaced = (info: string) => !info.includes(`tcp_port:${rig.valkey.port}`);
      await eventually(() => rig.admin.info("server"), isReplaced, REPLACED_MS);
      await whenReady(worker, true, REPLACED_MS);
      const to = Date.now();
      await rig.valkey.restart(); // it comes back as a replica, and is told so by the Sentinels
      await stop();
      await rig.settled(SETTLE_MS);

      // What the replica had not been told in the last moment is gone: replication waits for nobody.
      const { lost, repeated, undocumented, unlogged, ...balance } = await rig.closeBooks();
      expectFlawless(balance);
      const isRecent = (at: number) => at > from - SENT_MS && at < to;
      expect([...lost, ...undocumented].filter((event) => !isRecent(rig.enqueued.get(event) ?? 0))).toEqual([]);
      expect(unexplained([...repeated, ...unlogged], [{ from, to }], BEFORE_MS)).toEqual([]);
      rig.figures({ awayMs: to - from, lost: lost.length, repeated: repeated.length });
    },
  );

  chaos(
    "that hands over to a replica, and takes over again, loses and repeats nothing",
    { workers: 1 },
    async (rig) => {
      const [worker] = rig.workers as [WorkerProcess];
      const other = await startValkey();
      const otherAdmin = new Redis(other.url, { maxRetriesPerRequest: null });
      rig.atEnd(async () => {
        otherAdmin.disconnect();
        await other.stop();
      });
      await replicate(otherAdmin, rig.admin, rig.valkey.port);
      const stop = rig.load(PER_SECOND);
      await Bun.sleep(rig.chance.between(1_000, 2_000));
      await rig.admin.call("FAILOVER", "TO", "127.0.0.1", String(other.port));
      await become(rig.admin, "role:slave");
      expect(await whenReady(worker, false)).toEqual(["Valkey takes no writes: it is a replica"]);
      await Bun.sleep(rig.chance.between(0, 3_000));
      await rig.admin.replicaof("NO", "ONE");
      await whenReady(worker, true);
      await stop();
      const stoppedAt = Date.now();
      await rig.settled(SETTLE_MS);
      expectFlawless(await rig.closeBooks());
      rig.figures({ settledMs: Date.now() - stoppedAt });
    },
  );
});
