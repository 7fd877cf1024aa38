/** @jsxImportSource hono/jsx */
/**
 * The registered endpoints of one user, on the user's page.
 */
import type { FC } from "hono/jsx";
import { type EndpointRowData, EndpointRows } from "./endpoint-rows.tsx";

/** What is known of a user's endpoints: `refused` when the board's Valkey user may not read them. */
export type UserEndpoints = readonly EndpointRowData[] | "refused";

/** The section; nothing for users without registered endpoints. */
export const UserEndpointsPanel: FC<{ endpoints: UserEndpoints; now: number }> = ({ endpoints, now }) => {
  if (endpoints === "refused") {
    return (
      <p class="note" id="endpoints">
        Whether this user has registered endpoints is not known: the board's Valkey user may not read them.
      </p>
    );
  }
  if (endpoints.length === 0) return null;
  return (
    <section class="panel user-endpoints" id="endpoints" aria-labelledby="endpoints-title">
      <h2 id="endpoints-title">
        {endpoints.length} registered {endpoints.length === 1 ? "endpoint" : "endpoints"}
      </h2>
      <EndpointRows endpoints={endpoints} now={now} />
    </section>
  );
};
