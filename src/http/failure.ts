/**
 * What the error of a connection says about an attempt: whose fault it is, and which.
 */
import { closeSync, openSync } from "node:fs";
import type { FailureCode, Outcome, TlsCause } from "../delivery/outcome.ts";
import { LookupError } from "../dns/address.ts";

/** An outcome but for its duration. */
export type Result =
  Exclude<Outcome, { kind: "expired" | "backlog_full" }> extends infer O
    ? O extends Outcome
      ? Omit<O, "durationMs">
      : never
    : never;

const OUR_RESOURCES = new Set(["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EADDRNOTAVAIL", "ENETDOWN"]);
const FAILURES: Readonly<Record<string, FailureCode>> = {
  ECONNREFUSED: "connection_refused",
  ECONNRESET: "connection_reset",
  ECONNABORTED: "connection_reset",
  EPIPE: "connection_reset",
  EHOSTUNREACH: "unreachable",
  ENETUNREACH: "unreachable",
  EHOSTDOWN: "unreachable",
  ETIMEDOUT: "timeout",
  // Its answer to our ALPN, which offers HTTP/1.1 alone: a refusal, or another protocol all the same.
  ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL: "http2_only",
  ERR_SSL_INVALID_ALPN_PROTOCOL: "http2_only",
};

/** Codes of TLS whose names do not say which of the causes they are. */
const TLS_CAUSES: Readonly<Record<string, TlsCause>> = {
  CERT_HAS_EXPIRED: "expired",
  CERT_NOT_YET_VALID: "not_yet_valid",
  ERR_TLS_CERT_ALTNAME_INVALID: "wrong_host",
  HOSTNAME_MISMATCH: "wrong_host",
  ERR_SSL_TLSV1_ALERT_UNRECOGNIZED_NAME: "wrong_host", // the server knows no such name, and so has no certificate for it
  ERR_SSL_KEY_USAGE_BIT_INCORRECT: "untrusted", // the certificate's key is not for a handshake
  EPROTO: "handshake",
};
const HANDSHAKE = /^ERR_(?:SSL|TLS)_/;
const NOT_TLS = /^(?:$|ERR_|E[A-Z0-9]+$)/; // no code at all, of Node's own, of the system's

/** The receiver cut the connection, or closed it as we wrote. */
export function isReset(error: NodeJS.ErrnoException): boolean {
  return FAILURES[error.code ?? ""] === "connection_reset";
}

/** The egress proxy opened no tunnel. */
export class ProxyError extends Error {
  override readonly name = "ProxyError";
  constructor(readonly result: Result) {
    super();
  }
}

/** Of the failures of several addresses, a later one says more: that of a receiver that spoke more than a silent one's. */
const TELLING: readonly FailureCode[] = [
  "unreachable",
  "timeout",
  "connection_refused",
  "network",
  "connection_reset",
  "tls",
  "http2_only",
];

/** What an error of a connection, or of opening it, says about the attempt; of several, one an address, that which says most. */
export function requestFailure(error: NodeJS.ErrnoException): Result {
  const tried: NodeJS.ErrnoException[] = error instanceof AggregateError ? error.errors : [error];
  const weight = (result: Result): number => (result.kind === "failure" ? TELLING.indexOf(result.code) + 1 : 0); // our own say least
  const result = tried.map(failureOf).toSorted((a, b) => weight(b) - weight(a))[0] as Result;
  const isDoubtful = "code" in result && (result.code === "connection_refused" || result.code === "dns");
  return isDoubtful && hasNoDescriptor() ? { kind: "fault", code: "resources" } : result;
}

function failureOf(error: NodeJS.ErrnoException): Result {
  if (error instanceof LookupError || error instanceof ProxyError) return error.result;
  const { code = "" } = error;
  if (OUR_RESOURCES.has(code)) return { kind: "fault", code: "resources" };
  const known = FAILURES[code];
  if (known !== undefined) return { kind: "failure", code: known };
  const cause = tlsCauseOf(code);
  return cause === undefined ? { kind: "failure", code: "network" } : { kind: "failure", code: "tls", cause };
}

/**
 * What a code says about TLS; undefined when it is of something else.
 *
 * What is neither the handshake's, nor Node's, nor the system's is the result of verifying a certificate. OpenSSL has some 80
 * of those, and Bun names the less usual ones, name constraints among them, `UNSPECIFIED`.
 */
function tlsCauseOf(code: string): TlsCause | undefined {
  const known = TLS_CAUSES[code];
  if (known !== undefined) return known;
  if (HANDSHAKE.test(code)) return "handshake";
  return NOT_TLS.test(code) ? undefined : "untrusted";
}

/** Bun says "refused" and "no such name" also when there was no file descriptor left to ask with. */
function hasNoDescriptor(): boolean {
  try {
    closeSync(openSync("/dev/null", "r"));
    return false;
  } catch (error) {
    return OUR_RESOURCES.has((error as NodeJS.ErrnoException).code ?? "");
  }
}
