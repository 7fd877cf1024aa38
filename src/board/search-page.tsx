/** @jsxImportSource hono/jsx */
/**
 * What a search found, if it was not exactly one thing, and how far it came.
 */
import type { FC } from "hono/jsx";
import { USER_ID } from "../delivery/limits.ts";
import {
  describeReach,
  type EndpointFind,
  type EventFind,
  type Findings,
  type HostFind,
  type UserFind,
} from "../operations/search.ts";
import { printable } from "../runtime/printable.ts";
import { ShownUrl } from "./endpoint-rows.tsx";
import { EndpointStateBadge } from "./endpoint-state.tsx";
import { findPath } from "./find-path.ts";
import { jobPath, Layout, Mark, type Site, userPath } from "./layout.tsx";
import { Search } from "./search.tsx";

export interface SearchPageProps {
  readonly site: Site;
  readonly findings: Findings;
  /** Whether the search went on where an earlier one ended. */
  readonly isContinued: boolean;
  /** Epoch ms. */
  readonly now: number;
}

export const SearchPage: FC<SearchPageProps> = ({ site, findings, isContinued, now }) => {
  const { text, finds, hasMoreEndpoints } = findings;
  const title =
    text === "" ? "Search" : finds.length > 0 ? `Found: ${printable(text)}` : `Not found: ${printable(text)}`;
  const hosts = finds.filter((find) => find.kind === "host");
  const others = finds.filter((find) => find.kind !== "host");
  return (
    <Layout site={site} title={title}>
      <h1 class="unseen">{title}</h1>
      <Search value={text} isLarge />
      {text === "" && <Hints />}
      {text !== "" && finds.length === 0 && <NotFound site={site} findings={findings} isContinued={isContinued} />}
      {others.length > 0 && (
        <section class="panel finds">
          <h2>{others.length === 1 ? "Found" : `Found ${others.length}, of different kinds or users`}</h2>
          <ul>
            {others.map((find) => (
              <FindRow site={site} find={find} now={now} />
            ))}
          </ul>
          {hasMoreEndpoints && (
            <p class="note">There may be more endpoints with this id. A user's page lists all of the user's own.</p>
          )}
        </section>
      )}
      {hosts.map((host) => (
        <HostPanel site={site} host={host} />
      ))}
    </Layout>
  );
};

const KINDS = { user: "User", event: "Event", delivery: "Delivery", job: "Job" } as const;

type RowProps = { readonly site: Site; readonly find: UserFind | EventFind | EndpointFind; readonly now: number };

const FindRow: FC<RowProps> = ({ site, find, now }) => {
  const path = findPath(find);
  if (find.kind === "endpoint") {
    return (
      <li>
        <b>Endpoint</b>
        <a href={path}>{find.endpoint.id}</a>
        <span>
          of <a href={userPath(find.userId)}>{printable(find.userId)}</a>
        </span>
        <EndpointStateBadge endpoint={find.endpoint} now={now} />
        <p class="endpoint">
          <ShownUrl url={find.endpoint.url} />
        </p>
      </li>
    );
  }
  if (find.kind === "user") {
    return (
      <li>
        <b>User</b>
        <a href={path}>{printable(find.userId)}</a>
      </li>
    );
  }
  const { kind, found, id, event, userId, job } = find;
  return (
    <li>
      <b>{KINDS[kind]}</b>
      {path === undefined ? <code>{printable(found)}</code> : <a href={path}>{printable(found)}</a>}
      <span>
        {printable(event)}
        {kind !== "event" && ` · event ${printable(id)}`}
        {userId === undefined ? " · no valid user" : ` · user ${printable(userId)}`}
      </span>
      {userId === undefined && job !== undefined && <a href={jobPath(site, job)}>in Bull Board</a>}
    </li>
  );
};

/** `12`, or `at least 12`. */
const formatCount = (count: number, isComplete: boolean) =>
  `${isComplete ? "" : "at least "}${count.toLocaleString("en-US")}`;

const HostPanel: FC<{ site: Site; host: HostFind }> = ({ site, host: find }) => {
  const { host, isOpen, failed, pending, events, isComplete } = find;
  return (
    <section class="panel finds">
      <h2>
        Host <code>{printable(host)}</code>
      </h2>
      <p class="calm">
        <Mark kind={isOpen ? "wait" : "good"} />
        {isOpen ? "Its circuit is open: it does not respond, and its events wait." : "No open circuit."}
      </p>
      <p>
        <a href={`/failed?${new URLSearchParams({ host })}`}>{formatCount(failed, isComplete)} failed</a>,{" "}
        {formatCount(pending, isComplete)} pending.
      </p>
      {events.length > 0 && (
        <ul>
          {events.map(({ job, event, id, userId, place }) => (
            <li>
              <b>{place === "delayed" || place === "active" ? place : "waiting"}</b>
              <span>{printable(event)}</span>
              {userId === undefined ? (
                <span>no user</span>
              ) : (
                <a href={`${userPath(userId)}?${new URLSearchParams({ id })}`}>{printable(userId)}</a>
              )}
              <a href={jobPath(site, job)}>job {printable(job)}</a>
            </li>
          ))}
        </ul>
      )}
      {pending > events.length && <p>The first {events.length} pending events.</p>}
    </section>
  );
};

const NotFound: FC<Omit<SearchPageProps, "now">> = ({ site, findings, isContinued }) => {
  const { text, hasMoreEndpoints, next, isBusy } = findings;
  const user = USER_ID.test(text) ? userPath(text) : undefined;
  const query = next === undefined ? "" : new URLSearchParams({ q: text, from: next });
  return (
    <section class="empty">
      <h2>
        {next === undefined && !isBusy ? "Nothing found for " : "Nothing found yet for "}
        <code>{printable(text)}</code>
      </h2>
      {isBusy ? (
        <p>
          Two other searches are running, so jobs and logs were not searched.{" "}
          <a href={`/search?${new URLSearchParams({ q: text })}`}>Try again</a>
        </p>
      ) : (
        <p>
          Searched {isContinued ? "another " : ""}
          {describeReach(findings)}.
        </p>
      )}
      {next !== undefined && (
        <p>
          The time for one search is over. <a href={`/search?${query}`}>Search on</a>, or look up the user instead,
          which takes no time.
        </p>
      )}
      {hasMoreEndpoints && (
        <p>Not all registered endpoints were searched. A user's page lists all of the user's own.</p>
      )}
      {user !== undefined && (
        <p>
          If it is a user: <a href={user}>show the page of {printable(text)}</a>
        </p>
      )}
      <Hints site={site} />
    </section>
  );
};

const Hints: FC<{ site?: Site }> = ({ site }) => (
  <ul>
    <li>
      An event is found by its id (the webhook-id header), by one of its delivery ids (X-Fluxdrop-Delivery) or by its
      job. A registered endpoint is found by its id, in upper and lower case as it is written.
    </li>
    <li>
      Ids are compared as a whole: parts of them are not found. A host is written as in hooks.example.com or
      127.0.0.1:8080.
    </li>
    {site !== undefined && (
      <li>
        Delivered events stay findable as long as they are among the last {site.logSize} attempts of their user. The
        worker's log has every attempt.
      </li>
    )}
  </ul>
);
