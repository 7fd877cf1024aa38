/**
 * Parses resolv.conf: which name servers to ask, and which search domains to try. Pure.
 */

export interface NameServer {
  /** A literal address without brackets. */
  readonly address: string;
  readonly port: number;
}

/** How to look names up. */
export interface LookupRules {
  /** In the order in which to ask them; never empty. */
  readonly servers: readonly NameServer[];
  /** Domains to append to a name, in order. */
  readonly search: readonly string[];
  /** A name with fewer dots than this is tried with the search domains first. */
  readonly ndots: number;
  /** How long to wait for a server before asking the next, ms. */
  readonly tryMs: number;
  /** How many times a server may fail to answer before a question counts as unanswered. */
  readonly tries: number;
  /** Whether to start with a different server each time. */
  readonly rotates: boolean;
}

const PORT = 53;
const MAX_SEARCH = 6;
const MAX_NDOTS = 15; // as glibc
const TRY_SECONDS = 2; // glibc waits 5 s: half of an attempt's time
const MAX_TRY_SECONDS = 5;
const TRIES = 2;
const MAX_TRIES = 3;
const THIS_MACHINE: NameServer = { address: "127.0.0.1", port: PORT };

/** Parse a name server such as `10.0.0.2`, `10.0.0.2:5353`, `fd00::2` or `[fd00::2]:5353`; undefined when invalid. */
export function parseNameServer(text: string): NameServer | undefined {
  const [, bracketed, v4, digits] = /^(?:\[([^\]]+)\]|([\d.]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const address = bracketed ?? v4 ?? text;
  const port = Number(digits ?? PORT);
  const isRight = v4 === undefined ? isIpv6(address) : isIpv4(address);
  return isRight && port > 0 && port <= 65_535 ? { address, port } : undefined;
}

function isIpv4(text: string): boolean {
  return /^\d{1,3}(\.\d{1,3}){3}$/.test(text) && text.split(".").every((part) => Number(part) <= 255);
}

/** A zone is allowed, as in `fe80::1%eth0`, since resolv.conf may contain one. */
function isIpv6(text: string): boolean {
  return text.includes(":") && URL.canParse(`http://[${text.replace(/%[\w.-]+$/, "")}]`);
}

/** Parse a resolv.conf. Missing and invalid settings get their defaults. */
export function parseResolvConf(text: string): LookupRules {
  const rows = text
    .split("\n")
    .map((line) => line.replace(/[#;].*$/, "").trim())
    .map((line) => line.split(/\s+/) as [string, ...string[]]);
  const servers = rows.flatMap(([word, value = ""]) => (word === "nameserver" ? (parseNameServer(value) ?? []) : []));
  const [, ...search] = rows.findLast(([word]) => word === "search" || word === "domain") ?? [""];
  const options = rows.flatMap(([word, ...values]) => (word === "options" ? values : []));
  const option = (name: string, fallback: number, most: number): number => {
    const digits = options.findLast((each) => each.startsWith(`${name}:`))?.slice(name.length + 1) ?? "";
    return /^\d{1,4}$/.test(digits) ? Math.min(most, Number(digits)) : fallback;
  };
  return {
    servers: servers.length > 0 ? servers : [THIS_MACHINE],
    search: search
      .map((domain) => domain.replace(/\.$/, ""))
      .filter((domain) => domain !== "")
      .slice(0, MAX_SEARCH),
    ndots: option("ndots", 1, MAX_NDOTS),
    tryMs: Math.max(1, option("timeout", TRY_SECONDS, MAX_TRY_SECONDS)) * 1000,
    tries: Math.max(1, option("attempts", TRIES, MAX_TRIES)),
    rotates: options.includes("rotate"),
  };
}

/** The names to ask for, in order. A name with a trailing dot is absolute. */
export function candidatesFor(name: string, { search, ndots }: Pick<LookupRules, "search" | "ndots">): string[] {
  if (name.endsWith(".")) return [name.slice(0, -1)];
  const extended = search.map((domain) => `${name}.${domain}`);
  return name.split(".").length - 1 >= ndots ? [name, ...extended] : [...extended, name];
}
