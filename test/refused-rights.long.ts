/** A Valkey that answers with errors to a worker that runs already: the worker waits, unready, and then delivers it all. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { startReceiver } from "../src/dev/receiver.ts";
import {
  becomesReady,
  becomesUnready,
  expectFewRefusals,
  FULL,
  type RefusingValkey,
  STATES,
  setUp,
  warnings,
} from "./support/refusing-valkey.ts";
import { eventually, jobData } from "./support/stack.ts";

setDefaultTimeout(120_000); // all at the same time

const receiver = await startReceiver();
afterAll(() => receiver.stop());

describe("a running worker that meets", () => {
  const { "a wrong password": _, "a replica": __, ...passing } = STATES;
  const cases = Object.entries({
    ...passing,
    "a user that may not acknowledge": {
      reason: /xadd/i,
      async begin({ grant }: RefusingValkey) {
        await grant(...FULL, "-xadd");
        return () => grant(...FULL);
      },
    },
  });

  test.concurrent.each(cases)(
    "%s becomes unready, says so once, and goes on when it is over",
    async (name, { reason, begin }) => {
      await using setup = await setUp();
      const worker = await setup.startWorker();
      await worker.line("worker.ready");
      await becomesReady(worker.health);
      await setup.queue.pause();
      for (let i = 0; i < 300; i++) await setup.queue.add("file.created", jobData(receiver.url()));
      if (name.includes("queue's key")) await setup.admin.rename("bull:webhooks:wait", "aside");
      const end = await begin(setup);
      await setup.queue.resume().catch(() => setup.admin.hdel("bull:webhooks:meta", "paused").catch(() => {}));
      await becomesUnready(worker.health, reason);
      await eventually(
        () => warnings(worker.lines, /valkey\.refuses/).length,
        (count) => count > 0,
      );
      await expectFewRefusals(setup.admin);
      expect(warnings(worker.lines, /fluxhook:queue.*valkey\.refuses/)).toHaveLength(1);

      await end();
      if (name.includes("queue's key")) await setup.admin.rename("aside", "bull:webhooks:wait");
      await setup.queue.resume();
      await becomesReady(worker.health);
      await worker.line("valkey.accepts");
      await eventually(
        () => setup.queue.getCompletedCount(),
        (count) => count === 300,
        40_000,
      );
      expect(worker.errors()).toBe("");
    },
  );
});
