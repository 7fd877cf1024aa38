/** How attempts of all workers are added up for the board. */
import { afterAll, describe, expect, test } from "bun:test";
import { publishAttempts, readAttemptTally } from "../src/log/attempt-tally.ts";
import { attemptsKey } from "../src/queue/own-keys.ts";
import { openQueue } from "../src/queue/worker.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { eventually, jobData } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const valkey = connectValkey(await testValkeyUrl(), "test:tally", createLogger("silent").logger);
const queue = openQueue(`tally-${crypto.randomUUID()}`, valkey);
type Opened = typeof queue;
const MINUTE_MS = 60_000;
afterAll(async () => {
  await queue.close();
  valkey.disconnect();
});

const read = (nowMs = Date.now()) => readAttemptTally(valkey, queue.name, 5, nowMs);

describe("the tally of attempts", () => {
  test("adds up what all workers made, and remembers what was pending", async () => {
    await queue.add("file.created", jobData("https://e.example/"));
    await queue.add("file.created", jobData("https://e.example/"), { priority: 3 });
    await queue.add("file.created", jobData("https://e.example/"), { delay: 60_000 });
    const counted = [
      { made: 7, failed: 2 },
      { made: 3, failed: 3 },
    ];
    const stops = counted.map((totals) => publishAttempts({ valkey, queue, totals: () => totals, periodMs: 1 }));
    await eventually(read, ({ made, failed }) => made === 10 && failed === 5);
    (counted[0] as { made: number }).made = 8;
    await eventually(read, ({ made }) => made === 11);
    for (const stop of stops) stop();
    const inFive = await read(Date.now() + 5 * MINUTE_MS);
    expect(inFive.pendingBefore).toBe(3);
    expect([inFive.made > 0, inFive.failed]).toEqual([true, 5]);
  });

  test("remembers what was pending in all shards, and nothing while one of them does not answer", async () => {
    const names = [1, 2, 3].map((shard) => `tally-${crypto.randomUUID()}-{${shard}}`);
    const [first, second, third] = names.map((name) => openQueue(name, valkey)) as [Opened, Opened, Opened];
    for (const one of [first, second, second]) await one.add("file.created", jobData("https://e.example/"));
    const totals = () => ({ made: 1, failed: 0 });
    const pendingIn = async ({ name }: Opened) =>
      (await readAttemptTally(valkey, name, 5, Date.now() + 5 * MINUTE_MS)).pendingBefore;
    const stop = publishAttempts({ valkey, queue: first, others: [second], totals, periodMs: 1 });
    expect(
      await eventually(
        () => pendingIn(first),
        (pending) => pending !== undefined,
      ),
    ).toBe(3);
    stop();
    const nowhere = connectValkey("redis://127.0.0.1:1", "test:away", createLogger("silent").logger);
    const away = openQueue("away", nowhere);
    away.on("error", () => {});
    const stopOther = publishAttempts({ valkey, queue: third, others: [away], totals, periodMs: 1 });
    const made = async () => (await readAttemptTally(valkey, third.name, 5, Date.now())).made;
    await eventually(made, (attempts) => attempts === 1);
    expect(await pendingIn(third)).toBeUndefined();
    stopOther();
    nowhere.disconnect();
    for (const one of [first, second, third]) await one.close();
  });

  test("is not known before a worker tells, and expires", async () => {
    const other = await readAttemptTally(valkey, "nobody", 5, Date.now());
    expect(other).toEqual({ made: 0, failed: 0, pendingBefore: undefined });
    const minute = Math.floor(Date.now() / MINUTE_MS);
    const ages = await Promise.all([minute, minute - 1].map((at) => valkey.pttl(attemptsKey(queue.name, at))));
    expect(Math.max(...ages)).toBeWithin(1, 10 * MINUTE_MS + 1);
  });
});
