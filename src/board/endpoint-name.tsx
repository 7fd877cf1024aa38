/** @jsxImportSource hono/jsx */
/**
 * An endpoint's URL, with its host made prominent, and the way to a registered one's page.
 */
import type { FC } from "hono/jsx";
import { printable } from "../runtime/printable.ts";
import { Copyable } from "./copy-button.tsx";
import { namedEndpointPath } from "./endpoint-path.ts";

interface EndpointNameProps {
  /** Without its query; of a registered endpoint its id if it has none. */
  readonly url: string;
  readonly userId?: string | undefined;
  /** The id of a registered endpoint. */
  readonly id?: string | undefined;
}

export const EndpointName: FC<EndpointNameProps> = ({ url, userId, id }) => {
  const path = namedEndpointPath(userId, id);
  return (
    <p class="endpoint">
      {path !== undefined && (
        <>
          <a href={path}>{id}</a>{" "}
        </>
      )}
      {(path === undefined || url !== id) && (
        <Copyable what="endpoint" text={url}>
          <EndpointUrl url={url} />
        </Copyable>
      )}
    </p>
  );
};

/** A URL with its host made prominent. */
export const EndpointUrl: FC<{ url: string }> = ({ url }) => {
  const parsed = URL.parse(url);
  if (parsed === null) return <>{printable(url)}</>;
  return (
    <span>
      {`${parsed.protocol}//`}
      <b>{parsed.host}</b>
      {parsed.pathname}
    </span>
  );
};
