/**
 * Endpoints as `fluxhook endpoints` prints them: never with a secret that was stored, nor with a URL's query.
 */
import { parseUrl } from "../delivery/endpoint-url.ts";
import { endpointName } from "../delivery/request.ts";
import type { MissedCounts } from "../missed/missed.ts";
import type { ListedEndpoint } from "../operations/endpoint-list.ts";
import { formatAgo, formatExact } from "../operations/moments.ts";
import type { EndpointState } from "../registry/endpoint.ts";
import type { EndpointHealth } from "../registry/health.ts";
import type { Endpoint } from "../registry/registry.ts";
import { printable, type Terminal } from "./terminal.ts";

/** An endpoint as the registry shows it, with its health where that was read. */
export type Shown = Endpoint & { readonly health?: EndpointHealth };

/** A time in JSON. @param ms  epoch ms */
export const isoOf = (ms: number | undefined): string | null => {
  const date = new Date(ms ?? Number.NaN);
  return Number.isNaN(date.getTime()) ? null : date.toISOString();
};

/** A URL without query and fragment, which may contain tokens; that there is a query is shown. */
export function describeUrl(url: string): string {
  const parsed = parseUrl(url);
  if (parsed === undefined) return "";
  return `${endpointName(parsed)}${parsed.search === "" ? "" : "?…"}`;
}

/** An endpoint's state in JSON. */
export const describeState = (state: EndpointState) => ({
  ...{ kind: state.kind, since: state.kind === "enabled" ? null : isoOf(state.since) },
  reason: state.kind === "disabled" ? state.reason : null,
});

/** An endpoint in JSON. */
export function describeEndpoint(user: string, endpoint: Shown) {
  const { id, version, url, description, events, rateLimit, headers, metadata, state, secrets, health } = endpoint;
  return {
    ...{ user, id, version, url: describeUrl(url), description, events },
    rate_limit: rateLimit && { per_second: rateLimit.perSecond, burst: rateLimit.burst ?? 1 },
    ...{ headers, metadata, state: describeState(state) },
    secrets: secrets.map(({ createdAt, expiresAt }) => ({
      ...{ created_at: isoOf(createdAt), expires_at: isoOf(expiresAt) },
    })),
    ...(health && { health: describeHealth(health) }),
    ...{ created_at: isoOf(endpoint.createdAt), updated_at: isoOf(endpoint.updatedAt) },
    damaged: endpoint.isDamaged === true,
  };
}

const describeHealth = ({ failingSince, failures, lastSuccessAt, warnedAt }: EndpointHealth) => ({
  ...{ failing_since: isoOf(failingSince), failures },
  ...{ last_success_at: isoOf(lastSuccessAt), warned_at: isoOf(warnedAt) },
});

/** What an endpoint missed, in JSON. */
export const describeMissed = ({ kept, dropped, droppedSince, bytes, oldest, newest }: MissedCounts) => ({
  ...{ kept, dropped, dropped_since: isoOf(droppedSince), bytes, oldest: isoOf(oldest), newest: isoOf(newest) },
});

const REASONS = { manual: "by hand", gone: "it answered 410", failing: "it kept failing" } as const;

/** An endpoint's state in a few words. */
export function nameState(terminal: Terminal, { state, isDamaged, health }: Shown): string {
  if (isDamaged) return terminal.paint("damaged", "red");
  if (state.kind === "disabled") {
    return terminal.paint(`disabled (${REASONS[state.reason] ?? printable(state.reason)})`, "red");
  }
  if (state.kind === "paused") return terminal.paint("paused", "yellow");
  return health?.failingSince === undefined ? "enabled" : terminal.paint("failing", "yellow");
}

const ago = (ms: number | undefined, nowMs: number): string => (ms === undefined ? "-" : formatAgo(nowMs - ms));

const MAX_LISTED_URL = 100; // characters: a longer one would push the table out of shape; show and --json have all of it

const shorten = (url: string): string => (url.length <= MAX_LISTED_URL ? url : `${url.slice(0, MAX_LISTED_URL - 1)}…`);

/** Print endpoints as a table. */
export function printEndpoints(terminal: Terminal, all: readonly ListedEndpoint[], nowMs: number): void {
  terminal.printTable([
    ["user", "endpoint", "state", "failures", "last 2xx", "changed", "events", "url"].map((name) =>
      terminal.paint(name, "dim"),
    ),
    ...all.map((one) => [
      ...[printable(one.userId), printable(one.id), nameState(terminal, one), `${one.health.failures}`],
      ...[ago(one.health.lastSuccessAt, nowMs), ago(one.updatedAt, nowMs)],
      ...[printable(one.events?.join(",") ?? "all"), printable(shorten(describeUrl(one.url)))],
    ]),
  ]);
}

/** Print all that is known of an endpoint, a line each. */
export function printEndpoint(
  terminal: Terminal,
  user: string,
  endpoint: Shown,
  nowMs: number,
  missed?: MissedCounts,
): void {
  const { id, version, url, description, events, rateLimit, headers, metadata, state, secrets, health } = endpoint;
  const pairs = (record: Readonly<Record<string, string>>) =>
    Object.entries(record).map(([name, value]) => `${name}: ${value}`);
  const since = state.kind === "enabled" ? "" : ` since ${formatExact(state.since)}`;
  const rows: [string, string][] = [
    ["endpoint", `${id} of ${user}`],
    ["state", `${nameState(terminal, endpoint)}${since}`],
    ["url", describeUrl(url)],
    ["description", description],
    ["events", events?.join(", ") ?? "all"],
    ["rate limit", rateLimit ? `${rateLimit.perSecond} per second, burst ${rateLimit.burst ?? 1}` : ""],
    ["headers", pairs(headers).join(", ")],
    ["metadata", pairs(metadata).join(", ")],
    ["secrets", secrets.map(({ createdAt, expiresAt }) => nameSecret(createdAt, expiresAt)).join("; ")],
    ["attempts", health === undefined ? "" : nameHealth(health, nowMs)],
    ["missed", missed === undefined ? "" : nameMissed(missed, nowMs)],
    ["created", formatExact(endpoint.createdAt)],
    ["changed", formatExact(endpoint.updatedAt)],
    ["version", version],
  ];
  terminal.printTable(
    rows.flatMap(([name, value]) =>
      value === "" ? [] : [[terminal.paint(name, "dim"), name === "state" ? value : printable(value)]],
    ),
  );
}

const nameSecret = (createdAt: number, expiresAt: number | undefined): string =>
  `${formatExact(createdAt)}${expiresAt === undefined ? "" : `, signs until ${formatExact(expiresAt)}`}`;

function nameHealth({ failingSince, failures, lastSuccessAt }: EndpointHealth, nowMs: number): string {
  const last = lastSuccessAt === undefined ? "no 2xx yet" : `last 2xx ${formatAgo(nowMs - lastSuccessAt)}`;
  if (failingSince === undefined) return last;
  return `failing since ${formatExact(failingSince)}, ${failures} failed; ${last}`;
}

/** How much an endpoint missed, in words. */
export function nameMissed({ kept, dropped, oldest }: MissedCounts, nowMs: number): string {
  if (kept === 0 && dropped === 0) return "nothing";
  const age = oldest === undefined ? "" : `, the oldest ${formatAgo(nowMs - oldest)}`;
  return `${kept} kept${age}${dropped > 0 ? `; ${dropped} older ones not` : ""}`;
}
