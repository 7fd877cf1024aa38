/**
 * The outcome of one attempt, as a value. Pure: no clock, no network.
 */

/** Why there was no usable response: a failure of the receiver or the network. */
export type FailureCode =
  | "timeout"
  | "dns"
  | "connection_refused"
  | "connection_reset"
  | "unreachable"
  | "tls"
  | "invalid_response"
  | "http2_only"
  | "network";

/**
 * Why there was no TLS connection.
 *
 * - `expired`, `not_yet_valid`  the certificate or one in its chain, by our clock
 * - `wrong_host`  the server has no certificate for the URL's host name
 * - `untrusted`   no valid certificate chain leads to a trusted authority
 * - `handshake`   failed before there was a certificate to verify: no TLS on that port, no common version or cipher, or the server
 *                 requires a client certificate
 */
export type TlsCause = "expired" | "not_yet_valid" | "wrong_host" | "untrusted" | "handshake";

/** Why we could not try, or had to stop: our own fault, which uses no attempt. */
export type FaultCode = "resolver" | "resources" | "proxy" | "shutdown" | "lock_lost";

/** Which of the operator's rules blocks the URL, other than those about addresses. */
export type BlockedCode = "blocked_port" | "https_required";

/** The beginning of a failed response, as it was received: a character per byte. The receiver chose it; secrets are not masked. */
export interface ResponseBeginning {
  /** The status line and the fields, without the last line break. */
  readonly head: string;
  /** Without chunked coding. */
  readonly body: string;
  /** Whether the body goes on after this. */
  readonly isCut: boolean;
  /** Whether the end of the body was received. */
  readonly isEnded: boolean;
}

/**
 * The outcome of an attempt.
 *
 * - `response`  a status line arrived; whatever happened to the body afterwards does not matter. `beginning` has what came of a
 *               failed response, if it is to be kept; nothing is decided by it
 * - `failure`   no usable status line. `cause` has details: for `tls` a {@link TlsCause}, which customers may see; for `dns` the
 *               kind of address that the name resolved to (`loopback`, `private`, …), for operators only
 * - `blocked`   the URL may not be called: because of its address, whose kind is in `range` (`loopback`, `private`, …), or because
 *               of the rule in `code`
 * - `fault`     ours: a resolver or an egress proxy that is down, no file descriptors, a shutdown, a lost job lock. `cause` may have
 *               details, for operators only
 * - `expired`   not attempted: the event has waited longer than `WEBHOOK_MAX_AGE`, or until its own `expiresAt`; or it would have by
 *               the time that the `cause`, its endpoint's rate limit, lets it go
 * - `backlog_full`  not attempted: more than `WEBHOOK_MAX_BACKLOG` events are waiting, and this is one of the oldest
 *
 * `durationMs` covers the whole attempt, DNS included.
 */
export type Outcome =
  | {
      readonly kind: "response";
      readonly status: number;
      readonly retryAfter: string | undefined;
      readonly beginning?: ResponseBeginning;
      readonly durationMs: number;
    }
  | {
      readonly kind: "failure";
      readonly code: FailureCode;
      readonly cause?: TlsCause | string;
      readonly durationMs: number;
    }
  | { readonly kind: "blocked"; readonly code?: BlockedCode; readonly range?: string; readonly durationMs: number }
  | { readonly kind: "fault"; readonly code: FaultCode; readonly cause?: string; readonly durationMs: number }
  | { readonly kind: "expired"; readonly cause?: "rate_limit"; readonly durationMs: 0 }
  | { readonly kind: "backlog_full"; readonly durationMs: 0 };

/** Whether the receiver accepted the event, with a 2xx. */
export function isDelivered(outcome: Outcome): boolean {
  return outcome.kind === "response" && outcome.status >= 200 && outcome.status < 300;
}

/**
 * Whether the endpoint counts as silent: it returned no HTTP status, or no name server answered for its name.
 *
 * Every failure counts, even that of a server that responds with unusable TLS or HTTP: no event can reach it. Other faults of ours
 * say nothing about the endpoint, least of all those of the egress proxy, which all endpoints share.
 */
export function isSilence(outcome: Outcome): boolean {
  return outcome.kind === "failure" || (outcome.kind === "fault" && outcome.code === "resolver");
}

/** The error code for logs and metrics: `null` when delivered, otherwise `http_503`, `timeout`, `blocked_address`, … */
export function errorCode(outcome: Outcome): string | null {
  switch (outcome.kind) {
    case "response":
      return isDelivered(outcome) ? null : `http_${outcome.status}`;
    case "blocked":
      return outcome.code ?? "blocked_address";
    case "expired":
    case "backlog_full":
      return outcome.kind;
    default:
      return outcome.code;
  }
}

/** Why there was no TLS connection; undefined for every other outcome. Unlike other causes, customers may see it. */
export function tlsCause(outcome: Outcome): TlsCause | undefined {
  return outcome.kind === "failure" && outcome.code === "tls" ? (outcome.cause as TlsCause | undefined) : undefined;
}

/** An error code with its cause, for display: `timeout`, `tls (expired)`. */
export function nameError(error: string, cause: string | undefined): string {
  return cause === undefined ? error : `${error} (${cause})`;
}

/** The status as the log stores it: `null` when there was no response. */
export function statusCode(outcome: Outcome): number | null {
  return outcome.kind === "response" ? outcome.status : null;
}

/** A short phrase for job results and failure reasons: `HTTP 503 in 41 ms`, `tls (expired) after 12 ms`. */
export function describeOutcome(outcome: Outcome): string {
  switch (outcome.kind) {
    case "response":
      return `HTTP ${outcome.status} in ${outcome.durationMs} ms`;
    case "blocked":
      return outcome.code ?? `blocked_address (${outcome.range})`;
    case "expired":
      return nameError(outcome.kind, outcome.cause);
    case "backlog_full":
      return outcome.kind;
    default:
      return `${nameError(outcome.code, tlsCause(outcome))} after ${outcome.durationMs} ms`;
  }
}
