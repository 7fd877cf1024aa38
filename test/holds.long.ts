/** Holds on a bad day: a large held backlog beside others' events, and processes that start while something is held. */
import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { Queue } from "bullmq";
import { startReceiver } from "../src/dev/receiver.ts";
import { watchHolds } from "../src/isolation/hold-store.ts";
import { hold, release } from "../src/operations/hold.ts";
import { connectValkey, type Valkey } from "../src/valkey/connection.ts";
import { startWorkerProcess } from "./support/process.ts";
import { eventually, jobData, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

setDefaultTimeout(120_000);

const HOUR_MS = 60 * 60 * 1000;
const open: (() => unknown)[] = [];
afterEach(async () => {
  for (const stop of open.splice(0).reverse()) await stop();
});

const holdHost = (valkey: Valkey, queue: string, host: string, ms = HOUR_MS) =>
  hold(
    [{ valkey, queue }],
    { kind: "host", target: host },
    { until: Date.now() + ms, reason: undefined, by: undefined },
    Date.now(),
  );

const quantile = (values: readonly number[], q: number) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length * q)] as number;

test("20,000 held events of one host do not slow the others, and are delivered once they are released", async () => {
  const EVENTS = 20_000;
  const [heldCustomer, other] = [await startReceiver(), await startReceiver()];
  open.push(
    () => heldCustomer.stop(),
    () => other.stop(),
  );
  const stack = await startStack({ concurrency: 256, isIdle: true });
  open.push(() => stack.stop());
  const { valkey, queue, holds, logger } = stack;
  const place = { valkey, queue: queue.name };
  const watch = watchHolds({ ...place, holds, logger, maxAgeMs: HOUR_MS });
  open.push(watch.stop);
  await watch.ready;
  const { host } = new URL(heldCustomer.url());
  await holdHost(valkey, queue.name, host);
  stack.worker.run();
  await stack.line("hold.started");

  const userId = `usr_${crypto.randomUUID()}`;
  const add = async (count: number) => {
    const jobs = Array.from({ length: count }, () => ({
      name: "file.created",
      data: jobData(heldCustomer.url(), { userId }),
    }));
    await queue.addBulk(jobs);
  };
  for (let added = 0; added < EVENTS; added += 1_000) await add(1_000);
  const delays: number[] = [];
  for (let sent = 0; sent < 300; sent++) {
    const { job } = await stack.settled(await queue.add("file.created", jobData(other.url())));
    delays.push((job.finishedOn as number) - job.timestamp);
  }
  await eventually(
    () => queue.getDelayedCount(),
    (count) => count === EVENTS,
    60_000,
    100,
  );
  expect(heldCustomer.requests).toHaveLength(0);
  if (process.env.HOSTILE_FIGURES) console.error({ p50: quantile(delays, 0.5), p99: quantile(delays, 0.99) });
  expect(quantile(delays, 0.5)).toBeLessThan(250); // with the held ones ahead of them it would be seconds

  await release([place], { kind: "host", text: host }, Date.now());
  await eventually(
    () => heldCustomer.requests.length,
    (count) => count >= EVENTS / 4, // as fast as the endpoint takes them, not after a minute
    30_000,
    100,
  );
});

test("a worker that starts delivers nothing that is held, and neither does the process that runs suspects", async () => {
  const [heldCustomer, other] = [await startReceiver(), await startReceiver()];
  const valkeyUrl = await testValkeyUrl();
  const valkey = connectValkey(valkeyUrl, "test:holds", { info() {}, warn() {} });
  const queue = new Queue(`holds-${crypto.randomUUID()}`, { connection: valkey });
  open.push(
    () => heldCustomer.stop(),
    () => other.stop(),
    () => valkey.disconnect(),
    () => queue.close(),
  );
  const { host } = new URL(heldCustomer.url());
  await holdHost(valkey, queue.name, host, 8_000);
  const heldFrom = Date.now();
  const plain = await queue.add("file.created", jobData(heldCustomer.url()));
  const suspect = await queue.add("file.created", jobData(heldCustomer.url()));
  await valkey.hset(queue.toKey(suspect.id as string), "stc", 3); // three workers died with it
  const free = await queue.add("file.created", jobData(other.url()));
  const worker = startWorkerProcess({ VALKEY_URL: valkeyUrl, WEBHOOK_QUEUE: queue.name });
  open.push(() => worker.stop());
  expect(await worker.line("hold.started")).toMatchObject({ kind: "host", target: host });
  const stateOf = (id: string | undefined) => queue.getJobState(id as string);
  await eventually(
    () => stateOf(free.id),
    (state) => state === "completed",
  );
  await eventually(
    async () => [await stateOf(plain.id), await stateOf(suspect.id)],
    (states) => states.every((state) => state === "completed"),
    60_000,
    50,
  );
  const arrivals = heldCustomer.requests.map(({ receivedAt }) => receivedAt - heldFrom);
  expect(arrivals).toHaveLength(2);
  expect(Math.min(...arrivals)).toBeGreaterThan(7_500);
  expect(await worker.line("hold.ended")).toMatchObject({ target: host });
});
