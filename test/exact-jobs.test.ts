/** Jobs as the board and the command list them. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { type Job, Queue } from "bullmq";
import { openQueue } from "../src/queue/worker.ts";
import { connectValkey, type Valkey } from "../src/valkey/connection.ts";
import { testValkeyUrl } from "./support/valkey.ts";

let valkey: Valkey;
let plain: Queue;
let listed: Queue;
beforeAll(async () => {
  valkey = connectValkey(await testValkeyUrl(), "test:exact-jobs", { info() {}, warn() {} });
  plain = new Queue(`exact-${crypto.randomUUID()}`, { connection: valkey });
  listed = openQueue(plain.name, valkey);
});
afterAll(async () => {
  await plain.obliterate({ force: true });
  await Promise.all([plain.close(), listed.close()]);
  valkey.disconnect();
});

const EVENT = { userId: "usr_1", endpoint: { url: "https://customer.example/", secret: "s3cret-of-the-test" } };

test("a job with more data than any event can have is listed without it, and with all else", async () => {
  const opts = { jobId: "long", attempts: 3, priority: 7, delay: 60_000, timestamp: 1_700_000_000_000 };
  await plain.add("file.created", { ...EVENT, data: { text: "x".repeat(17 * 1024 * 1024) } }, opts);
  await plain.add("file.created", { ...EVENT, data: {} }, { ...opts, jobId: "short" });
  for (const id of ["long", "short"]) {
    const more = { atm: 2, ats: 3, stc: 1, finishedOn: 1_700_000_000_500, processedOn: 1_700_000_000_400 };
    await valkey.hset(plain.toKey(id), { ...more, failedReason: "HTTP 500", stacktrace: '["at"]' });
  }
  const [long, short] = (await Promise.all([listed.getJob("long"), plain.getJob("short")])) as [Job, Job];
  const { data: note, ...rest } = long.asJSON();
  const { data: _, ...expected } = short.asJSON();
  expect(rest).toEqual({ ...expected, id: "long", opts: { ...expected.opts, jobId: "long" } });
  expect(note).toBe(
    JSON.stringify(
      `${JSON.stringify({ ...EVENT, data: { text: "" } }).length + 17 * 1024 * 1024} characters of data, more than an event can have`,
    ),
  );
  expect((await listed.getJobs(["delayed"])).map(({ id }) => id).sort()).toEqual(["long", "short"]);
  expect(await listed.getJob("none")).toBeUndefined();
});

test("it can be redelivered and removed like others", async () => {
  await plain.add("file.created", { ...EVENT, data: { text: "x".repeat(17 * 1024 * 1024) } }, { jobId: "again" });
  const id = "again";
  await valkey.lrem(plain.toKey("wait"), 1, id);
  await valkey.zadd(plain.toKey("failed"), 1, id);
  const job = (await listed.getJob(id)) as Job;
  await job.retry("failed");
  expect(await job.getState()).toBe("waiting");
  expect(await valkey.hstrlen(plain.toKey(id), "data")).toBeGreaterThan(17 * 1024 * 1024); // as it was
  await job.remove();
  expect(await listed.getJob(id)).toBeUndefined();
});
