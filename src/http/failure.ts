/**
 * What the error of a connection says about an attempt: whose fault it is, and which.
 */
import { closeSync, openSync } from "node:fs";
import type { FailureCode, Outcome } from "../outcome.ts";
import { LookupError } from "./address.ts";

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
  EPROTO: "tls",
};
const TLS = /^(?:CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|HOSTNAME_MISMATCH|INVALID_)/;

/** The receiver cut the connection, or closed it as we wrote. */
export function isReset(error: NodeJS.ErrnoException): boolean {
  return FAILURES[error.code ?? ""] === "connection_reset";
}

/** What an error of a connection, or of opening it, says about the attempt. */
export function requestFailure(error: NodeJS.ErrnoException): Result {
  const result = error instanceof LookupError ? error.result : failureOf(error);
  const isDoubtful = "code" in result && (result.code === "connection_refused" || result.code === "dns");
  return isDoubtful && hasNoDescriptor() ? { kind: "fault", code: "resources" } : result;
}

function failureOf(error: NodeJS.ErrnoException): Result {
  const tried: NodeJS.ErrnoException[] = error instanceof AggregateError ? error.errors : [error]; // one an address
  const codes = tried.map(({ code = "" }) => code);
  const code = codes.find((code) => !OUR_RESOURCES.has(code)); // a machine without IPv6 fails at one of two by itself
  if (code === undefined) return { kind: "fault", code: "resources" };
  return { kind: "failure", code: FAILURES[code] ?? (TLS.test(code) ? "tls" : "network") };
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
