/** @jsxImportSource hono/jsx */
/**
 * The form that sends a test event and shows its payload beforehand.
 */
import type { FC } from "hono/jsx";
import type { Delivery } from "../log/deliveries.ts";
import { TEST_DATA } from "../operations/test-event.ts";
import { printable } from "../runtime/printable.ts";

/**
 * The form, closed at first: one endpoint per entry, each with its newest kept job. Registered endpoints are tested on their own pages; nothing
 * is shown for a user who has no others.
 */
export const TestForm: FC<{ userId: string; deliveries: readonly Delivery[]; type: string }> = (props) => {
  const { userId, deliveries: all, type } = props;
  const deliveries = all.filter(({ endpointId }) => endpointId === undefined);
  if (deliveries.length === 0) return null;
  const kept = deliveries.filter(({ state, job }) => state !== "gone" && job !== undefined);
  const endpoints = new Map(kept.toReversed().map((delivery) => [delivery.endpoint, delivery])); // the newest job of each
  const sample = { id: "…", event: type, timestamp: "…", data: TEST_DATA };
  return (
    <details class="test" id="test">
      <summary>Send a test event</summary>
      {endpoints.size === 0 ? (
        <p>Not available: none of this user's jobs are kept any longer, and only a job has the endpoint's secret.</p>
      ) : (
        <form method="post" action="/actions/test">
          <input type="hidden" name="user" value={userId} />
          <p>
            <label for="test-job">Endpoint</label>
            <select id="test-job" name="job">
              {[...endpoints.values()].reverse().map(({ endpoint, job }) => (
                <option value={job}>{printable(endpoint)}</option>
              ))}
            </select>
          </p>
          <p>
            The endpoint receives this event once, without retries, signed with its secret like any other. The attempt
            is listed above:
          </p>
          <pre tabindex={0}>{JSON.stringify(sample, null, 2)}</pre>
          <button id="test-send" type="submit">
            Send
          </button>
        </form>
      )}
    </details>
  );
};
