/** A Valkey that refuses what a worker sends, for some seconds, at the moment at which deliveries end. */
import { describe, expect } from "bun:test";
import { Redis } from "ioredis";
import { expectFlawless } from "../support/books.ts";
import { chaos, type Rig, SETTLE_MS } from "../support/chaos.ts";
import { eventually } from "../support/stack.ts";

const PER_SECOND = 20;
const REFUSING_MS = 3_000;
const ROUNDS = 2;
const IN_FLIGHT = 8; // fewer than the rig's endpoints take at once

/** Begin to refuse; returns what ends it. */
const WAYS: Record<string, (rig: Rig) => Promise<() => Promise<unknown>>> = {
  async BUSY(rig) {
    await rig.admin.config("SET", "busy-reply-threshold", 10);
    const blocking = new Redis(rig.valkey.url, { maxRetriesPerRequest: 0 });
    const looping = blocking.eval("while true do end", 0).catch(() => {});
    return async () => {
      await rig.admin.call("SCRIPT", "KILL");
      await looping;
      blocking.disconnect();
    };
  },
  async NOREPLICAS(rig) {
    await rig.admin.config("SET", "min-replicas-to-write", 1);
    return () => rig.admin.config("SET", "min-replicas-to-write", 0);
  },
  async OOM(rig) {
    await rig.admin.config("SET", "maxmemory", 1);
    return () => rig.admin.config("SET", "maxmemory", 0);
  },
};

describe("Valkey", () => {
  for (const [code, refuse] of Object.entries(WAYS)) {
    chaos(`that refuses for some seconds (${code}) loses and repeats nothing`, { workers: 1 }, async (rig) => {
      const [worker] = rig.workers;
      const answers: (() => void)[] = [];
      for (let round = 0; round < ROUNDS; round++) {
        // So many requests are with the receiver; it answers all of them once acknowledgements are refused.
        rig.answer(() => new Promise((resolve) => answers.push(() => resolve({ status: 200 }))));
        for (let i = 0; i < IN_FLIGHT; i++) await rig.enqueue();
        await eventually(
          () => answers.length,
          (count) => count >= IN_FLIGHT,
        );
        rig.answer(() => undefined);
        const end = await refuse(rig);
        for (const answer of answers.splice(0)) answer();
        const stop = rig.load(PER_SECOND); // a backend's events wait, too
        await Bun.sleep(rig.chance.between(REFUSING_MS / 2, REFUSING_MS));
        await end();
        await stop();
      }
      const endedAt = Date.now();
      await rig.settled(SETTLE_MS);
      expectFlawless(await rig.closeBooks());
      expect(worker?.errors()).toBe("");
      rig.figures({ settledMs: Date.now() - endedAt });
    });
  }
});
