/** @jsxImportSource hono/jsx */
/**
 * What a user's page says when there is nothing in the log.
 */
import type { FC } from "hono/jsx";
import type { Site } from "./layout.tsx";

/** Nothing to show, and where to look next. */
export const NoAttempts: FC<{ site: Site; userId: string }> = ({ site: { bullBoard, queue }, userId }) => {
  const state = (name: string) => `${bullBoard}/queue/${encodeURIComponent(queue)}?status=${name}`;
  return (
    <section class="empty">
      <h2>No attempt in the last 7 days</h2>
      <p>Nothing was sent for this user. One of these is why:</p>
      <ul>
        <li>
          <b>The id is another one.</b> It has to be the <code>userId</code> of the events, letter by letter:{" "}
          <code>{userId}</code>.
        </li>
        <li>
          <b>No event was enqueued.</b> Ask the backend whether it put one on the queue <code>{queue}</code>.
        </li>
        <li>
          <b>It still waits.</b> Look at <a href={state("waiting")}>what waits</a> and{" "}
          <a href={state("delayed")}>what is delayed</a>.
        </li>
        <li>
          <b>It broke the contract.</b> Such a job fails without an attempt, and{" "}
          <a href={state("failed")}>its reason</a> names the bad field.
        </li>
      </ul>
    </section>
  );
};
