import { afterAll, describe, expect, test } from "bun:test";
import { Redis } from "ioredis";
import { Registry } from "prom-client";
import { createBoardApp } from "../src/board/app.ts";
import { readOverview } from "../src/board/overview.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { publishAttempts } from "../src/log/attempt-tally.ts";
import { hold, release } from "../src/operations/hold.ts";
import { redeliver } from "../src/operations/redeliver.ts";
import { MINUTES, readSummary } from "../src/operations/summary.ts";
import { DeliveryWorker, openQueue } from "../src/queue/worker.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { onlyShard } from "./support/only-shard.ts";
import { eventually, jobData } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const { logger } = createLogger("silent");
const valkey = connectValkey(await testValkeyUrl(), "test:summary", logger);
type Opened = ReturnType<typeof openQueue>;
const opened: Opened[] = [];
afterAll(async () => {
  for (const queue of opened) await queue.close();
  valkey.disconnect();
});

const MINUTE_MS = 60_000;

function open() {
  const queue = openQueue(`summary-${crypto.randomUUID()}`, valkey);
  opened.push(queue);
  const app = createBoardApp({
    config: BOARD_DEFAULTS,
    shards: onlyShard(queue.name, valkey),
    registry: new Registry(),
    logger,
  });
  return { queue, page: async () => await (await app.request("/", { headers: { accept: "text/html" } })).text() };
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
    const summary = await readSummary(onlyShard(queue.name, valkey), Date.now());
    expect(summary).toMatchObject({
      counts: { waiting: 0, active: 0, delayed: 0, completed: 0, failed: 0 },
      ...{ isPaused: false, workers: 0, oldestWaitingMs: undefined, circuits: [], failures: [] },
      completed: { count: 0, isLeast: false },
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
    const { counts, oldestWaitingMs, workers } = await readSummary(onlyShard(queue.name, valkey), Date.now());
    expect([counts.waiting, counts.delayed, workers]).toEqual([2, 1, 1]);
    expect(oldestWaitingMs).toBeWithin(5 * MINUTE_MS, 6 * MINUTE_MS);
    expect(await page()).toContain("Events are waiting for a worker, the next one for 5 min.");
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
    const { completed, failed, minutes } = await readSummary(onlyShard(queue.name, valkey), Date.now());
    expect([completed, failed]).toEqual([
      { count: 9, isLeast: false },
      { count: 1, isLeast: false },
    ]);
    expect(minutes.at(-1)?.completed.count).toBe(7);
    expect(minutes[0]?.completed.count).toBe(3);
    expect(minutes.at(-2)?.failed.count).toBe(1);
    expect(await page()).toContain("12 completed, 1 failed");
  });

  test("tells completed from delivered: how many attempts succeeded, and what else completes, once endpoints are registered", async () => {
    const { queue, page } = open();
    await finish(queue, "completed", 0.5, 7);
    const stop = publishAttempts({ valkey, queue, totals: () => ({ made: 5, failed: 2 }), periodMs: 5 });
    const html = await eventually(page, (text) => text.includes("5 attempts in the last 5 min, 3 answered with 2xx."));
    stop();
    expect(html).toContain("7 completed, 0 failed");
    expect(html).not.toContain("7 delivered");
    const registry = createRegistry(valkey, { allowPlain: true });
    await registry.create("usr_summary", { id: "main", url: "https://e.example/" });
    expect(await page()).toContain("Completed is not always delivered");
    await registry.delete("usr_summary", "main");
  });

  test("says at least where the queue does not keep all", async () => {
    const { queue, page } = open();
    await finish(queue, "completed", 2.5, 400);
    await finish(queue, "completed", 0.5, 600);
    const { completed, minutes } = await readSummary(onlyShard(queue.name, valkey), Date.now());
    expect(completed).toEqual({ count: 1_000, isLeast: true });
    expect(minutes.slice(-4).map((minute) => minute.completed)).toEqual([
      { count: 0, isLeast: true },
      { count: 400, isLeast: true },
      { count: 0, isLeast: false },
      { count: 600, isLeast: false },
    ]);
    const html = await page();
    expect(html).toContain("1,000+");
    expect(html).toContain("At least 1,000 completed");
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
    const { failures } = await readSummary(onlyShard(queue.name, valkey), Date.now());
    const unknown = { userId: undefined, host: undefined };
    expect(failures).toEqual([expect.objectContaining({ job: job.id, ...unknown, reason: "refused ***" })]);
    const html = await page();
    expect(html).toContain("no user");
    expect(html).not.toContain("hunter2");
  });
});

describe("the overview", () => {
  /** A connection that looks like a worker, so that its absence does not hide everything else. */
  const withWorker = async (queue: ReturnType<typeof openQueue>, run: () => Promise<void>) => {
    const { host, port } = valkey.options;
    const idle = new Redis({ host, port, connectionName: `bull:${btoa(queue.name)}:w:idle` });
    await idle.ping();
    await run();
    idle.disconnect();
  };
  const verdictOf = (html: string) => /class="verdict (\w+)"/.exec(html)?.[1];

  test("shows a green tick when all is well, also with a few events that failed and a host that is silent", async () => {
    const { queue, page } = open();
    await withWorker(queue, async () => {
      await finish(queue, "completed", 1.5, 9);
      await finish(queue, "failed", 1.5, 2);
      await valkey.zadd(`webhooks:circuits:${queue.name}`, Date.now() + 60_000, "dead.example");
      const html = await page();
      expect(verdictOf(html)).toBe("good");
      expect(html).toContain("Up to date, except for one host that does not respond");
    });
  });

  test("shows none when most events fail, or most attempts do, or the backlog grows", async () => {
    const minute = Math.floor(Date.now() / MINUTE_MS);
    const key = (queue: string, at: number) => `webhooks:attempts:${queue}:${at}`;
    for (const [kind, text, spoil] of [
      ["wait", "66% of the events that finished", (queue: Opened) => finish(queue, "failed", 1.5, 18)],
      [
        "wait",
        "60% of attempts failed in the last 5 minutes (600 of 1,000)",
        (queue: Opened) => valkey.hset(key(queue.name, minute), { made: 1_000, failed: 600 }),
      ],
      [
        "bad",
        "95% of attempts failed",
        (queue: Opened) => valkey.hset(key(queue.name, minute), { made: 1_000, failed: 950 }),
      ],
      [
        "wait",
        "200 more events are pending than 5 minutes ago, and 60 were delivered",
        async (queue: Opened) => {
          await valkey.hset(key(queue.name, minute), { made: 60, failed: 0 });
          for (const before of [minute - 5, minute - 4]) await valkey.hset(key(queue.name, before), { pending: 0 });
          const job = jobData("https://e.example/");
          await queue.addBulk(Array.from({ length: 200 }, () => ({ name: "x", data: job, opts: { delay: 60_000 } })));
        },
      ],
    ] as const) {
      const { queue, page } = open();
      await withWorker(queue, async () => {
        await finish(queue, "completed", 1.5, 9);
        await spoil(queue);
        const html = await page();
        expect([text, verdictOf(html), html.includes(text)]).toEqual([text, kind, true]);
      });
    }
  });

  test("compares completed and failed events only where it knows both, since few completed ones are kept", async () => {
    const { queue } = open();
    await finish(queue, "failed", 4.5, 2_000);
    await finish(queue, "completed", 0.5, 1_000);
    await finish(queue, "failed", 0.4, 30);
    const { finished, failed } = await readSummary(onlyShard(queue.name, valkey), Date.now());
    expect([finished, failed.count]).toEqual([{ completed: 1_000, failed: 30 }, 2_030]);
  });

  test("counts an event's wait from its last attempt or its delay, not from when it was enqueued", async () => {
    const { queue } = open();
    const hour = 60 * MINUTE_MS;
    const timestamp = Date.now() - hour;
    await queue.add("file.created", jobData("https://e.example/"), { timestamp, delay: hour - 30_000 });
    await queue.promoteJobs();
    expect((await readSummary(onlyShard(queue.name, valkey), Date.now())).oldestWaitingMs).toBeWithin(29_000, 50_000);
  });

  test("counts a redelivered event's wait from its redelivery", async () => {
    const { queue } = open();
    const timestamp = Date.now() - 60 * MINUTE_MS;
    const job = await queue.add("file.created", jobData("https://e.example/"), { timestamp });
    await valkey.lrem(queue.toKey("wait"), 0, job.id as string);
    await valkey.hset(queue.toKey(job.id as string), "failedReason", "HTTP 410", "finishedOn", timestamp);
    await valkey.zadd(queue.toKey("failed"), timestamp, job.id as string);
    expect(await redeliver(queue, job.id as string)).toBe("queued");
    const { counts, oldestWaitingMs } = await readSummary(onlyShard(queue.name, valkey), Date.now());
    expect([counts.waiting, oldestWaitingMs ?? MINUTE_MS]).toEqual([1, expect.any(Number)]);
    expect(oldestWaitingMs).toBeLessThan(MINUTE_MS);
  });

  test("counts a held event's wait from its release", async () => {
    const { queue } = open();
    const timestamp = Date.now() - 60 * MINUTE_MS;
    await queue.add("file.created", jobData("https://e.example/"), { timestamp });
    const place = { valkey, queue: queue.name };
    const until = Date.now() + MINUTE_MS;
    await hold([place], { kind: "host", target: "e.example" }, { until, reason: undefined, by: undefined }, timestamp);
    await release([place], { kind: "host", text: "e.example" }, Date.now() - 5_000);
    expect((await readSummary(onlyShard(queue.name, valkey), Date.now())).oldestWaitingMs).toBeWithin(5_000, MINUTE_MS);
  });

  test("counts prioritized events among those that wait", async () => {
    const { queue } = open();
    const timestamp = Date.now() - 5 * MINUTE_MS;
    await queue.add("file.created", jobData("https://e.example/"), { timestamp, priority: 5 });
    const { counts, oldestWaitingMs } = await readSummary(onlyShard(queue.name, valkey), Date.now());
    expect(counts.waiting).toBe(1);
    expect(oldestWaitingMs).toBeWithin(5 * MINUTE_MS, 6 * MINUTE_MS);
  });

  test("shows the host of a failure, and leads to all of them", async () => {
    const { queue, page } = open();
    const job = await queue.add("file.created", jobData("https://user:pass@hooks.acme.example:8443/in?token=t"));
    await valkey.hset(queue.toKey(job.id as string), "failedReason", "HTTP 410", "finishedOn", Date.now());
    await valkey.lrem(queue.toKey("wait"), 0, job.id as string);
    await valkey.zadd(queue.toKey("failed"), Date.now(), job.id as string);
    const html = await page();
    expect(html).toContain("hooks.acme.example:8443</span>");
    expect(html).toContain('href="/failed"');
    expect(html).not.toContain("token=t");
  });

  test("says when Valkey refuses writes, and when its memory is nearly full", async () => {
    const server = await startValkey({ settings: { "min-replicas-to-write": "1" } });
    const refusing = connectValkey(server.url, "test:refusing", logger);
    const queue = openQueue("refusing", refusing);
    const { problems } = await readOverview(onlyShard(queue.name, refusing), Date.now());
    expect(problems.map(({ code }) => code)).toEqual(["valkey_refuses", "no_worker"]);
    expect(problems[0]?.text).toStartWith("Valkey refuses: NOREPLICAS");
    const admin = new Redis(server.url);
    await admin.config("SET", "min-replicas-to-write", "0");
    const used = Number(/used_memory:(\d+)/.exec(await admin.info("memory"))?.[1]);
    await admin.config("SET", "maxmemory", Math.floor(used * 1.2));
    const tight = await readOverview(onlyShard(queue.name, refusing), Date.now());
    expect(tight.problems.map(({ code }) => code)).toEqual(["no_worker", "valkey_memory"]);
    await admin.config("SET", "maxmemory", "1mb");
    const full = await readOverview(onlyShard(queue.name, refusing), Date.now());
    expect(full.problems[0]?.code).toBe("valkey_full");
    admin.disconnect();
    await queue.close();
    refusing.disconnect();
    await server.stop();
  });
});
