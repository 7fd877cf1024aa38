/** @jsxImportSource hono/jsx */
/**
 * The form that sends a test event, and says beforehand what will be sent.
 */
import type { FC } from "hono/jsx";
import type { Delivery } from "../log/deliveries.ts";
import { TEST_DATA, TEST_EVENT } from "../operations/test-event.ts";
import { printable } from "../runtime/printable.ts";

/** Nothing is sent before the button in it is pressed. */
export const TestForm: FC<{ userId: string; deliveries: readonly Delivery[] }> = ({ userId, deliveries }) => {
  const kept = deliveries.filter(({ state, job }) => state !== "gone" && job !== undefined);
  const endpoints = new Map(kept.toReversed().map((delivery) => [delivery.endpoint, delivery])); // the newest job of each
  const sample = { id: "…", event: TEST_EVENT, timestamp: "…", data: TEST_DATA };
  return (
    <details class="test" id="test">
      <summary>Send a test event</summary>
      {endpoints.size === 0 ? (
        <p>Not possible now: none of this user's jobs is kept any more, and only a job knows the endpoint's secret.</p>
      ) : (
        <form method="post" action="/actions/test">
          <input type="hidden" name="user" value={userId} />
          <p>
            <label for="test-job">To the endpoint</label>
            <select id="test-job" name="job">
              {[...endpoints.values()].reverse().map(({ endpoint, job }) => (
                <option value={job}>{printable(endpoint)}</option>
              ))}
            </select>
          </p>
          <p>
            This is what it gets, once and without retries, signed with its secret as every event is, and counted among
            the attempts above:
          </p>
          <pre tabindex={0}>{JSON.stringify(sample, null, 2)}</pre>
          <button id="test-send" type="submit">
            Send it
          </button>
        </form>
      )}
    </details>
  );
};
