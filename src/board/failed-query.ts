/**
 * The filter of failed events, as it stands in URLs and forms.
 */
import type { FailedFilter } from "../operations/failed-events.ts";

const HOUR_MS = 60 * 60 * 1000;

/** The time spans offered, by their name in the URL. */
export const SPANS: Readonly<Record<string, { readonly label: string; readonly ms: number }>> = {
  "1h": { label: "Last hour", ms: HOUR_MS },
  "24h": { label: "Last 24 hours", ms: 24 * HOUR_MS },
};

const FIELDS = ["id", "reason", "host", "user", "endpoint", "event", "last", "from", "to"] as const;
const MAX_LENGTH = 400; // characters of a field

/** The fields that are set. */
export type FailedQuery = Readonly<Partial<Record<(typeof FIELDS)[number], string>>>;

/** The fields in a URL's query or a form, without blanks around them. */
export function readQuery(given: Readonly<Record<string, unknown>>): FailedQuery {
  const fields = FIELDS.flatMap((name) => {
    const text = given[name];
    return typeof text === "string" && text.trim() !== "" ? [[name, text.trim().slice(0, MAX_LENGTH)]] : [];
  });
  return Object.fromEntries(fields);
}

/** A query with some fields changed, or removed when undefined, as `?host=…`; empty when no field is set. */
export function queryString(query: FailedQuery, changes: Readonly<Record<string, string | undefined>> = {}): string {
  const fields = Object.entries({ ...query, ...changes }).filter(([, text]) => text !== undefined);
  return fields.length === 0 ? "" : `?${new URLSearchParams(fields as [string, string][])}`;
}

/**
 * The filter that a query stands for. A time that cannot be read matches nothing: everything would be worse, since all that matches can
 * be redelivered.
 */
export function filterOf(query: FailedQuery, nowMs: number): FailedFilter {
  const { id, reason, host, user, endpoint, event, last, from, to } = query;
  const since = [
    last === undefined ? undefined : nowMs - ((Object.hasOwn(SPANS, last) ? SPANS[last]?.ms : undefined) ?? Number.NaN),
    from === undefined ? undefined : readTime(from),
  ].filter((time) => time !== undefined);
  const until = to === undefined ? undefined : readTime(to);
  const isReadable = [...since, until ?? 0].every(Number.isFinite);
  return {
    ...{ id, cause: reason, host, userId: user, endpointId: endpoint, event, untilMs: until },
    sinceMs: isReadable ? Math.max(0, ...since) : Number.POSITIVE_INFINITY,
  };
}

/** The same filter with its times fixed, so that it means the same later. */
export function pinned(query: FailedQuery, nowMs: number): FailedQuery {
  const { sinceMs = 0, untilMs = nowMs } = filterOf(query, nowMs);
  if (!Number.isFinite(sinceMs)) return query; // matches nothing, now and later
  const { last: _, ...rest } = query;
  const from = sinceMs > 0 ? { from: new Date(sinceMs).toISOString() } : {};
  return { ...rest, ...from, to: new Date(Math.min(nowMs, untilMs)).toISOString() };
}

const TIME = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?)Z?$/;

/** A time in UTC, as browsers' inputs give it, with or without a Z; NaN when invalid. */
export function readTime(text: string): number {
  const [, day, time] = TIME.exec(text) ?? [];
  return Date.parse(`${day}T${time}Z`);
}
