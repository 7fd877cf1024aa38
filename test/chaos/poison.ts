/** Jobs that end or hang whatever runs them, and the innocent beside them. */
import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Queue } from "bullmq";
import { redeliver } from "../../src/operations/redeliver.ts";
import { expectFlawless } from "../support/books.ts";
import { BEYOND_LOCK_MS, chaos, kill, type Rig, SETTLE_MS } from "../support/chaos.ts";
import type { WorkerProcess } from "../support/process.ts";
import { bounded, eventually } from "../support/stack.ts";

const env = { BUN_OPTIONS: `--preload=${join(import.meta.dir, "../support/poison-program.ts")}` };
const JUDGED_MS = 150_000; // on a busy machine: workers that die, then processes that do, with pauses of 10 to 30 s
const GIB = 1024 ** 3;
const linesOf = ({ workers }: Rig, message: string) =>
  workers.flatMap(({ lines }) => lines).filter((line) => line.message === message);

/** A queue as any client has it, to put in what `rig.enqueue` would not. */
function open(rig: Rig): Queue {
  const queue = new Queue("webhooks", { connection: rig.admin });
  queue.on("error", () => {});
  return queue;
}

async function addPoison(rig: Rig, queue: Queue, data: object, id?: string): Promise<string> {
  const endpoint = { url: rig.receiverUrl, secret: "s3cret-of-the-test" };
  const job = await queue.add("file.created", { userId: "usr_poison", endpoint, data }, { jobId: id });
  return job.id as string;
}

/** Start workers again whenever they die, as a supervisor does, until the returned function is called; that resolves with how many died. */
function supervise(rig: Rig): () => Promise<number> {
  let isOver = false;
  let deaths = 0;
  const watch = async (): Promise<void> => {
    while (!isOver) {
      const worker = rig.workers.at(-1) as WorkerProcess;
      await Promise.race([worker.exited, over]);
      if (isOver) return;
      deaths += 1;
      await rig.startWorker().catch(() => {}); // it died before it was heard of: the next turn sees it
    }
  };
  const { promise: over, resolve } = Promise.withResolvers<void>();
  const watching = watch();
  const stop = async () => {
    isOver = true;
    resolve();
    await watching;
    return deaths;
  };
  rig.atEnd(stop); // also when the test fails
  return stop;
}

const failed = (queue: Queue, id: string) =>
  eventually(
    () => queue.getJob(id),
    (job) => job?.finishedOn !== undefined,
    JUDGED_MS,
    100,
  );

describe("a job", () => {
  chaos(
    "that kills whatever runs it fails as poison, and its worker goes on; all others are delivered",
    { workers: 1, env, answerMs: [50, 450] },
    async (rig) => {
      const queue = open(rig);
      const stop = rig.load(10);
      await Bun.sleep(rig.chance.between(500, 1_000));
      const stopSupervisor = supervise(rig);
      const id = await addPoison(rig, queue, { kills: true });
      const job = await failed(queue, id);
      await stop();
      await rig.settled(SETTLE_MS);
      const reason = expect.stringMatching(/^poison: .* 3 times .* 3 processes .*SIGKILL; .*fluxhook redeliver/);
      expect(job?.failedReason).toEqual(reason);
      expect(linesOf(rig, "job.poisoned")).toMatchObject([{ job: id, reason }]);
      const { failed: count, repeated, unlogged, ...balance } = await rig.closeBooks();
      expectFlawless(balance);
      expect(count).toBe(1);

      // Told to try again, it is tried as often, and no worker dies of it.
      expect(await redeliver(queue, id)).toBe("queued");
      await eventually(
        () => linesOf(rig, "suspects.died").length,
        (deaths) => deaths >= 4,
        JUDGED_MS,
        100,
      );
      expect(await stopSupervisor()).toBe(3);
      const metrics = await fetch((await rig.workers.at(-1)?.url("/metrics")) as string);
      expect(await metrics.text()).toContain("fluxhook_poisoned_jobs_total 1");
      rig.figures({ repeated: repeated.length, unlogged: unlogged.length });
    },
  );

  chaos("that hangs its process alone, for the third time, fails as poison", { workers: 0, env }, async (rig) => {
    const queue = open(rig);
    const id = await addPoison(rig, queue, { hangs: true });
    // As if three workers had hung with it, and two processes of its own.
    await rig.admin.hset(`bull:webhooks:${id}`, { stc: 3, deaths: 2 });
    await rig.startWorker();
    const stop = rig.load(10);
    const job = await failed(queue, id);
    await stop();
    expect(job?.failedReason).toStartWith("poison: ");
    expect(job?.failedReason).toContain("hanging for 15 s");
    await rig.settled(SETTLE_MS);
    const { failed: count, ...balance } = await rig.closeBooks();
    expectFlawless(balance);
    expect(count).toBe(1);
    rig.figures({});
  });

  chaos(
    "that was in hand at a thousand crashes of other causes is delivered like others",
    { workers: 0 },
    async (rig) => {
      const ids = await Promise.all(Array.from({ length: 100 }, () => rig.enqueue()));
      for (const id of ids) await rig.admin.hset(`bull:webhooks:${id}`, "stc", 1_000);
      rig.answer(({ event }) => (event === ids[0] && rig.arrivals.length < 100 ? { status: 410 } : undefined));
      await rig.startWorker();
      await rig.settled(SETTLE_MS);
      const { failed: gone, charged, undocumented, ...balance } = await rig.closeBooks();
      expectFlawless(balance);
      expect({ gone, undocumented }).toEqual({ gone: 1, undocumented: [ids[0] as string] });
      expect(charged.map(({ id }) => id)).toEqual([ids[0]] as string[]);
      expect(linesOf(rig, "delivery.attempted").length).toBe(100);
      const metrics = await fetch((await rig.workers[0]?.url("/metrics")) as string);
      expect(await metrics.text()).toContain('fluxhook_attempts_total{event="file.created",outcome="http_2xx"} 99');
      rig.figures({});
    },
  );

  chaos(
    "that is suspected is handed back when its worker is told to stop, and delivered by the next",
    { workers: 0, env: { SHUTDOWN_TIMEOUT: "1s" } },
    async (rig) => {
      rig.answer(() => "hang");
      const ids = await Promise.all(Array.from({ length: 5 }, () => rig.enqueue()));
      for (const id of ids) await rig.admin.hset(`bull:webhooks:${id}`, "stc", 3);
      const first = await rig.startWorker();
      await eventually(
        () => rig.arrivals.length,
        (count) => count === ids.length,
        10_000,
      );
      first.signal("SIGTERM");
      expect(await first.exited).toBe(0);
      expect((await rig.held()).size).toBe(0);
      rig.answer(() => undefined);
      rig.workers.splice(0);
      await rig.startWorker();
      await rig.settled(SETTLE_MS);
      const { repeated, ...balance } = await rig.closeBooks();
      expectFlawless(balance);
      expect(repeated.length).toBe(ids.length);
      rig.figures({});
    },
  );

  chaos(
    "that is suspected outlives its worker no longer than its process, which ends with it",
    { workers: 0 },
    async (rig) => {
      rig.answer(() => "hang");
      const id = await rig.enqueue();
      await rig.admin.hset(`bull:webhooks:${id}`, "stc", 3);
      const first = await rig.startWorker();
      await eventually(
        () => rig.arrivals.length,
        (count) => count === 1,
        10_000,
      );
      await kill(first);
      rig.workers.splice(0);
      rig.answer(() => undefined);
      await eventually(
        () => rig.arrivals[0]?.isAnswered,
        (isAnswered) => isAnswered === false,
      );
      await rig.startWorker();
      await rig.settled(SETTLE_MS);
      const { repeated, ...balance } = await rig.closeBooks();
      expectFlawless(balance);
      expect(repeated.length).toBe(1);
      expect(linesOf(rig, "suspects.died")).toEqual([]);
      rig.figures({});
    },
  );

  chaos(
    "with 24 MB of data fails at once by the contract, and is not kept; many of them leave a worker its memory",
    { workers: 0 },
    async (rig) => {
      const queue = open(rig);
      const text = "x".repeat(24_000_000);
      const ids: string[] = [];
      for (let i = 0; i < 12; i++) {
        ids.push(await addPoison(rig, queue, { text }));
        await rig.enqueue();
      }
      const worker = await rig.startWorker();
      const stop = rig.load(10);
      await rig.settled(SETTLE_MS);
      await stop();
      await rig.settled(SETTLE_MS);
      const { failed: count, ...balance } = await rig.closeBooks();
      expectFlawless(balance);
      expect(count).toBe(ids.length);
      for (const id of ids) {
        const job = await queue.getJob(id);
        expect(job?.failedReason).toMatch(/^data: expected at most \d+ characters of JSON, got 240\d{5}$/);
        expect(job?.data).toMatch(/^240\d{5} characters of data, more than an event can have: not kept$/);
        expect(job?.attemptsMade).toBe(1);
      }
      if (process.platform === "linux") {
        const status = readFileSync(`/proc/${worker.pid}/status`, "utf8");
        expect(Number(/VmHWM:\s+(\d+)/.exec(status)?.[1]) * 1024).toBeLessThan(GIB);
      }
      rig.figures({});
    },
  );

  chaos(
    "that hangs its worker has it end itself, and does not hold up the others for long",
    { workers: 1, env },
    async (rig) => {
      const queue = open(rig);
      const [hung] = rig.workers as [WorkerProcess];
      const stopSupervisor = supervise(rig);
      const id = await addPoison(rig, queue, { hangs: true });
      await eventually(
        async () => (await rig.held()).has(id),
        (isHeld) => isHeld,
      );
      for (let i = 0; i < 20; i++) await rig.enqueue();
      expect(await bounded(hung.exited, () => "its end", 60_000)).toBe("SIGKILL");
      expect(linesOf(rig, "worker.hung")).toMatchObject([{ level: "fatal" }]);
      await rig.admin.hset(`bull:webhooks:${id}`, { stc: 3, deaths: 0 }); // as if it had been more
      await eventually(
        () => new Set(rig.arrivals.map(({ event }) => event)).size,
        (size) => size === 20,
        60_000,
      );
      await stopSupervisor();
      rig.figures({});
    },
  );

  chaos(
    "that is suspected waits out a Valkey that is away, and nobody takes that for a death",
    { workers: 0, valkey: { appendfsync: "always" } },
    async (rig) => {
      const ids = await Promise.all(Array.from({ length: 3 }, () => rig.enqueue()));
      for (const id of ids) await rig.admin.hset(`bull:webhooks:${id}`, "stc", 3);
      const { promise: answer, resolve } = Promise.withResolvers<object>();
      rig.answer(() => answer);
      await rig.startWorker();
      await eventually(
        () => rig.arrivals.length,
        (count) => count === 3,
        10_000,
      );
      await rig.valkey.kill();
      resolve({});
      await Bun.sleep(BEYOND_LOCK_MS);
      await rig.valkey.restart();
      await rig.settled(SETTLE_MS);
      const { repeated, ...balance } = await rig.closeBooks();
      expectFlawless(balance);
      expect(linesOf(rig, "suspects.died")).toEqual([]);
      rig.figures({ repeated: repeated.length });
    },
  );
});
