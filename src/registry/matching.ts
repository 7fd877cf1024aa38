/**
 * Which of a user's endpoints an event goes to. Pure.
 */
import type { StoredEndpoint } from "./endpoint.ts";

/** How much later than the event an endpoint may seem to have been created: the clocks of producers and Valkey differ. */
export const CLOCK_SKEW_MS = 5 * 60 * 1000; // 5 min

/** Whether an endpoint with these filters, see `EndpointSettings.events`, wants events of a type. */
export function wants(filters: readonly string[] | null, eventType: string): boolean {
  return filters === null || filters.some((filter) => isMatch(filter, eventType));
}

function isMatch(filter: string, eventType: string): boolean {
  return filter.endsWith(".*") ? eventType.startsWith(filter.slice(0, -1)) : filter === eventType;
}

/** Whether an endpoint was created after an event was enqueued: a backlog never floods a new endpoint. Times are epoch ms. */
export function isYounger({ document }: Pick<StoredEndpoint, "document">, enqueuedAt: number): boolean {
  return document.createdAt > enqueuedAt + CLOCK_SKEW_MS;
}

/** The endpoints that want an event. */
export interface Matching {
  /** It goes to these, whatever their state: oldest first. */
  readonly endpoints: readonly StoredEndpoint[];
  /** Ids of those that were created after it was enqueued: it does not go to them. */
  readonly younger: readonly string[];
}

/**
 * Find the endpoints that an event goes to.
 *
 * @param enqueuedAt  epoch ms
 */
export function matchEndpoints(all: readonly StoredEndpoint[], eventType: string, enqueuedAt: number): Matching {
  const wanting = all.filter(({ document: { events } }) => wants(events, eventType)).sort(byAge);
  return {
    endpoints: wanting.filter((endpoint) => !isYounger(endpoint, enqueuedAt)),
    younger: wanting.filter((endpoint) => isYounger(endpoint, enqueuedAt)).map(({ id }) => id),
  };
}

/** Oldest first, and those of the same millisecond by their ids. */
export const byAge = (one: StoredEndpoint, other: StoredEndpoint): number =>
  one.document.createdAt - other.document.createdAt || (one.id < other.id ? -1 : 1);
