/**
 * Selects attempts of a user's log, for the API and the page. Pure.
 */
import type { Attempt } from "./attempt.ts";

/** Which attempts to select; all that are given must apply. */
export interface AttemptQuery {
  /** The event's id, in upper or lower case. */
  readonly id?: string | undefined;
  /** The event type. */
  readonly event?: string | undefined;
  /** The endpoint's URL without its query, as the log has it. */
  readonly endpoint?: string | undefined;
  readonly outcome?: "delivered" | "failed" | undefined;
  /**
   * Where the page before ended: an attempt's `delivery`, for those below it in the log; or a time in ISO 8601, for those that
   * started before it. Below an attempt that the log no longer has, there is none.
   */
  readonly before?: string | undefined;
  /** The most to return; all by default. */
  readonly limit?: number | undefined;
}

/** Select from a log, newest first. Never throws. */
export function selectAttempts(attempts: readonly Attempt[], query: AttemptQuery): Attempt[] {
  const { id, event, endpoint, outcome, before, limit = attempts.length } = query;
  const isMeant = (attempt: Attempt) =>
    (id === undefined || String(attempt.id).toLowerCase() === id.toLowerCase()) &&
    (event === undefined || attempt.event === event) &&
    (endpoint === undefined || attempt.endpoint === endpoint) &&
    (outcome === undefined || attempt.success === (outcome === "delivered"));
  return belowCursor(attempts, before).filter(isMeant).slice(0, limit);
}

function belowCursor(attempts: readonly Attempt[], before: string | undefined): readonly Attempt[] {
  if (before === undefined) return attempts;
  const beforeMs = before.includes(":") ? Date.parse(before) : Number.NaN; // a delivery's id has no colon
  if (!Number.isNaN(beforeMs)) return attempts.filter(({ timestamp }) => Date.parse(timestamp) < beforeMs);
  const index = attempts.findIndex(({ delivery }) => delivery === before);
  return index < 0 ? [] : attempts.slice(index + 1);
}
