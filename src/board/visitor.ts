/**
 * Who sent a request to the board: the address and, behind a trusted proxy, the name.
 */
import { isWithin, literalOf, type Network } from "../dns/address.ts";

const MAX_NAME = 200; // characters

/** Who sent a request. */
export interface Visitor {
  /** An IP address; `unknown` without a connection, as in a test. */
  readonly address: string;
  /** The name under which a trusted proxy authenticated them; undefined without one. */
  readonly name: string | undefined;
}

/** A request and its connection: the server that Bun passes to `fetch`. */
export interface Arrival {
  readonly request: Request;
  readonly connection: { requestIP?(request: Request): { readonly address: string } | null } | undefined;
}

/**
 * Find out who sent a request.
 *
 * For a proxy in `trusted`, the name is its `X-Forwarded-User`, and the address is the last one in `X-Forwarded-For` that is
 * not itself a trusted proxy. From anyone else both headers are ignored, since anyone can send them. No other header names
 * are accepted: a proxy passes unknown headers through, so clients could pick their own name.
 */
export function readVisitor({ request, connection }: Arrival, trusted: readonly Network[]): Visitor {
  const peer = unmapped(connection?.requestIP?.(request)?.address ?? "unknown");
  if (!isWithin(peer, trusted)) return { address: peer, name: undefined };
  const { headers } = request;
  let address = peer;
  for (const hop of (headers.get("x-forwarded-for") ?? "").split(",").reverse()) {
    const claimed = unmapped(withoutPort(hop.trim()));
    if (literalOf(claimed) === undefined) break;
    address = claimed;
    if (!isWithin(address, trusted)) break;
  }
  return { address, name: headers.get("x-forwarded-user")?.slice(0, MAX_NAME) || undefined };
}

/**
 * The network by which login tries are counted: an IPv4 address, or the /64 of an IPv6 address, since a client with one
 * such address usually has the whole /64.
 */
export function networkOf(address: string): string {
  if (!address.includes(":")) return address;
  const [groups = ""] = address.split("::");
  return `${[...groups.split(":"), "0", "0", "0", "0"].slice(0, 4).join(":")}::/64`;
}

/** An IPv4 address without the prefix that a dual-stack socket gives it. */
function unmapped(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/i, "");
}

/** Some proxies add the port: `192.0.2.1:4711`, `[2001:db8::1]:4711`. */
function withoutPort(text: string): string {
  return /^\[(.+)\](?::\d+)?$/.exec(text)?.[1] ?? /^([\d.]+):\d+$/.exec(text)?.[1] ?? text;
}
