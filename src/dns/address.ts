/**
 * Which addresses may be reached, and how a host name becomes addresses that were all checked.
 */
import type { LookupFunction } from "node:net";
import ipaddr from "ipaddr.js";
import type { FailureCode, FaultCode } from "../delivery/outcome.ts";

/** A range of addresses, parsed. */
export type Network = [Ip, number];

/** An address as a resolver gives it. */
export interface Address {
  readonly address: string;
  readonly family: 4 | 6;
}

/** Host name to addresses. Rejects with a {@link LookupError}, or a `code` as Node's dns module does (`ENOTFOUND`, …). */
export type Resolve = (hostname: string) => Promise<readonly Address[]>;

type Ip = ipaddr.IPv4 | ipaddr.IPv6;

const GLOBAL_UNICAST: Network = ipaddr.parseCIDR("2000::/3"); // RFC 4291 2.4: all of IPv6 that is handed out so far

/** Addresses that look public, and that clouds use inside: they lead to whatever the machine's own cloud put there. */
const CLOUD_SERVICES: readonly Network[] = [
  "168.63.129.16/32", // Azure: the agent of each virtual machine, with its keys (learn.microsoft.com, what-is-ip-address-168-63-129-16)
  "161.26.0.0/16", // IBM Cloud: infrastructure services (cloud.ibm.com/docs/vpc, service endpoints)
  "166.8.0.0/14", // IBM Cloud: private endpoints of its services (the same)
  "199.36.153.4/30", // Google Cloud: restricted.googleapis.com, not announced to the internet (cloud.google.com/vpc/docs)
  "199.36.153.8/30", // Google Cloud: private.googleapis.com (the same, and the next two)
  "2600:2d00:2:1000::/64",
  "2600:2d00:2:2000::/64",
].map((range) => ipaddr.parseCIDR(range));

const NAT64: Network = ipaddr.parseCIDR("64:ff9b::/96"); // RFC 6052
const LOCAL_NAT64: Network = ipaddr.parseCIDR("64:ff9b:1::/48"); // RFC 8215
const TEREDO: Network = ipaddr.parseCIDR("2001::/32"); // RFC 4380
const NAT64_LENGTHS = [48, 56, 64, 96]; // RFC 6052 2.2, those that fit into the local prefix
/** Prefixes of IPv6 addresses that have an IPv4 address inside, and at which byte it stands. */
const TRANSITION: readonly (readonly [Network, at: number])[] = [
  [NAT64, 12],
  [ipaddr.parseCIDR("::ffff:0:0:0/96"), 12], // IPv4-translated, RFC 2765
  [ipaddr.parseCIDR("::/96"), 12], // IPv4-compatible, RFC 4291
  [ipaddr.parseCIDR("2002::/16"), 2], // 6to4, RFC 3056
  [TEREDO, 4], // its server
];
const ISATAP = /^0[02]005efe/; // the last eight bytes in hex, RFC 5214 6.1

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
 * IPv4-compatible addresses are out without being listed. Public ranges that clouds use inside are out as well.
 *
 * IPv4-mapped IPv6 counts as the IPv4 address inside, and so does NAT64's `64:ff9b::/96`. In every other form that carries an
 * IPv4 address (NAT64 with a local prefix, 6to4, Teredo, ISATAP, …) both must be allowed: a range that opens the form opens
 * nothing inside it.
 *
 * @param allowed  ranges that may be reached although they are not public
 * @param denied   ranges that may not be reached whatever else says so
 * @returns undefined when it may be reached, else the kind of address: `loopback`, `private`, `linkLocal`, `denied`, …
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

/** What an address is when no setting says anything about it; undefined for a public one. */
function specialRange(ip: Ip): string | undefined {
  if (CLOUD_SERVICES.some((network) => contains(network, ip))) return "cloudService";
  const range = ip.range();
  if (range !== "unicast") return range;
  return ip.kind() === "ipv4" || contains(GLOBAL_UNICAST, ip) ? undefined : "reserved";
}

/** The IPv4 addresses that one of IPv6 carries: packets to it may end there. */
function ipv4Inside(ip: Ip): ipaddr.IPv4[] {
  const bytes = ip.toByteArray();
  const isTunnel = ip.range() !== "loopback" && ip.range() !== "unspecified"; // both lie in ::/96
  const starts = isTunnel ? TRANSITION.filter(([network]) => contains(network, ip)).map(([, at]) => at) : [];
  if (ISATAP.test(Buffer.from(bytes.slice(8)).toString("hex"))) starts.push(12);
  const inside = starts.map((at) => new ipaddr.IPv4(bytes.slice(at, at + 4)));
  // Teredo's client comes last, with each bit turned round.
  return contains(TEREDO, ip) ? [...inside, new ipaddr.IPv4(bytes.slice(12).map((byte) => byte ^ 0xff))] : inside;
}

/**
 * Judge an address of a local NAT64 by the one inside. Where that stands depends on the length of the prefix, which is that of the
 * range that opens it; an address with anything around the one inside is of another prefix, and nobody knows where it leads.
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

/** Whether an address is in one of the ranges. IPv4-mapped IPv6 counts as the IPv4 address inside. */
export function isWithin(address: string, networks: readonly Network[]): boolean {
  return isAddress(address) && networks.some((network) => contains(network, ipaddr.process(address)));
}

/** Whether an address is this machine's own. One that carries such an address to others, as NAT64 does, is not. */
export function isLoopbackAddress(address: string): boolean {
  return isAddress(address) && ipaddr.process(address).range() === "loopback";
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

function contains([base, bits]: Network, ip: Ip): boolean {
  return base.kind() === ip.kind() && ip.match(base, bits);
}

/**
 * Looking up a host ended without an address that may be used. `cause` is the kind of address that the name leads to, where it is
 * one that may not be reached.
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
 * Make what node:net asks for the address of each new connection, so that it dials what was checked, and nothing else.
 *
 * Every address must be allowed, not just the first: the connection may go to any of them. A name with one that is not ends like
 * one that does not exist, or customers could find out which names there are inside.
 *
 * @param blocked  the kind of an address that may not be reached; undefined for others
 * @returns a function that fails with a {@link LookupError} only
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

/** A name that does not exist is the customer's; a resolver that does not answer is ours. */
function describeFailure(error: NodeJS.ErrnoException): LookupError {
  if (NO_SUCH_NAME.has(error.code ?? "")) return new LookupError({ kind: "failure", code: "dns" });
  return new LookupError({ kind: "fault", code: "resolver" });
}
