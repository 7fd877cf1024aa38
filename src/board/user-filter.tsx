/** @jsxImportSource hono/jsx */
/**
 * Which events a user's page shows: read from the query, matched, and the form that sets it.
 */
import type { FC } from "hono/jsx";
import type { LoggedEvent } from "../log/deliveries.ts";
import type { PendingEvent } from "../operations/pending.ts";
import { printable } from "../runtime/printable.ts";
import { endpointPathOfSender } from "./endpoint-path.ts";
import { userPath } from "./layout.tsx";

const MAX_VALUE = 2_048; // characters, the longest endpoint
const OUTCOMES = ["delivered", "failed"] as const;

/** Which of a user's events to show; omitted fields match all. */
export interface UserFilter {
  /** A URL without its query. */
  readonly endpoint?: string | undefined;
  /** The event type. */
  readonly event?: string | undefined;
  /** Of the newest attempt. */
  readonly outcome?: (typeof OUTCOMES)[number] | undefined;
  /** The event's id. */
  readonly id?: string | undefined;
}

/** Read a filter from a query. Unknown outcomes, and values that nothing can have, are ignored. */
export function parseUserFilter(query: (name: string) => string | undefined): UserFilter {
  const read = (name: string) => {
    const value = query(name)?.trim();
    return value === undefined || value === "" || value.length > MAX_VALUE ? undefined : value;
  };
  const outcome = OUTCOMES.find((name) => name === read("outcome"));
  return { endpoint: read("endpoint"), event: read("event"), outcome, id: read("id") };
}

/** Whether any field is set. */
export const isFiltered = (filter: UserFilter): boolean => Object.values(filter).some((value) => value !== undefined);

type Matched = Pick<LoggedEvent | PendingEvent, "endpoint" | "event" | "id">;

function isMatch({ endpoint, event, id }: Matched, filter: UserFilter): boolean {
  return (
    (filter.endpoint === undefined || filter.endpoint === endpoint) &&
    (filter.event === undefined || filter.event === event) &&
    (filter.id === undefined || filter.id.toLowerCase() === String(id).toLowerCase())
  );
}

/** Whether a filter shows an event of the log. */
export function isLoggedShown(event: LoggedEvent, filter: UserFilter): boolean {
  const { outcome } = filter;
  return isMatch(event, filter) && (outcome === undefined || event.attempts[0].success === (outcome === "delivered"));
}

/** Whether a filter shows a pending event, which has no outcome yet. */
export const isPendingShown = (event: PendingEvent, filter: UserFilter): boolean =>
  filter.outcome === undefined && isMatch(event, filter);

/** Path of a user's page with a filter, and a page of its events from the second on. */
export function filteredPath(userId: string, filter: UserFilter, page = 1): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...filter, page: page > 1 ? String(page) : undefined })) {
    if (value !== undefined) query.set(name, value);
  }
  const path = userPath(userId);
  return query.size === 0 ? path : `${path}${path.includes("?") ? "&" : "?"}${query}`;
}

/**
 * Path of the page that an action was sent from, so that the action leads back to it: of one of the user's endpoints, or of the user, with
 * its filter.
 *
 * @param referrer  the page's URL as the browser sends it; without one, or from another page, there is no filter
 */
export function pathOfSender(referrer: string | undefined, userId: string): string {
  const url = URL.parse(referrer ?? "");
  const path = userPath(userId);
  const endpoint = endpointPathOfSender(referrer, userId);
  if (endpoint !== undefined) return endpoint;
  if (url === null || url.pathname !== path) return path;
  const read = (name: string) => url.searchParams.get(name) ?? undefined;
  return filteredPath(userId, parseUserFilter(read), Math.trunc(Number(read("page"))) || 1);
}

interface FilterFormProps {
  readonly userId: string;
  readonly filter: UserFilter;
  /** To choose from. */
  readonly endpoints: readonly string[];
  readonly events: readonly string[];
  /** Events that the filter shows. */
  readonly shown: number;
  readonly total: number;
}

/** The form, closed at first, and what the current filter shows. */
export const FilterForm: FC<FilterFormProps> = ({ userId, filter, endpoints, events, shown, total }) => {
  const path = userPath(userId);
  const isInQuery = path.includes("?"); // `/users?id=.`, where `id` is the user's
  return (
    <div class="filter">
      <details id="filter" open={isFiltered(filter)}>
        <summary>Filter</summary>
        <form method="get" action={isInQuery ? "/users" : path}>
          {isInQuery && <input type="hidden" name="id" value={userId} />}
          <Choice name="endpoint" label="Endpoint" all="All endpoints" values={endpoints} chosen={filter.endpoint} />
          <Choice name="event" label="Event type" all="All event types" values={events} chosen={filter.event} />
          <Choice name="outcome" label="Outcome" all="Any outcome" values={OUTCOMES} chosen={filter.outcome} />
          {!isInQuery && (
            <p class="wide-field">
              <label for="filter-id">Event ID</label>
              <input
                id="filter-id"
                name="id"
                value={filter.id ?? ""}
                maxlength={MAX_VALUE}
                placeholder="webhook-id"
                autocomplete="off"
                autocapitalize="off"
                spellcheck={false}
              />
            </p>
          )}
          <button id="filter-apply" type="submit">
            Apply
          </button>
        </form>
      </details>
      {isFiltered(filter) && (
        <p id="filter-result">
          Showing {shown} of {total} {total === 1 ? "event" : "events"} · <a href={path}>Clear the filter</a>
        </p>
      )}
    </div>
  );
};

interface ChoiceProps {
  readonly name: string;
  readonly label: string;
  readonly all: string;
  readonly values: readonly string[];
  readonly chosen: string | undefined;
}

const Choice: FC<ChoiceProps> = ({ name, label, all, values, chosen }) => (
  <p>
    <label for={`filter-${name}`}>{label}</label>
    <select id={`filter-${name}`} name={name}>
      <option value="">{all}</option>
      {[...new Set(chosen === undefined ? values : [...values, chosen])].map((value) => (
        <option value={value} selected={value === chosen}>
          {printable(value)}
        </option>
      ))}
    </select>
  </p>
);
