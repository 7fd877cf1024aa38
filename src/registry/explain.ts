/**
 * Explains which of a user's endpoints get an event, and why the others do not. Pure.
 */
import { parseUrl } from "../delivery/endpoint-url.ts";
import { endpointName } from "../delivery/request.ts";
import type { DisabledReason, StoredEndpoint } from "./endpoint.ts";
import { byAge, isYounger, wants } from "./matching.ts";

/**
 * What happens to an event at one endpoint. Times are epoch ms.
 *
 * - `gets`      it is delivered
 * - `waits`     it is delivered once the pause ends
 * - `missed`    the endpoint is disabled: it is kept as missed, and can be replayed
 * - `unwanted`  the endpoint does not want this type
 * - `younger`   the endpoint was created after the event was enqueued
 * - `damaged`   what is stored of the endpoint cannot be read: its event fails, and can be redelivered once that is mended
 */
export type Reception =
  | { readonly kind: "gets" }
  | { readonly kind: "waits"; readonly since: number }
  | { readonly kind: "missed"; readonly reason: DisabledReason; readonly since: number }
  | { readonly kind: "unwanted"; readonly events: readonly string[] }
  | { readonly kind: "younger"; readonly createdAt: number }
  | { readonly kind: "damaged" };

/** What happens to an event at one endpoint, and why. */
export interface ExplainedEndpoint {
  readonly id: string;
  /** Its URL, without query and fragment, which may contain tokens. */
  readonly url: string;
  readonly reception: Reception;
  /** The same in words, as in `does not want it: wants file.*`. */
  readonly why: string;
}

/** Where an event goes. */
export interface Explanation {
  readonly event: string;
  /** In words, as in `to 2 of 3 endpoints` or `no endpoint wants it`. */
  readonly summary: string;
  /** All of the user's, oldest first. */
  readonly endpoints: readonly ExplainedEndpoint[];
}

/** Which event to explain. */
export interface ExplainOptions {
  /** When it was enqueued, epoch ms; now by default. */
  readonly enqueuedAt?: number | undefined;
}

/**
 * Explain where an event of a type goes that names no endpoint.
 *
 * @param all         the user's endpoints
 * @param enqueuedAt  epoch ms
 */
export function explain(all: readonly StoredEndpoint[], event: string, enqueuedAt: number): Explanation {
  const endpoints = [...all].sort(byAge).map((endpoint): ExplainedEndpoint => {
    const url = parseUrl(endpoint.document.url);
    const reception = receptionOf(endpoint, event, enqueuedAt);
    return { id: endpoint.id, url: url === undefined ? "" : endpointName(url), reception, why: describe(reception) };
  });
  return { event, summary: summarize(endpoints), endpoints };
}

function receptionOf(endpoint: StoredEndpoint, event: string, enqueuedAt: number): Reception {
  const { document, state, isDamaged } = endpoint;
  if (isDamaged) return { kind: "damaged" };
  if (!wants(document.events, event)) return { kind: "unwanted", events: document.events ?? [] };
  if (isYounger(endpoint, enqueuedAt)) return { kind: "younger", createdAt: document.createdAt };
  if (state.kind === "paused") return { kind: "waits", since: state.since };
  if (state.kind === "disabled") return { kind: "missed", reason: state.reason, since: state.since };
  return { kind: "gets" };
}

const DISABLED: Readonly<Record<DisabledReason, string>> = {
  manual: "disabled by hand",
  gone: "disabled, since it answered 410",
  failing: "disabled, since its attempts kept failing",
};

function describe(reception: Reception): string {
  switch (reception.kind) {
    case "gets":
      return "gets it";
    case "waits":
      return `paused since ${time(reception.since)}: the event waits`;
    case "missed":
      return `${DISABLED[reception.reason] ?? "disabled"}, on ${time(reception.since)}: the event is kept as missed`;
    case "unwanted":
      return `does not want it: wants ${reception.events.join(", ")}`;
    case "younger":
      return `created on ${time(reception.createdAt)}, after the event was enqueued`;
    case "damaged":
      return "what is stored of it cannot be read: the event fails";
  }
}

function summarize(endpoints: readonly ExplainedEndpoint[]): string {
  if (endpoints.length === 0) return "the user has no endpoints";
  const count = (...kinds: Reception["kind"][]) =>
    endpoints.filter(({ reception }) => kinds.includes(reception.kind)).length;
  const getting = count("gets", "waits", "damaged");
  const missed = count("missed");
  if (getting + missed === 0) return count("younger") > 0 ? "only younger endpoints want it" : "no endpoint wants it";
  const all = `${endpoints.length} ${endpoints.length === 1 ? "endpoint" : "endpoints"}`;
  return `to ${getting} of ${all}${missed > 0 ? `, ${missed} missed` : ""}`;
}

function time(ms: number): string {
  const date = new Date(ms);
  return Number.isNaN(date.getTime()) ? "an unknown day" : date.toISOString().replace(/^(.+)T(.+)\.\d+Z$/, "$1 $2 UTC");
}
