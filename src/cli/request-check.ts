/**
 * Checks a received request step by step, for debugging a receiver.
 */
import { parseExact } from "../delivery/exact-json.ts";
import { bareSecret, plainSecretProblem } from "../delivery/secret.ts";
import { verify } from "../delivery/signature.ts";
import { formatAgo, formatExact, formatIn, formatSpan } from "../operations/moments.ts";
import { type VerifyResult, VerifyUsageError, verify as verifyRequest } from "../verify.ts";
import type { SavedRequest } from "./saved-request.ts";

/** One check: passed, failed, or (null) not applicable. */
export interface Check {
  readonly check: string;
  readonly ok: boolean | null;
  readonly detail: string;
}

/** All checks of one request. */
export interface RequestReport {
  /** Whether a receiver should accept it. */
  readonly ok: boolean;
  readonly checks: readonly Check[];
  /** What to do about it, if known. */
  readonly hint: string | null;
}

const STANDARD = ["webhook-id", "webhook-timestamp", "webhook-signature"];
const FLUXDROP = ["x-fluxdrop-timestamp", "x-fluxdrop-signature"];
const EMPTY = { ok: null, detail: "absent" } as const;

/**
 * Check a request against its endpoint's secrets. The verdict is that of `fluxhook/verify`; the checks say why.
 *
 * `X-Fluxdrop-Signature` is made with the current secret only, so with an older one it may fail while the other passes. It
 * does not cover the timestamp, so it is not enough by itself.
 *
 * @param toleranceMs  maximum distance of the timestamp from `nowMs`; Infinity skips the check
 * @throws  never
 */
export function checkRequest(
  request: SavedRequest,
  secrets: readonly string[],
  { nowMs, toleranceMs }: { readonly nowMs: number; readonly toleranceMs: number },
): RequestReport {
  const { headers, body } = request;
  const standard = checkSignature("webhook-signature", pick(headers, STANDARD), body, secrets);
  const fluxdrop = checkSignature("x-fluxdrop-signature", pick(headers, FLUXDROP), body, secrets);
  const isStandard = headers["webhook-id"] !== undefined && headers["webhook-signature"] !== undefined;
  const stated = headers[isStandard ? "webhook-timestamp" : "x-fluxdrop-timestamp"];
  const time = checkTime(stated, nowMs, toleranceMs);
  const event = checkBody(headers, body);
  const verdict = judge(request, secrets, nowMs, toleranceMs);
  return {
    ok: verdict === undefined,
    checks: [standard, fluxdrop, time, event],
    hint: verdict === "unsigned_timestamp" ? UNSIGNED : verdict === undefined ? null : explain(request, secrets),
  };
}

const UNSIGNED =
  "Without webhook-id, webhook-timestamp and webhook-signature, the request could be a replay. " +
  "fluxhook/verify accepts it only with allowUnsignedTime.";

/** Why `fluxhook/verify` rejects it; undefined when it accepts it. */
function judge({ headers, body }: SavedRequest, secrets: readonly string[], nowMs: number, toleranceMs: number) {
  const times = { nowSeconds: nowMs / 1000, toleranceSeconds: toleranceMs / 1000 };
  try {
    const result: VerifyResult = verifyRequest(body, headers, secrets, times);
    return result.ok ? undefined : result.reason;
  } catch (error) {
    if (error instanceof VerifyUsageError) return error.code; // no usable secret
    throw error;
  }
}

function pick(headers: SavedRequest["headers"], names: readonly string[]): Record<string, string | undefined> {
  return Object.fromEntries(names.map((name) => [name, headers[name]]));
}

/** Check the signature, ignoring the timestamp's age. */
function checkSignature(
  check: string,
  headers: Record<string, string | undefined>,
  body: Buffer,
  secrets: readonly string[],
): Check {
  if (headers[check] === undefined) return { check, ...EMPTY };
  const missing = Object.keys(headers).filter((name) => headers[name] === undefined);
  if (missing.length > 0) return { check, ok: false, detail: `missing ${missing.join(" and ")}` };
  const options = { nowSeconds: 0, toleranceSeconds: Number.POSITIVE_INFINITY };
  const fits = secrets.findIndex((secret) => verify(body, headers, secret, options).ok);
  if (fits < 0)
    return { check, ok: false, detail: `does not match: another secret, or another body (${body.length} bytes here)` };
  return {
    check,
    ok: true,
    detail: secrets.length === 1 ? "matches" : `matches secret ${fits + 1} of ${secrets.length}`,
  };
}

function checkTime(stated: string | undefined, nowMs: number, toleranceMs: number): Check {
  const check = "timestamp";
  if (stated === undefined) return { check, ok: false, detail: "absent" };
  if (!/^\d{1,12}$/.test(stated)) return { check, ok: false, detail: "expected Unix time in whole seconds" };
  const ageMs = nowMs - Number(stated) * 1000;
  const detail = `${formatExact(Number(stated) * 1000)}, ${ageMs < 0 ? formatIn(-ageMs) : formatAgo(ageMs)}`;
  if (toleranceMs === Number.POSITIVE_INFINITY) return { check, ok: true, detail: `${detail}; age not checked` };
  const isFresh = Math.abs(ageMs) <= toleranceMs;
  return { check, ok: isFresh, detail: `${detail}; ${isFresh ? "within" : "more than"} ${formatSpan(toleranceMs)}` };
}

function checkBody(headers: SavedRequest["headers"], body: Buffer): Check {
  const check = "body";
  const payload = parse(body);
  if (payload === undefined)
    return { check, ok: false, detail: "expected a JSON object with id, event, timestamp and data" };
  const { id, event } = payload;
  const standardId = headers["webhook-id"];
  const eventName = headers["x-fluxdrop-event"];
  if (standardId !== undefined && standardId !== id)
    return { check, ok: false, detail: "its id differs from webhook-id" };
  const isOther = eventName !== undefined && eventName !== event;
  const aside = isOther ? "; X-Fluxdrop-Event, which is not signed, differs" : "";
  return { check, ok: true, detail: `${event} ${id}, ${body.length} bytes${aside}` };
}

function parse(body: Buffer): { id: string; event: string } | undefined {
  try {
    const { id, event, timestamp, data } = JSON.parse(body.toString("utf8"));
    const isText = [id, event, timestamp].every((field) => typeof field === "string");
    return isText && typeof data === "object" && data !== null ? { id, event } : undefined;
  } catch {
    return undefined;
  }
}

/** The common mistakes: a newline that an editor added to the body, a body that was reserialized, a typo in the secret. */
function explain({ headers, body }: SavedRequest, secrets: readonly string[]): string | null {
  const fits = (candidate: Buffer, candidates: readonly string[]) =>
    [STANDARD, FLUXDROP].some(
      (names) => checkSignature(names.at(-1) as string, pick(headers, names), candidate, candidates).ok === true,
    );
  const ended = body.toString("latin1").replace(/\r?\n$/, "");
  if (ended.length < body.length && fits(Buffer.from(ended, "latin1"), secrets)) {
    return "The signature matches without the line break at the end of the body: save the body without it.";
  }
  if (fits(body, secrets.map(bareSecret))) {
    return "The signature matches without the characters around the secret: spaces, line breaks, quotes, a byte order mark or a v1, prefix.";
  }
  const compact = recompact(body);
  if (compact !== undefined && fits(compact, secrets)) {
    return "The signature matches the body as compact JSON: it was parsed and reserialized. Keep the raw bytes.";
  }
  const problem = secrets.map(plainSecretProblem).find((found) => found !== undefined);
  return problem === undefined ? null : `Not a secret that Fluxhook signs with: ${problem}.`;
}

function recompact(body: Buffer): Buffer | undefined {
  try {
    return Buffer.from(JSON.stringify(parseExact(body.toString("utf8"))));
  } catch {
    return undefined;
  }
}
