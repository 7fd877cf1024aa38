/** Clients of BullMQ 4 and 5, as they come from npm, on the queue of a worker that has BullMQ 6. */
import { describe, expect } from "bun:test";
import { Queue } from "bullmq";
import { Queue as Queue4 } from "bullmq4";
import { Queue as Queue5 } from "bullmq5";
import { expectFlawless } from "../support/books.ts";
import { chaos, type EnqueuedEvent, type Rig, SETTLE_MS } from "../support/chaos.ts";
import { eventually } from "../support/stack.ts";

const PER_SECOND = 25;
const ROUNDS = 6;
const ADDED_AHEAD = 10; // events, which one worker alone takes care of with what it has sent ahead
const POLL_MS = 5 * 1000; // how long a worker sleeps that an older client does not wake

/** What the versions have in common, as far as it is used here. */
interface OldQueue {
  add(name: string, data: object, options: { jobId: string; delay?: number; priority?: number }): Promise<unknown>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  drain(isDelayedToo?: boolean): Promise<void>;
  clean(graceMs: number, limit: number, type: "failed"): Promise<string[]>;
  getJob(id: string): Promise<OldJob | undefined>;
  close(): Promise<void>;
}

interface OldJob {
  promote(): Promise<void>;
  retry(): Promise<void>;
  remove(): Promise<void>;
}

const VERSIONS: readonly (readonly [string, new (...args: ConstructorParameters<typeof Queue5>) => OldQueue])[] = [
  ["BullMQ 4", Queue4 as never],
  ["BullMQ 5", Queue5 as never],
];

/** An older client, once a worker watches the list that only such clients use: a moment after it says that it is ready. */
async function openOld(rig: Rig, Old: (typeof VERSIONS)[number][1]): Promise<OldQueue> {
  await eventually(
    () => rig.admin.client("LIST") as Promise<string>,
    (clients) => clients.includes("cmd=blmove"),
  );
  const queue = new Old("webhooks", { connection: { host: "127.0.0.1", port: rig.valkey.port } });
  rig.atEnd(() => queue.close());
  return queue;
}

/** Put an event on the queue as a backend with that client does. */
const putWith =
  (queue: OldQueue | Queue, options: { delay?: number; priority?: number } = {}) =>
  ({ event, ...data }: EnqueuedEvent) =>
    queue.add(event, data, { jobId: data.id, ...options });

describe("a client of", () => {
  for (const [version, Old] of VERSIONS) {
    chaos(`${version} pauses and resumes the queue under load, and nothing is lost`, { workers: 2 }, async (rig) => {
      const old = await openOld(rig, Old);
      const current = new Queue("webhooks", { connection: rig.admin });
      const stop = rig.load(PER_SECOND);
      const twice = () => Promise.all([rig.enqueue(), rig.enqueue(putWith(old))]);
      for (let round = 0; round < ROUNDS; round++) {
        await old.pause();
        await twice();
        if (rig.chance.between(0, 1) < 0.5) await old.pause(); // it does not know that it is paused
        await twice();
        await Bun.sleep(rig.chance.between(0, 300)); // retries come due, backends go on
        await old.resume();
        await current.pause(); // an operator, in Bull Board
        await twice();
        await Promise.all([rig.enqueue(putWith(old)), rig.enqueue(putWith(old))]);
        await old.resume(); // at once
        await Promise.all([old.pause(), old.resume(), twice()]); // a pipeline
        await old.resume();
        await Bun.sleep(rig.chance.between(0, 300));
      }
      await stop();
      await rig.settled(SETTLE_MS);
      expectFlawless(await rig.closeBooks());
    });

    chaos(
      `${version} pauses, adds and resumes while no worker gets to run, and nothing is lost`,
      { workers: 2 },
      async (rig) => {
        const old = await openOld(rig, Old);
        for (const { pid } of rig.workers) process.kill(pid, "SIGSTOP");
        await rig.enqueue();
        await old.pause();
        for (let n = 0; n < ADDED_AHEAD; n++) await rig.enqueue(putWith(old));
        await rig.enqueue();
        await old.resume();
        for (const { pid } of rig.workers) process.kill(pid, "SIGCONT");
        await rig.settled(SETTLE_MS);
        expectFlawless(await rig.closeBooks());
      },
    );

    chaos(`${version} adds, delays, orders, promotes, retries and removes events`, { workers: 1 }, async (rig) => {
      const old = await openOld(rig, Old);
      const arrived = (id: string) => rig.arrivals.filter(({ event }) => event === id).length;
      const [plain, delayed, urgent, promoted] = await Promise.all([
        rig.enqueue(putWith(old)),
        rig.enqueue(putWith(old, { delay: 500 })),
        rig.enqueue(putWith(old, { priority: 1 })),
        rig.enqueue(putWith(old, { delay: 3_600_000 })),
      ]);
      await (await old.getJob(promoted))?.promote();
      const ids = [plain, delayed, urgent, promoted];
      await eventually(
        () => ids.map(arrived),
        (counts) => counts.every((count) => count === 1),
        2 * POLL_MS,
      );

      rig.answer(() => ({ status: 410 }));
      const failed = await rig.enqueue();
      await eventually(() => rig.admin.zscore("bull:webhooks:failed", failed), Boolean);
      rig.answer(() => undefined);
      await (await old.getJob(failed))?.retry();
      await eventually(
        () => arrived(failed),
        (count) => count === 2,
        2 * POLL_MS,
      );

      await old.pause();
      const [removed] = await Promise.all([rig.enqueue(), rig.enqueue(), rig.enqueue(putWith(old))]);
      await (await old.getJob(removed))?.remove();
      await old.resume();
      await rig.settled(SETTLE_MS);
      expect(arrived(removed)).toBe(0);

      const { lost, undocumented, repeated, charged, ...balance } = await rig.closeBooks();
      expectFlawless(balance);
      expect([...lost, ...undocumented]).toEqual([removed, removed]);
      expect(repeated.map(({ event }) => event)).toEqual([failed]);
      expect(charged.map(({ id }) => id)).toEqual([failed, failed]); // the 410, and the second attempt
    });

    chaos(
      `${version} drains and cleans the queue: what it does not remove is delivered`,
      { workers: 1 },
      async (rig) => {
        const old = await openOld(rig, Old);
        await old.pause();
        const drained = await Promise.all([rig.enqueue(), rig.enqueue(putWith(old))]);
        await old.drain();
        const kept = await Promise.all([rig.enqueue(), rig.enqueue(putWith(old))]);
        await old.clean(0, 1_000, "failed");
        await old.resume();
        await rig.settled(SETTLE_MS);
        const { lost, undocumented, ...balance } = await rig.closeBooks();
        expectFlawless(balance);
        expect(lost.sort()).toEqual(drained.sort());
        expect(rig.arrivals.map(({ event }) => event).sort()).toEqual(kept.sort());
      },
    );
  }
});
