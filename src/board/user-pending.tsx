/** @jsxImportSource hono/jsx */
/**
 * The parts of a user's page about events that the log does not show: pending ones, and failed ones that are no longer in it.
 */
import type { FC } from "hono/jsx";
import { formatExact, formatIn } from "../operations/moments.ts";
import type { LookedAt, MoreFailed, Pending, PendingEvent } from "../operations/pending.ts";
import { printable } from "../runtime/printable.ts";
import { EventIds, Redeliver } from "./delivery-card.tsx";
import { EndpointName } from "./endpoint-name.tsx";
import { Ago, Mark, type Site } from "./layout.tsx";

const SHOWN = 20; // events

const number = (value: number) => value.toLocaleString("en-US");

/** `5,000 of 80,000`. */
const share = ({ looked, total }: LookedAt) => `${number(looked)} of ${number(total)}`;

function describeState({ state, dueAt = 0, isHeldBack, attempts }: PendingEvent, now: number): string {
  if (state === "active") return "Active";
  if (state === "waiting") return "Waiting";
  const words = isHeldBack ? "Held back, next try" : attempts > 0 ? "Retrying" : "Due";
  return `${words} ${formatIn(dueAt - now)}`;
}

function explain({ isHeldBack, isCircuitOpen, attempts }: PendingEvent): string | undefined {
  if (isCircuitOpen) return "Its host does not respond: the circuit is open, so its events wait.";
  if (isHeldBack) return "Its endpoint is paused or can take no more at the moment, or an operator holds its events.";
  return attempts > 0 ? `Attempted ${attempts === 1 ? "once" : `${attempts} times`}; no longer in the log.` : undefined;
}

interface PendingProps {
  readonly site: Site;
  readonly userId: string;
  readonly pending: Pending;
  /** Epoch ms. */
  readonly now: number;
}

/** Events that wait, are delayed or active, and are not in the log; nothing when there are none and all jobs were seen. */
export const PendingEvents: FC<PendingProps> = ({ site, userId, pending, now }) => {
  const { events } = pending;
  if (events.length === 0) {
    if (!pending.isPartial) return null;
    return (
      <p class="note" id="pending">
        No other pending event of this user among the jobs looked at: {share(pending)} waiting, delayed and active ones.
      </p>
    );
  }
  return (
    <section class="pending" id="pending" aria-labelledby="pending-title">
      <h2 id="pending-title">
        {number(events.length)}
        {pending.isPartial && "+"} pending
      </h2>
      <ol>
        {events.slice(0, SHOWN).map((event) => (
          <Row site={site} userId={userId} event={event} now={now} />
        ))}
      </ol>
      {events.length > SHOWN && <p class="note">And {number(events.length - SHOWN)} more.</p>}
      {pending.isPartial && (
        <p class="note">There may be more: looked at {share(pending)} waiting, delayed and active jobs.</p>
      )}
    </section>
  );
};

const Row: FC<{ site: Site; userId: string; event: PendingEvent; now: number }> = ({ site, userId, event, now }) => {
  const { id, job, endpoint, endpointId, state, dueAt, enqueuedAt, isTest } = event;
  const words = explain(event);
  return (
    <li class="pending-event" id={`p-${job}`}>
      <div class="pending-what">
        <h3>{printable(event.event)}</h3>
        {isTest && <span class="chip">test event</span>}
        {endpoint !== undefined && <EndpointName url={endpoint} userId={userId} id={endpointId} />}
        {words !== undefined && <p class="note">{words}</p>}
      </div>
      <p class="state wait" title={dueAt === undefined ? undefined : formatExact(dueAt)}>
        <Mark kind="wait" />
        {describeState(event, now)}
      </p>
      <EventIds site={site} userId={userId} id={id} job={job}>
        <span>
          enqueued <Ago at={enqueuedAt} now={now} />
        </span>
      </EventIds>
      {!site.isReadonly && <Redeliver userId={userId} job={job} id={id} event={event.event} state={state} />}
    </li>
  );
};

/** How many more of the user's events failed than the log shows, with the way to them. */
export const MoreFailedEvents: FC<{ userId: string; more: MoreFailed; isLogEmpty: boolean }> = (props) => {
  const { userId, more, isLogEmpty } = props;
  const { count, isPartial } = more;
  if (count === 0 && !isPartial) return null;
  if (count === 0) {
    return (
      <p class="note" id="more-failed">
        No other failed event of this user among the latest {share(more)} failed jobs.
      </p>
    );
  }
  return (
    <p class="more bad" id="more-failed">
      <Mark kind="bad" />
      <span>
        <a href={`/failed?${new URLSearchParams({ user: userId })}`}>
          {isPartial && "At least "}
          {number(count)} {isLogEmpty ? "" : "more "}
          {count === 1 ? "event" : "events"} failed
        </a>{" "}
        and {count === 1 ? "is" : "are"} not in the log{isLogEmpty ? "" : " below"}.
        {isPartial && ` Looked at the latest ${share(more)} failed jobs.`}
      </span>
    </p>
  );
};
