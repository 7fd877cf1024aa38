/**
 * Translates connection errors into outcomes: whose fault it is, and which.
 */
import { closeSync, openSync } from "node:fs";
import type { FailureCode, Outcome, TlsCause } from "../delivery/outcome.ts";
import { LookupError } from "../dns/address.ts";

/** An outcome without its duration. */
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
  // Answers to our ALPN, which offers only HTTP/1.1: a refusal, or another protocol regardless.
  ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL: "http2_only",
  ERR_SSL_INVALID_ALPN_PROTOCOL: "http2_only",
};

/** TLS error codes whose cause does not follow from the patterns below. */
const TLS_CAUSES: Readonly<Record<string, TlsCause>> = {
  CERT_HAS_EXPIRED: "expired",
  CERT_NOT_YET_VALID: "not_yet_valid",
  ERR_TLS_CERT_ALTNAME_INVALID: "wrong_host",
  HOSTNAME_MISMATCH: "wrong_host",
  ERR_SSL_TLSV1_ALERT_UNRECOGNIZED_NAME: "wrong_host", // the server has no certificate for this SNI name
  ERR_SSL_KEY_USAGE_BIT_INCORRECT: "untrusted", // the certificate's key usage does not permit a handshake
  EPROTO: "handshake",
};
const HANDSHAKE = /^ERR_(?:SSL|TLS)_/;
const NOT_TLS = /^(?:$|ERR_|E[A-Z0-9]+$)/; // no code, Node's own codes, system codes

/** Whether the receiver reset the connection, or closed it while we were writing. */
export function isReset(error: NodeJS.ErrnoException): boolean {
  return FAILURES[error.code ?? ""] === "connection_reset";
}

/** The egress proxy did not open a tunnel. */
export class ProxyError extends Error {
  override readonly name = "ProxyError";
  constructor(readonly result: Result) {
    super();
  }
}

/** From least to most informative: when several addresses fail, one that answered says more than a silent one. */
const INFORMATIVE: readonly FailureCode[] = [
  "unreachable",
  "timeout",
  "connection_refused",
  "network",
  "connection_reset",
  "tls",
  "http2_only",
];

/** The result of an attempt whose connection failed with this error; of an AggregateError, the most informative one. */
export function requestFailure(error: NodeJS.ErrnoException): Result {
  const tried: NodeJS.ErrnoException[] = error instanceof AggregateError ? error.errors : [error];
  const weight = (result: Result): number => (result.kind === "failure" ? INFORMATIVE.indexOf(result.code) + 1 : 0); // our own faults come last
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
 * The TLS cause behind an error code; undefined when the error has nothing to do with TLS.
 *
 * A code that comes from neither the handshake, Node, nor the system is a certificate verification result. OpenSSL has about 80 of
 * them; Bun reports the rarer ones, such as name constraint violations, as `UNSPECIFIED`.
 */
function tlsCauseOf(code: string): TlsCause | undefined {
  const known = TLS_CAUSES[code];
  if (known !== undefined) return known;
  if (HANDSHAKE.test(code)) return "handshake";
  return NOT_TLS.test(code) ? undefined : "untrusted";
}

/** Bun also reports "connection refused" and "no such name" when the process is out of file descriptors. */
function hasNoDescriptor(): boolean {
  try {
    closeSync(openSync("/dev/null", "r"));
    return false;
  } catch (error) {
    return OUR_RESOURCES.has((error as NodeJS.ErrnoException).code ?? "");
  }
}
