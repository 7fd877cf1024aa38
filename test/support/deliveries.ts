import type { Queue } from "bullmq";
import { type Receiver, startReceiver } from "../../src/dev/receiver.ts";
import { endpointChangesKey } from "../../src/queue/own-keys.ts";
import type { Valkey } from "../../src/valkey/connection.ts";
import { type Stack, type StackOptions, startStack } from "./stack.ts";

/** An id as the contract has it. */
export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** 1 h. */
export const HOUR_MS = 60 * 60 * 1000;

/** What ends with the test, the last first. */
export const open: { stop(): Promise<void> }[] = [];

/** What `afterEach` is for: ends all that a test began. */
export async function endAll(): Promise<void> {
  for (const { stop } of open.splice(0).reverse()) await stop();
}

/** A receiver of this test. */
export async function receiver(): Promise<Receiver> {
  const started = await startReceiver();
  open.push(started);
  return started;
}

/** A worker of this test. */
export async function stack(options?: StackOptions): Promise<Stack> {
  const started = await startStack(options);
  open.push(started);
  return started;
}

/** Statuses in turn, the last one for ever. */
export const inTurn =
  (...statuses: number[]) =>
  (_: unknown, index: number) => ({ status: statuses[Math.min(index, statuses.length - 1)] as number });

/** How long a delayed job waits yet, ms. */
export const delaysUntil = async (queue: Queue, id: string, valkey: Valkey): Promise<number> => {
  const score = await valkey.zscore(queue.toKey("delayed"), id);
  return Math.floor(Number(score) / 0x1000) - Date.now(); // BullMQ keeps the time in the upper bits
};

/** What every retry and every failure leaves behind for others to read. */
export const trail = async (system: Stack, job: { id?: string | undefined }): Promise<string> =>
  JSON.stringify([
    { ...(await system.stored(job)), data: undefined },
    await system.valkey.xrange(system.queue.toKey("events"), "-", "+"),
    system.lines,
    await system.metrics.registry.metrics(),
  ]);

/**
 * Put a job into Valkey as other clients do it (addStandardJob: HMSET, LPUSH, a marker), with the options that they store.
 */
export async function addRaw(
  { queue, valkey }: Pick<Stack, "queue" | "valkey">,
  name: string,
  data: string,
  opts: string,
): Promise<{ id: string }> {
  const timestamp = Date.now();
  const id = String(await valkey.incr(queue.toKey("id")));
  const fields = { name, data, opts, timestamp: String(timestamp), delay: "0", priority: "0" };
  await valkey
    .multi()
    .hset(queue.toKey(id), fields)
    .xadd(queue.toKey("events"), "*", "event", "added", "jobId", id, "name", name)
    .lpush(queue.toKey("wait"), id)
    .zadd(queue.toKey("marker"), 0, "0")
    .exec();
  return { id };
}

/** Tell workers that something of a user's endpoints was changed without the registry. */
export const tellOfChange = (valkey: Valkey, userId: string): Promise<number> =>
  valkey.lpush(endpointChangesKey(), `${crypto.randomUUID()} ${userId}`).catch(() => 0); // no list: then they remember nothing
