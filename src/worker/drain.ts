/**
 * Graceful shutdown in four steps, each bounded in time: quiet, wait, hand back, close.
 */

import type { Sender } from "../http/sender.ts";
import type { DeliveryWorker } from "../queue/worker.ts";
import { within } from "../runtime/deadline.ts";
import type { Valkey } from "../valkey/connection.ts";

const HAND_BACK_MS = 2 * 1000; // 2 s: one or two scripts per job, in parallel
const CONFIRM_MS = 500; // for Valkey to confirm that it has received everything

/**
 * Stop a process's workers, one per shard, without losing or repeating anything.
 *
 * 1. Quiet: take no new jobs. 2. Wait for the requests in flight, for at most `timeoutMs` or until `hurried`. 3. Hand back: abort
 * the remaining requests and move their jobs to the head of the queue, without using an attempt. 4. Close.
 *
 * @returns true when every job was acknowledged or handed back; false when Valkey was unreachable: its jobs then run on another
 *          worker once their locks expire
 */
export async function drain(
  workers: readonly DeliveryWorker[],
  sender: Sender,
  shards: readonly { readonly valkey: Valkey }[],
  timeoutMs: number,
  hurried: Promise<void>,
): Promise<boolean> {
  const closed = Promise.all(workers.map((worker) => worker.close())).then(() => true);
  await within(timeoutMs, Promise.race([closed, settled(sender), hurried]), undefined);
  sender.cancelAll("shutdown");
  const isClosed = await within(HAND_BACK_MS, closed, false);
  sender.close();
  const confirmed = Promise.all(shards.map(({ valkey }) => valkey.ping()));
  return isClosed && (await within(CONFIRM_MS, confirmed, undefined)) !== undefined;
}

/** Resolves when no request is in flight. Unlike `worker.close()`, does not wait for Valkey, which may be unreachable. */
async function settled(sender: Sender): Promise<void> {
  while (sender.inFlight > 0) await Bun.sleep(20);
}
