/** @jsxImportSource hono/jsx */
/**
 * A user's page without attempts.
 */
import type { FC } from "hono/jsx";
import type { Site } from "./layout.tsx";

/** Says why there may be no attempts, and where to look next. */
export const NoAttempts: FC<{ site: Site; userId: string }> = ({ site: { bullBoard, queue }, userId }) => {
  const state = (name: string) => `${bullBoard}/queue/${encodeURIComponent(queue)}?status=${name}`;
  return (
    <section class="empty">
      <h2>No attempts in the last 7 days</h2>
      <p>Nothing was sent for this user. Possible reasons:</p>
      <ul>
        <li>
          <b>The ID is wrong.</b> It has to match the events' <code>userId</code> exactly: <code>{userId}</code>.
        </li>
        <li>
          <b>No event was enqueued.</b> Check that the backend adds events to the queue <code>{queue}</code>.
        </li>
        <li>
          <b>The event has not been attempted yet.</b> See the <a href={state("waiting")}>waiting</a> and{" "}
          <a href={state("delayed")}>delayed</a> jobs.
        </li>
        <li>
          <b>The event is invalid.</b> It then fails without an attempt, and the{" "}
          <a href={state("failed")}>failed job's reason</a> names the field.
        </li>
      </ul>
    </section>
  );
};
