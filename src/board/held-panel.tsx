/** @jsxImportSource hono/jsx */
/**
 * What operators hold, on the overview and on a user's page, with a button that releases it.
 */
import type { FC } from "hono/jsx";
import type { ShownHold } from "../operations/hold.ts";
import { formatExact, formatIn } from "../operations/moments.ts";
import { printable } from "../runtime/printable.ts";
import { Mark, type Site } from "./layout.tsx";

export interface HeldPanelProps {
  readonly site: Site;
  readonly holds: readonly ShownHold[];
  /** Epoch ms. */
  readonly now: number;
  /** Whose page it is on, if any. */
  readonly userId?: string;
}

const WORDS = { host: "Host", url: "Endpoint", user: "User" } as const;

/** The panel; nothing while nothing is held. */
export const HeldPanel: FC<HeldPanelProps> = ({ site, holds, now, userId }) =>
  holds.length === 0 ? null : (
    <section class="panel held" id="held">
      <h2>Held by an operator</h2>
      <p>Events of these wait without using attempts or aging, until the time is over or they are released.</p>
      <ul>
        {holds.map(({ id, kind, name, until, reason, by }) => (
          <li id={`h-${printable(id)}`}>
            <Mark kind="wait" />
            <span>
              {WORDS[kind]} <code>{printable(name)}</code>
              {reason !== undefined && <>: {printable(reason)}</>}
              <span class="aside">
                {" "}
                ends <time title={formatExact(until)}>{formatIn(until - now)}</time>
                {by !== undefined && <>, held by {printable(by)}</>}
              </span>
            </span>
            {!site.isReadonly && (
              <form method="post" action="/actions/release">
                <input type="hidden" name="hold" value={id} />
                {userId !== undefined && <input type="hidden" name="user" value={userId} />}
                <button type="submit" id={`release-${printable(id)}`}>
                  Release
                  <span class="unseen"> {printable(name)}</span>
                </button>
              </form>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
