/**
 * `VALKEY_URL`: one Valkey, or Sentinels that know which of several is the primary. Pure.
 *
 *     redis://[user:password@]host[:port][/database]
 *     redis+sentinel://[user:password@]host[:port][,host[:port]…]/name[/database][?user=…&password=…]
 *
 * `rediss` in place of `redis` is TLS, to the Sentinels as well. User and password in front of the hosts are Valkey's, those
 * in the query the Sentinels' own.
 */

/** Completes "expected VALKEY_URL to be …". */
export const VALKEY_URL_FORMS = "a redis://, rediss:// or redis+sentinel:// URL";

/** How to get there: for ioredis, and for BullMQ's `connection`. */
export type ValkeyAddress =
  | { readonly url: string }
  | {
      readonly sentinels: { readonly host: string; readonly port: number }[];
      /** What the Sentinels call the primary. */
      readonly name: string;
      readonly db: number;
      readonly username?: string;
      readonly password?: string;
      readonly sentinelUsername?: string;
      readonly sentinelPassword?: string;
      readonly tls?: object;
      readonly sentinelTLS?: object;
      readonly enableTLSForSentinelMode?: boolean;
    };

interface Parts {
  /** Without the colon. */
  readonly scheme: string;
  readonly hosts: readonly URL[];
  /** All but the hosts. */
  readonly url: URL;
  /** What the Sentinels call the primary; undefined without Sentinels. */
  readonly name?: string | undefined;
  readonly database?: string | undefined;
}

const PLAIN = /^rediss?:\/\//;
const SENTINEL = /^(rediss?\+sentinel):\/\/([^/?#]*@)?([^@/?#]+)(\/.*)$/s;
const NAME_AND_DATABASE = /^\/([\w.-]+)(?:\/(\d{1,5}))?\/?$/;
const SENTINEL_PORT = 26_379;
const SENTINEL_QUERY = ["user", "password"];

/** Whether a text is one. */
export function isValkeyUrl(text: string): boolean {
  return split(text) !== undefined;
}

/** @throws  RangeError when it is none */
export function addressOf(text: string): ValkeyAddress {
  const parts = split(text);
  if (parts === undefined) throw new RangeError(`expected ${VALKEY_URL_FORMS}`);
  const { scheme, hosts, url, name, database = "0" } = parts;
  if (name === undefined) return { url: text };
  const logins = {
    username: decode(url.username),
    password: decode(url.password),
    sentinelUsername: url.searchParams.get("user"),
    sentinelPassword: url.searchParams.get("password"),
  };
  return {
    sentinels: hosts.map(({ hostname, port }) => ({
      host: hostname.replace(/^\[(.*)\]$/, "$1"),
      port: Number(port) || SENTINEL_PORT,
    })),
    name,
    db: Number(database),
    ...Object.fromEntries(Object.entries(logins).filter(([, value]) => value)),
    ...(scheme.startsWith("rediss") ? { tls: {}, sentinelTLS: {}, enableTLSForSentinelMode: true } : {}),
  };
}

/**
 * The URL without its passwords, which may also stand in the query.
 *
 * @returns `***` when it is none: there is no telling what is secret in it
 */
export function maskValkeyUrl(text: string): string {
  const parts = split(text);
  if (parts === undefined) return "***";
  const { username, password, pathname, search } = parts.url;
  const user = password === "" ? username : `${username}:***`;
  return `${parts.scheme}://${user && `${user}@`}${listHosts(parts)}${pathname}${search && "?***"}`;
}

/** Where it leads, for people: `127.0.0.1:6379`, or `mymaster of s1:26379,s2:26379`. */
export function placeOf(text: string): string {
  const parts = split(text);
  if (parts === undefined) return "";
  return parts.name === undefined ? listHosts(parts) : `${parts.name} of ${listHosts(parts)}`;
}

const listHosts = ({ hosts }: Parts): string => hosts.map(({ host }) => host).join(",");

function split(text: string): Parts | undefined {
  const [, scheme, user = "", list = "", rest = ""] = SENTINEL.exec(text) ?? [];
  if (scheme === undefined) {
    const url = PLAIN.test(text) ? parse(text) : undefined;
    return url && { scheme: url.protocol.slice(0, -1), hosts: [url], url };
  }
  const url = parse(`redis://${user}hosts${rest.replaceAll("+", "%2B")}`); // in a query it would stand for a blank
  const hosts = list.split(",").map((host) => parse(`redis://${host}`));
  const [, name, database] = NAME_AND_DATABASE.exec(url?.pathname ?? "") ?? [];
  if (url === undefined || name === undefined || url.hash !== "") return undefined;
  if (![...url.searchParams.keys()].every((key) => SENTINEL_QUERY.includes(key))) return undefined;
  return hosts.every((host) => host !== undefined) ? { scheme, hosts, url, name, database } : undefined;
}

/** A URL with a host, whose user and password can be read. */
function parse(text: string): URL | undefined {
  if (!URL.canParse(text)) return undefined;
  const url = new URL(text);
  const isReadable = decode(url.username) !== undefined && decode(url.password) !== undefined;
  return url.hostname !== "" && isReadable ? url : undefined;
}

function decode(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined; // a lone %
  }
}
