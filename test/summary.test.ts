import { afterAll, describe, expect, test } from "bun:test";
import { Registry } from "prom-client";
import { createBoardApp } from "../src/board/app.ts";
import { judgeQueue, LATE_MS } from "../src/operations/queue-problems.ts";
import { MINUTES, readSummary } from "../src/operations/summary.ts";
import { DeliveryWorker, openQueue } from "../src/queue/worker.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { jobData } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const { logger } = createLogger("silent");
const valkey = connectValkey(await testValkeyUrl(), "test:summary", logger);
const opened: ReturnType<typeof openQueue>[] = [];
afterAll(async () => {
  for (const queue of opened) await queue.close();
  valkey.disconnect();
});

const MINUTE_MS = 60_000;

function open() {
  const queue = openQueue(`summary-${crypto.randomUUID()}`, valkey);
  opened.push(queue);
  const config = {
    boardUser: "a",
    boardPassword: undefined,
    boardEnvironment: "",
    boardReadonly: false,
    boardTrustProxy: [],
    timeoutMs: 1_000,
  };
  const app = createBoardApp({ config, valkey, queue, registry: new Registry(), logger });
  return { queue, page: async () => await (await app.request("/")).text() };
}

/** Jobs that finished so many minutes ago, as BullMQ keeps them. */
async function finish(
  queue: ReturnType<typeof openQueue>,
  state: "completed" | "failed",
  minutesAgo: number,
  count: number,
) {
  const at = Date.now() - minutesAgo * MINUTE_MS;
  const members = Array.from({ length: count }, (_, index) => [at, `${state}-${minutesAgo}-${index}`]).flat();
  await valkey.zadd(queue.toKey(state), ...members);
}

describe("the summary", () => {
  test("of an empty queue says that no worker is there", async () => {
    const { queue, page } = open();
    const summary = await readSummary(queue, valkey, Date.now());
    expect(summary).toMatchObject({
      counts: { waiting: 0, active: 0, delayed: 0, completed: 0, failed: 0 },
      ...{ isPaused: false, workers: 0, oldestWaitingMs: undefined, circuits: [], failures: [] },
      delivered: { count: 0, isLeast: false },
    });
    expect(summary.minutes).toHaveLength(MINUTES);
    expect(await page()).toContain("No workers are connected: nothing is being delivered.");
  });

  test("has what waits, and for how long", async () => {
    const { queue, page } = open();
    const worker = new DeliveryWorker(async () => "", {
      ...{ queue: queue.name, valkey, concurrency: 1, timeoutMs: 1_000 },
      policy: { attempts: 1, delaysMs: [1], jitter: 0 },
    });
    await worker.waitUntilReady();
    await queue.add("file.created", jobData("https://e.example/"), { timestamp: Date.now() - 5 * MINUTE_MS });
    await queue.add("file.created", jobData("https://e.example/"));
    await queue.add("file.created", jobData("https://e.example/"), { delay: 60_000 });
    const { counts, oldestWaitingMs, workers } = await readSummary(queue, valkey, Date.now());
    expect([counts.waiting, counts.delayed, workers]).toEqual([2, 1, 1]);
    expect(oldestWaitingMs).toBeWithin(5 * MINUTE_MS, 6 * MINUTE_MS);
    expect(await page()).toContain("Events are waiting for a worker, the next one for 5 min: start more workers.");
    await queue.pause();
    expect(await page()).toContain("The queue is paused");
    await worker.close();
  });

  test("counts what finished by the minute, and the last five of them", async () => {
    const { queue, page } = open();
    await finish(queue, "completed", 0.5, 7);
    await finish(queue, "completed", 4.5, 2);
    await finish(queue, "completed", 29.5, 3);
    await finish(queue, "failed", 1.5, 1);
    await finish(queue, "failed", 31, 9);
    const { delivered, failed, minutes } = await readSummary(queue, valkey, Date.now());
    expect([delivered, failed]).toEqual([
      { count: 9, isLeast: false },
      { count: 1, isLeast: false },
    ]);
    expect(minutes.at(-1)?.delivered.count).toBe(7);
    expect(minutes[0]?.delivered.count).toBe(3);
    expect(minutes.at(-2)?.failed.count).toBe(1);
    expect(await page()).toContain("12 delivered, 1 failed");
  });

  test("says at least where the queue does not keep all", async () => {
    const { queue, page } = open();
    await finish(queue, "completed", 2.5, 400);
    await finish(queue, "completed", 0.5, 600);
    const { delivered, minutes } = await readSummary(queue, valkey, Date.now());
    expect(delivered).toEqual({ count: 1_000, isLeast: true });
    expect(minutes.slice(-4).map((minute) => minute.delivered)).toEqual([
      { count: 0, isLeast: true },
      { count: 400, isLeast: true },
      { count: 0, isLeast: false },
      { count: 600, isLeast: false },
    ]);
    const html = await page();
    expect(html).toContain("1,000+");
    expect(html).toContain("At least 1,000 delivered");
  });

  test("has the latest failures without their secrets, also when they name no user", async () => {
    const { queue, page } = open();
    const job = await queue.add("file.created", { endpoint: { secret: "hunter2-secret" }, userId: 7 });
    await valkey.hset(
      queue.toKey(job.id as string),
      "failedReason",
      "refused hunter2-secret",
      "finishedOn",
      Date.now(),
    );
    await valkey.lrem(queue.toKey("wait"), 0, job.id as string);
    await valkey.zadd(queue.toKey("failed"), Date.now(), job.id as string);
    const { failures } = await readSummary(queue, valkey, Date.now());
    expect(failures).toEqual([expect.objectContaining({ job: job.id, userId: undefined, reason: "refused ***" })]);
    const html = await page();
    expect(html).toContain("no user");
    expect(html).not.toContain("hunter2");
  });
});

describe("a queue's problems", () => {
  const well = { isPaused: false, workers: 1, oldestWaitingMs: undefined, strays: undefined };
  const late = { ...well, oldestWaitingMs: LATE_MS + 1 };
  test.each([
    ["of one that delivers are none", well, []],
    ["of one whose workers Valkey does not tell are none", { ...well, workers: undefined }, []],
    ["include a job that waits for more than a minute", late, ["late"]],
    ["do not include a job that waits for a minute", { ...well, oldestWaitingMs: LATE_MS }, []],
    ["without a worker are that, and not that it is late", { ...late, workers: 0, strays: 2 }, ["no_worker", "strays"]],
    ["of a paused one are that, and not that it is late", { ...late, isPaused: true }, ["paused"]],
  ] as const)("%s", (_, queue, kinds) => {
    expect(judgeQueue(queue).map(({ kind }) => kind)).toEqual([...kinds]);
  });

  test("begin to be late when the alert does", async () => {
    const alerts = await Bun.file(new URL("../docs/monitoring/alerts.yml", import.meta.url)).text();
    const { bound } = /alert: FluxhookQueueLate\n.*\n.* > (?<bound>\d+)\n/.exec(alerts)?.groups ?? {};
    expect(Number(bound) * 1000).toBe(LATE_MS);
  });
});
