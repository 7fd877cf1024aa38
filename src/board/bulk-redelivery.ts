/**
 * Redeliveries of many events that operators started on the board. They run in the board's process and outlive the request.
 */
import { type Redelivery, redeliverAll } from "../operations/redeliver.ts";
import type { OpenShards } from "../queue/open-shard.ts";

const MAX_RUNNING = 2; // at once
const KEPT = 20; // runs that are remembered

/** A redelivery of many events. */
export interface Run {
  readonly id: string;
  /** Epoch ms. */
  readonly startedAt: number;
  /** How many events. */
  readonly total: number;
  /** What came of each so far. `pending` are those that were no longer failed. */
  readonly counts: Readonly<Record<Redelivery, number>>;
  /** `failed`: Valkey refused something. */
  readonly state: "running" | "done" | "canceled" | "failed";
}

/** How many events of a run are done. */
export const doneOf = ({ counts }: Run): number => counts.queued + counts.pending + counts.gone;

/** The board's runs. They end with its process; the events that a run did not reach are still failed then. */
export interface BulkRedelivery {
  /**
   * Start redelivering failed events. Those that are no longer failed when their turn comes are left alone, so an event is not sent twice,
   * whoever else redelivers.
   *
   * @param jobs   names, with their shards' labels
   * @param onEnd  called once it is over; with the error if Valkey refused something
   * @returns undefined when two are already running
   */
  start(jobs: readonly string[], onEnd: (run: Run, error?: unknown) => void): Run | undefined;
  /** A run by its id; undefined when it is unknown: of another process, or long ago. */
  find(id: string): Run | undefined;
  /** The latest runs, newest first. */
  list(): Run[];
  /** Start no further events of a run. */
  cancel(id: string): void;
}

/** @param now  epoch ms */
export function createBulkRedelivery(shards: OpenShards, now: () => number): BulkRedelivery {
  const runs = new Map<string, { run: Run; abort: AbortController }>(); // oldest first
  const isRunning = ({ run }: { run: Run }) => run.state === "running";
  return {
    start(jobs, onEnd) {
      if ([...runs.values()].filter(isRunning).length >= MAX_RUNNING) return undefined;
      const counts: Record<Redelivery, number> = { queued: 0, pending: 0, gone: 0 };
      const abort = new AbortController();
      const run: Run = { id: crypto.randomUUID(), startedAt: now(), total: jobs.length, counts, state: "running" };
      const entry = { run, abort };
      runs.set(run.id, entry);
      for (const [id, old] of runs) if (runs.size > KEPT && !isRunning(old)) runs.delete(id);
      const end = (state: Run["state"], error?: unknown) => {
        entry.run = { ...run, state };
        onEnd(entry.run, error);
      };
      const count = (_: string, redelivery: Redelivery) => {
        counts[redelivery] += 1;
      };
      redeliverAll(shards, jobs, count, { isFailedOnly: true, signal: abort.signal }).then(
        () => end(doneOf(run) < run.total ? "canceled" : "done"),
        (error) => end("failed", error),
      );
      return run;
    },
    find: (id) => runs.get(id)?.run,
    list: () => [...runs.values()].map(({ run }) => run).reverse(),
    cancel: (id) => runs.get(id)?.abort.abort(),
  };
}
