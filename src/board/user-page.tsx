/** @jsxImportSource hono/jsx */
/**
 * A user's page: the last attempts, grouped by event.
 */
import type { FC } from "hono/jsx";
import { nameError } from "../delivery/outcome.ts";
import type { Attempt } from "../log/attempts.ts";
import type { Delivery } from "../log/deliveries.ts";
import { adviceFor } from "../operations/advice.ts";
import { formatDuration, formatExact, formatIn } from "../operations/moments.ts";
import { isRedeliverable } from "../operations/redeliver.ts";
import { printable } from "../runtime/printable.ts";
import { Ago, jobPath, Layout, LiveSwitch, Mark, type Notice, type Site, userPath } from "./layout.tsx";
import { TestForm } from "./test-form.tsx";
import { NoAttempts } from "./user-empty.tsx";

export interface UserPageProps {
  readonly site: Site;
  readonly userId: string;
  readonly deliveries: readonly Delivery[];
  readonly notice: Notice | undefined;
  /** Epoch ms. */
  readonly now: number;
}

export const UserPage: FC<UserPageProps> = ({ site, userId, deliveries, notice, now }) => {
  const attempts = deliveries
    .flatMap((delivery) => delivery.attempts)
    .sort((a, b) => Date.parse(b.timestamp) - Date.parse(a.timestamp));
  return (
    <Layout site={site} title={userId} notice={notice} search={userId} isLive>
      <div id="live">
        <div class="head">
          <div>
            <p class="eyebrow">User</p>
            <h1 class="id">{userId}</h1>
            {attempts.length > 0 && <History attempts={attempts} />}
          </div>
          <LiveSwitch path={userPath(userId)} />
        </div>
        {attempts.length === 0 && <NoAttempts site={site} userId={userId} />}
        {attempts.length > 0 && (
          <p class="legend">
            <span>
              The last {attempts.length === 1 ? "attempt" : `${attempts.length} attempts`}, by event, newest first. Kept
              for 7 days.
            </span>
            <span>
              <i class="scale" aria-hidden="true" /> bars: 0 to {formatDuration(site.timeoutMs)}, the timeout
            </span>
          </p>
        )}
        <ol class="deliveries">
          {deliveries.map((delivery) => (
            <Card site={site} userId={userId} delivery={delivery} now={now} />
          ))}
        </ol>
        {attempts.length > 0 && !site.isReadonly && <TestForm userId={userId} deliveries={deliveries} />}
        {attempts.length > 0 && (
          <p class="aside">
            <a href={`/users/${encodeURIComponent(userId)}/attempts`}>View as JSON</a>
          </p>
        )}
      </div>
    </Layout>
  );
};

/** An error code with its cause. Log entries from older versions may lack both. */
function describeError({ error, cause }: Attempt): string {
  return printable(nameError(error ?? "failed", cause));
}

function describeResult(attempt: Attempt): string {
  const status = attempt.status_code ?? undefined;
  return status === undefined ? describeError(attempt) : `HTTP ${printable(status)}`;
}

/** A row of marks, oldest first, each a link to its attempt. */
const History: FC<{ attempts: readonly Attempt[] }> = ({ attempts }) => {
  const delivered = attempts.filter(({ success }) => success).length;
  return (
    <div class="history">
      <ol aria-label="Attempts, oldest first">
        {[...attempts].reverse().map((attempt) => (
          <li>
            <a
              class={attempt.success ? "good" : "bad"}
              href={`#a-${attempt.delivery}`}
              title={`${printable(attempt.event)}, ${describeResult(attempt)}, ${formatExact(Date.parse(attempt.timestamp))}`}
            >
              <Mark kind={attempt.success ? "good" : "bad"} />
              <span class="unseen">{attempt.success ? "delivered" : describeError(attempt)}</span>
            </a>
          </li>
        ))}
      </ol>
      <p>
        {delivered} delivered, {attempts.length - delivered} failed
      </p>
    </div>
  );
};

/** An event's state in a few words. */
function describeState({ state, nextAt, attempts: [latest] }: Delivery, now: number): Notice {
  switch (state) {
    case "completed":
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

const Card: FC<{ site: Site; userId: string; delivery: Delivery; now: number }> = ({ site, userId, delivery, now }) => {
  const { id, event, endpoint, job, state, nextAt, isTest, redeliveredAt, attempts } = delivery;
  const { kind, text } = describeState(delivery, now);
  const url = URL.parse(endpoint);
  return (
    <li class={`delivery ${kind}`} id={`e-${id}-${job}`}>
      <div class="delivery-head">
        <div>
          <h2>{printable(event)}</h2>
          <p class="endpoint">
            {url === null ? (
              printable(endpoint)
            ) : (
              <>
                {`${url.protocol}//`}
                <b>{url.host}</b>
                {url.pathname}
              </>
            )}
          </p>
        </div>
        <p class={`state ${kind}`} title={nextAt === undefined ? undefined : formatExact(nextAt)}>
          <Mark kind={kind} />
          {text}
        </p>
      </div>
      <ol class="attempts">
        {attempts.map((attempt, index) => (
          <Row
            attempt={attempt}
            now={now}
            timeoutMs={site.timeoutMs}
            isFirstOfKind={attempts.findIndex((other) => describeError(other) === describeError(attempt)) === index}
          />
        ))}
      </ol>
      <div class="delivery-foot">
        <p class="ids">
          <span>
            event <code>{printable(id)}</code>
          </span>
          {isTest && <span>test event</span>}
          {redeliveredAt !== undefined && (
            <span>
              redelivered <Ago at={redeliveredAt} now={now} />
            </span>
          )}
          {job !== undefined && state !== "gone" && (
            <a href={jobPath(site, job)}>
              job {printable(job)} <span class="unseen">in Bull Board</span>
              <span aria-hidden="true">→</span>
            </a>
          )}
          {state === "gone" && <span>The job is no longer kept, so it cannot be redelivered.</span>}
        </p>
        {!site.isReadonly && job !== undefined && <Redeliver userId={userId} job={job} delivery={delivery} />}
      </div>
    </li>
  );
};

const Redeliver: FC<{ userId: string; job: string; delivery: Delivery }> = ({ userId, job, delivery }) => {
  const { state, id, event } = delivery;
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

/** One attempt. Only the newest attempt with an error says what to do about it, so that the advice is not repeated. */
const Row: FC<{ attempt: Attempt; now: number; timeoutMs: number; isFirstOfKind: boolean }> = ({
  attempt,
  now,
  timeoutMs,
  isFirstOfKind,
}) => {
  const { delivery, timestamp, success, duration_ms, error, cause } = attempt;
  const kind = success ? "good" : "bad";
  const advice = success ? undefined : adviceFor(error ?? "", timeoutMs, cause);
  // At least a dot; the full width is the timeout.
  const width = Math.min(100, Math.max(0.8, (duration_ms / timeoutMs) * 100)) || 0.8;
  return (
    <li class="attempt" id={`a-${delivery}`}>
      <span class={`status ${kind}`}>
        <Mark kind={kind} />
        <span class="unseen">{success ? "delivered, " : "failed, "}</span>
        {describeResult(attempt)}
      </span>
      <span class="number">attempt {printable(attempt.attempt)}</span>
      <span class="duration">
        <svg class={`bar ${kind}`} viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
          <rect width={String(width)} height="8" />
        </svg>
        <span>{formatDuration(duration_ms)}</span>
      </span>
      <span class="when">
        <Ago at={Date.parse(timestamp)} now={now} />
      </span>
      {advice !== undefined && (
        <p class="what">
          {isFirstOfKind ? <b>{advice.what}.</b> : `${advice.what}.`} {isFirstOfKind && advice.todo}
        </p>
      )}
    </li>
  );
};
