/**
 * What is wrong with a queue, as the board's first page and `fluxhook status` both say it. docs/monitoring/alerts.yml alerts on
 * the same conditions.
 */
import { formatSpan } from "./moments.ts";
import type { Summary } from "./summary.ts";

/** How long the next job may wait for a worker before the queue is late, in ms. With enough workers it waits for milliseconds. */
export const LATE_MS = 60 * 1000; // 1 min

/** Something that keeps events from being delivered in time. */
export interface QueueProblem {
  readonly kind: "strays" | "no_worker" | "paused" | "late";
  /** A sentence without its period. */
  readonly text: string;
}

/** Judges a queue. Returns every problem, the worst first. A queue that delivers nothing is not called late as well. */
export function judgeQueue({
  isPaused,
  workers,
  oldestWaitingMs = 0,
  strays = 0,
}: Pick<Summary, "isPaused" | "workers" | "oldestWaitingMs" | "strays">): QueueProblem[] {
  const problems: QueueProblem[] = [];
  const add = (kind: QueueProblem["kind"], text: string) => problems.push({ kind, text });
  if (workers === 0) add("no_worker", "No worker is connected: nothing is delivered");
  if (isPaused) add("paused", "The queue is paused: nothing is delivered");
  if (problems.length === 0 && oldestWaitingMs > LATE_MS) {
    add("late", `Events wait for a worker, the next one for ${formatSpan(oldestWaitingMs)}: start more workers`);
  }
  if (strays > 0) {
    add("strays", `${strays} events are in none of the queue's lists, so nobody delivers them: fluxhook recover`);
  }
  return problems;
}
