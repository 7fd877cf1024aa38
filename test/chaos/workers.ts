/** Workers that die, freeze, lag and are replaced. */
import { describe, expect } from "bun:test";
import { expectFlawless, unexplained } from "../support/books.ts";
import { BEYOND_LOCK_MS, chaos, kill, RECOVERY_MS, SETTLE_MS, SLOTS, whenReady } from "../support/chaos.ts";
import type { WorkerProcess } from "../support/process.ts";
import { startProxy } from "../support/proxy.ts";
import { bounded, eventually } from "../support/stack.ts";

const PER_SECOND = 10;
const MANY_PER_SECOND = 25; // with the answers below, some 6 in flight at any moment
const KILLS = 3;
const HALF_LOCK_MS = 8_000; // a little more; at 15 s of silence a worker gives its connection up
const EXIT_MS = 15_000; // for a worker whose attempts take a second at the most

describe("a worker", () => {
  const answerMs = [50, 450] as const;

  chaos("killed again and again loses nothing, and repeats what it had in flight", { answerMs }, async (rig) => {
    const stop = rig.load(MANY_PER_SECOND);
    const kills: { at: number; held: Set<string>; begun: Set<string> }[] = [];
    for (let i = 0; i < KILLS; i++) {
      await Bun.sleep(rig.chance.between(500, 1_500));
      const victim = rig.chance.pick(rig.workers);
      const begun = await rig.held(); // afterwards, a worker that lives may have given some back already
      await kill(victim);
      const held = await rig.held();
      kills.push({ at: Date.now(), held, begun });
      // As if these had met a thousand crashes before.
      for (const job of held) await rig.admin.hset(`bull:webhooks:${job}`, "stc", 1_000);
      rig.workers.splice(rig.workers.indexOf(victim), 1);
      await rig.startWorker();
    }
    await stop();
    await rig.settled(SETTLE_MS);

    const { repeated, unlogged, ...balance } = await rig.closeBooks();
    expectFlawless(balance);
    const wereInFlight = new Set(kills.flatMap(({ held, begun }) => [...held, ...begun]));
    expect(repeated.filter(({ event }) => !wereInFlight.has(event))).toEqual([]);
    expect(repeated.length).toBeLessThanOrEqual(KILLS * SLOTS);
    // An answer that the killed had no time to log was not acknowledged either: its event came again.
    expect(unlogged.filter((arrival) => !repeated.includes(arrival))).toEqual([]);

    const recoveries = kills.flatMap(({ at, held }) =>
      rig.arrivals.filter((arrival) => held.has(arrival.event) && arrival.at > at).map((arrival) => arrival.at - at),
    );
    expect(Math.max(...recoveries)).toBeLessThan(RECOVERY_MS);
    rig.figures({ recoveryMs: Math.max(...recoveries), repeated: repeated.length, unlogged: unlogged.length });
  });

  chaos("stopped for longer than its locks last does no harm when it goes on", { workers: 1 }, async (rig) => {
    const [frozen] = rig.workers as [WorkerProcess];
    const hanging = new Set<string>();
    rig.answer(({ event }) => {
      if (hanging.size >= 6) return undefined;
      hanging.add(event);
      return "hang";
    });
    for (let i = 0; i < 6; i++) await rig.enqueue();
    await eventually(
      () => hanging.size,
      (size) => size === 6,
    );
    const stop = rig.load(PER_SECOND);
    await Bun.sleep(rig.chance.between(800, 1_500));
    process.kill(frozen.pid, "SIGSTOP");
    const frozenAt = Date.now();
    await rig.startWorker();
    await Bun.sleep(1_000);
    await stop();
    await rig.settled(SETTLE_MS);
    const recoveryMs = Date.now() - frozenAt;

    const arrivalsBefore = rig.arrivals.length;
    process.kill(frozen.pid, "SIGCONT");
    await whenReady(frozen, true);
    await eventually(
      () => rig.arrivals.filter(({ isAnswered }) => isAnswered === undefined).length,
      (open) => open === 0,
    );
    expect(rig.arrivals.length).toBe(arrivalsBefore);
    for (let i = 0; i < 20; i++) await rig.enqueue();
    await rig.settled(SETTLE_MS);

    const { repeated, unlogged, overlapping, charged, ...balance } = await rig.closeBooks();
    expectFlawless(balance);
    expect(unlogged.filter((arrival) => !repeated.includes(arrival))).toEqual([]);
    expect(unexplained(repeated, [{ from: frozenAt, to: frozenAt + 1_000 }], BEYOND_LOCK_MS)).toEqual([]);
    expect(repeated.length).toBeLessThanOrEqual(SLOTS);
    // To the receiver the stopped worker's requests stayed open: they are all there is, also in the users' logs.
    expect(overlapping.map(({ event }) => event).sort()).toEqual([...hanging].sort());
    expect(charged.filter(({ id, error }) => error !== "timeout" || !hanging.has(id))).toEqual([]);
    rig.figures({ recoveryMs, repeated: repeated.length });
  });

  chaos(
    "whose loop is blocked for longer than its deadline takes the answers that came meanwhile",
    { workers: 1, env: { WEBHOOK_TIMEOUT: "2s" }, answerMs },
    async (rig) => {
      const [blocked] = rig.workers as [WorkerProcess];
      const stop = rig.load(PER_SECOND);
      for (let i = 0; i < 2; i++) {
        await Bun.sleep(rig.chance.between(800, 1_500));
        process.kill(blocked.pid, "SIGSTOP");
        await Bun.sleep(4_000);
        process.kill(blocked.pid, "SIGCONT");
      }
      await stop();
      await rig.settled(SETTLE_MS);
      expectFlawless(await rig.closeBooks());
      rig.figures({});
    },
  );

  chaos("that hears of a job when its lock is gone leaves it to the one that has it", { workers: 0 }, async (rig) => {
    const proxy = await startProxy(rig.valkey.port);
    rig.atEnd(() => proxy.stop());
    const late = await rig.startWorker({ VALKEY_URL: proxy.url });
    const { held, letGo } = proxy.hold('"index":0');
    const first = await rig.enqueue();
    await held;
    const heldAt = Date.now();
    await rig.admin.del(`bull:webhooks:${first}:lock`);
    const { promise: answer, resolve } = Promise.withResolvers<object>();
    rig.answer(() => answer);
    await rig.startWorker();
    await eventually(
      () => rig.arrivals.length,
      (count) => count === 1,
      RECOVERY_MS,
    );
    await Bun.sleep(heldAt + HALF_LOCK_MS - Date.now());
    letGo(); // the other is at it
    rig.answer(() => undefined);
    await eventually(
      async () => {
        await rig.enqueue();
        return late.lines;
      },
      (lines) => lines.some(({ message }) => message === "delivery.attempted"),
      10_000,
    );
    resolve({});
    await rig.settled(SETTLE_MS);
    expectFlawless(await rig.closeBooks());
    rig.figures({});
  });

  chaos(
    "killed in a backlog that another version left in an order of its own loses nothing",
    { workers: 0, answerMs },
    async (rig) => {
      for (let i = 0; i < 200; i++) await rig.enqueue();
      // As a worker leaves it that lets users take turns: with start tags, and with what it keeps of them half gone.
      const waiting = await rig.admin.lrange("bull:webhooks:wait", 0, 149);
      for (const [i, job] of waiting.entries()) {
        await rig.admin
          .multi()
          .lrem("bull:webhooks:wait", 1, job)
          .zadd("bull:webhooks:prioritized", i % 40, job)
          .exec();
      }
      await rig.admin.hset("bull:webhooks:fair:tags", { "u:usr_1": "41", "u:usr_2": "?", "": "7" });
      const victim = await rig.startWorker();
      await rig.startWorker();
      const stop = rig.load(MANY_PER_SECOND);
      await eventually(
        () => rig.arrivals.length,
        (count) => count > 60,
      );
      await kill(victim);
      const held = await rig.held();
      rig.workers.splice(rig.workers.indexOf(victim), 1);
      await rig.startWorker();
      await stop();
      await rig.settled(SETTLE_MS);
      const { repeated, unlogged, ...balance } = await rig.closeBooks();
      expectFlawless(balance);
      expect(repeated.filter(({ event }) => !held.has(event))).toEqual([]);
      expect(unlogged.filter((arrival) => !repeated.includes(arrival))).toEqual([]);
      rig.figures({ repeated: repeated.length });
    },
  );

  chaos("replaced by others, again and again under load: every event once", { answerMs }, async (rig) => {
    const stop = rig.load(MANY_PER_SECOND);
    for (let i = 0; i < 3; i++) {
      await Bun.sleep(rig.chance.between(500, 1_500));
      const oldest = rig.workers.shift() as WorkerProcess;
      rig.atEnd(() => oldest.stop());
      oldest.signal(i % 2 === 0 ? "SIGTERM" : "SIGINT");
      expect(await bounded(oldest.exited, () => `an exit, got ${oldest.output().slice(-600)}`, EXIT_MS)).toBe(0);
      await rig.startWorker();
    }
    await stop();
    await rig.settled(SETTLE_MS);
    expectFlawless(await rig.closeBooks());
    rig.figures({});
  });
});
