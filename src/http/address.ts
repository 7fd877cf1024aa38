/**
 * Which addresses may be reached, and how a host name becomes addresses that were all checked.
 */
import type { LookupFunction } from "node:net";
import ipaddr from "ipaddr.js";
import type { FailureCode, FaultCode } from "../outcome.ts";

/** A range of addresses, parsed. */
export type Network = [ipaddr.IPv4 | ipaddr.IPv6, number];

/** An address as a resolver gives it. */
export interface Address {
  readonly address: string;
  readonly family: 4 | 6;
}

/** Host name to addresses. Rejects with a {@link LookupError}, or a `code` as Node's dns module does (`ENOTFOUND`, …). */
export type Resolve = (hostname: string) => Promise<readonly Address[]>;

const GLOBAL_UNICAST: Network = ipaddr.parseCIDR("2000::/3"); // RFC 4291 2.4: all of IPv6 that is handed out so far

/**
 * Parse a CIDR such as `10.0.0.0/8` or `fd00::/8`; a bare address is a range of one.
 *
 * @returns undefined when it is not one, or could never match: IPv4-mapped IPv6 is unwrapped before it is compared
 */
export function parseNetwork(text: string): Network | undefined {
  const [base, ...bits] = text.split("/") as [string, ...string[]];
  if (!isAddress(base)) return undefined; // parseCIDR alone would read 010.0.0.0/8 as 8.0.0.0/8
  const address = ipaddr.parse(base);
  if (address.kind() === "ipv6" && (address as ipaddr.IPv6).isIPv4MappedAddress()) return undefined;
  if (bits.length === 0) return [address, address.kind() === "ipv4" ? 32 : 128];
  return ipaddr.isValidCIDR(text) ? ipaddr.parseCIDR(text) : undefined;
}

/**
 * Say why an address may not be reached.
 *
 * Public unicast only: for IPv6 that is 2000::/3 without its special ranges, so that unassigned space, site-local and
 * IPv4-compatible addresses are out without being listed. IPv4-mapped IPv6 counts as the IPv4 address inside.
 *
 * @param allowed  ranges that may be reached although they are not public
 * @returns undefined when it may be reached, else the kind of address: `loopback`, `private`, `linkLocal`, …
 */
export function blockedRange(address: string, allowed: readonly Network[]): string | undefined {
  if (!isAddress(address)) return "invalid";
  const ip = ipaddr.process(address);
  if (allowed.some((network) => contains(network, ip))) return undefined;
  const range = ip.range();
  if (range !== "unicast") return range;
  return ip.kind() === "ipv4" || contains(GLOBAL_UNICAST, ip) ? undefined : "reserved";
}

/** The address when a URL's hostname is a literal, unwrapped of its brackets; undefined for a name. */
export function literalOf(hostname: string): string | undefined {
  const bare = hostname.startsWith("[") ? hostname.slice(1, -1) : hostname;
  return isAddress(bare) ? bare : undefined;
}

/**
 * Strict dotted quads only: URL parsing has already turned every other spelling into one. Not `::1.2.3.4` either, which
 * ipaddr.js takes for `::ffff:1.2.3.4`: what is checked must be what is dialled.
 */
function isAddress(text: string): boolean {
  if (/^::\d+\./.test(text)) return false;
  return ipaddr.IPv4.isValidFourPartDecimal(text) || ipaddr.IPv6.isValid(text);
}

function contains([base, bits]: Network, ip: ipaddr.IPv4 | ipaddr.IPv6): boolean {
  return base.kind() === ip.kind() && ip.match(base, bits);
}

/** Looking up a host ended without an address that may be used. */
export class LookupError extends Error {
  override readonly name = "LookupError";
  constructor(
    readonly result:
      | { readonly kind: "failure"; readonly code: FailureCode; readonly cause?: string }
      | { readonly kind: "fault"; readonly code: FaultCode }
      | { readonly kind: "blocked"; readonly range: string },
  ) {
    super();
  }
}

/**
 * Make what node:net asks for the address of each new connection, so that it dials what was checked, and nothing else.
 *
 * Every address must be allowed, not just the first: the connection may go to any of them.
 *
 * @returns a function that fails with a {@link LookupError} only
 */
export function createLookup(resolve: Resolve, allowed: readonly Network[]): LookupFunction {
  async function resolveChecked(hostname: string): Promise<[Address, ...Address[]]> {
    const [first, ...rest] = await resolve(hostname);
    if (first === undefined) throw new LookupError({ kind: "failure", code: "dns" });
    for (const { address } of [first, ...rest]) {
      const range = blockedRange(address, allowed);
      if (range !== undefined) throw new LookupError({ kind: "blocked", range });
    }
    return [first, ...rest];
  }
  return (hostname, { all }, callback) => {
    resolveChecked(hostname).then(
      (addresses) => (all ? callback(null, addresses) : callback(null, addresses[0].address, addresses[0].family)),
      (error) => callback(error instanceof LookupError ? error : describeFailure(error), []),
    );
  };
}

const NO_SUCH_NAME = new Set(["ENOTFOUND", "ENODATA", "ENONAME", "EBADNAME"]);

/** A name that does not exist is the customer's; a resolver that does not answer is ours. */
function describeFailure(error: NodeJS.ErrnoException): LookupError {
  if (NO_SUCH_NAME.has(error.code ?? "")) return new LookupError({ kind: "failure", code: "dns" });
  return new LookupError({ kind: "fault", code: "resolver" });
}
