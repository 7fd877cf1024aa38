/** @jsxImportSource hono/jsx */
/**
 * One event on a user's page: its state, its attempts, and what can be done with it.
 */

import type { FC } from "hono/jsx";
import type { Delivery } from "../log/deliveries.ts";
import { formatExact, formatIn } from "../operations/moments.ts";
import { isRedeliverable } from "../operations/redeliver.ts";
import { printable } from "../runtime/printable.ts";
import { AttemptRow, describeError } from "./attempt-row.tsx";
import { CopyableIds } from "./copyable-ids.tsx";
import { EndpointName } from "./endpoint-name.tsx";
import { Ago, Mark, type Notice, payloadPath, type Site } from "./layout.tsx";

/** An event's state in a few words. */
function describeState({ state, nextAt, endpointId, attempts: [latest] }: Delivery, now: number): Notice {
  switch (state) {
    case "completed":
      // The job of an event whose endpoint was disabled or deleted before the next attempt is completed, too.
      if (endpointId !== undefined && !latest.success) return { kind: "bad", text: "Not delivered" };
      return { kind: "good", text: "Delivered" };
    case "failed":
      return { kind: "bad", text: "Failed" };
    case "delayed":
      return {
        kind: "wait",
        text: nextAt === undefined ? "Retrying later" : `Retrying ${formatIn(nextAt - now)}`,
      };
    case "waiting":
      return { kind: "wait", text: "Waiting" };
    case "active":
      return { kind: "wait", text: "Active" };
    case "gone":
      return latest.success ? { kind: "good", text: "Delivered" } : { kind: "bad", text: "Not delivered" };
  }
}

interface CardProps {
  readonly site: Site;
  readonly userId: string;
  readonly delivery: Delivery;
  /** Whether to lead to the endpoint's page, if it is registered; true by default. */
  readonly linksEndpoint?: boolean;
  /** Epoch ms. */
  readonly now: number;
}

/** An event with its attempts, newest first. */
export const DeliveryCard: FC<CardProps> = ({ site, userId, delivery, linksEndpoint = true, now }) => {
  const { id, event, endpoint, endpointId, job, state, nextAt, isTest, redeliveredAt, attempts } = delivery;
  const { kind, text } = describeState(delivery, now);
  return (
    <li class={`delivery ${kind}`} id={`e-${id}-${job}`}>
      <div class="delivery-head">
        <div>
          <h2>{printable(event)}</h2>
          {isTest && <span class="chip">test event</span>}
          <EndpointName url={endpoint} userId={userId} id={linksEndpoint ? endpointId : undefined} />
        </div>
        <p class={`state ${kind}`} title={nextAt === undefined ? undefined : formatExact(nextAt)}>
          <Mark kind={kind} />
          {text}
        </p>
      </div>
      <ol class="attempts">
        {attempts.map((attempt, index) => (
          <AttemptRow
            attempt={attempt}
            now={now}
            timeoutMs={site.timeoutMs}
            isFirstOfKind={attempts.findIndex((other) => describeError(other) === describeError(attempt)) === index}
          />
        ))}
      </ol>
      <div class="delivery-foot">
        <EventIds site={site} userId={userId} id={id} job={state === "gone" ? undefined : job}>
          {redeliveredAt !== undefined && (
            <span>
              redelivered <Ago at={redeliveredAt} now={now} />
            </span>
          )}
          {state === "gone" && (
            <span>The job is no longer kept, so it cannot be redelivered, nor its payload be shown.</span>
          )}
        </EventIds>
        {!site.isReadonly && job !== undefined && (
          <Redeliver userId={userId} job={job} id={id} event={event} state={state} />
        )}
      </div>
    </li>
  );
};

interface EventIdsProps {
  readonly site: Site;
  readonly userId: string;
  readonly id: string;
  /** Undefined when it is not kept. */
  readonly job: string | undefined;
  readonly children?: unknown;
}

/** An event's id and its job's, to copy and to follow. */
export const EventIds: FC<EventIdsProps> = ({ site, userId, id, job, children }) => {
  const payload = job === undefined ? undefined : payloadPath(userId, job, id);
  return (
    <p class="ids">
      <CopyableIds site={site} id={id} job={job} />
      {payload !== undefined && <a href={payload}>Payload</a>}
      {children}
    </p>
  );
};

interface RedeliverProps {
  readonly userId: string;
  readonly job: string;
  /** The event's id. */
  readonly id: string;
  readonly event: string;
  readonly state: string;
}

/** The button that sends an event again, or early; nothing while that is not possible. */
export const Redeliver: FC<RedeliverProps> = ({ userId, job, id, event, state }) => {
  if (!isRedeliverable(state)) return null;
  return (
    <form method="post" action="/actions/redeliver">
      <input type="hidden" name="user" value={userId} />
      <input type="hidden" name="job" value={job} />
      <input type="hidden" name="event" value={id} />
      <button id={`r-${id}-${job}`} type="submit" class={state === "failed" ? "strong" : undefined}>
        {state === "delayed" ? "Deliver now" : "Redeliver"}
        <span class="unseen">
          {" "}
          {printable(event)}, job {printable(job)}
        </span>
      </button>
    </form>
  );
};
