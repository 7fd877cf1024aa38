/** Shards on Valkeys of their own: one that is backlogged, and more of them and fewer under load. */
import { expect } from "bun:test";
import { homeOf } from "../../src/queue/shards.ts";
import { expectFlawless } from "../support/books.ts";
import { type OpenShard, SHARDS, valkeysChaos } from "../support/cluster-rig.ts";
import { startWorkerProcess, type WorkerProcess } from "../support/process.ts";
import { eventually } from "../support/stack.ts";

const PER_SECOND = 60;
const BACKLOG = 5_000;
const PHASE_MS = 3_000;
const MIN_PHASE_MS = 500; // long enough for some events of the other shards
const env = { WEBHOOK_TIMEOUT: "30s" }; // locks of 45 s, which a busy machine does not use up
/** How much later an event of an idle shard may come because another has a backlog, on a busy machine; */
const NOISE_MS = 3_000;
const NOISE_SHARE = 0.25; // or on one that is so slow that the backlog takes many times as long

/** Some users of each shard. */
const USERS = Array.from({ length: SHARDS }, (_, shard) =>
  Array.from({ length: 600 }, (_, user) => `usr_${user}`).filter((user) => homeOf(user, SHARDS) === shard),
);
const userOf = (shard: number, index: number) => {
  const users = USERS[shard] as string[];
  return users[index % users.length] as string;
};

valkeysChaos(
  "a shard with 5,000 events behind each other keeps to its share: the other shards' events arrive as soon as ever",
  SHARDS,
  {
    userOf: (index) => userOf(index < BACKLOG ? 0 : 1 + (index % (SHARDS - 1)), index),
    ...{ workers: 0, env },
    isDead: (index) => index >= BACKLOG, // at another receiver, which is revived at once: an endpoint's slots are another matter
  },
  async (rig) => {
    rig.revive();
    await Promise.all(Array.from({ length: BACKLOG }, () => rig.enqueue()));
    await Promise.all([rig.startWorker(), rig.startWorker()]);
    const from = Date.now();
    const stop = rig.load(20);
    const countLeft = () => (rig.shards[0] as OpenShard).client.getJobCountByTypes("waiting", "delayed");
    let left = await countLeft();
    let to = from;
    while (left > 0 && to - from < PHASE_MS) {
      await Bun.sleep(20);
      to = Date.now(); // it was backlogged until then, at least nearly
      left = await countLeft();
    }
    await stop();
    await rig.settled();
    const served = rig.arrivals.filter(({ event, at }) => at > from && rig.events.get(event)?.shard === 0);
    const done = served.filter(({ at }) => at < to).length;
    const backlogMs = Math.max(...served.map(({ at }) => at)) - from;
    const others = rig.shards.map(({ index }) => index).slice(1);
    const p99 = rig.p99(others, from, to);
    const { lost, repeated, failed } = await rig.closeBooks(); // logs keep ten attempts of each user, and no more
    rig.figures({ perSecond: Math.round((done * 1000) / (to - from)), left, p99, backlogMs });
    expectFlawless({ lost, repeated, failed });
    expect(to - from).toBeGreaterThan(MIN_PHASE_MS);
    expect(done).toBeGreaterThan(0);
    expect(p99).toBeLessThan(Math.max(NOISE_MS, NOISE_SHARE * backlogMs));
  },
);

valkeysChaos(
  "from one shard to six and back under load, workers first and then producers, and the other way round: nothing is lost or repeated",
  SHARDS,
  { workers: 0, env },
  async (rig, valkeys) => {
    const first = valkeys[0]?.url as string;
    const one = { VALKEY_URL: first, WEBHOOK_SHARDS: "1" };
    const stopWorkers = async (workers: WorkerProcess[]) => {
      for (const worker of workers) worker.signal("SIGTERM");
      expect(await Promise.all(workers.map(({ exited }) => exited))).toEqual(workers.map(() => 0));
    };
    await rig.produceTo({ valkeyUrl: first, shards: 1 });
    const before = [await rig.startWorker(one)];
    const stop = rig.load(PER_SECOND);
    await Bun.sleep(PHASE_MS);

    const grown = [await rig.startWorker(), await rig.startWorker()];
    await stopWorkers(before);
    await rig.produceTo({ valkeyUrl: valkeys.map(({ url }) => url).join(" "), shards: SHARDS });
    await Bun.sleep(PHASE_MS);

    await rig.produceTo({ valkeyUrl: first, shards: 1 });
    await rig.startWorker(one);
    const [, ...emptied] = rig.shards;
    const left = async () => {
      const counts = await Promise.all(emptied.map(({ client }) => client.getJobCounts("wait", "active", "delayed")));
      return counts.flatMap((count) => Object.values(count)).reduce((sum, count) => sum + count, 0);
    };
    // Those that were on their way to the six shards are all there once they have been answered.
    await eventually(left, (jobs) => jobs === 0, 30_000, 100);
    await Bun.sleep(PHASE_MS);
    await stop();
    await eventually(left, (jobs) => jobs === 0, 30_000, 100);
    await stopWorkers(grown);
    await rig.settled();
    const shards = new Set([...rig.events.values()].map(({ shard }) => shard));
    expect(shards.size).toBe(SHARDS);
    rig.figures({});
    expectFlawless(await rig.closeBooks());
  },
);

/** Where the last release is installed, with its dependencies. */
const release = process.env.LAST_RELEASE;
if (release !== undefined) {
  valkeysChaos(
    "the last release's worker beside this one on one shard: nothing is lost or repeated",
    1,
    {},
    async (rig, [valkey]) => {
      const old = startWorkerProcess({ VALKEY_URL: valkey?.url as string, WEBHOOK_CONCURRENCY: "32" }, release);
      rig.workers.push(old);
      await old.line("worker.ready");
      const stop = rig.load(2 * PER_SECOND);
      await eventually(
        () => rig.made,
        (made) => made > 1_000,
        30_000,
        50,
      );
      await stop();
      await rig.settled();
      const byOld = old.lines.filter(({ message }) => message === "delivery.attempted").length;
      rig.figures({ byOld });
      expect(byOld).toBeGreaterThan(0);
      expect(byOld).toBeLessThan(rig.arrivals.length);
      expectFlawless(await rig.closeBooks());
    },
  );
}
