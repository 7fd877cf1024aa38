/**
 * What is kept of the response to a failed attempt. Pure.
 */
import type { ResponseBeginning } from "../delivery/outcome.ts";
import { MAX_SECRET } from "../delivery/secret.ts";
import type { KeptResponse } from "./attempt.ts";
import { type Confidential, type Echo, findEchoed, listEchoes } from "./echoed-secrets.ts";

/** Those that help to find a fault, and that carry no credentials. Of `set-cookie` and `www-authenticate`, nothing is kept. */
const HEADERS: ReadonlySet<string> = new Set([
  ...["content-type", "content-length", "content-encoding", "transfer-encoding", "connection", "allow"],
  ...["date", "retry-after", "location", "server", "via", "x-powered-by", "x-cache"],
  ...["x-request-id", "x-correlation-id", "x-trace-id", "cf-ray", "x-amzn-requestid", "x-amzn-trace-id", "x-amz-cf-id"],
  ...["x-amz-apigw-id", "x-azure-ref", "x-vercel-id", "x-github-request-id", "x-served-by", "fly-request-id"],
]);
const MAX_LINE = 256; // bytes of a status line or a header's value
const COMPRESSED = /\b(?:gzip|deflate|br|zstd|compress)\b/i;
const MASK = "***";

/**
 * How much more of a body to receive than to keep, in bytes, so that a secret that begins within what is kept is recognized as a
 * whole.
 */
const MARGIN = 2 * MAX_SECRET; // escapes included

/** How much of a body to receive, in bytes, to keep this much; 0 for 0. */
export const receivedFor = (keptBytes: number): number => (keptBytes === 0 ? 0 : keptBytes + MARGIN);

/**
 * Keep the beginning of a response, without the endpoint's secrets and the request's signatures.
 *
 * Of a URL in `location`, query and user are left out. Bytes that are not UTF-8 become U+FFFD.
 *
 * @param keptBytes  of the body
 * @throws  never
 */
export function keepResponse(
  { head, body, isCut, isEnded }: ResponseBeginning,
  keptBytes: number,
  confidential: Confidential,
): KeptResponse {
  const echoes = listEchoes(confidential);
  const [statusLine = "", ...lines] = head.split(/\r?\n/);
  const limit = isCut ? Math.min(keptBytes, Math.max(0, body.length - MARGIN)) : keptBytes;
  const headers = readHeaders(lines, echoes);
  const isCompressed = COMPRESSED.test(`${headers["content-encoding"]} ${headers["transfer-encoding"]}`);
  const omitted = isCompressed ? "compressed" : body.includes("\0") ? "binary" : undefined;
  const isOmitted = omitted !== undefined && body !== "";
  return {
    status_line: show(statusLine.trim(), MAX_LINE, echoes),
    headers,
    body: isOmitted ? "" : show(body, limit, echoes),
    ...((body.length > limit || isCut || !isEnded) && { is_truncated: true }),
    ...(isOmitted && { omitted }),
  };
}

function readHeaders(lines: readonly string[], echoes: readonly Echo[]): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const colon = line.indexOf(":");
    const name = line.slice(0, Math.max(0, colon)).trim().toLowerCase();
    if (!HEADERS.has(name) || name in headers) continue;
    const value = line.slice(colon + 1).trim();
    headers[name] = show(name === "location" ? withoutQuery(value) : value, MAX_LINE, echoes);
  }
  return headers;
}

/** A URL, relative ones too, without user, query and fragment. */
const withoutQuery = (url: string): string => url.replace(/[?#].*$/s, "").replace(/^((?:[\w+.-]+:)?\/\/)[^/]*@/, "$1");

/** Decode the first bytes of a text, masked. What begins in them is masked as a whole. */
function show(text: string, limit: number, echoes: readonly Echo[]): string {
  let shown = "";
  let from = 0;
  for (const [start, end] of findEchoed(text, echoes)) {
    if (start >= limit) break;
    shown += text.slice(from, start) + MASK;
    from = end;
  }
  const isCut = from < limit && limit < text.length;
  shown += text.slice(from, Math.max(from, limit));
  return new TextDecoder().decode(Buffer.from(shown, "latin1"), { stream: isCut }); // without half a character at the cut
}
