/**
 * Parsers for the values of settings. Pure.
 */
import { z } from "zod";
import { type Network, parseNetwork } from "../dns/address.ts";
import { type NameServer, parseNameServer } from "../dns/resolv-conf.ts";
import { type PortRange, parsePortRange } from "../http/destination.ts";
import { MAX_SHARDS } from "../queue/shards.ts";
import { isClusterUrl, isValkeyUrl } from "../valkey/url.ts";

const MINUTE_MS = 60 * 1000;
const DAY_MS = 24 * 60 * MINUTE_MS;
const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: MINUTE_MS, h: 60 * MINUTE_MS, d: DAY_MS };

/** Any non-empty text. */
export const text = z.string().min(1);
/** A host name or an address, IPv6 with brackets or without. */
export const host = z.string().regex(/^(?:[\w.-]{1,253}|\[?[\da-f:.]{2,45}(?:%[\w.-]{1,20})?\]?)$/i);

/** A whole number within bounds. */
export const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d{1,10}$/)
    .transform(Number)
    .pipe(z.number().min(min).max(max));

/** A duration such as `5s`, as ms, within bounds. */
export const durationMs = (minMs: number, maxMs: number) =>
  z
    .string()
    .transform((value) => parseDuration(value) ?? Number.NaN)
    .pipe(z.number().min(minMs).max(maxMs));

/** 0, or a duration up to a bound, as ms. */
export const upToDuration = (maxMs: number) =>
  z
    .string()
    .transform((value) => (value === "0" ? "0s" : value))
    .pipe(durationMs(0, maxMs));

/** A size such as `64kb`, as bytes, within bounds; 0 needs no unit. */
export const size = (minBytes: number, maxBytes: number) =>
  z
    .string()
    .transform((value) => parseSize(value) ?? Number.NaN)
    .pipe(z.number().min(minBytes).max(maxBytes));

/** A comma-separated list, with spaces around items ignored; an empty text is an empty list. */
export const list = <T>(item: z.ZodType<T, string>, max: number) =>
  z
    .string()
    .transform((value) => (value === "" ? [] : value.split(",").map((part) => part.trim())))
    .pipe(z.array(item).max(max));

/** The result of a parse function; invalid when that is undefined. */
export const parsedBy = <T>(parse: (value: string) => T | undefined): z.ZodType<T, string> =>
  z.string().transform((value, context) => {
    const parsed = parse(value);
    if (parsed !== undefined) return parsed;
    context.addIssue("not understood");
    return z.NEVER;
  });

/** A CIDR. */
export const network: z.ZodType<Network, string> = parsedBy(parseNetwork);

/** The address of a name server, with its port. */
export const nameServer: z.ZodType<NameServer, string> = parsedBy(parseNameServer);

/** A port, or a range of them. */
export const portRange: z.ZodType<PortRange, string> = parsedBy(parsePortRange);

/** 0 or 1. */
export const flag = z.enum(["0", "1"]).transform((value) => value === "1");

/** A key of 32 bytes in base64. */
export const key = z
  .string()
  .regex(/^[A-Za-z0-9+/]{43}=$/)
  .transform((value) => Buffer.from(value, "base64"));

/** A URL of Valkey. */
export const valkeyUrls = z
  .string()
  .transform((value) => value.trim().split(/\s+/))
  .pipe(z.array(z.string().refine(isValkeyUrl)).min(1).max(MAX_SHARDS));

/** A URL of one Valkey. */
export const drainUrl = z
  .string()
  .refine((url) => isValkeyUrl(url) && !isClusterUrl(url))
  .optional() as z.ZodType<string | undefined, string>;

/**
 * Parse a proxy's URL; undefined when anything follows the port, since a proxy has no use for it, or when the user or
 * password has an invalid `%` escape.
 */
export function parseProxyUrl(value: string): URL | undefined {
  const url = URL.parse(value);
  if (url === null || url.pathname !== "/" || url.port === "0" || !/^https?:\/\/[^?#]*$/i.test(value)) return undefined;
  try {
    decodeURIComponent(url.username + url.password);
    return url;
  } catch {
    return undefined;
  }
}

/** `250ms`, `5s`, `1m`, `2h`, `1d` as ms; undefined for anything else. */
export function parseDuration(value: string): number | undefined {
  const match = /^(\d{1,9})(ms|s|m|h|d)$/.exec(value);
  return match === null ? undefined : Number(match[1]) * (UNIT_MS[match[2] as string] as number);
}

function parseSize(value: string): number | undefined {
  if (value === "0") return 0;
  const match = /^(\d{1,9})(b|kb|mb)$/.exec(value);
  return match === null ? undefined : Number(match[1]) * 1024 ** ["b", "kb", "mb"].indexOf(match[2] as string);
}
