/**
 * Formats the output of `npm start`. Pure.
 */
import type { Attempt } from "../log/attempts.ts";

/** Colors a text, or returns it unchanged. */
export type Paint = (color: keyof typeof CODES, text: string) => string;

const CODES = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, cyan: 36 } as const;

export function createPaint(hasColors: boolean): Paint {
  return (color, text) => (hasColors ? `\x1b[${CODES[color]}m${text}\x1b[0m` : text);
}

/** An attempt from the worker's `delivery.attempted` line, with the receiver's verification. */
export interface AttemptRow {
  readonly event: string;
  readonly status_code: number | null;
  readonly duration_ms: number;
  readonly attempt: number;
  readonly success: boolean;
  readonly error: string | null;
  readonly verdict: string;
  readonly retry_in_ms?: number;
  /** With its shard where there are several, as in `3/4711`. */
  readonly job?: string;
  /** Undefined when it went to a receiver other than the demo's. */
  readonly isVerified: boolean | undefined;
}

const SHARD_WIDTH = "shard  ".length;
const EVENT_WIDTH = 23; // the longest event type and two spaces

/** The heading for rows of {@link formatAttempt}. @param isSharded  the jobs are in several shards */
export function formatAttemptHead(paint: Paint, isSharded = false): string {
  const shard = isSharded ? "shard".padEnd(SHARD_WIDTH) : "";
  return paint("dim", `  ${shard}${"event".padEnd(EVENT_WIDTH)}status      ms  attempt  signature`);
}

/** One row: the shard where there are several, event, status, milliseconds, attempt, signature, and what happens next. */
export function formatAttempt(row: AttemptRow, paint: Paint): string {
  const cells = [
    `  ${formatShard(row)}${row.event.padEnd(EVENT_WIDTH)}`,
    formatStatus(row, 6, paint),
    String(row.duration_ms).padStart(8),
    String(row.attempt).padStart(9),
    `  ${formatSignature(row.isVerified, paint)}`,
  ];
  const next = describeVerdict(row);
  return next === "" ? cells.join("").trimEnd() : `${cells.join("")}  ${paint("yellow", next)}`;
}

function formatShard({ job = "" }: AttemptRow): string {
  const [shard = ""] = /^(\d+|old)(?=\/)/.exec(job) ?? [];
  return shard === "" ? "" : shard.padEnd(SHARD_WIDTH);
}

function formatStatus(row: Pick<Attempt, "status_code" | "success">, width: number, paint: Paint): string {
  return paint(row.success ? "green" : "yellow", String(row.status_code ?? "none").padEnd(width));
}

function formatSignature(isVerified: boolean | undefined, paint: Paint): string {
  if (isVerified === undefined) return paint("dim", "not ours ");
  return isVerified ? paint("green", "verified ") : paint("red", "WRONG    ");
}

function describeVerdict({ verdict, retry_in_ms = 0, status_code, error }: AttemptRow): string {
  const why = status_code === null ? `${error}, ` : ""; // otherwise the status says it
  if (verdict === "retry") return `${why}retry in ${(retry_in_ms / 1000).toFixed(1)} s`;
  if (verdict === "defer") return `${why}deferred, no attempt used`;
  return verdict === "give_up" ? `${why}failed for good` : "";
}

/** A user's log as the API returns it, newest first. */
export function formatLog(attempts: readonly Attempt[], paint: Paint): string {
  const head = paint(
    "dim",
    `  ${"timestamp".padEnd(26)}${"event".padEnd(EVENT_WIDTH)}attempt  status_code  success  error`,
  );
  const rows = attempts.map((attempt) => {
    const { timestamp, event, success, error } = attempt;
    const status = formatStatus(attempt, 13, paint);
    const number = String(attempt.attempt).padEnd(9);
    return `  ${timestamp.padEnd(26)}${event.padEnd(EVENT_WIDTH)}${number}${status}${String(success).padEnd(9)}${error}`;
  });
  return [head, ...rows].join("\n");
}

/** Names, values and optional remarks in columns. */
export function formatPairs(
  pairs: readonly (readonly [name: string, value: string, remark?: string])[],
  paint: Paint,
): string {
  const nameWidth = Math.max(...pairs.map(([name]) => name.length)) + 2;
  const valueWidth = Math.max(...pairs.map(([, value]) => value.length)) + 2;
  return pairs
    .map(([name, value, remark = ""]) => {
      const gap = " ".repeat(remark === "" ? 0 : valueWidth - value.length); // uncolored, since terminals underline links
      return `  ${name.padEnd(nameWidth)}${paint("cyan", value)}${gap}${remark === "" ? "" : paint("dim", remark)}`;
    })
    .join("\n");
}
