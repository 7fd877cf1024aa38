/**
 * Workers and Valkey die, freeze and lose each other, under load. Each test has its own of both; they run side by side,
 * since most of their time is waiting for locks to expire.
 */
import { expect, test } from "bun:test";
import { type Chaos, HELD, kill, startChaos, untilReadyIs } from "./support/outage.ts";
import { bounded } from "./support/stack.ts";

const LIMIT_MS = 90_000; // of a test; Bun would end our processes, so what is awaited in it gives up before
const RECOVERY_MS = 30_000; // within which a dead worker's jobs run again
const EXIT_MS = 10_000; // for a worker whose attempts take 100 ms
const BEYOND_LOCK_MS = 17_000; // the lock is 15 s

async function withChaos(options: { answerMs?: number }, run: (chaos: Chaos) => Promise<void>): Promise<void> {
  const chaos = await startChaos(options);
  try {
    await run(chaos);
  } finally {
    await chaos.stop();
  }
}

test.concurrent(
  "workers killed in mid-delivery, three times over, lose nothing and repeat no more than was in flight",
  () =>
    withChaos({ answerMs: 100 }, async (chaos) => {
      await chaos.enqueue(600);
      let victim = await chaos.startWorker();
      await chaos.startWorker();
      for (let killed = 1; killed <= 3; killed += 1) {
        await chaos.receiver.waitFor(killed * 60);
        kill(victim.pid, "SIGKILL");
        await victim.exited;
        victim = await chaos.startWorker();
      }
      await chaos.settled(RECOVERY_MS);
      const { lost, duplicates, unlogged } = await chaos.account();
      expect({ lost, unlogged }).toEqual({ lost: [], unlogged: [] });
      expect(duplicates).toBeLessThanOrEqual(3 * HELD);
    }),
  LIMIT_MS,
);

test.concurrent(
  "Valkey killed in mid-load and started again loses nothing, and the workers go on by themselves",
  () =>
    withChaos({}, async (chaos) => {
      await chaos.enqueue(600);
      const worker = await chaos.startWorker();
      await chaos.startWorker();
      await chaos.receiver.waitFor(100);
      await chaos.valkey.kill();
      await untilReadyIs(worker, 503);
      await chaos.valkey.restart();
      await untilReadyIs(worker, 200);
      await chaos.settled(RECOVERY_MS);
      const { lost, duplicates, unlogged } = await chaos.account();
      expect({ lost, unlogged }).toEqual({ lost: [], unlogged: [] });
      expect(duplicates).toBeLessThanOrEqual(2 * HELD);
    }),
  LIMIT_MS,
);

test.concurrent(
  "Valkey frozen for longer than the lock loses nothing",
  () =>
    withChaos({}, async (chaos) => {
      await chaos.enqueue(600);
      const worker = await chaos.startWorker();
      await chaos.startWorker();
      await chaos.receiver.waitFor(100);
      chaos.valkey.pause();
      await untilReadyIs(worker, 503);
      await Bun.sleep(BEYOND_LOCK_MS);
      chaos.valkey.resume();
      await untilReadyIs(worker, 200);
      await chaos.settled(RECOVERY_MS);
      const { lost, duplicates, unlogged } = await chaos.account();
      expect({ lost, unlogged }).toEqual({ lost: [], unlogged: [] });
      expect(duplicates).toBeLessThanOrEqual(2 * HELD);
    }),
  LIMIT_MS,
);

test.concurrent(
  "connections cut again and again lose nothing",
  () =>
    withChaos({}, async (chaos) => {
      await chaos.enqueue(600);
      await chaos.startWorker();
      await chaos.startWorker();
      for (let cut = 1; cut <= 4; cut += 1) {
        await chaos.receiver.waitFor(cut * 80);
        await chaos.client.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
      }
      await chaos.settled(RECOVERY_MS);
      const { lost, duplicates, unlogged } = await chaos.account();
      expect({ lost, unlogged }).toEqual({ lost: [], unlogged: [] });
      expect(duplicates).toBeLessThanOrEqual(4 * 2 * HELD);
    }),
  LIMIT_MS,
);

test.concurrent(
  "a primary that is made a replica and back, answering READONLY meanwhile, loses nothing",
  () =>
    withChaos({}, async (chaos) => {
      await chaos.enqueue(600);
      await chaos.startWorker();
      await chaos.startWorker();
      await chaos.receiver.waitFor(100);
      await chaos.client.call("REPLICAOF", "127.0.0.1", "1"); // nobody there: it keeps its data
      // Not `expect().rejects`: in Bun it holds up the loop, and with it all the tests beside this one.
      const refusal = await chaos.client.set("a", "b").catch((error: Error) => error.message);
      expect(refusal).toStartWith("READONLY");
      await Bun.sleep(2_000);
      await chaos.client.call("REPLICAOF", "NO", "ONE");
      await chaos.settled(RECOVERY_MS);
      const { lost, unlogged } = await chaos.account();
      expect({ lost, unlogged }).toEqual({ lost: [], unlogged: [] });
    }),
  LIMIT_MS,
);

test.concurrent(
  "a worker frozen for longer than its locks leaves its jobs to another, and is no trouble when it thaws",
  () =>
    withChaos({ answerMs: 500 }, async (chaos) => {
      await chaos.enqueue(60);
      const frozen = await chaos.startWorker();
      await chaos.receiver.waitFor(10);
      kill(frozen.pid, "SIGSTOP");
      await chaos.startWorker();
      await chaos.settled(RECOVERY_MS);
      kill(frozen.pid, "SIGCONT");
      await untilReadyIs(frozen, 200);
      await chaos.enqueue(30);
      await chaos.settled(RECOVERY_MS);
      expect(await chaos.queue.getFailedCount()).toBe(0);
      const { lost, duplicates, unlogged } = await chaos.account();
      expect({ lost, unlogged }).toEqual({ lost: [], unlogged: [] });
      expect(duplicates).toBeLessThanOrEqual(2 * HELD);
    }),
  LIMIT_MS,
);

test.concurrent(
  "workers replaced one after the other under load deliver every event exactly once",
  () =>
    withChaos({ answerMs: 100 }, async (chaos) => {
      await chaos.enqueue(600);
      let oldest = await chaos.startWorker();
      let newest = await chaos.startWorker();
      for (let replaced = 1; replaced <= 4; replaced += 1) {
        await chaos.receiver.waitFor(replaced * 80);
        oldest.signal("SIGTERM");
        expect(await bounded(oldest.exited, () => `an exit, got ${oldest.output().slice(-600)}`, EXIT_MS)).toBe(0);
        oldest = newest;
        newest = await chaos.startWorker();
      }
      await chaos.settled(RECOVERY_MS);
      expect(await chaos.account()).toEqual({ lost: [], duplicates: 0, unlogged: [] });
    }),
  LIMIT_MS,
);
