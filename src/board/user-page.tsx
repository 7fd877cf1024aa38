/** @jsxImportSource hono/jsx */
/**
 * A user's page: what is pending, and the last attempts, grouped by event.
 */
import type { FC } from "hono/jsx";
import type { Delivery, LoggedAttempt, LoggedEvent } from "../log/deliveries.ts";
import type { ShownHold } from "../operations/hold.ts";
import { describeRetention, formatDuration } from "../operations/moments.ts";
import type { MoreFailed, Pending } from "../operations/pending.ts";
import { DeliveryCard } from "./delivery-card.tsx";
import { HeldPanel } from "./held-panel.tsx";
import { Layout, LiveSwitch, type Notice, type Site } from "./layout.tsx";
import { TestForm } from "./test-form.tsx";
import { NoAttempts, NoMatch } from "./user-empty.tsx";
import { type UserEndpoints, UserEndpointsPanel } from "./user-endpoints.tsx";
import { FilterForm, filteredPath, isFiltered, isPendingShown, type UserFilter } from "./user-filter.tsx";
import { History } from "./user-history.tsx";
import { MoreFailedEvents, PendingEvents } from "./user-pending.tsx";

/** Events on one page: each needs its job, which may be large. */
export const EVENTS_PER_PAGE = 50;

export interface UserPageProps {
  readonly site: Site;
  readonly userId: string;
  readonly filter: UserFilter;
  /** All events of the log. */
  readonly logged: readonly LoggedEvent[];
  /** Those that the filter shows. */
  readonly matching: readonly LoggedEvent[];
  /** Which page of them, 1-based. */
  readonly page: number;
  /** The events of that page. */
  readonly deliveries: readonly Delivery[];
  /** Without events of the log. */
  readonly pending: Pending;
  readonly moreFailed: MoreFailed;
  /** What operators hold of it. */
  readonly holds: readonly ShownHold[];
  /** The registered endpoints. */
  readonly registered: UserEndpoints;
  readonly notice: Notice | undefined;
  /** Epoch ms. */
  readonly now: number;
}

export const UserPage: FC<UserPageProps> = (props) => {
  const { site, userId, filter, logged, matching, page, deliveries, pending, moreFailed, notice, now } = props;
  const attempts = logged
    .flatMap((event) => event.attempts)
    .sort((a, b) => Date.parse(b.timestamp) - Date.parse(a.timestamp));
  const shownPending = { ...pending, events: pending.events.filter((event) => isPendingShown(event, filter)) };
  const known = [...pending.events, ...logged];
  const choices = {
    endpoints: distinct(known.flatMap(({ endpoint }) => (endpoint === undefined ? [] : [endpoint]))),
    events: distinct(known.map(({ event }) => event)),
  };
  const shown = matching.length + shownPending.events.length;
  const hasFilter = isFiltered(filter);
  return (
    <Layout site={site} title={userId} notice={notice} search={userId} isLive>
      <div id="live">
        <div class="head">
          <div>
            <p class="eyebrow">User</p>
            <h1 class="id">{userId}</h1>
            {attempts.length > 0 && <History attempts={attempts} href={linkTo({ userId, deliveries })} />}
          </div>
          <LiveSwitch path={filteredPath(userId, filter, page)} />
        </div>
        {(known.length > 1 || hasFilter) && (
          <FilterForm userId={userId} filter={filter} {...choices} shown={shown} total={known.length} />
        )}
        <UserEndpointsPanel endpoints={props.registered} now={now} />
        <HeldPanel site={site} holds={props.holds} now={now} userId={userId} />
        <MoreFailedEvents userId={userId} more={moreFailed} isLogEmpty={logged.length === 0} />
        {filter.outcome === undefined && <PendingEvents site={site} userId={userId} pending={shownPending} now={now} />}
        {known.length === 0 && !hasFilter && (
          <NoAttempts
            site={site}
            userId={userId}
            hasEndpoints={props.registered !== "refused" && props.registered.length > 0}
          />
        )}
        {hasFilter && shown === 0 && <NoMatch id={filter.id} />}
        {deliveries.length > 0 && <Legend site={site} logged={logged} attempts={attempts.length} />}
        <ol class="deliveries">
          {deliveries.map((delivery) => (
            <DeliveryCard site={site} userId={userId} delivery={delivery} now={now} />
          ))}
        </ol>
        <Pages userId={userId} filter={filter} page={page} count={matching.length} />
        {deliveries.length > 0 && !site.isReadonly && (
          <TestForm userId={userId} deliveries={deliveries} type={site.testEvent} />
        )}
        {attempts.length > 0 && (
          <p class="aside">
            <a href={`/users/${encodeURIComponent(userId)}/attempts`}>View as JSON</a>
          </p>
        )}
      </div>
    </Layout>
  );
};

/** `1 event`, `1,000 events`. */
const count = (of: number, noun: string) => `${of.toLocaleString("en-US")} ${noun}${of === 1 ? "" : "s"}`;

const distinct = (values: readonly string[]): string[] => [...new Set(values.map(String))].sort();

/** Where an attempt is: on this page, or on a page that shows its event alone. */
function linkTo({ userId, deliveries }: Pick<UserPageProps, "userId" | "deliveries">) {
  const here = new Set(deliveries.flatMap(({ attempts }) => attempts.map(({ delivery }) => delivery)));
  return ({ id, delivery }: LoggedAttempt): string => {
    const anchor = `#a-${delivery}`;
    return here.has(delivery) ? anchor : `${filteredPath(userId, { id })}${anchor}`;
  };
}

const Legend: FC<{ site: Site; logged: readonly LoggedEvent[]; attempts: number }> = ({ site, logged, attempts }) => (
  <p class="legend">
    <span>
      {count(attempts, "attempt")} of {count(logged.length, "event")}, newest first. The log keeps the last{" "}
      {site.logSize === 1 ? "one" : site.logSize.toLocaleString("en-US")}, for {describeRetention(site.logAgeMs)}.
    </span>
    <span>
      <i class="scale" aria-hidden="true" /> bars: 0 to {formatDuration(site.timeoutMs)}, the timeout
    </span>
  </p>
);

/** Links to the other pages of a long log. */
const Pages: FC<{ userId: string; filter: UserFilter; page: number; count: number }> = ({
  userId,
  filter,
  page,
  count,
}) => {
  const pages = Math.ceil(count / EVENTS_PER_PAGE);
  if (pages < 2) return null;
  return (
    <nav class="pages" aria-label="Pages">
      {page > 1 ? <a href={filteredPath(userId, filter, page - 1)}>← Newer</a> : <span />}
      <span>
        Page {page} of {pages}
      </span>
      {page < pages ? <a href={filteredPath(userId, filter, page + 1)}>Older →</a> : <span />}
    </nav>
  );
};
