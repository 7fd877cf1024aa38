/** @jsxImportSource hono/jsx */
/**
 * The registered endpoints of all users.
 */
import type { FC } from "hono/jsx";
import type { EndpointStateFilter } from "../operations/endpoint-list.ts";
import { printable } from "../runtime/printable.ts";
import { CodeBlock } from "./copy-button.tsx";
import { withQuery } from "./endpoint-path.ts";
import { type EndpointRowData, EndpointRows } from "./endpoint-rows.tsx";
import { Layout, type Notice, type Site, userPath } from "./layout.tsx";

/** Which endpoints the page shows, as it stands in its URL. */
export interface EndpointsQuery {
  readonly state?: Exclude<EndpointStateFilter, "off"> | undefined;
  readonly host?: string | undefined;
  readonly user?: string | undefined;
  readonly cursor?: string | undefined;
}

export interface EndpointsPageProps {
  readonly site: Site;
  readonly query: EndpointsQuery;
  /** How many are registered in all, and how many of them are paused or disabled. */
  readonly total: number;
  readonly off: number;
  readonly endpoints: readonly EndpointRowData[];
  /** Whether a filter is invalid, so that nothing was looked up; the notice says which. */
  readonly isRefused: boolean;
  /** Where the next page begins. */
  readonly next: string | undefined;
  readonly notice: Notice | undefined;
  /** Epoch ms. */
  readonly now: number;
}

const STATES = [
  [undefined, "All"],
  ["failing", "Failing"],
  ["disabled", "Disabled"],
  ["paused", "Paused"],
] as const;

const pathOf = (query: EndpointsQuery) => withQuery("/endpoints", { ...query });

export const EndpointsPage: FC<EndpointsPageProps> = (props) => {
  const { site, query, total, off, endpoints, isRefused, next, notice, now } = props;
  const isFiltered = [query.state, query.host, query.user].some((field) => field !== undefined);
  return (
    <Layout site={site} title="Endpoints" notice={notice} search="" isLive>
      <div class="head">
        <div>
          <h1>Endpoints</h1>
          {total > 0 && (
            <p class="sub">
              {total.toLocaleString("en-US")} registered, {off.toLocaleString("en-US")} paused or disabled. The latest
              change comes first.
            </p>
          )}
        </div>
        <p class="live">
          <a href={pathOf(query)}>Reload</a>
        </p>
      </div>
      {total === 0 && !isFiltered ? (
        <NoEndpoints />
      ) : (
        <>
          <Filters query={query} />
          {endpoints.length > 0 ? (
            <section class="panel">
              <h2 class="unseen">List</h2>
              <EndpointRows endpoints={endpoints} withUsers now={now} />
            </section>
          ) : (
            !isRefused && <Nothing query={query} hasMore={next !== undefined} />
          )}
          {(next !== undefined || query.cursor !== undefined) && (
            <nav class="pages" aria-label="Pages">
              {query.cursor === undefined ? (
                <span />
              ) : (
                <a href={pathOf({ ...query, cursor: undefined })}>← First page</a>
              )}
              <span />
              {next === undefined ? <span /> : <a href={pathOf({ ...query, cursor: next })}>Older changes →</a>}
            </nav>
          )}
        </>
      )}
    </Layout>
  );
};

const Nothing: FC<{ query: EndpointsQuery; hasMore: boolean }> = ({ query: { state, host, user }, hasMore }) => {
  if (hasMore) return <p class="panel">None of the endpoints read so far matches.</p>;
  if (user === undefined || state !== undefined || host !== undefined) return <p class="panel">No endpoint matches.</p>;
  return (
    <p class="panel">
      User <a href={userPath(user)}>{printable(user)}</a> has no registered endpoints.
    </p>
  );
};

/** Fields to narrow the list, and a way to remove each that is set. */
const Filters: FC<{ query: EndpointsQuery }> = ({ query }) => {
  const { state, host, user } = query;
  const chips = [
    ["user", "User", user],
    ["host", "Host", host],
  ] as const;
  const first = { ...query, cursor: undefined };
  return (
    <section class="panel filters" aria-label="Filter">
      <form action="/endpoints" method="get">
        {state !== undefined && <input type="hidden" name="state" value={state} />}
        <Field name="user" label="User" value={user} maxlength={128} />
        <Field name="host" label="Host" value={host} maxlength={300} />
        <button type="submit">Filter</button>
      </form>
      <p class="chips">
        {STATES.map(([name, label]) => (
          <a href={pathOf({ ...first, state: name })} aria-current={state === name ? "true" : undefined}>
            {label}
          </a>
        ))}
        {chips.map(
          ([name, label, value]) =>
            value !== undefined && (
              <a class="set" href={pathOf({ ...first, [name]: undefined })}>
                <span class="unseen">Remove </span>
                {label}: {printable(value)} <span aria-hidden="true">×</span>
              </a>
            ),
        )}
      </p>
    </section>
  );
};

const Field: FC<{ name: string; label: string; value: string | undefined; maxlength: number }> = (props) => (
  <label>
    <span>{props.label}</span>
    <input
      name={props.name}
      maxlength={props.maxlength}
      value={props.value ?? ""}
      autocomplete="off"
      autocapitalize="off"
      spellcheck={false}
    />
  </label>
);

const EXAMPLE = `const url = "https://example.com/webhooks";
const { secret } = await fluxhook.endpoints.create(
  "usr_42",
  { id: "main", url },
);`;

const NoEndpoints: FC = () => (
  <section class="empty">
    <h2>No endpoints are registered</h2>
    <p>
      Events can bring their endpoint's URL and secret along, or name an endpoint that was registered before. Registered
      endpoints can be paused, disabled and tested here. The backend registers one:
    </p>
    <CodeBlock id="register" what="example" text={EXAMPLE} />
    <p>
      On a shell, <code>fluxhook endpoints create</code> does the same. If there are endpoints that this page does not
      list, <code>fluxhook endpoints reindex</code> finds them.
    </p>
  </section>
);
