/**
 * How the benches print: Markdown, with what a reader needs to judge the figures.
 */
import { cpus, release, totalmem } from "node:os";
import bullmq from "bullmq/package.json" with { type: "json" };
import ioredis from "ioredis/package.json" with { type: "json" };

export type Cell = string | number;

/** A Markdown table, numbers to the right. */
export function buildTable(head: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const isNumeric = (column: number) => rows.every((row) => /^[\d.,–∞-]/.test(String(row[column])));
  const rule = head.map((_, column) => (isNumeric(column) ? "---:" : "---"));
  return [head, rule, ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}

/** One line: versions, machine, date. No names of hosts, no paths. */
export function describeMachine(valkey?: string): string {
  const [cpu] = cpus();
  const gib = Math.round(totalmem() / 1024 ** 3);
  const date = new Date().toISOString().slice(0, 10);
  return (
    `${date}; ${cpus().length} cores (${cpu?.model.trim()}), ${gib} GiB, Linux ${release()} ${process.arch}; ` +
    `Bun ${Bun.version}, BullMQ ${bullmq.version}, ioredis ${ioredis.version}${valkey ? `, ${valkey}` : ""}. ` +
    "All processes share the cores: compare rows of one run."
  );
}

/** Digits that mean something: 3 at the most below 1,000, thousands with a comma above. `–` when there is no value. */
export function formatNumber(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return "∞";
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return value.toFixed(Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2);
}

/** Bytes as MB, 10^6. */
export const formatMegabytes = (bytes: number): string => formatNumber(bytes / 1e6);
