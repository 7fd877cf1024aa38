/**
 * Which URLs may be delivered to, as far as the URL itself tells. What its name resolves to is judged with each connection.
 */
import type { BlockedCode } from "../delivery/outcome.ts";
import { blockedRange, literalOf, type Network } from "../dns/address.ts";
import type { Target } from "./dial.ts";

/** Ports from the first to the last, both included. */
export type PortRange = readonly [first: number, last: number];

/** Read a port or a range of ports, as in `443` or `8000-8999`; undefined when it is neither. */
export function parsePortRange(text: string): PortRange | undefined {
  const [, first, last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text) ?? [];
  const range: PortRange = [Number(first), Number(last)];
  return range[0] >= 1 && range[0] <= range[1] && range[1] <= 65_535 ? range : undefined;
}

/** What the operator says about where deliveries may go. */
export interface DestinationRules {
  /** Ranges that may be reached although they are not public. */
  readonly allowNetworks: readonly Network[];
  /** Ranges that may not be reached whatever else says so. */
  readonly denyNetworks?: readonly Network[];
  /** The only ports that may be reached; all when empty. */
  readonly allowPorts?: readonly PortRange[];
  /** Whether `http://` URLs are refused. */
  readonly requireHttps?: boolean;
}

/** Why a URL may not be called, as an outcome says it: the kind of its address in `range`, else a code. */
export interface Refusal {
  readonly kind: "blocked";
  readonly code?: BlockedCode;
  readonly range?: string;
}

/** The port to which a URL leads, the one of its scheme included. */
export function portOf(url: URL): number {
  return url.port === "" ? (url.protocol === "https:" ? 443 : 80) : Number(url.port);
}

/**
 * Say why a URL may not be called, as far as it tells by itself: an address in it, its port, its scheme.
 *
 * Nothing is looked up, so that what is refused here shows nothing of the network inside.
 *
 * @returns undefined when it may be called, if its name leads to addresses that may be reached
 */
export function refusalOf(url: URL, rules: DestinationRules): Refusal | undefined {
  const { allowNetworks, denyNetworks = [], allowPorts = [], requireHttps = false } = rules;
  const literal = literalOf(url.hostname);
  const range = literal === undefined ? undefined : blockedRange(literal, allowNetworks, denyNetworks);
  if (range !== undefined) return { kind: "blocked", range };
  if (requireHttps && url.protocol !== "https:") return { kind: "blocked", code: "https_required" };
  const port = portOf(url);
  const isOpen = allowPorts.length === 0 || allowPorts.some(([first, last]) => first <= port && port <= last);
  return isOpen ? undefined : { kind: "blocked", code: "blocked_port" };
}

/** What a URL says about where to go, worked out once. */
export interface Destination {
  readonly target: Target;
  readonly requestLine: string;
  /** Why it may not be called, where the URL tells by itself. */
  readonly refusal: Refusal | undefined;
}

/** Work out all that a URL says. */
export function describeDestination(url: URL, rules: DestinationRules): Destination {
  return {
    target: targetOf(url),
    requestLine: `POST ${url.pathname}${url.search} HTTP/1.1\r\n`,
    refusal: refusalOf(url, rules),
  };
}

/** Where a connection for a URL leads. */
export function targetOf(url: URL): Target {
  const literal = literalOf(url.hostname);
  return {
    origin: url.origin,
    isSecure: url.protocol === "https:",
    host: literal ?? url.hostname,
    isLiteral: literal !== undefined,
    port: portOf(url),
  };
}
