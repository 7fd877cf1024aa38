/**
 * Reads what the registry stores of a user's endpoints. Pure.
 */
import { isEndpointUrl } from "../delivery/endpoint-url.ts";
import {
  beganField,
  type EndpointDocument,
  type EndpointState,
  type Pause,
  pausesField,
  type RateLimit,
  type StoredEndpoint,
  stateField,
} from "./endpoint.ts";

/**
 * Read a user's endpoints from the fields of their hash. Deleted ones are left out. One whose document is damaged is marked so, and
 * keeps none of the others from being read. Never throws.
 */
export function parseStored(fields: Readonly<Record<string, string>>): StoredEndpoint[] {
  return Object.entries(fields).flatMap(([id, text]) => {
    const state = fields[stateField(id)];
    if (id.includes("/") || state?.startsWith("deleted ")) return [];
    const space = text.indexOf(" ");
    const document = parseDocument(text.slice(space + 1));
    const pauses = parsePauses(fields[pausesField(id)]);
    const version = /^\S*/.exec(text)?.[0] as string; // as the scripts read it
    const began = Number(fields[beganField(id)]) || undefined;
    const endpoint = {
      id,
      version,
      document: document ?? DAMAGED,
      state: parseState(state),
      pauses,
      ...(began && { began }),
    };
    return document === undefined || space <= 0 ? [{ ...endpoint, isDamaged: true }] : [endpoint];
  });
}

const DAMAGED: EndpointDocument = { url: "", events: null, secrets: [], createdAt: 0, updatedAt: 0 };

/** Only what others rely on is checked: newer versions may store more. */
function parseDocument(text: string): EndpointDocument | undefined {
  try {
    const found = JSON.parse(text) as EndpointDocument;
    const { url, events, secrets, rateLimit, headers = {}, createdAt, updatedAt } = found;
    const isReadable =
      isEndpointUrl(url) &&
      (events === null || events.every((filter) => typeof filter === "string")) &&
      secrets.length > 0 &&
      secrets.every(({ secret }) => typeof secret === "string") &&
      ((rateLimit ?? null) === null || (rateLimit as RateLimit).perSecond > 0) &&
      typeof headers === "object" &&
      Object.values(headers).every(({ value }) => typeof value === "string") &&
      [createdAt, updatedAt].every(Number.isFinite);
    return isReadable ? found : undefined;
  } catch {
    return undefined;
  }
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
