/** @jsxImportSource hono/jsx */
/**
 * The registered endpoints of one user, on the user's page.
 */
import type { FC } from "hono/jsx";
import { type EndpointRowData, EndpointRows } from "./endpoint-rows.tsx";

/** What is known of a user's endpoints: `refused` when the board's Valkey user may not read them. */
export type UserEndpoints = readonly EndpointRowData[] | "refused";

const SHOWN = 10; // before the rest is folded: the user's events come after them

/** Those that are off or fail come first where some are folded. */
function order(endpoints: readonly EndpointRowData[]): readonly EndpointRowData[] {
  if (endpoints.length <= SHOWN) return endpoints;
  const isWell = ({ state, health, isDamaged }: EndpointRowData) =>
    state.kind === "enabled" && health.failingSince === undefined && !isDamaged;
  return [...endpoints.filter((endpoint) => !isWell(endpoint)), ...endpoints.filter(isWell)];
}

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
  const ordered = order(endpoints);
  const folded = ordered.slice(SHOWN);
  return (
    <section class="panel user-endpoints" id="endpoints" aria-labelledby="endpoints-title">
      <h2 id="endpoints-title">
        {endpoints.length} registered {endpoints.length === 1 ? "endpoint" : "endpoints"}
      </h2>
      <EndpointRows endpoints={ordered.slice(0, SHOWN)} now={now} />
      {folded.length > 0 && (
        <details id="more-endpoints">
          <summary>{folded.length.toLocaleString("en-US")} more</summary>
          <EndpointRows endpoints={folded} now={now} />
        </details>
      )}
    </section>
  );
};
