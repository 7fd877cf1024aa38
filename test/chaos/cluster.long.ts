/** Outages of a cluster that holds a queue's shards. */
import { expect, test } from "bun:test";
import { slotOf } from "../../src/valkey/cluster.ts";
import { expectFlawless, unexplained } from "../support/books.ts";
import { kill } from "../support/chaos.ts";
import { startClusterRig } from "../support/cluster-rig.ts";
import { eventually } from "../support/stack.ts";

const TEST_MS = 150 * 1000;
const PER_SECOND = 150;
const LAG_MS = 1_000; // what a primary acknowledged so shortly before its death may not be at its replica
const LOCK_MS = 17 * 1000; // outlasts the jobs' locks

test(
  "a primary that is killed, then both workers: every event arrives, with its line in the log",
  async () => {
    await using rig = await startClusterRig();
    const stop = rig.load(PER_SECOND);
    await Bun.sleep(2_000);
    const [shard] = rig.shards as [(typeof rig.shards)[number]];
    const owner = await rig.cluster.ownerOf(slotOf(shard.queue));
    const from = Date.now();
    await owner?.kill();
    await eventually(
      () => rig.cluster.ownerOf(slotOf(shard.queue)),
      (now) => now !== undefined && now !== owner,
      30_000,
      100,
    );
    await Bun.sleep(1_000);
    const harms = [{ from, to: Date.now() + LOCK_MS }];
    const killedAt = Date.now();
    await Promise.all(rig.workers.map(kill));
    rig.workers.length = 0;
    await rig.startWorker();
    await rig.startWorker();
    await Bun.sleep(2_000);
    await stop();
    await rig.settled();
    harms.push({ from: killedAt, to: Date.now() });

    const { lost, repeated, undocumented, unlogged, overlapping: _, ...balance } = await rig.closeBooks();
    expectFlawless(balance);
    // What Valkey said yes to and had not replicated is lost with the primary.
    const wasUnreplicated = (event: string) => Math.abs((rig.enqueued.get(event) ?? 0) - from) < LAG_MS;
    expect(lost.filter((event) => !wasUnreplicated(event))).toEqual([]);
    expect(undocumented.filter((event) => !wasUnreplicated(event))).toEqual([]);
    expect(unexplained([...repeated, ...unlogged], harms, LAG_MS)).toEqual([]);
    if (process.env.CHAOS_FIGURES)
      console.error({
        lost: lost.length,
        repeated: repeated.length,
        unlogged: unlogged.length,
        enqueued: rig.enqueued.size,
      });
  },
  TEST_MS,
);
