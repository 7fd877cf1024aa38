/**
 * From measured costs to a table "events a second → workers, Valkey cores". Pure.
 */
import { buildTable, formatNumber } from "./report.ts";

/** One row of scale.ts. */
export interface Measured {
  readonly workers: number;
  readonly perSecond: number;
  /** µs of CPU per delivery. */
  readonly workerMicros: number;
  readonly valkeyMicros: number;
}

const LOAD = 0.7; // of a core: the rest is for bursts, retries and the collector
const EVENTS = [100, 500, 1_000, 2_000, 5_000, 10_000, 20_000];

/**
 * The table, with the measured points in it.
 *
 * Extrapolated rows take the costs of one worker: it had a core for itself, so they are not made worse by a lack of cores.
 *
 * @param measured  at least one; the first is the one that is extrapolated
 * @param cores     of the machine that measured
 */
export function buildSizing(measured: readonly Measured[], cores: number): string {
  const [base] = measured;
  if (base === undefined) return "";
  const perWorker = (LOAD * 1e6) / base.workerMicros;
  const perQueue = (LOAD * 1e6) / base.valkeyMicros;
  const points = measured.map((point) => ({
    events: point.perSecond,
    cells: [
      point.workers,
      formatNumber((point.perSecond * point.workerMicros) / 1e6),
      formatNumber((point.perSecond * point.valkeyMicros) / 1e6),
      1,
      `measured: the most that ${cores} cores gave`,
    ],
  }));
  const extrapolated = EVENTS.map((events) => ({
    events,
    cells: [
      Math.ceil(events / perWorker),
      formatNumber((events * base.workerMicros) / 1e6),
      formatNumber((events * base.valkeyMicros) / 1e6),
      Math.ceil(events / perQueue),
      "extrapolated",
    ],
  }));
  const rows = [...points, ...extrapolated]
    .sort((a, b) => a.events - b.events)
    .map(({ events, cells }) => [formatNumber(Math.round(events)), ...cells]);
  const head = ["events/s", "workers", "cores they use", "Valkey cores used", "queues (shards)", ""];
  return (
    `${buildTable(head, rows)}\n\n` +
    `A worker at ${LOAD * 100} % of a core delivers ${formatNumber(perWorker)} a second; a queue's Valkey at ${LOAD * 100} % of ` +
    `its core serves **${formatNumber(perQueue)}** a second, which is ${formatNumber(perQueue / perWorker)} workers.`
  );
}
