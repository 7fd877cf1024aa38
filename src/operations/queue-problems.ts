/**
 * What is wrong with a queue, for the board's home page and `fluxhook status`. docs/monitoring/alerts.yml alerts on the same
 * conditions.
 */
import { formatSpan } from "./moments.ts";
import type { Summary } from "./summary.ts";

/** How long the next job may wait for a worker before the queue is late, in ms. With enough workers it waits milliseconds. */
export const LATE_MS = 60 * 1000; // 1 min

/** Something that keeps events from being delivered on time. */
export interface QueueProblem {
  readonly kind: "strays" | "no_worker" | "paused" | "late";
  /** A sentence without its period. */
  readonly text: string;
}

/** Every problem of a queue, worst first. A queue that delivers nothing is not reported as late as well. */
export function judgeQueue({
  isPaused,
  workers,
  oldestWaitingMs = 0,
  strays = 0,
}: Pick<Summary, "isPaused" | "workers" | "oldestWaitingMs" | "strays">): QueueProblem[] {
  const problems: QueueProblem[] = [];
  const add = (kind: QueueProblem["kind"], text: string) => problems.push({ kind, text });
  if (workers === 0) add("no_worker", "No workers are connected: nothing is being delivered");
  if (isPaused) add("paused", "The queue is paused: nothing is being delivered");
  if (problems.length === 0 && oldestWaitingMs > LATE_MS) {
    add("late", `Events are waiting for a worker, the next one for ${formatSpan(oldestWaitingMs)}: start more workers`);
  }
  if (strays > 0) {
    add("strays", `${strays} events are in none of the queue's lists and will not be delivered: run fluxhook recover`);
  }
  return problems;
}
