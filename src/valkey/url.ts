/**
 * `VALKEY_URL`: one Valkey, Sentinels that know the primary, or nodes of a cluster that know the others. Pure.
 *
 *     redis://[user:password@]host[:port][/database][?username=…&password=…&family=…]
 *     redis+sentinel://[user:password@]host[:port][,host[:port]…]/name[/database][?user=…&password=…]
 *     redis+cluster://[user:password@]host[:port][,host[:port]…]
 *
 * `rediss` instead of `redis` means TLS, also to the Sentinels. User and password before the hosts are Valkey's; those in the
 * query of the second form are the Sentinels'. The database is a number, 0 by default; `family` is 4 or 6 to use only IPv4 or
 * IPv6, or 0 for either.
 *
 * Anything else in a URL is rejected: other clients interpret more, each differently, and a misread URL could lead to another
 * environment's events.
 */

/** Completes "expected VALKEY_URL to be …". */
export const VALKEY_URL_FORMS =
  "a redis://, rediss://, redis+sentinel:// or redis+cluster:// URL, as in redis://user:password@host:6379/0";

/** Connection options for ioredis and for BullMQ's `connection`, unless it is a cluster. */
export type ValkeyAddress = {
  readonly db: number;
  readonly username?: string;
  readonly password?: string;
  readonly tls?: object;
} & (
  | {
      readonly host: string;
      readonly port: number;
      /** 4 or 6: the only kind of address to try. */
      readonly family?: number;
    }
  | {
      readonly sentinels: { readonly host: string; readonly port: number }[];
      /** The primary's name in Sentinel. */
      readonly name: string;
      readonly sentinelUsername?: string;
      readonly sentinelPassword?: string;
      readonly sentinelTLS?: object;
      readonly enableTLSForSentinelMode?: boolean;
    }
  | {
      /** Of a cluster: nodes to ask first who owns which slot. */
      readonly nodes: { readonly host: string; readonly port: number }[];
    }
);

interface Parts {
  /** Without the colon. */
  readonly scheme: string;
  readonly hosts: readonly URL[];
  /** Everything but the hosts. */
  readonly url: URL;
  /** The primary's name in Sentinel; undefined without Sentinels. */
  readonly name?: string | undefined;
  readonly database?: string | undefined;
}

const PLAIN = /^rediss?:\/\//;
const CLUSTER = /^(rediss?\+cluster):\/\/([^/?#]*@)?([^@/?#]+)\/?$/;
const SENTINEL = /^(rediss?\+sentinel):\/\/([^/?#]*@)?([^@/?#]+)(\/.*)$/s;
const DATABASE = /^\/?$|^\/(?<database>0|[1-9]\d{0,4})\/?$/;
const NAME_AND_DATABASE = /^\/(?<name>[\w.-]+)(?:\/(?<database>0|[1-9]\d{0,4}))?\/?$/;
const PORT = 6379;
const SENTINEL_PORT = 26_379;
const PLAIN_QUERY = ["username", "password", "family"];
const SENTINEL_QUERY = ["user", "password"];
const FAMILIES = ["0", "4", "6"];

/** Whether a text is a valid `VALKEY_URL`. */
export function isValkeyUrl(text: string): boolean {
  return split(text) !== undefined;
}

/** Whether a valid `VALKEY_URL` is a cluster's. */
export const isClusterUrl = (text: string): boolean => CLUSTER.test(text);

/** Parse a `VALKEY_URL`. @throws  RangeError when it is invalid */
export function addressOf(text: string): ValkeyAddress {
  const parts = split(text);
  if (parts === undefined) throw new RangeError(`expected ${VALKEY_URL_FORMS}`);
  const { scheme, hosts, url, name, database = "0" } = parts;
  const query = url.searchParams;
  const isTls = scheme.startsWith("rediss");
  const target = { db: Number(database), ...(isTls ? { tls: {} } : {}) };
  const username = decode(url.username);
  const password = decode(url.password);
  if (scheme.endsWith("+cluster")) {
    return { nodes: hosts.map((host) => addressIn(host, PORT)), ...target, ...known({ username, password }) };
  }
  if (name === undefined) {
    const family = query.get("family");
    return {
      ...addressIn(hosts[0] as URL, PORT),
      ...target,
      ...known({ username: username || query.get("username"), password: password || query.get("password") }),
      ...(family === null ? {} : { family: Number(family) }),
    };
  }
  const sentinelUsername = query.get("user");
  const sentinelPassword = query.get("password");
  return {
    sentinels: hosts.map((host) => addressIn(host, SENTINEL_PORT)),
    name,
    ...target,
    ...known({ username, password, sentinelUsername, sentinelPassword }),
    ...(isTls ? { sentinelTLS: {}, enableTLSForSentinelMode: true } : {}),
  };
}

const addressIn = ({ hostname, port }: URL, otherwise: number) => ({
  host: hostname.replace(/^\[(.*)\]$/, "$1"),
  port: Number(port) || otherwise,
});

/** Only the fields with a value. */
const known = (logins: Record<string, string | null | undefined>): Record<string, string> =>
  Object.fromEntries(Object.entries(logins).filter((login): login is [string, string] => Boolean(login[1])));

/**
 * The URL without its passwords, which may also be in the query.
 *
 * @returns `***` for an invalid URL, which could hold a secret anywhere
 */
export function maskValkeyUrl(text: string): string {
  const parts = split(text);
  if (parts === undefined) return "***";
  const { username, password, pathname, search } = parts.url;
  const user = password === "" ? username : `${username}:***`;
  return `${parts.scheme}://${user && `${user}@`}${listHosts(parts)}${pathname}${search && "?***"}`;
}

/** The URL's hosts, for messages: `127.0.0.1:6379`, or `mymaster of s1:26379,s2:26379`. */
export function placeOf(text: string): string {
  const parts = split(text);
  if (parts === undefined) return "";
  return parts.name === undefined ? listHosts(parts) : `${parts.name} of ${listHosts(parts)}`;
}

const listHosts = ({ hosts }: Parts): string => hosts.map(({ host }) => host).join(",");

function split(text: string): Parts | undefined {
  if (/[\t\r\n]\s*\S/.test(text)) return undefined; // URL parsers drop these: 1\n2 becomes 12
  const [, scheme, user = "", list = "", rest = ""] = CLUSTER.exec(text) ?? SENTINEL.exec(text) ?? [];
  if (scheme === undefined) return PLAIN.test(text) ? splitPlain(text) : undefined;
  const url = parse(`redis://${user}hosts${rest}`);
  const hosts = list.split(",").map((host) => parse(`redis://${host}`));
  const areHosts = url !== undefined && hosts.every((host) => host !== undefined);
  if (scheme.endsWith("+cluster")) return areHosts ? { scheme, hosts: hosts as URL[], url } : undefined;
  const { name, database } = NAME_AND_DATABASE.exec(url?.pathname ?? "")?.groups ?? {};
  if (url === undefined || name === undefined || !hasOnly(url, SENTINEL_QUERY)) return undefined;
  return hosts.every((host) => host !== undefined) ? { scheme, hosts, url, name, database } : undefined;
}

function splitPlain(text: string): Parts | undefined {
  const url = parse(text);
  const path = DATABASE.exec(url?.pathname ?? "//");
  if (url === undefined || path === null || !hasOnly(url, PLAIN_QUERY)) return undefined;
  const { username, password, searchParams: query } = url;
  const isTwice = (username && query.has("username")) || (password && query.has("password"));
  if (isTwice || !FAMILIES.includes(query.get("family") ?? "0")) return undefined;
  return { scheme: url.protocol.slice(0, -1), hosts: [url], url, database: path.groups?.database };
}

/** Whether the path is followed by nothing but query parameters with these names, each at most once. */
function hasOnly({ hash, searchParams }: URL, names: readonly string[]): boolean {
  const keys = [...searchParams.keys()];
  return hash === "" && keys.every((key, index) => names.includes(key) && keys.indexOf(key) === index);
}

/** Parse a URL with a host, no port 0, and a decodable user and password. A plus in its query stays a plus. */
function parse(text: string): URL | undefined {
  if (!URL.canParse(text)) return undefined;
  const url = new URL(text);
  url.search = url.search.replaceAll("+", "%2B"); // it would mean a space
  const isReadable = decode(url.username) !== undefined && decode(url.password) !== undefined;
  return url.hostname !== "" && url.port !== "0" && isReadable ? url : undefined;
}

function decode(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined; // a lone %
  }
}
