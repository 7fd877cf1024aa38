/**
 * `fluxhook/verify`, and all of the package `fluxhook-verify`: lets a customer's server verify requests. Depends only on
 * `node:crypto` and `node:buffer`.
 */

import { isSecret, type Verification, verify as verifySignature } from "./delivery/signature.ts";
import type { WebhookPayload } from "./events.ts";

export type * from "./events.ts";

/** Headers as passed by Node, Express, Fetch, Hono or a gateway; in a record or a Map, names in any case. */
export type ReceivedHeaders =
  | { get(name: string): string | null | undefined }
  | ReadonlyMap<string, string | readonly string[] | undefined>
  | Readonly<Record<string, string | readonly string[] | undefined>>;

/** The endpoint's secret, or several during rotation: any may match. Undefined and empty ones are ignored. */
export type Secrets = string | null | undefined | readonly (string | null | undefined)[];

export interface VerifyOptions {
  /** Maximum distance of the timestamp from now, in the past or future; 300 by default. */
  readonly toleranceSeconds?: number | undefined;
  /** Unix time; for tests. */
  readonly nowSeconds?: number | undefined;
  /**
   * Accept `X-Fluxdrop-Signature` alone when the `webhook-…` headers are missing. It covers the body but not the timestamp:
   * anyone who obtains one request can replay it forever, and avoid the other signature by leaving it out.
   */
  readonly allowUnsignedTime?: boolean | undefined;
}

/**
 * Which check failed.
 *
 * - `missing_signature`   no signature of ours
 * - `unsigned_timestamp`  only `X-Fluxdrop-Signature`, and `allowUnsignedTime` is off
 * - `bad_timestamp`       no timestamp, or not Unix time in seconds
 * - `stale_timestamp`     too far from now: a replay, or a clock is wrong
 * - `wrong_signature`     another secret, or the body was changed (parsed and reserialized?)
 * - `malformed_payload`   signed, but not a Fluxhook event
 */
export type VerifyFailure = Extract<Verification, { ok: false }>["reason"] | "unsigned_timestamp" | "malformed_payload";

export type VerifyResult =
  | { readonly ok: true; readonly payload: WebhookPayload }
  | { readonly ok: false; readonly reason: VerifyFailure };

/**
 * The call is wrong, not the request. Respond with 500, so that the event is retried.
 *
 * - `NO_SECRET`         no usable secret: expected a non-empty one, with base64 after a `whsec_` prefix
 * - `PARSED_BODY`       the body is not the text or bytes as received: a JSON parser ran first
 * - `NO_HEADERS`        the headers are not an object
 * - `INVALID_ARGUMENT`  an unknown or invalid option
 */
export class VerifyUsageError extends TypeError {
  override readonly name = "VerifyUsageError";
  constructor(
    readonly code: "NO_SECRET" | "PARSED_BODY" | "NO_HEADERS" | "INVALID_ARGUMENT",
    message: string,
  ) {
    super(message);
  }
}

const OPTIONS = ["toleranceSeconds", "nowSeconds", "allowUnsignedTime"];
const TOLERANCE_SECONDS = 5 * 60;
const STANDARD = ["webhook-id", "webhook-timestamp", "webhook-signature"] as const;
const FLUXDROP = ["x-fluxdrop-timestamp", "x-fluxdrop-signature"] as const;

/**
 * Verify a received request and parse its payload.
 *
 * Requires the Standard Webhooks headers, which every Fluxhook request has and whose signature covers id and timestamp, so
 * that an old request cannot be replayed. Compares in constant time. Event types unknown to this version are passed through:
 * a `switch` over `payload.event` needs a default.
 *
 * @param rawBody  as received, before any JSON parser
 * @throws  {@link VerifyUsageError} when the call is wrong, not the request
 */
export function verify(
  rawBody: string | Uint8Array | ArrayBuffer,
  headers: ReceivedHeaders,
  secrets: Secrets,
  options: VerifyOptions = {},
): VerifyResult {
  const body = readBody(rawBody);
  const usable = [secrets].flat().filter((secret) => typeof secret === "string" && isSecret(secret)) as string[];
  if (usable.length === 0) {
    throw new VerifyUsageError("NO_SECRET", "expected a secret: not empty, base64 after a whsec_ prefix");
  }
  if (typeof headers !== "object" || headers === null) {
    throw new VerifyUsageError("NO_HEADERS", "expected the headers of the request, as an object");
  }
  const {
    allowUnsignedTime = false,
    nowSeconds = Date.now() / 1000,
    toleranceSeconds = TOLERANCE_SECONDS,
  } = checkOptions(options);
  const signed = pick(headers, [...STANDARD, ...FLUXDROP]);
  const isStandard = signed["webhook-id"] !== undefined && signed["webhook-signature"] !== undefined;
  if (!isStandard && !allowUnsignedTime && signed["x-fluxdrop-signature"] !== undefined) {
    return { ok: false, reason: "unsigned_timestamp" };
  }
  const verification = verifySignature(body, signed, usable, { nowSeconds, toleranceSeconds });
  if (!verification.ok) return verification;
  const payload = parsePayload(body);
  // With a plain secret both signatures use the same key: equal ids rule out passing one off as the other.
  if (payload === undefined || (isStandard && payload.id !== signed["webhook-id"])) {
    return { ok: false, reason: "malformed_payload" };
  }
  return { ok: true, payload };
}

/** Checks by type tag rather than class, since test runners and other realms have their own classes. */
function readBody(rawBody: unknown): string | Uint8Array {
  if (typeof rawBody === "string") return rawBody;
  if (ArrayBuffer.isView(rawBody)) return new Uint8Array(rawBody.buffer, rawBody.byteOffset, rawBody.byteLength);
  if (/ArrayBuffer\]$/.test(Object.prototype.toString.call(rawBody))) return new Uint8Array(rawBody as ArrayBuffer);
  throw new VerifyUsageError(
    "PARSED_BODY",
    "expected rawBody to be the text or bytes as received, before any JSON parser",
  );
}

/** A misspelled option would leave a request open to replay, or refuse all of them, and say nothing. */
function checkOptions(options: VerifyOptions | null): VerifyOptions {
  const given = Object.entries(options ?? {}).filter(([, value]) => value !== undefined);
  for (const [name, value] of given) {
    const isRight = name === "allowUnsignedTime" ? typeof value === "boolean" : typeof value === "number" && value >= 0;
    if (OPTIONS.includes(name) && isRight) continue;
    throw new VerifyUsageError(
      "INVALID_ARGUMENT",
      `expected no option but toleranceSeconds and nowSeconds, numbers, and allowUnsignedTime, a boolean; got ${name}`,
    );
  }
  return options ?? {};
}

function pick(headers: ReceivedHeaders, names: readonly string[]): Record<string, string | undefined> {
  if (isFetchHeaders(headers)) return Object.fromEntries(names.map((name) => [name, headers.get(name) ?? undefined]));
  const found: Record<string, string | undefined> = {};
  for (const [name, value] of headers instanceof Map ? headers : Object.entries(headers)) {
    const known = String(name).toLowerCase();
    const first = Array.isArray(value) ? value[0] : value;
    if (names.includes(known) && (typeof first === "string" || typeof first === "number"))
      found[known] ??= String(first);
  }
  return found;
}

/** A Map has a `get` too, but a case-sensitive one. */
function isFetchHeaders(headers: ReceivedHeaders): headers is { get(name: string): string | null | undefined } {
  return typeof headers.get === "function" && !(headers instanceof Map);
}

function parsePayload(body: string | Uint8Array): WebhookPayload | undefined {
  try {
    const payload: unknown = JSON.parse(typeof body === "string" ? body : new TextDecoder().decode(body));
    return isPayload(payload) ? payload : undefined;
  } catch {
    return undefined;
  }
}

function isPayload(value: unknown): value is WebhookPayload {
  if (typeof value !== "object" || value === null) return false;
  const { id, event, timestamp, data } = value as Record<string, unknown>;
  return (
    [id, event, timestamp].every((field) => typeof field === "string") && typeof data === "object" && data !== null
  );
}
