/**
 * Which addresses deliveries may reach, and how a host name is resolved to vetted addresses only.
 */
import type { LookupFunction } from "node:net";
import ipaddr from "ipaddr.js";
import type { FailureCode, FaultCode } from "../delivery/outcome.ts";

/** A range of addresses, parsed. */
export type Network = [Ip, number];

/** An address, as a resolver returns it. */
export interface Address {
  readonly address: string;
  readonly family: 4 | 6;
}

/** Resolves a host name. Rejects with a {@link LookupError}, or an error with a `code` like Node's dns module (`ENOTFOUND`, …). */
export type Resolve = (hostname: string) => Promise<readonly Address[]>;

type Ip = ipaddr.IPv4 | ipaddr.IPv6;

const GLOBAL_UNICAST: Network = ipaddr.parseCIDR("2000::/3"); // RFC 4291 2.4: all IPv6 space allocated so far

/** Addresses that look public, but that clouds use internally: they lead to services of the cloud this machine runs in. */
const CLOUD_SERVICES: readonly Network[] = [
  "168.63.129.16/32", // Azure: each virtual machine's host agent, which hands out its keys (learn.microsoft.com, what-is-ip-address-168-63-129-16)
  "161.26.0.0/16", // IBM Cloud: infrastructure services (cloud.ibm.com/docs/vpc, service endpoints)
  "166.8.0.0/14", // IBM Cloud: private endpoints of its services (same page)
  "199.36.153.4/30", // Google Cloud: restricted.googleapis.com, not announced to the internet (cloud.google.com/vpc/docs)
  "199.36.153.8/30", // Google Cloud: private.googleapis.com (same page, also for the next two)
  "2600:2d00:2:1000::/64",
  "2600:2d00:2:2000::/64",
].map((range) => ipaddr.parseCIDR(range));

const NAT64: Network = ipaddr.parseCIDR("64:ff9b::/96"); // RFC 6052
const LOCAL_NAT64: Network = ipaddr.parseCIDR("64:ff9b:1::/48"); // RFC 8215
const TEREDO: Network = ipaddr.parseCIDR("2001::/32"); // RFC 4380
const NAT64_LENGTHS = [48, 56, 64, 96]; // RFC 6052 2.2, those that fit into the local prefix
/** Prefixes of IPv6 addresses that embed an IPv4 address, and the byte at which it starts. */
const TRANSITION: readonly (readonly [Network, at: number])[] = [
  [NAT64, 12],
  [ipaddr.parseCIDR("::ffff:0:0:0/96"), 12], // IPv4-translated, RFC 2765
  [ipaddr.parseCIDR("::/96"), 12], // IPv4-compatible, RFC 4291
  [ipaddr.parseCIDR("2002::/16"), 2], // 6to4, RFC 3056
  [TEREDO, 4], // its server
];
const ISATAP = /^0[02]005efe/; // the last eight bytes in hex, RFC 5214 6.1

/**
 * Parse a CIDR such as `10.0.0.0/8` or `fd00::/8`. A bare address is a range of one.
 *
 * @returns undefined when it is invalid, or could never match: IPv4-mapped IPv6 is unwrapped before it is compared
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
 * Explain why an address is blocked.
 *
 * Only public unicast is allowed. For IPv6 that is 2000::/3 without its special ranges, so unassigned space, site-local and
 * IPv4-compatible addresses are blocked without being listed. Public ranges that clouds use internally are blocked too.
 *
 * IPv4-mapped IPv6 is treated as the IPv4 address inside, and so is NAT64's `64:ff9b::/96`. In every other form that embeds an
 * IPv4 address (NAT64 with a local prefix, 6to4, Teredo, ISATAP, …) both addresses must be allowed: a range that allows the outer
 * address does not allow the inner one.
 *
 * @param allowed  non-public ranges that are allowed
 * @param denied   ranges that are blocked even if allowed otherwise
 * @returns undefined when it is allowed, otherwise the kind of address: `loopback`, `private`, `linkLocal`, `denied`, …
 */
export function blockedRange(
  address: string,
  allowed: readonly Network[],
  denied: readonly Network[] = [],
): string | undefined {
  return isAddress(address) ? rangeOf(ipaddr.process(address), allowed, denied) : "invalid";
}

function rangeOf(ip: Ip, allowed: readonly Network[], denied: readonly Network[]): string | undefined {
  if (denied.some((network) => contains(network, ip))) return "denied";
  const opening = allowed.filter((network) => contains(network, ip));
  const range = opening.length > 0 || contains(NAT64, ip) ? undefined : specialRange(ip);
  if (range !== undefined || ip.kind() === "ipv4") return range;
  if (contains(LOCAL_NAT64, ip)) return insideLocalNat64(ip, allowed, denied);
  for (const inner of ipv4Inside(ip)) {
    const innerRange = rangeOf(inner, allowed, denied);
    if (innerRange !== undefined) return innerRange;
  }
  return undefined;
}

/** The kind of an address that no setting mentions; undefined for a public one. */
function specialRange(ip: Ip): string | undefined {
  if (CLOUD_SERVICES.some((network) => contains(network, ip))) return "cloudService";
  const range = ip.range();
  if (range !== "unicast") return range;
  return ip.kind() === "ipv4" || contains(GLOBAL_UNICAST, ip) ? undefined : "reserved";
}

/** The IPv4 addresses that an IPv6 address embeds: packets to it may end up there. */
function ipv4Inside(ip: Ip): ipaddr.IPv4[] {
  const bytes = ip.toByteArray();
  const isTunnel = ip.range() !== "loopback" && ip.range() !== "unspecified"; // both lie in ::/96
  const starts = isTunnel ? TRANSITION.filter(([network]) => contains(network, ip)).map(([, at]) => at) : [];
  if (ISATAP.test(Buffer.from(bytes.slice(8)).toString("hex"))) starts.push(12);
  const inside = starts.map((at) => new ipaddr.IPv4(bytes.slice(at, at + 4)));
  // The Teredo client's address comes last, with all bits inverted.
  return contains(TEREDO, ip) ? [...inside, new ipaddr.IPv4(bytes.slice(12).map((byte) => byte ^ 0xff))] : inside;
}

/**
 * Judge a local NAT64 address by the IPv4 address inside. Its position depends on the length of the prefix, which is taken from the
 * allowed range that matches. If any other byte is set, the prefix is a different one, and the destination is unknown.
 */
function insideLocalNat64(ip: Ip, allowed: readonly Network[], denied: readonly Network[]): string | undefined {
  const longest = Math.max(...allowed.filter((network) => contains(network, ip)).map(([, bits]) => bits));
  const length = NAT64_LENGTHS.findLast((bits) => bits <= longest);
  if (length === undefined) return "rfc6052";
  const bytes = ip.toByteArray();
  const rest = bytes.slice(length / 8);
  // Byte 8 of the address is skipped, and zero.
  const skipped = length === 96 ? [] : rest.splice(8 - length / 8, 1);
  if ([...skipped, ...rest.slice(4)].some((byte) => byte !== 0)) return "rfc6052";
  return rangeOf(new ipaddr.IPv4(rest.slice(0, 4)), allowed, denied);
}

/** Whether an address is in one of the ranges. IPv4-mapped IPv6 is treated as the IPv4 address inside. */
export function isWithin(address: string, networks: readonly Network[]): boolean {
  return isAddress(address) && networks.some((network) => contains(network, ipaddr.process(address)));
}

/** Whether an address is a loopback address of this machine. An IPv6 address that merely embeds one, as in NAT64, is not. */
export function isLoopbackAddress(address: string): boolean {
  return isAddress(address) && ipaddr.process(address).range() === "loopback";
}

/** The literal address in a URL's hostname, without brackets; undefined for a name. */
export function literalOf(hostname: string): string | undefined {
  const bare = hostname.startsWith("[") ? hostname.slice(1, -1) : hostname;
  return isAddress(bare) ? bare : undefined;
}

/**
 * IPv4 in strict dotted-quad form only: URL parsing has already normalized every other spelling. And not `::1.2.3.4`, which
 * ipaddr.js reads as `::ffff:1.2.3.4`: the address checked must be the address dialed.
 */
function isAddress(text: string): boolean {
  if (/^::\d+\./.test(text)) return false;
  return ipaddr.IPv4.isValidFourPartDecimal(text) || ipaddr.IPv6.isValid(text);
}

function contains([base, bits]: Network, ip: Ip): boolean {
  return base.kind() === ip.kind() && ip.match(base, bits);
}

/**
 * A lookup ended without a usable address. `cause` is the kind of the name's address, if that is blocked.
 */
export class LookupError extends Error {
  override readonly name = "LookupError";
  constructor(
    readonly result:
      | { readonly kind: "failure"; readonly code: FailureCode; readonly cause?: string }
      | { readonly kind: "fault"; readonly code: FaultCode },
  ) {
    super();
  }
}

/**
 * Create a node:net lookup function that returns only vetted addresses.
 *
 * Every address of a name must be allowed, since the connection may use any of them. A name with a blocked address fails like one
 * that does not exist; otherwise customers could find out which internal names exist.
 *
 * @param blocked  returns the kind of a blocked address; undefined for an allowed one
 * @returns a function that fails only with a {@link LookupError}
 */
export function createLookup(resolve: Resolve, blocked: (address: string) => string | undefined): LookupFunction {
  async function resolveChecked(hostname: string): Promise<[Address, ...Address[]]> {
    const [first, ...rest] = await resolve(hostname);
    if (first === undefined) throw new LookupError({ kind: "failure", code: "dns" });
    for (const { address } of [first, ...rest]) {
      const cause = blocked(address);
      if (cause !== undefined) throw new LookupError({ kind: "failure", code: "dns", cause });
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

/** A name that does not exist is the customer's failure; a resolver that does not answer is our fault. */
function describeFailure(error: NodeJS.ErrnoException): LookupError {
  if (NO_SUCH_NAME.has(error.code ?? "")) return new LookupError({ kind: "failure", code: "dns" });
  return new LookupError({ kind: "fault", code: "resolver" });
}
