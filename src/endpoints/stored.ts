/**
 * Reads what the registry stores of a user's endpoints. Pure.
 */
import {
  type EndpointDocument,
  type EndpointState,
  type Pause,
  pausesField,
  type StoredEndpoint,
  stateField,
} from "./endpoint.ts";

/**
 * Read a user's endpoints from the fields of their hash. Deleted ones are left out.
 *
 * @throws  SyntaxError when a document is damaged
 */
export function parseStored(fields: Readonly<Record<string, string>>): StoredEndpoint[] {
  return Object.entries(fields).flatMap(([id, text]) => {
    const state = fields[stateField(id)];
    if (id.includes("/") || state?.startsWith("deleted ")) return [];
    const space = text.indexOf(" ");
    const document = JSON.parse(text.slice(space + 1)) as EndpointDocument;
    const pauses = parsePauses(fields[pausesField(id)]);
    return [{ id, version: text.slice(0, space), document, state: parseState(state), pauses }];
  });
}

function parseState(text: string | undefined): EndpointState {
  const [kind, ...rest] = (text ?? "").split(" ");
  if (kind === "paused") return { kind, since: Number(rest[0]) };
  if (kind !== "disabled") return { kind: "enabled" };
  return { kind, reason: rest[0] as "manual", since: Number(rest[1]) };
}

function parsePauses(text: string | undefined): Pause[] {
  return (text ?? "").split(" ").flatMap((span) => {
    const [from, until] = span.split("-").map(Number);
    return from !== undefined && until !== undefined ? [{ from, until }] : [];
  });
}
