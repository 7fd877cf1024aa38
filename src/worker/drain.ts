/**
 * Stopping: quiet, wait, hand back, close. Four separate ideas, each bounded, so that no process outlives its order to go.
 */

import type { Sender } from "../http/sender.ts";
import type { DeliveryWorker } from "../queue/worker.ts";
import { within } from "../runtime/deadline.ts";
import type { Valkey } from "../valkey/connection.ts";

const HAND_BACK_MS = 2 * 1000; // 2 s: a script or two per job, all at once
const LAST_WORD_MS = 500; // for Valkey to say that it has heard all the rest

/**
 * Stop a worker without losing or repeating anything.
 *
 * 1. quiet: no new jobs. 2. wait, at most `timeoutMs` or until `hurried`, for the requests in flight. 3. hand back: what
 * is left is aborted, and its job goes to the head of the queue, uncharged. 4. close.
 *
 * @returns true when every job was acknowledged or handed back; false when Valkey was away: its jobs then run again
 *          elsewhere once their locks expire
 */
export async function drain(
  worker: DeliveryWorker,
  sender: Sender,
  valkey: Valkey,
  timeoutMs: number,
  hurried: Promise<void>,
): Promise<boolean> {
  const closed = worker.close().then(() => true);
  await within(timeoutMs, Promise.race([closed, settled(sender), hurried]), undefined);
  sender.cancelAll("shutdown");
  const isClosed = await within(HAND_BACK_MS, closed, false);
  sender.close();
  return isClosed && (await within(LAST_WORD_MS, valkey.ping(), undefined)) !== undefined;
}

/** The requests alone: what is left then is up to Valkey, which may be away. */
async function settled(sender: Sender): Promise<void> {
  while (sender.inFlight > 0) await Bun.sleep(20);
}
