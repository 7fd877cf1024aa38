/**
 * What a customer needs to check a request: `fluxhook/verify`. Runs wherever `node:crypto` does; depends on nothing else.
 */
import type { WebhookPayload } from "./events.ts";
import { isSecret, type Verification, verify as verifySignature } from "./signature.ts";

export type * from "./events.ts";

/** Headers as Node, Express, Fetch, Hono or a gateway hand them over; in a record, names in any case. */
export type ReceivedHeaders =
  | { get(name: string): string | null | undefined }
  | Readonly<Record<string, string | readonly string[] | undefined>>;

export interface VerifyOptions {
  /** How far the time of the attempt may lie from now, either way; 300 by default. */
  readonly toleranceSeconds?: number;
  /** Unix time of the receiver's clock, for tests. */
  readonly nowSeconds?: number;
  /**
   * Take `X-Fluxdrop-Signature` alone, when the `webhook-…` headers are missing. It covers the body but not the time: who
   * gets hold of one request can send it again for ever, and get round the other signature by leaving it out.
   */
  readonly allowUnsignedTime?: boolean;
}

/**
 * Which check failed.
 *
 * - `missing_signature`   no signature of ours
 * - `unsigned_timestamp`  only `X-Fluxdrop-Signature`, and `allowUnsignedTime` is off
 * - `bad_timestamp`       no timestamp, or not Unix time in seconds
 * - `stale_timestamp`     too far from now: a replay, or one of the clocks is wrong
 * - `wrong_signature`     another secret, or the body is not the one that was sent (parsed and written anew?)
 * - `malformed_payload`   signed, but no event of Fluxhook's
 */
export type VerifyFailure = Extract<Verification, { ok: false }>["reason"] | "unsigned_timestamp" | "malformed_payload";

export type VerifyResult =
  | { readonly ok: true; readonly payload: WebhookPayload }
  | { readonly ok: false; readonly reason: VerifyFailure };

const STANDARD = ["webhook-id", "webhook-timestamp", "webhook-signature"] as const;
const FLUXDROP = ["x-fluxdrop-timestamp", "x-fluxdrop-signature"] as const;

/**
 * Check a received request, and read it.
 *
 * Insists on the Standard Webhooks headers, which every request of Fluxhook carries and whose signature covers id and time,
 * so that an old request cannot be sent again. Compares in constant time. An event type that this version does not know is
 * passed through: a `switch` over `payload.event` needs a default.
 *
 * @param rawBody  as received, before any JSON parser
 * @param secrets  the endpoint's secret, or several while rotating: any of them will do
 * @throws  TypeError when the call is at fault, not the request: a parsed body, no usable secret. Answer 500: we try again
 */
export function verify(
  rawBody: string | Uint8Array | ArrayBuffer,
  headers: ReceivedHeaders,
  secrets: string | readonly string[],
  { allowUnsignedTime = false, ...options }: VerifyOptions = {},
): VerifyResult {
  const body = rawBody instanceof ArrayBuffer ? new Uint8Array(rawBody) : rawBody;
  if (typeof body !== "string" && !(body instanceof Uint8Array)) {
    throw new TypeError("expected rawBody to be the text or bytes as received, before any JSON parser");
  }
  if (![secrets].flat().some((secret) => typeof secret === "string" && isSecret(secret))) {
    throw new TypeError("expected a secret: not empty, base64 after a whsec_ prefix");
  }
  const signed = pick(headers, [...STANDARD, ...FLUXDROP]);
  const isStandard = signed["webhook-id"] !== undefined && signed["webhook-signature"] !== undefined;
  if (!isStandard && !allowUnsignedTime && signed["x-fluxdrop-signature"] !== undefined) {
    return { ok: false, reason: "unsigned_timestamp" };
  }
  const verification = verifySignature(body, signed, secrets, options);
  if (!verification.ok) return verification;
  const payload = parsePayload(body);
  // With a plain secret both signatures have one key: the same id on both sides rules out one posing as the other.
  if (payload === undefined || (isStandard && payload.id !== signed["webhook-id"])) {
    return { ok: false, reason: "malformed_payload" };
  }
  return { ok: true, payload };
}

function pick(headers: ReceivedHeaders, names: readonly string[]): Record<string, string | undefined> {
  if (isFetchHeaders(headers)) return Object.fromEntries(names.map((name) => [name, headers.get(name) ?? undefined]));
  const found: Record<string, string | undefined> = {};
  for (const [name, value] of Object.entries(headers)) {
    const known = name.toLowerCase();
    if (names.includes(known)) found[known] ??= typeof value === "string" ? value : value?.[0];
  }
  return found;
}

function isFetchHeaders(headers: ReceivedHeaders): headers is Extract<ReceivedHeaders, { get: unknown }> {
  return typeof headers.get === "function";
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
