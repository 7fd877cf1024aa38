/**
 * Times and durations formatted for people. Pure.
 */

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** `41 ms`, `1.2 s`, `10 s`: how long an attempt took. */
export function formatDuration(ms: number): string {
  if (ms < SECOND) return `${Math.round(ms)} ms`;
  const seconds = ms / SECOND;
  return `${seconds < 10 ? Number(seconds.toFixed(1)) : Math.round(seconds)} s`;
}

/** `12 s`, `5 min`, `3 h`, `2 days`: rounded down to one unit. Negative counts as 0. */
export function formatSpan(ms: number): string {
  if (ms < MINUTE) return `${Math.max(0, Math.floor(ms / SECOND))} s`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min`;
  if (ms < 2 * DAY) return `${Math.floor(ms / HOUR)} h`;
  return `${Math.floor(ms / DAY)} days`;
}

/** `just now`, `12 s ago`, … */
export function formatAgo(ms: number): string {
  return ms < SECOND ? "just now" : `${formatSpan(ms)} ago`;
}

/** `in a moment`, `in 4 min`, … */
export function formatIn(ms: number): string {
  return ms < SECOND ? "in a moment" : `in ${formatSpan(ms)}`;
}

/** The exact time, `2026-11-24 09:12:03.123 UTC`; empty for an invalid one. */
export function formatExact(epochMs: number): string {
  if (!(Math.abs(epochMs) <= 8_640_000_000_000_000)) return "";
  return `${new Date(epochMs).toISOString().replace("T", " ").replace("Z", "")} UTC`;
}

const UNITS = [
  [DAY, "day"],
  [HOUR, "hour"],
  [MINUTE, "minute"],
  [SECOND, "second"],
] as const;

/** `7 days`, `36 hours`, `1 minute`: a setting's duration, in the largest unit that it is a multiple of. */
export function describeRetention(ms: number): string {
  const [unitMs, unit] = UNITS.find(([unitMs]) => ms % unitMs === 0) ?? [1, "millisecond"];
  const count = ms / unitMs;
  return `${count} ${unit}${count === 1 ? "" : "s"}`;
}
