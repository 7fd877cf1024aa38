/** @jsxImportSource hono/jsx */
/**
 * The list of failed events: totals by reason and host, filters, and rows to redeliver.
 */
import type { FC } from "hono/jsx";
import { countBy, type Facet, type FailedEvent } from "../operations/failed-events.ts";
import { nameRegistered } from "../operations/job-filter.ts";
import { printable } from "../runtime/printable.ts";
import { RunRow } from "./bulk-page.tsx";
import type { Run } from "./bulk-redelivery.ts";
import { namedEndpointPath } from "./endpoint-path.ts";
import { type FailedQuery, queryString, SPANS } from "./failed-query.ts";
import { Ago, jobPath, Layout, Mark, type Notice, payloadPath, type Site, userPath } from "./layout.tsx";

/** Rows on a page. */
export const ROWS = 50;
const FACETS = 8; // values listed of a facet

export interface FailedPageProps {
  readonly site: Site;
  readonly query: FailedQuery;
  /** All that match, newest first. */
  readonly events: readonly FailedEvent[];
  /** How many failed events the queue keeps, of which `unread` could not be read in time. */
  readonly kept: number;
  readonly unread: number;
  /** 1-based. */
  readonly page: number;
  readonly runs: readonly Run[];
  readonly notice: Notice | undefined;
  /** Epoch ms. */
  readonly now: number;
}

export const FailedPage: FC<FailedPageProps> = (props) => {
  const { site, query, events, kept, unread, runs, notice, now } = props;
  const path = `/failed${queryString(query)}`;
  return (
    <Layout site={site} title="Failed events" notice={notice} search="">
      <div class="head">
        <div>
          <h1>Failed events</h1>
          <p class="sub">
            {(site.failed ?? 0) > kept && "The newest "}
            {formatEvents(kept - unread)} kept{isFiltered(query) && `, ${formatEvents(events.length)} match`}.
            {unread > 0 && (
              <>
                {" "}
                {formatEvents(unread)} more are being read: <a href={path}>go on</a>
              </>
            )}
          </p>
        </div>
        <p class="live">
          <a href={path}>Reload</a>
        </p>
      </div>
      {runs.length > 0 && (
        <ul class="runs">
          {runs.map((run) => (
            <RunRow run={run} now={now} />
          ))}
        </ul>
      )}
      <Filters query={query} />
      {kept === 0 ? (
        <p class="calm panel">
          <Mark kind="good" /> Nothing has failed. Failed events are kept for a while; this page shows and redelivers
          them.
        </p>
      ) : (
        <>
          <div class="facets">
            <FacetList name="reason" title="Reasons" query={query} facets={countBy(events, ({ cause }) => cause)} />
            <FacetList name="host" title="Hosts" query={query} facets={countBy(events, ({ host }) => host)} />
            <FacetList name="user" title="Users" query={query} facets={countBy(events, ({ userId }) => userId)} />
            <FacetList name="event" title="Event types" query={query} facets={countBy(events, ({ event }) => event)} />
          </div>
          {events.length === 0 ? <p class="panel">No failed event matches.</p> : <Rows {...props} />}
        </>
      )}
    </Layout>
  );
};

const isFiltered = (query: FailedQuery) => Object.keys(query).length > 0;

/** `1 event`, `1,200 events`. */
export const formatEvents = (count: number) => `${count.toLocaleString("en-US")} ${count === 1 ? "event" : "events"}`;

const NAMES = {
  id: "Event",
  reason: "Reason",
  host: "Host",
  user: "User",
  endpoint: "Registered endpoint",
  event: "Event type",
  from: "From",
  to: "To",
} as const;

/** Fields to narrow the list, and a way to remove each that is set. */
const Filters: FC<{ query: FailedQuery }> = ({ query }) => {
  const { id, reason, endpoint, event, last } = query;
  const kept = Object.entries({ id, reason, endpoint, event, last }).filter(([, text]) => text !== undefined);
  const chips = Object.entries(NAMES).filter(([name]) => query[name as keyof typeof NAMES] !== undefined);
  return (
    <section class="panel filters" aria-label="Filter">
      <form action="/failed" method="get">
        {kept.map(([name, text]) => (
          <input type="hidden" name={name} value={text} />
        ))}
        <Field name="user" label="User" value={query.user} maxlength={128} />
        <Field name="host" label="Host" value={query.host} maxlength={300} />
        <Field name="from" label="From (UTC)" value={query.from} type="datetime-local" />
        <Field name="to" label="To (UTC)" value={query.to} type="datetime-local" />
        <button type="submit">Filter</button>
      </form>
      <p class="chips">
        {Object.entries(SPANS).map(([name, { label }]) => (
          <a
            href={`/failed${queryString(query, { last: last === name ? undefined : name })}`}
            aria-current={last === name ? "true" : undefined}
          >
            {label}
          </a>
        ))}
        {chips.map(([name, label]) => (
          <a class="set" href={`/failed${queryString(query, { [name]: undefined })}`}>
            <span class="unseen">Remove </span>
            {label}: {printable(query[name as keyof typeof NAMES])} <span aria-hidden="true">×</span>
          </a>
        ))}
        {isFiltered(query) && <a href="/failed">Show all</a>}
      </p>
    </section>
  );
};

interface FieldProps {
  readonly name: string;
  readonly label: string;
  readonly value: string | undefined;
  readonly type?: string;
  readonly maxlength?: number;
}

const Field: FC<FieldProps> = ({ name, label, value, type = "text", maxlength }) => (
  <label>
    <span>{label}</span>
    <input
      {...{ type, name, maxlength }}
      value={type === "text" ? (value ?? "") : (value ?? "").replace(/Z$/, "")}
      step={type === "text" ? undefined : "any"}
      autocomplete="off"
      autocapitalize="off"
      spellcheck={false}
    />
  </label>
);

interface FacetListProps {
  readonly name: "reason" | "host" | "user" | "event";
  readonly title: string;
  readonly query: FailedQuery;
  readonly facets: readonly Facet[];
}

/** How many events have each value, each a link that narrows the list to it. */
const FacetList: FC<FacetListProps> = ({ name, title, query, facets }) => (
  <section class="panel">
    <h2>{title}</h2>
    <ul>
      {facets.slice(0, FACETS).map(({ value, count }) => (
        <li>
          {query[name] === value ? (
            <b>{printable(value)}</b>
          ) : (
            <a href={`/failed${queryString(query, { [name]: value })}`}>{printable(value)}</a>
          )}{" "}
          <span class="number">{count.toLocaleString("en-US")}</span>
        </li>
      ))}
    </ul>
    {facets.length > FACETS && <p>{(facets.length - FACETS).toLocaleString("en-US")} more</p>}
  </section>
);

/** A page of rows in a form: what is redelivered is shown before anything happens. */
const Rows: FC<FailedPageProps> = ({ site, query, events, page, now }) => {
  const pages = Math.ceil(events.length / ROWS);
  const shown = events.slice((page - 1) * ROWS, page * ROWS);
  return (
    <form class="panel" action="/failed/redeliver" method="get">
      {Object.entries(query).map(([name, text]) => (
        <input type="hidden" name={name} value={text} />
      ))}
      {!site.isReadonly && (
        <p class="bulk">
          <button type="submit" name="of" value="selected">
            Redeliver selected…
          </button>
          <button type="submit" name="of" value="all">
            Redeliver all {formatEvents(events.length)}…
          </button>
          <span>Nothing is sent before you confirm.</span>
        </p>
      )}
      <ul class="failed">
        {shown.map((event) => (
          <Row site={site} event={event} now={now} />
        ))}
      </ul>
      {pages > 1 && (
        <nav class="failed-pages" aria-label="Pages">
          {page > 1 && <a href={`/failed${queryString(query, { page: String(page - 1) })}`}>Newer</a>}
          <span>
            Page {page} of {pages}
          </span>
          {page < pages && <a href={`/failed${queryString(query, { page: String(page + 1) })}`}>Older</a>}
        </nav>
      )}
    </form>
  );
};

const Row: FC<{ site: Site; event: FailedEvent; now: number }> = ({ site, event: failed, now }) => {
  const { job, id, event, userId, reason, failedAt } = failed;
  return (
    <li id={`f-${job}`}>
      {!site.isReadonly && (
        <input
          type="checkbox"
          name="job"
          value={job}
          aria-label={`Select ${printable(event)}, job ${printable(job)}`}
        />
      )}
      <span class="event">
        {userId === undefined ? printable(event) : <a href={payloadPath(userId, job, id)}>{printable(event)}</a>}
      </span>
      <span class="who">{userId === undefined ? "no user" : <a href={userPath(userId)}>{printable(userId)}</a>}</span>
      <span class="endpoint">
        <FailedEndpoint event={failed} />
      </span>
      <span class="reason">{printable(reason || "no reason")}</span>
      <span class="when">
        <Ago at={failedAt} now={now} />
      </span>
      <a class="job" href={jobPath(site, job)}>
        job {printable(job)}
      </a>
    </li>
  );
};

/** The endpoint's URL; of a registered endpoint its id, too, which leads to its page. */
const FailedEndpoint: FC<{ event: FailedEvent }> = ({ event: { userId, endpoint, endpointId } }) => {
  const path = namedEndpointPath(userId, endpointId);
  if (endpointId === undefined) return <>{printable(endpoint ?? "no endpoint")}</>;
  if (path === undefined) return <>{printable(nameRegistered(endpointId, endpoint))}</>;
  return (
    <>
      <a href={path}>{endpointId}</a>
      {endpoint !== undefined && endpoint !== endpointId && ` (${printable(endpoint)})`}
    </>
  );
};
