/** @jsxImportSource hono/jsx */
/**
 * Which of a user's endpoints get an event that names none, and why the others do not.
 */
import type { FC } from "hono/jsx";
import type { Explanation, Reception } from "../registry/explain.ts";
import { printable } from "../runtime/printable.ts";
import { QueryFields } from "./endpoint-missed.tsx";
import { endpointPath } from "./endpoint-path.ts";
import { Mark } from "./layout.tsx";

interface ExplainProps {
  readonly userId: string;
  readonly id: string;
  readonly eventTypes: readonly string[];
  /** Undefined before a type was chosen. */
  readonly explanation: Explanation | undefined;
}

/** The form, closed at first, and what it found. */
export const ExplainPanel: FC<ExplainProps> = ({ userId, id, eventTypes, explanation }) => {
  const path = endpointPath(userId, id);
  return (
    <details class="panel explain" id="explain" open={explanation !== undefined}>
      <summary>Which endpoints get an event?</summary>
      <form method="get" action={`${path.split("?")[0]}#explain`}>
        <QueryFields path={path} />
        <label for="explain-type">Event type</label>
        <select id="explain-type" name="explain">
          {eventTypes.map((type) => (
            <option value={type} selected={type === explanation?.event}>
              {type}
            </option>
          ))}
        </select>
        <button id="explain-show" type="submit">
          Explain
        </button>
        <span class="note">For events that name no endpoint, enqueued now.</span>
      </form>
      {explanation !== undefined && (
        <>
          <p class="explain-summary">
            <b>{printable(explanation.event)}</b>: {explanation.summary}
          </p>
          <ul>
            {explanation.endpoints.map(({ id: other, reception, why }) => (
              <li class={KINDS[reception.kind]}>
                <Mark kind={KINDS[reception.kind]} />
                {other === id ? <b>{other}</b> : <a href={endpointPath(userId, other)}>{other}</a>}
                <span>{printable(why)}</span>
              </li>
            ))}
          </ul>
        </>
      )}
    </details>
  );
};

const KINDS: Readonly<Record<Reception["kind"], "good" | "wait" | "bad">> = {
  gets: "good",
  waits: "wait",
  missed: "bad",
  unwanted: "bad",
  younger: "bad",
  damaged: "bad",
};
