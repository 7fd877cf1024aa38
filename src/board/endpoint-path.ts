/**
 * Where the pages of registered endpoints are, and what the messages on them say after an action. Pure.
 */
import { ENDPOINT_ID } from "../delivery/limits.ts";
import type { Replayed } from "../missed/replay.ts";
import { type Notice, userPath } from "./layout.tsx";

type Query = Readonly<Record<string, string | undefined>>;

/** A path with the fields of a query that are set. It may have a query already. */
export function withQuery(path: string, query: Query): string {
  const fields = Object.entries(query).filter((field): field is [string, string] => field[1] !== undefined);
  return fields.length === 0 ? path : `${path}${path.includes("?") ? "&" : "?"}${new URLSearchParams(fields)}`;
}

/** Path of an endpoint's page, or of one below it. Users that a path cannot hold go into the query, see {@link userPath}. */
export function endpointPath(userId: string, id: string, below: "" | "/replay" = "", query: Query = {}): string {
  const path = userPath(userId);
  if (path.includes("?")) return withQuery(`/endpoint${below}`, { user: userId, endpoint: id, ...query });
  return withQuery(`${path}/endpoints/${encodeURIComponent(id)}${below}`, query);
}

/** Path of the page of the endpoint that a job or an attempt names; undefined when it names none, or an impossible one. */
export function namedEndpointPath(userId: string | undefined, id: unknown): string | undefined {
  if (userId === undefined || typeof id !== "string" || !ENDPOINT_ID.test(id)) return undefined;
  return endpointPath(userId, id);
}

/** Path of the page of one of a user's endpoints if an action was sent from there; undefined otherwise. */
export function endpointPathOfSender(referrer: string | undefined, userId: string): string | undefined {
  const url = URL.parse(referrer ?? "");
  const id = url?.searchParams.get("endpoint") ?? url?.pathname.split("/").at(-1);
  const path = namedEndpointPath(userId, id);
  return path !== undefined && path.split("?")[0] === url?.pathname ? path : undefined;
}

/** What a replay did, as the name of a message. */
export const replayNotice = ({ replayed, skipped, left }: Replayed): string =>
  `replayed-${replayed}-${skipped}-${left}`;

const NOTICES: Readonly<Record<string, Notice>> = {
  paused: { kind: "wait", text: "Paused. Its events wait until it is resumed." },
  resumed: { kind: "good", text: "Resumed. Its events are being delivered." },
  enabled: { kind: "good", text: "Enabled. Its events are being delivered." },
  disabled: { kind: "wait", text: "Disabled. Its events are kept as missed." },
  tested: { kind: "good", text: "Test event queued. The attempt will show up here." },
  "no-key": { kind: "bad", text: "This board has no key to seal a new secret with, so nothing was changed." },
  secrets: {
    kind: "bad",
    text: "Too many secrets still sign, so nothing was changed. Wait until one has expired, or let the present ones not sign at all.",
  },
  conflict: {
    kind: "bad",
    text: "The endpoint was changed meanwhile, or its state does not allow this. Nothing was changed.",
  },
};

/** The message of a name, which comes from the URL: numbers are all that it can bring along. */
export function endpointNotice(name: string): Notice | undefined {
  if (Object.hasOwn(NOTICES, name)) return NOTICES[name];
  const [, ...counts] = /^replayed-(\d{1,9})-(\d{1,9})-(\d{1,9})$/.exec(name) ?? [];
  const [replayed, skipped = 0, left = 0] = counts.map(Number);
  if (replayed === undefined) return undefined;
  const others = [
    skipped > 0 ? `${formatEvents(skipped)} ${skipped === 1 ? "is" : "are"} pending already.` : "",
    left > 0 ? `${formatEvents(left)} still missed.` : "",
  ];
  const text = [`Replayed: ${formatEvents(replayed)} queued for delivery.`, ...others].filter(Boolean).join(" ");
  return { kind: replayed > 0 ? "good" : "wait", text };
}

/** `1 event`, `1,200 events`. */
export const formatEvents = (count: number): string =>
  `${count.toLocaleString("en-US")} ${count === 1 ? "event" : "events"}`;
