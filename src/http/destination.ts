/**
 * Which URLs may be delivered to, judged by the URL alone. The addresses that its name resolves to are vetted per connection.
 */
import type { BlockedCode } from "../delivery/outcome.ts";
import { blockedRange, literalOf, type Network } from "../dns/address.ts";
import type { Target } from "./dial.ts";

/** A range of ports, both ends included. */
export type PortRange = readonly [first: number, last: number];

/** Read a port or a range of ports, as in `443` or `8000-8999`; undefined when it is neither. */
export function parsePortRange(text: string): PortRange | undefined {
  const [, first, last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text) ?? [];
  const range: PortRange = [Number(first), Number(last)];
  return range[0] >= 1 && range[0] <= range[1] && range[1] <= 65_535 ? range : undefined;
}

/** The operator's rules about where deliveries may go. */
export interface DestinationRules {
  /** Non-public networks that deliveries may reach. */
  readonly allowNetworks: readonly Network[];
  /** Networks that deliveries must not reach, even if allowed otherwise. */
  readonly denyNetworks?: readonly Network[];
  /** The only ports that deliveries may use; any port when empty. */
  readonly allowPorts?: readonly PortRange[];
  /** Whether `http://` URLs are refused. */
  readonly requireHttps?: boolean;
}

/** Why a URL may not be called, in the form of an outcome: the kind of its address in `range`, or a code. */
export interface Refusal {
  readonly kind: "blocked";
  readonly code?: BlockedCode;
  readonly range?: string;
}

/** The port of a URL, explicit or the default of its scheme. */
export function portOf(url: URL): number {
  return url.port === "" ? (url.protocol === "https:" ? 443 : 80) : Number(url.port);
}

/**
 * Explain why a URL may not be called, judging by the literal address in it, its port, and its scheme.
 *
 * Names are not looked up, so a refusal reveals nothing about the internal network.
 *
 * @returns undefined when it may be called, provided that its name resolves to allowed addresses
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

/** Everything about a delivery's destination that follows from the URL; computed once per URL. */
export interface Destination {
  readonly target: Target;
  readonly requestLine: string;
  /** Why the URL may not be called. */
  readonly refusal: Refusal | undefined;
}

/** Derive a {@link Destination} from a URL. */
export function describeDestination(url: URL, rules: DestinationRules): Destination {
  return {
    target: targetOf(url),
    requestLine: `POST ${url.pathname}${url.search} HTTP/1.1\r\n`,
    refusal: refusalOf(url, rules),
  };
}

/** The target to connect to for a URL. */
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
