/**
 * Whether a process can do its work: readiness that is true, so that a balancer or an operator can trust it.
 */
import { within } from "./deadline.ts";
import type { DeliveryWorker, Queue } from "./queue.ts";
import { NoDatabaseError, readFacts, troubleOf, type Valkey, type ValkeyFacts } from "./valkey.ts";

const PROBE_MS = 2 * 1000; // 2 s: probes give up after a few seconds, and must get the reason before
const STUCK_MS = 15 * 1000; // 15 s: a worker with free slots picks up a waiting job within milliseconds

/** What keeps Valkey from being good for a queue; empty when it is. Answers within 2 s. */
export async function checkValkey(valkey: Valkey): Promise<string[]> {
  const trouble = troubleOf(valkey);
  if (trouble instanceof NoDatabaseError) return [trouble.message];
  const facts = await within(PROBE_MS, readFacts(valkey), undefined);
  return facts === undefined ? ["Valkey does not answer"] : valkeyProblems(facts);
}

/** What in a Valkey's facts keeps it from being good for a queue; empty when nothing does. */
export function valkeyProblems({ isPrimary, evictionPolicy }: ValkeyFacts): string[] {
  return [
    ...(isPrimary ? [] : ["Valkey takes no writes: it is a replica"]),
    ...(evictionPolicy === "noeviction"
      ? []
      : [`Valkey may drop queued events: expected maxmemory-policy noeviction, got ${evictionPolicy}`]),
  ];
}

/**
 * Whether a worker's loop has died behind its back: jobs wait, slots are free, and none was picked up for 15 s.
 *
 * @param nowMs  epoch ms
 */
export async function checkWorker(worker: DeliveryWorker, queue: Queue, nowMs: number): Promise<string[]> {
  if (!worker.isRunning()) return ["the worker does not run"];
  const idleMs = nowMs - worker.lastPickUpAt;
  if (idleMs < STUCK_MS || worker.active >= worker.capacity) return [];
  const isHeld = Promise.all([queue.isPaused(), queue.isMaxed(), queue.getJobCountByTypes("waiting", "prioritized")]);
  const [isPaused, isMaxed, waiting] = await within(PROBE_MS, isHeld, [true, true, 0]);
  if (isPaused || isMaxed || waiting === 0) return [];
  return [`the worker is stuck: ${waiting} jobs wait, none was picked up for ${Math.round(idleMs / 1000)} s`];
}
