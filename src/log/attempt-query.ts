/**
 * Selects attempts of a user's log, for the API, the page and the package. Pure.
 */
import { endpointName } from "../delivery/request.ts";
import { type Attempt, MAX_LOG_SIZE } from "./attempt.ts";

/** Which attempts to select; all that are given must apply. */
export interface AttemptQuery {
  /** The event's id. */
  readonly id?: string | undefined;
  /** The event type. */
  readonly event?: string | undefined;
  /** The endpoint's URL; its query makes no difference, since the log does not have it. */
  readonly endpoint?: string | undefined;
  readonly outcome?: "delivered" | "failed" | undefined;
  /**
   * Where the page before ended: an attempt's `delivery`, for those below it in the log; or a time in ISO 8601, for those that
   * started before it. Below an attempt that the log no longer has, there is none.
   */
  readonly before?: string | undefined;
  /** The most to return, up to 1,000; all by default. */
  readonly limit?: number | undefined;
}

const UUID = /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/i;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/;

const isUuid = (value: unknown) => typeof value === "string" && UUID.test(value);
const isTime = (value: unknown) => typeof value === "string" && TIME.test(value) && !Number.isNaN(Date.parse(value));
const isLimit = (value: unknown) =>
  Number.isInteger(value) && (value as number) >= 1 && (value as number) <= MAX_LOG_SIZE;
const isUrl = (value: unknown) =>
  typeof value === "string" && URL.canParse(value) && /^https?:$/.test(new URL(value).protocol);

/** What each field of a query may be: the test, and the rule in words to follow "expected". */
const RULES: Readonly<Record<keyof AttemptQuery, readonly [isValid: (value: unknown) => boolean, rule: string]>> = {
  limit: [isLimit, `a whole number from 1 to ${MAX_LOG_SIZE}`],
  before: [(value) => isUuid(value) || isTime(value), "a delivery's id, or a time as in 2026-11-24T09:00:00Z"],
  endpoint: [isUrl, "an http or https URL"],
  event: [(value) => typeof value === "string" && value !== "", "an event type"],
  outcome: [(value) => value === "delivered" || value === "failed", "delivered or failed"],
  id: [isUuid, "a UUID"],
};

/** The fields of a query. */
export const QUERY_FIELDS: readonly string[] = Object.keys(RULES);

/** Find what is wrong with a query, other than unknown fields. @returns `limit: expected a whole number from 1 to 1000`, … */
export function findQueryProblems(given: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(RULES).flatMap(([name, [isValid, rule]]) =>
    given[name] === undefined || isValid(given[name]) ? [] : [`${name}: expected ${rule}`],
  );
}

/** Select from a log, newest first. Never throws. */
export function selectAttempts(attempts: readonly Attempt[], query: AttemptQuery): Attempt[] {
  const { event, outcome, limit = attempts.length } = query;
  const id = query.id?.toLowerCase();
  const endpoint = isUrl(query.endpoint) ? endpointName(new URL(query.endpoint as string)) : query.endpoint;
  const isMeant = (attempt: Attempt) =>
    (id === undefined || String(attempt.id).toLowerCase() === id) &&
    (event === undefined || attempt.event === event) &&
    (endpoint === undefined || attempt.endpoint === endpoint) &&
    (outcome === undefined || attempt.success === (outcome === "delivered"));
  return belowCursor(attempts, query.before).filter(isMeant).slice(0, limit);
}

function belowCursor(attempts: readonly Attempt[], before: string | undefined): readonly Attempt[] {
  if (before === undefined) return attempts;
  if (isTime(before)) return attempts.filter(({ timestamp }) => Date.parse(timestamp) < Date.parse(before));
  const index = attempts.findIndex(({ delivery }) => delivery === before);
  return index < 0 ? [] : attempts.slice(index + 1);
}
