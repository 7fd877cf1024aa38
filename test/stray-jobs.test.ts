/** Jobs in none of the queue's lists: found, counted, told, and put back. */
import { beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { Queue as Queue5 } from "bullmq5";
import { Registry } from "prom-client";
import { startReceiver } from "../src/dev/receiver.ts";
import { watchQueue } from "../src/monitoring/queue-metrics.ts";
import { countStrays, findStrays, putBackStrays, readStrayCount, watchStrays } from "../src/queue/stray-jobs.ts";
import { createCommand } from "./support/command.ts";
import { startOwnQueue } from "./support/own-queue.ts";
import { eventually, jobData, startStack } from "./support/stack.ts";

setDefaultTimeout(30_000);

const { valkey, client, queue, env, key } = await startOwnQueue("strays");
const fluxhook = createCommand(env);
beforeEach(() => client.flushall());

const strays = async () => (await Array.fromAsync(findStrays(queue, client))).sort();
const add = async (count: number, opts = {}) =>
  (
    await queue.addBulk(
      Array.from({ length: count }, () => ({ name: "file.created", data: jobData("https://a.example/"), opts })),
    )
  ).map(({ id }) => id as string);

test("jobs in any of the queue's lists, and whatever else is under its prefix, are no strays", async () => {
  await add(3);
  await add(2, { delay: 60_000 });
  await add(2, { priority: 3 });
  await queue.upsertJobScheduler("nightly", { every: 60_000 }, { name: "file.created", data: {} });
  const [active, failed, completed] = (await add(3)) as [string, string, string];
  await client.lrem(key("wait"), 0, active);
  await client.lpush(key("active"), active);
  for (const [set, id] of [
    ["failed", failed],
    ["completed", completed],
  ] as const) {
    await client.lrem(key("wait"), 0, id);
    await client.zadd(key(set), 1, id);
  }
  await client.hset(key("something"), "field", 1);
  expect(await strays()).toEqual([]);
});

test("what a BullMQ 5 client's resume leaves behind is found by status, and recover puts it back", async () => {
  const old = new Queue5("strays", { connection: { host: "127.0.0.1", port: valkey.port } });
  await old.pause();
  await old.add("file.created", jobData("https://b.example/"));
  const lost = await add(20);
  await old.resume();
  await old.close();
  expect(await strays()).toEqual(lost.sort());

  const status = await fluxhook(["status", "--json"]);
  expect(status.code).toBe(1);
  const report = JSON.parse(status.out);
  expect(report.strays).toBe(20);
  expect(report.problems).toContainEqual(
    expect.objectContaining({
      text: "20 events are in none of the queue's lists and will not be delivered",
      todo: "Run fluxhook recover",
    }),
  );

  const dry = await fluxhook(["recover", "--dry-run"]);
  expect(dry.code).toBe(0);
  expect(dry.out).toContain("https://a.example/");
  expect(dry.out).toEndWith("20 events are in none of the queue's lists.\n");
  expect(await client.llen(key("wait"))).toBe(1);

  const unanswered = await fluxhook(["recover"]);
  expect([unanswered.code, unanswered.err]).toEqual([
    2,
    "fluxhook: no terminal to ask for confirmation: use --yes to restore them without confirmation, --dry-run to list them\n",
  ]);
  const recovered = await fluxhook(["recover", "--yes", "--json"]);
  expect(JSON.parse(recovered.out)).toMatchObject({ dry_run: false, count: 20 });
  expect(await strays()).toEqual([]);
  expect(await client.llen(key("wait"))).toBe(21);
  const again = await fluxhook(["recover", "--yes"]);
  expect([again.code, again.out]).toEqual([0, "Every job is in one of the queue's lists.\n"]);
});

test("a stray goes back to where it belongs, once, and wakes a worker unless the queue is paused", async () => {
  const [waiting, failed, completed] = (await add(3)) as [string, string, string];
  const [urgent] = (await add(1, { priority: 7 })) as [string];
  await client.hset(key(failed), { finishedOn: 1_000, failedReason: "HTTP 410" });
  await client.hset(key(completed), { finishedOn: 2_000, returnvalue: '"HTTP 200"' });
  await client.del(key("wait"), key("prioritized"), key("marker"));
  await queue.pause();
  const all = [waiting, failed, completed, urgent];
  expect(await putBackStrays(queue, client, [...all, "no-job"])).toBe(4);
  expect(await putBackStrays(queue, client, all)).toBe(0);
  expect(await client.lrange(key("wait"), 0, -1)).toEqual([waiting]);
  expect(await client.zrange(key("failed"), "0", "-1", "WITHSCORES")).toEqual([failed, "1000"]);
  expect(await client.zrange(key("completed"), "0", "-1", "WITHSCORES")).toEqual([completed, "2000"]);
  const score = Number(await client.zscore(key("prioritized"), urgent));
  expect(Math.floor(score / 2 ** 32)).toBe(7);
  expect(await client.exists(key("marker"))).toBe(0);
  await queue.resume();
  await client.del(key("wait"), key("marker"));
  expect(await putBackStrays(queue, client, [waiting])).toBe(1);
  expect(await client.zrange(key("marker"), "0", "-1")).toEqual(["0"]);
});

test("a busy queue has none while jobs move from list to list", async () => {
  const receiver = await startReceiver();
  let answers = 0;
  receiver.answer(() => ({ status: answers++ % 2 === 0 ? 503 : 200 }));
  const stack = await startStack({ concurrency: 32 });
  const jobs = Array.from({ length: 500 }, () => ({ name: "file.created", data: jobData(receiver.url()) }));
  await stack.queue.addBulk(jobs);
  const isBusy = async () => {
    const { wait, active, delayed } = await stack.queue.getJobCounts("wait", "active", "delayed");
    return (wait ?? 0) + (active ?? 0) + (delayed ?? 0) > 0;
  };
  let counts = 0;
  while (await isBusy()) {
    expect(await countStrays(stack.queue, stack.valkey)).toBe(0);
    counts += 1;
  }
  expect(counts).toBeGreaterThan(2);
  await stack.stop();
  await receiver.stop();
});

test("a worker counts them now and then, one worker for all, and publishes how many there are", async () => {
  const ids = await add(3);
  await client.lrem(key("wait"), 0, ids[0] as string);
  const registry = new Registry();
  watchQueue(registry, [{ index: 0, queue, valkey: client }]);
  expect(await registry.metrics()).not.toMatch(/^fluxhook_stray_jobs \d/m);
  const ends = [watchStrays(queue, client, 20), watchStrays(queue, client, 20)];
  await eventually(
    () => readStrayCount("strays", client),
    (count) => count === 1,
  );
  expect(await registry.metrics()).toMatch(/^fluxhook_stray_jobs 1$/m);
  await putBackStrays(queue, client, ids);
  await eventually(
    () => readStrayCount("strays", client),
    (count) => count === 0,
  );
  for (const end of ends) end();
});
