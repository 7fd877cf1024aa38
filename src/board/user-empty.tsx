/** @jsxImportSource hono/jsx */
/**
 * A user's page with nothing to show.
 */
import type { FC } from "hono/jsx";
import { describeRetention } from "../operations/moments.ts";
import { homeAmong } from "../queue/shards.ts";
import { printable } from "../runtime/printable.ts";
import { queuePath, type Site } from "./layout.tsx";

interface NoAttemptsProps {
  readonly site: Site;
  readonly userId: string;
  /** Whether the user has registered endpoints, so that there is such a user. */
  readonly hasEndpoints: boolean;
}

/** Says why there may be no events, and where to look next. */
export const NoAttempts: FC<NoAttemptsProps> = ({ site, userId, hasEndpoints }) => {
  const home = homeAmong(site.shards, userId);
  const state = (name: string) => `${queuePath(site, home)}?status=${name}`;
  return (
    <section class="empty">
      <h2>No attempts in the last {describeRetention(site.logAgeMs)}</h2>
      <p>The log of this user is empty. Possible reasons:</p>
      <ul>
        {hasEndpoints ? (
          <li>
            <b>No endpoint is to get it.</b> They are paused or disabled, or do not want events of its type: the page of
            each explains which endpoints get an event.
          </li>
        ) : (
          <li>
            <b>The ID is wrong.</b> It has to match the events' <code>userId</code> exactly: <code>{userId}</code>.
          </li>
        )}
        <li>
          <b>No event was enqueued.</b> Check that the backend adds events to the queue <code>{home.queue}</code>.
        </li>
        <li>
          <b>The event has not been attempted yet.</b> Pending events of a user are listed here; see also all{" "}
          <a href={state("waiting")}>waiting</a> and <a href={state("delayed")}>delayed</a> jobs.
        </li>
        <li>
          <b>The event is invalid.</b> It then fails without an attempt, and the{" "}
          <a href={state("failed")}>failed job's reason</a> names the field.
        </li>
      </ul>
    </section>
  );
};

/** Says that the filter shows nothing. */
export const NoMatch: FC<{ id: string | undefined }> = ({ id }) => (
  <section class="empty">
    <h2>No event matches the filter</h2>
    {id === undefined ? (
      <p>The log and the pending events of this user hold no such event.</p>
    ) : (
      <p>
        Neither the log nor the pending events of this user hold the event <code>{printable(id)}</code>.{" "}
        <a href={`/search?${new URLSearchParams({ q: id })}`}>Search everywhere</a>, or among the{" "}
        <a href={`/failed?${new URLSearchParams({ id })}`}>failed events</a>.
      </p>
    )}
  </section>
);
