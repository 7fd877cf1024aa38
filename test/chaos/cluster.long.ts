/** Outages of a cluster that holds a queue's shards. */
import { expect } from "bun:test";
import { slotOf } from "../../src/valkey/cluster.ts";
import { expectFlawless } from "../support/books.ts";
import { kill } from "../support/chaos.ts";
import {
  clusterChaos,
  expectNothingReplicatedLost,
  killMeasured,
  type OpenShard,
  SLOTS,
  unexplainedBy,
} from "../support/cluster-rig.ts";
import { eventually } from "../support/stack.ts";

const PER_SECOND = 200;
const EVENTS = 3_000;
const WORKERS = 2;

clusterChaos(
  "a primary that is killed, then both workers while a slot moves, with two thirds of the endpoints dead: every event arrives, with its line in the log",
  {
    workers: WORKERS,
    // Locks of 30 s, which outlast what a busy machine adds to an outage.
    isDead: (index) => index % 3 !== 0,
    env: { WEBHOOK_TIMEOUT: "20s", WEBHOOK_RETRY_DELAYS: Array(20).fill("2s").join(), WEBHOOK_LOG_SIZE: "100" },
  },
  async (rig) => {
    const stop = rig.load(PER_SECOND);
    await Bun.sleep(rig.chance.between(2_000, 4_000));
    const shard = rig.chance.pick(rig.shards);
    const primary = await rig.ownerOf(shard.index);
    const lag = await killMeasured(primary, shard);
    const failoverMs = await rig.replaced(shard.index, primary);
    const replacedAt = Date.now();
    await Bun.sleep(rig.chance.between(500, 1_500));

    const killedAt = Date.now();
    await Promise.all(rig.workers.splice(0).map(kill));
    const target = await rig.ownerOf(shard.index);
    const { others } = await rig.shardsOn(target);
    const moved = rig.shards[rig.chance.pick(others)] as OpenShard;
    const started = Promise.all([rig.startWorker(), rig.startWorker()]);
    const movedFrom = performance.now();
    await rig.cluster.moveSlot(slotOf(moved.queue), target);
    const moveMs = performance.now() - movedFrom;
    await started;
    const startMs = Date.now() - killedAt;
    await eventually(
      () => rig.made,
      (made) => made >= EVENTS,
      30_000,
      20,
    );
    await stop();
    const revivedAt = performance.now();
    rig.revive();
    await rig.settled();
    const settleMs = performance.now() - revivedAt;

    const { lost, repeated, undocumented, unlogged, overlapping: _, charged: __, ...balance } = await rig.closeBooks();
    const figures = { lost: lost.length, repeated: repeated.length, unlogged: unlogged.length };
    rig.figures({ lagMs: lag.to - lag.from, failoverMs, moveMs, startMs, settleMs, ...figures });
    expectFlawless(balance);
    expectNothingReplicatedLost(rig, [...lost, ...undocumented], lag);
    const harms = [
      { from: lag.from, to: replacedAt },
      { from: killedAt, to: killedAt },
    ];
    expect(unexplainedBy([...repeated, ...unlogged], harms)).toEqual([]);
    expect(repeated.length).toBeLessThanOrEqual(2 * 9 * WORKERS * SLOTS);
  },
);
