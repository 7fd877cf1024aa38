/** @jsxImportSource hono/jsx */
/**
 * What a registered endpoint missed, and its replay: what would be replayed, before anything is.
 */
import type { FC } from "hono/jsx";
import type { MissedCause, MissedCounts, MissedEvent, MissedPage } from "../missed/missed.ts";
import type { Replayed } from "../missed/replay.ts";
import { formatExact } from "../operations/moments.ts";
import type { EndpointWithHealth } from "../registry/registry.ts";
import { printable } from "../runtime/printable.ts";
import { endpointPath, formatEvents } from "./endpoint-path.ts";
import { describeMissed } from "./endpoint-state.tsx";
import { Ago, Layout, type Site } from "./layout.tsx";

interface MissedPanelProps {
  readonly site: Site;
  readonly userId: string;
  readonly endpoint: EndpointWithHealth;
  readonly missed: MissedPage;
  /** Epoch ms. */
  readonly now: number;
}

/** What was missed; nothing when nothing was. */
export const MissedPanel: FC<MissedPanelProps> = ({ site, userId, endpoint, missed, now }) => {
  const words = describeMissed(missed);
  if (words === undefined) return null;
  const { kept, dropped, droppedSince, events } = missed;
  return (
    <section class="panel missed" id="missed">
      <h2>Missed</h2>
      <p class="missed-counts">
        {words}
        {dropped > 0 && droppedSince !== undefined && (
          <>
            {" "}
            (the first of them <Ago at={droppedSince} now={now} />)
          </>
        )}
        .
      </p>
      {events.length > 0 && (
        <ol class="missed-events">
          {events.map((event) => (
            <MissedRow event={event} now={now} />
          ))}
        </ol>
      )}
      {kept > events.length && (
        <p>
          And {(kept - events.length).toLocaleString("en-US")} more, which <code>fluxhook endpoints missed</code> lists.
        </p>
      )}
      {kept > 0 && !site.isReadonly && <ReplayForm userId={userId} endpoint={endpoint} missed={missed} />}
    </section>
  );
};

const CAUSES: Readonly<Record<MissedCause, string>> = {
  disabled: "endpoint disabled",
  gone: "answered 410",
  blocked: "URL not allowed",
  exhausted: "all attempts failed",
  expired: "too old",
  past_expiry: "past its own expiry",
  backlog_full: "full backlog",
};

const MissedRow: FC<{ event: MissedEvent; now: number }> = ({ event: { id, event, cause, timestamp }, now }) => (
  <li>
    <b>{printable(event)}</b>
    <code>{printable(id)}</code>
    <span>{CAUSES[cause] ?? printable(cause)}</span>
    <Ago at={timestamp} now={now} />
  </li>
);

/** Leads to the dry run. */
const ReplayForm: FC<{ userId: string; endpoint: EndpointWithHealth; missed: MissedCounts }> = (props) => {
  const { userId, endpoint, missed } = props;
  if (endpoint.state.kind === "disabled") {
    return <p>They can be replayed when the endpoint is enabled, now or later.</p>;
  }
  const path = endpointPath(userId, endpoint.id, "/replay");
  return (
    <form class="replay" method="get" action={path.split("?")[0]}>
      <QueryFields path={path} />
      <label for="since">Since (UTC)</label>
      <input
        id="since"
        name="since"
        type="datetime-local"
        step="any"
        value={missed.oldest === undefined ? "" : new Date(missed.oldest).toISOString().slice(0, -1)}
      />
      <button id="replay" type="submit">
        Replay…
      </button>
      <span class="note">Nothing is sent before you confirm.</span>
    </form>
  );
};

/** The fields of a path's query, for a form that leads to it. */
export const QueryFields: FC<{ path: string }> = ({ path }) => (
  <>
    {[...new URLSearchParams(path.split("?")[1] ?? "")].map(([name, value]) => (
      <input type="hidden" name={name} value={value} />
    ))}
  </>
);

interface ReplayPageProps {
  readonly site: Site;
  readonly userId: string;
  readonly endpoint: EndpointWithHealth;
  /** The dry run. */
  readonly replayed: Replayed;
  /** What was asked for, epoch ms. */
  readonly since: number | undefined;
  readonly until: number;
}

/** A dry run of a replay, with the button that does it. */
export const ReplayPage: FC<ReplayPageProps> = ({ site, userId, endpoint, replayed: found, since, until }) => {
  const { replayed, skipped, left } = found;
  const others = left - replayed - skipped;
  return (
    <Layout site={site} title={`Replay what ${endpoint.id} missed`} search="">
      <section class="panel preview">
        <h1>{replayed === 0 ? "Nothing to replay" : `${formatEvents(replayed)} would be replayed`}</h1>
        <p>
          {since === undefined ? "All that" : `What`} endpoint <code>{endpoint.id}</code> of user{" "}
          <code>{printable(userId)}</code> missed{since === undefined ? "" : ` of the time since ${formatExact(since)}`}
          , up to {formatExact(until)}.
        </p>
        {replayed > 0 && (
          <p>
            Nothing was sent yet. Each goes with the id and body that it had, oldest first, and with its whole retry
            schedule.
          </p>
        )}
        {skipped > 0 && (
          <p>
            {formatEvents(skipped)} {skipped === 1 ? "is" : "are"} pending already, and left alone.
          </p>
        )}
        {others > 0 && <p>{formatEvents(others)} of other times stay as they are.</p>}
        {endpoint.state.kind === "paused" && <p>The endpoint is paused: the events wait until it is resumed.</p>}
        {replayed > 0 && !site.isReadonly && (
          <form method="post" action="/actions/endpoint-replay">
            <input type="hidden" name="user" value={userId} />
            <input type="hidden" name="endpoint" value={endpoint.id} />
            {since !== undefined && <input type="hidden" name="since" value={String(since)} />}
            <input type="hidden" name="until" value={String(until)} />
            <button id="replay-now" type="submit" class="strong">
              Replay {formatEvents(replayed)}
            </button>
          </form>
        )}
        <p>
          <a href={endpointPath(userId, endpoint.id)}>Back to the endpoint</a>
        </p>
      </section>
    </Layout>
  );
};
