/** Promotion of parked jobs, in a real queue. */
import { afterEach, expect, test } from "bun:test";
import { startReceiver } from "../src/dev/receiver.ts";
import type { Gate } from "../src/isolation/gate.ts";
import { createPromotion } from "../src/isolation/promotion.ts";
import { queueKey } from "../src/queue/layout.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { eventually, jobData, OPEN_GATE, type Stack, startStack } from "./support/stack.ts";

const HOUR_MS = 60 * 60 * 1000;
const { logger } = createLogger("silent");
const open: { stop(): Promise<void> }[] = [];

afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

/** Parks the first job that asks, and lets it go the next time. */
function parkOnce(retryAt: number) {
  let asked = 0;
  const gate: Gate = {
    ...OPEN_GATE,
    admit: () => (++asked === 1 ? { kind: "park", retryAt, reason: "limit" } : { kind: "go" }),
  };
  return { gate, asked: () => asked };
}

const promoterOf = ({ queue, valkey }: Stack) => createPromotion({ valkey, prefix: queueKey(queue.name), logger });

test("a promoted job goes at once to a worker that waits for jobs, and uses no attempt", async () => {
  const customer = await startReceiver();
  const retryAt = Date.now() + HOUR_MS;
  const { gate, asked } = parkOnce(retryAt);
  const system = await startStack({ gate });
  open.push(customer, system);
  const job = await system.queue.add("file.created", jobData(customer.url()));
  await eventually(
    () => system.queue.getDelayedCount(),
    (count) => count === 1,
  );
  promoterOf(system)([{ job: job.id as string, retryAt }]);
  const { state, job: ended } = await system.settled(job);
  expect([state, ended.attemptsMade, asked()]).toEqual(["completed", 1, 2]);
});

test("a job that is promoted just before it is parked goes to a worker soon after", async () => {
  const customer = await startReceiver();
  const retryAt = Date.now() + HOUR_MS;
  const { gate, asked } = parkOnce(retryAt);
  const system = await startStack({ gate, isIdle: true });
  open.push(customer, system);
  const job = await system.queue.add("file.created", jobData(customer.url()));
  promoterOf(system)([{ job: job.id as string, retryAt }]); // on the connection on which the worker takes the job and parks it
  system.worker.run();
  const { state } = await system.settled(job);
  expect([state, asked()]).toEqual(["completed", 2]);
});

test("a job that waits for its retry, or no longer exists, is left alone", async () => {
  const customer = await startReceiver();
  customer.answer(() => ({ status: 500 }));
  const system = await startStack({ gate: OPEN_GATE, policy: { attempts: 3, delaysMs: [HOUR_MS], jitter: 0 } });
  open.push(customer, system);
  const job = await system.queue.add("file.created", jobData(customer.url()));
  await eventually(
    () => system.queue.getDelayedCount(),
    (count) => count === 1,
  );
  const [, before] = await system.valkey.zrange(`${queueKey(system.queue.name)}:delayed`, "0", "-1", "WITHSCORES");
  promoterOf(system)([
    { job: job.id as string, retryAt: Date.now() + HOUR_MS / 2 },
    { job: "gone", retryAt: Date.now() },
  ]);
  const [, after] = await system.valkey.zrange(`${queueKey(system.queue.name)}:delayed`, "0", "-1", "WITHSCORES");
  expect(after).toBe(before as string);
});
