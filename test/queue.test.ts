/** What the worker makes of a job's own options. */
import { afterEach, expect, test } from "bun:test";
import { type Job, type JobsOptions, Queue } from "bullmq";
import { Queue as Queue4 } from "bullmq4";
import type { RetryPolicy } from "../src/delivery/retry.ts";
import { AttemptFailed, DeliveryWorker } from "../src/queue/worker.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const open: { stop(): Promise<unknown> }[] = [];
afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

const POLICY: RetryPolicy = { attempts: 8, delaysMs: [1], jitter: 0 };

/** A queue and a worker of it that notes each job's id and policy. */
async function setUp(process: () => string = () => "") {
  const name = `queue-${crypto.randomUUID()}`;
  const valkey = connectValkey(await testValkeyUrl(), "test:queue", { info() {}, warn() {} });
  const queue = new Queue(name, { connection: valkey });
  const seen: { id: string; policy: RetryPolicy }[] = [];
  const unrepeated: string[] = [];
  const worker = new DeliveryWorker(
    async ({ id }, _, policy) => {
      seen.push({ id: id as string, policy });
      return process();
    },
    {
      ...{ queue: name, valkey, concurrency: 5, timeoutMs: 10_000, policy: POLICY },
      unrepeated: ({ id }) => unrepeated.push(id as string),
    },
  );
  open.push({
    async stop() {
      await worker.close();
      await queue.close();
      valkey.disconnect();
    },
  });
  worker.run();
  return { queue, seen, unrepeated };
}

test.each<[string, JobsOptions, RetryPolicy]>([
  ["with a backoff of its own", { attempts: 2, backoff: { type: "fixed", delay: 70 } }, { attempts: 2, delaysMs: [70], jitter: 0 }], // biome-ignore format: one case a line
  ["without one", {}, POLICY],
])("the runs of a job scheduler %s all have the options that its producer gave", async (_, opts, policy) => {
  const { queue, seen } = await setUp();
  await queue.upsertJobScheduler("often", { every: 40 }, { name: "file.created", data: {}, opts });
  await eventually(
    () => seen.length,
    (runs) => runs >= 4,
  );
  await queue.removeJobScheduler("often");
  for (const { id } of seen) {
    const { attempts, backoff, stackTraceLimit } = ((await queue.getJob(id)) as Job).opts;
    expect({ attempts: attempts || undefined, backoff, stackTraceLimit }).toEqual(opts as never); // 0 is none
  }
  expect(new Set(seen.map((run) => JSON.stringify(run.policy)))).toEqual(new Set([JSON.stringify(policy)]));
});

test("an older client's repeated job, which goes on no more, is told; a scheduler's is not", async () => {
  const { queue, seen, unrepeated } = await setUp();
  const older = new Queue4(queue.name, {
    connection: { host: "127.0.0.1", port: Number(new URL(await testValkeyUrl()).port) },
  });
  const { id } = await older.add("file.created", {}, { repeat: { every: 50 } });
  await older.close();
  await queue.upsertJobScheduler("org:1:daily:report:x", { every: 40 }, { name: "file.created", data: {} });
  await eventually(
    () => seen.filter((run) => run.id !== id).length,
    (runs) => runs >= 3,
  );
  expect(unrepeated).toEqual([id as string]);
});

test("a failed attempt is tried again when its error says, and counts against the job's own attempts", async () => {
  const { queue, seen } = await setUp(() => {
    throw new AttemptFailed("http_503", 1);
  });
  const { id } = await queue.add("file.created", {}, { attempts: 3 });
  await eventually(
    () => queue.getFailedCount(),
    (count) => count === 1,
  );
  expect(seen.map((run) => run.id)).toEqual([id, id, id] as string[]);
});
