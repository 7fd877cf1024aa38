/** @jsxImportSource hono/jsx */
/**
 * Redelivering many events: what would be redelivered, and how far it has come.
 */
import type { FC } from "hono/jsx";
import { countBy, type Facet, type FailedEvent } from "../operations/failed-events.ts";
import { printable } from "../runtime/printable.ts";
import { doneOf, type Run } from "./bulk-redelivery.ts";
import { type FailedQuery, queryString } from "./failed-query.ts";
import { Ago, Layout, LiveSwitch, Mark, type Notice, type Site } from "./layout.tsx";

const LISTED = 10; // values of each kind

const format = (count: number) => count.toLocaleString("en-US");
const formatEvents = (count: number) => `${format(count)} ${count === 1 ? "event" : "events"}`;

export interface PreviewProps {
  readonly site: Site;
  /** The filter, with its times fixed; what was failed until then is redelivered, and nothing that fails later. */
  readonly query: FailedQuery;
  /** The jobs that were selected; undefined for all that match the filter. */
  readonly jobs: readonly string[] | undefined;
  /** Those of them that are failed. */
  readonly events: readonly FailedEvent[];
  /** Kept events that could not be read in time, if all that match are meant. */
  readonly unread: number;
  /** Hosts with an open circuit. */
  readonly circuits: readonly string[];
  /** Back to the list. */
  readonly back: string;
}

/** A dry run: what would be redelivered, with the button that does it. */
export const PreviewPage: FC<PreviewProps> = ({ site, query, jobs, events, unread, circuits, back }) => {
  const hosts = countBy(events, ({ host }) => host ?? "no endpoint");
  const silent = hosts.filter(({ value }) => circuits.includes(value));
  return (
    <Layout site={site} title="Redeliver failed events" search="">
      <section class="panel preview">
        <h1>
          {events.length === 0
            ? "Nothing to redeliver"
            : `${formatEvents(events.length)} would be redelivered, to ${hosts.length === 1 ? "1 host" : `${format(hosts.length)} hosts`}`}
        </h1>
        {events.length === 0 ? (
          <p>{jobs?.length === 0 ? "No event was selected." : "None of these events is failed any more."}</p>
        ) : (
          <>
            <p>
              Nothing was sent yet. Each goes again with the same id and body, and with its whole retry schedule. A
              receiver that deduplicates by id processes it once.
            </p>
            {silent.length > 0 && (
              <p class="calm">
                <Mark kind="wait" />
                {silent.length === 1
                  ? "This host has an open circuit, so its events will wait: "
                  : "These hosts have an open circuit, so their events will wait: "}
                {silent.map(({ value }) => printable(value)).join(", ")}
              </p>
            )}
            <div class="facets">
              <Counts title="Hosts" facets={hosts} />
              <Counts title="Reasons" facets={countBy(events, ({ cause }) => cause)} />
              <Counts title="Event types" facets={countBy(events, ({ event }) => event)} />
              <Counts title="Users" facets={countBy(events, ({ userId }) => userId ?? "no user")} />
            </div>
            {!site.isReadonly && unread === 0 && (
              <form class="bulk" action="/actions/redeliver-failed" method="post">
                {Object.entries(query).map(([name, text]) => (
                  <input type="hidden" name={name} value={text} />
                ))}
                {jobs !== undefined && events.map(({ job }) => <input type="hidden" name="job" value={job} />)}
                <button id="redeliver-failed" type="submit" class="strong">
                  Redeliver {formatEvents(events.length)}
                </button>
              </form>
            )}
          </>
        )}
        {unread > 0 && (
          <p>
            {formatEvents(unread)} more are being read, some of which may match:{" "}
            <a href={`/failed/redeliver${queryString(query, { of: "all" })}`}>go on</a>. They can be redelivered when
            all are read.
          </p>
        )}
        <p>
          <a href={back}>Back to the list</a>
        </p>
      </section>
    </Layout>
  );
};

const Counts: FC<{ title: string; facets: readonly Facet[] }> = ({ title, facets }) => (
  <section>
    <h2>{title}</h2>
    <ul>
      {facets.slice(0, LISTED).map(({ value, count }) => (
        <li>
          <span>{printable(value)}</span> <span class="number">{format(count)}</span>
        </li>
      ))}
    </ul>
    {facets.length > LISTED && <p>{format(facets.length - LISTED)} more</p>}
  </section>
);

/** What a run's state means, in a sentence. */
function describeRun(run: Run): Notice {
  const done = `${format(doneOf(run))} of ${formatEvents(run.total)}`;
  switch (run.state) {
    case "running":
      return { kind: "wait", text: `Redelivering: ${done}` };
    case "done":
      return { kind: "good", text: `Redelivered: ${done}` };
    case "canceled":
      return { kind: "wait", text: `Canceled after ${done}` };
    case "failed":
      return { kind: "bad", text: `Stopped after ${done}: Valkey refused one. The board's log has the reason` };
  }
}

export const runPath = (id: string, query: FailedQuery = {}) =>
  `/failed/runs/${encodeURIComponent(id)}${queryString(query)}`;

/** A run in one line. */
export const RunRow: FC<{ run: Run; now: number }> = ({ run, now }) => {
  const { kind, text } = describeRun(run);
  return (
    <li class={kind}>
      <Mark kind={kind} />
      <a href={runPath(run.id)}>{text}</a>
      <span class="when">
        <Ago at={run.startedAt} now={now} />
      </span>
    </li>
  );
};

export interface RunPageProps {
  readonly site: Site;
  readonly id: string;
  /** Undefined when this process does not know it. */
  readonly run: Run | undefined;
  /** What it was started with. */
  readonly query: FailedQuery;
  /** Epoch ms. */
  readonly now: number;
}

/** A run's progress. */
export const RunPage: FC<RunPageProps> = ({ site, id, run, query, now }) => (
  <Layout site={site} title="Redelivery" search="" isLive>
    <div id="live">
      <div class="head">
        <h1>Redelivery</h1>
        <LiveSwitch path={runPath(id, query)} />
      </div>
      {run === undefined ? <UnknownRun query={query} /> : <Progress site={site} run={run} query={query} now={now} />}
      <p class="aside">
        <a href={`/failed${queryString(query)}`}>Failed events</a>
      </p>
    </div>
  </Layout>
);

const UnknownRun: FC<{ query: FailedQuery }> = ({ query }) => (
  <section class="empty">
    <h2>This redelivery is no longer known</h2>
    <p>
      The board was restarted meanwhile, or it was long ago. What it redelivered is no longer failed, so{" "}
      <a href={`/failed/redeliver${queryString(query, { of: "all" })}`}>redelivering what is still failed</a> finishes
      it, and sends nothing twice.
    </p>
  </section>
);

const Progress: FC<{ site: Site; run: Run; query: FailedQuery; now: number }> = ({ site, run, query, now }) => {
  const { kind, text } = describeRun(run);
  const { queued, pending, gone } = run.counts;
  return (
    <section class="panel run">
      <p class={`verdict ${kind}`}>
        <Mark kind={kind} />
        {text}.
      </p>
      <progress max={Math.max(1, run.total)} value={doneOf(run)} aria-label="Progress">
        {text}
      </progress>
      <dl>
        <div>
          <dt>Queued for delivery</dt>
          <dd>{format(queued)}</dd>
        </div>
        <div>
          <dt>No longer failed, left alone</dt>
          <dd>{format(pending)}</dd>
        </div>
        <div>
          <dt>No longer kept</dt>
          <dd>{format(gone)}</dd>
        </div>
      </dl>
      <p>
        Started <Ago at={run.startedAt} now={now} />.
        {run.state === "running" && " It goes on when this page is closed."}
      </p>
      {run.state === "running" && !site.isReadonly && (
        <form action="/actions/cancel-redelivery" method="post">
          <input type="hidden" name="run" value={run.id} />
          {Object.entries(query).map(([name, value]) => (
            <input type="hidden" name={name} value={value} />
          ))}
          <button id="cancel-run" type="submit">
            Cancel
          </button>
        </form>
      )}
    </section>
  );
};
