/** Workers whose death can be known for certain, and those that only look dead. */
import { describe, expect } from "bun:test";
import { expectFlawless } from "../support/books.ts";
import { chaos, kill, type Rig, SETTLE_MS } from "../support/chaos.ts";
import type { WorkerProcess } from "../support/process.ts";
import { eventually, type Line } from "../support/stack.ts";

/** From a worker's start until what the dead held is in flight again: 1 s, and what a busy machine adds. Their locks last longer. */
const AGAIN_MS = 1_000 + 29_000;
const env = { WEBHOOK_TIMEOUT: "60s" }; // locks of 90 s, of which half at least is left
const ACTIVE = "bull:webhooks:active";
const lockOf = (job: string) => `bull:webhooks:${job}:lock`;

const isReady = ({ message }: Line) => message === "worker.ready";

/** Enqueue events that no answer ends, and wait until they are in flight. */
async function hang(rig: Rig, count: number): Promise<Set<string>> {
  rig.answer(() => "hang");
  const events = await Promise.all(Array.from({ length: count }, () => rig.enqueue()));
  await eventually(
    () => rig.arrivals.length,
    (arrived) => arrived === count,
  );
  return new Set(events);
}

/** How long after `at` the last of these events came again, ms; waits for all of them. */
async function again(rig: Rig, events: ReadonlySet<string>, at: number): Promise<number> {
  const since = () => rig.arrivals.filter((arrival) => arrival.at > at && events.has(arrival.event));
  await eventually(
    () => new Set(since().map(({ event }) => event)).size,
    (size) => size === events.size,
    SETTLE_MS,
  );
  return Math.max(...since().map((arrival) => arrival.at - at));
}

describe("a dead worker's jobs", () => {
  chaos(
    "run again at once when all workers of a machine are killed under load and started again",
    { workers: 2, answerMs: [300, 900], env },
    async (rig) => {
      const stop = rig.load(40);
      await Bun.sleep(rig.chance.between(1_500, 2_500));
      await Promise.all(rig.workers.splice(0).map(kill));
      const killedAt = Date.now();
      const held = await rig.held();
      expect(held.size).toBeGreaterThan(10);
      const started = await Promise.all([rig.startWorker(), rig.startWorker()]);
      const readyAt = Math.min(...started.map(({ lines }) => Date.parse(String(lines.find(isReady)?.time))));
      const sinceKillMs = await again(rig, held, killedAt);
      expect(killedAt + sinceKillMs - readyAt).toBeLessThan(AGAIN_MS);
      await stop();
      await rig.settled(SETTLE_MS);
      const { repeated, unlogged, ...balance } = await rig.closeBooks();
      expectFlawless(balance);
      expect(repeated.filter(({ event }) => !held.has(event))).toEqual([]);
      const againMs = killedAt + sinceKillMs - readyAt;
      rig.figures({ held: held.size, againMs, sinceKillMs, unlogged: unlogged.length });
    },
  );

  chaos("are given back by the workers that live beside it", { workers: 2, answerMs: [20, 80], env }, async (rig) => {
    const [victim] = rig.workers as [WorkerProcess];
    process.kill(rig.workers[1]?.pid as number, "SIGSTOP"); // so that all of them are the victim's
    const hung = await hang(rig, 10);
    rig.answer(() => undefined);
    process.kill(rig.workers[1]?.pid as number, "SIGCONT");
    await kill(victim);
    const killedAt = Date.now();
    rig.workers.shift();
    const againMs = await again(rig, hung, killedAt);
    expect(againMs).toBeLessThan(5_000 + AGAIN_MS); // the next of its looks
    await rig.settled(SETTLE_MS);
    const [job] = hung;
    expect(Number(await rig.admin.hget(`bull:webhooks:${job}`, "stc"))).toBe(1); // a stall, as BullMQ counts them
    rig.figures({ againMs });
  });

  chaos("stay where they are while it is only stopped", { workers: 1 }, async (rig) => {
    const [stopped] = rig.workers as [WorkerProcess];
    const hung = await hang(rig, 6);
    process.kill(stopped.pid, "SIGSTOP");
    const lasts = await Promise.all([...hung].map((job) => rig.admin.pttl(lockOf(job))));
    const freeAt = Date.now() + Math.min(...lasts);
    rig.answer(() => undefined);
    await rig.startWorker();
    await again(rig, hung, freeAt - 500); // the clocks of two processes
    expect(rig.arrivals.length).toBe(2 * hung.size); // none of them came before
    process.kill(stopped.pid, "SIGCONT");
    await rig.settled(SETTLE_MS);
    rig.figures({});
  });

  chaos("stay where they are when nobody knows who holds them", { workers: 1 }, async (rig) => {
    const [victim] = rig.workers as [WorkerProcess];
    const hung = [...(await hang(rig, 6))];
    const token = (await rig.admin.get(lockOf(hung[0] as string))) as string;
    await kill(victim);
    rig.workers.shift();
    const [place, holder] = token.split(":") as [string, string];
    const [pid] = holder.split(".");
    const forged = [
      "4c5b1d6e-0000-4000-8000-000000000000:7", // as the last release writes them, and BullMQ itself
      `${place}:4194303.1:x:0`, // a process that never was here
      `${place}:${pid}.1:x:0`,
      `elsewhere:${holder}:x:0`,
      `${place}:${holder}1:x:0`,
    ];
    for (const [i, text] of forged.entries()) await rig.admin.set(lockOf(hung[i] as string), text, "PX", 60_000);
    rig.answer(() => undefined);
    const killedAt = Date.now();
    await rig.startWorker();
    await again(rig, new Set(hung.slice(forged.length)), killedAt);
    await Bun.sleep(6_000); // for another look
    expect((await rig.admin.lrange(ACTIVE, 0, -1)).sort()).toEqual(hung.slice(0, forged.length).sort());
    expect(await Promise.all(hung.slice(0, forged.length).map((job) => rig.admin.get(lockOf(job))))).toEqual(forged);
    for (const job of hung) await rig.admin.del(lockOf(job));
    await rig.settled(SETTLE_MS);
    rig.figures({});
  });
});
