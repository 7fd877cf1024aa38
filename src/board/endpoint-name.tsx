/** @jsxImportSource hono/jsx */
/**
 * An endpoint's URL, with its host made prominent.
 */
import type { FC } from "hono/jsx";
import { printable } from "../runtime/printable.ts";
import { Copyable } from "./copy-button.tsx";

/** @param url  without its query */
export const EndpointName: FC<{ url: string }> = ({ url }) => {
  const parsed = URL.parse(url);
  return (
    <p class="endpoint">
      <Copyable what="endpoint" text={url}>
        {parsed === null ? (
          printable(url)
        ) : (
          <span>
            {`${parsed.protocol}//`}
            <b>{parsed.host}</b>
            {parsed.pathname}
          </span>
        )}
      </Copyable>
    </p>
  );
};
