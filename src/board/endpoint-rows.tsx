/** @jsxImportSource hono/jsx */
/**
 * Registered endpoints in a list: of all users, or on a user's page.
 */
import type { FC } from "hono/jsx";
import { parseUrl } from "../delivery/endpoint-url.ts";
import { endpointName } from "../delivery/request.ts";
import type { MissedCounts } from "../missed/missed.ts";
import type { ListedEndpoint } from "../operations/endpoint-list.ts";
import { printable } from "../runtime/printable.ts";
import { EndpointUrl } from "./endpoint-name.tsx";
import { endpointPath } from "./endpoint-path.ts";
import { describeMissed, describeWanted, EndpointHealthNote, EndpointStateBadge } from "./endpoint-state.tsx";
import { userPath } from "./layout.tsx";

/** An endpoint in a list. */
export interface EndpointRowData extends ListedEndpoint {
  readonly missed: MissedCounts;
}

interface RowsProps {
  readonly endpoints: readonly EndpointRowData[];
  /** Say whose they are. */
  readonly withUsers?: boolean;
  /** Epoch ms. */
  readonly now: number;
}

/** A row for each endpoint, which leads to its page. */
export const EndpointRows: FC<RowsProps> = ({ endpoints, withUsers = false, now }) => (
  <ul class="endpoints">
    {endpoints.map((endpoint) => (
      <Row endpoint={endpoint} withUser={withUsers} now={now} />
    ))}
  </ul>
);

const Row: FC<{ endpoint: EndpointRowData; withUser: boolean; now: number }> = ({ endpoint, withUser, now }) => {
  const { userId, id, events, missed } = endpoint;
  const words = describeMissed(missed);
  return (
    <li id={`ep-${userId}-${id}`}>
      <div class="endpoint-what">
        <p>
          <a class="endpoint-id" href={endpointPath(userId, id)}>
            {id}
          </a>
          {withUser && (
            <>
              {" "}
              <span class="note">
                of <a href={userPath(userId)}>{printable(userId)}</a>
              </span>
            </>
          )}
        </p>
        <p class="endpoint">
          <ShownUrl url={endpoint.url} />
        </p>
      </div>
      <EndpointStateBadge endpoint={endpoint} now={now} />
      <p class="note endpoint-facts">
        <EndpointHealthNote endpoint={endpoint} now={now} />
        <span>wants {describeWanted(events)}</span>
        {words !== undefined && <span>missed: {words}</span>}
      </p>
    </li>
  );
};

/** A registered endpoint's URL, without its query, which may contain tokens. */
export const ShownUrl: FC<{ url: string }> = ({ url }) => {
  const parsed = parseUrl(url);
  if (parsed === undefined) return <>no valid URL</>;
  return (
    <>
      <EndpointUrl url={endpointName(parsed)} />
      {parsed.search !== "" && "?…"}
    </>
  );
};
