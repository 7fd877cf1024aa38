/**
 * Who asks the board for something: where from, and, behind a proxy that knows, under which name.
 */
import { isWithin, literalOf, type Network } from "../dns/address.ts";

const MAX_NAME = 200; // characters

/** Who sent a request. */
export interface Visitor {
  /** An IP address; `unknown` when there is no connection, as in a test. */
  readonly address: string;
  /** The name under which a trusted proxy has let them in; undefined without one. */
  readonly name: string | undefined;
}

/** A request, and the connection on which it came: Bun's server, as it hands itself to `fetch`. */
export interface Arrival {
  readonly request: Request;
  readonly connection: { requestIP?(request: Request): { readonly address: string } | null } | undefined;
}

/**
 * Find out who sent a request.
 *
 * A proxy in `trusted` is believed: the name is its `X-Forwarded-User`, the address the last one in its `X-Forwarded-For` that is
 * no such proxy itself. From anybody else both headers say nothing: everybody can send them. One name for each, since a proxy
 * passes on what it does not know: with several, clients would choose their own.
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
 * What tries are counted by: an IPv4 address, or the /64 network of an IPv6 one, since whoever has one such address mostly has
 * all of its network.
 */
export function networkOf(address: string): string {
  if (!address.includes(":")) return address;
  const [groups = ""] = address.split("::");
  return `${[...groups.split(":"), "0", "0", "0", "0"].slice(0, 4).join(":")}::/64`;
}

/** IPv4 as it is, also on a socket that takes both. */
function unmapped(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/i, "");
}

/** Some proxies name the port, too: `192.0.2.1:4711`, `[2001:db8::1]:4711`. */
function withoutPort(text: string): string {
  return /^\[(.+)\](?::\d+)?$/.exec(text)?.[1] ?? /^([\d.]+):\d+$/.exec(text)?.[1] ?? text;
}
