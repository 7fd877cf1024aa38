/**
 * What happened in one attempt, as a value. Pure: no clock, no network, no text that came from a receiver.
 */

/** Why no response came although the request was ours to make: the receiver's or the network's doing. */
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
 * - `expired`, `not_yet_valid`  the certificate, or one of its chain, by our clock
 * - `wrong_host`  the server has no certificate for the URL's host name
 * - `untrusted`   no chain of good certificates leads to an authority that we trust
 * - `handshake`   there was no certificate to judge, or none of ours that the server asked for: no TLS at that port, no version or
 *                 cipher in common
 */
export type TlsCause = "expired" | "not_yet_valid" | "wrong_host" | "untrusted" | "handshake";

/** Why we could not even try, or had to stop: never charged to the endpoint, never an attempt. */
export type FaultCode = "resolver" | "resources" | "proxy" | "shutdown" | "lock_lost";

/** Which rule of the operator's forbids the URL, where it is not its address. */
export type BlockedCode = "blocked_port" | "https_required";

/**
 * The outcome of an attempt.
 *
 * - `response`  a status line arrived; whatever happened to the body afterwards does not matter
 * - `failure`   no usable status line. `cause` says more: of `tls` a {@link TlsCause}, for everybody; of `dns` the kind of address
 *               that the name led to (`loopback`, `private`, …), for operators only
 * - `blocked`   the URL is not one we may call. Without a `code` because of its address, and `range` names the kind of address
 *               (`loopback`, `private`, …)
 * - `fault`     ours: a resolver or an egress proxy that is down, no file descriptors, a shutdown, a lost job lock; with a `cause`,
 *               where there is more to say, for operators only
 * - `expired`   not tried any more: the event has waited for its endpoint longer than `WEBHOOK_MAX_AGE`
 * - `backlog_full`  not tried any more: it is among the oldest of more than `WEBHOOK_MAX_BACKLOG` events that wait
 *
 * `durationMs` counts from the first byte of work (DNS included) to the last.
 */
export type Outcome =
  | {
      readonly kind: "response";
      readonly status: number;
      readonly retryAfter: string | undefined;
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
  | { readonly kind: "expired" | "backlog_full"; readonly durationMs: 0 };

/** Whether the receiver accepted the event: a 2xx, and nothing else. */
export function isDelivered(outcome: Outcome): boolean {
  return outcome.kind === "response" && outcome.status >= 200 && outcome.status < 300;
}

/**
 * Whether the endpoint may count as silent: no HTTP status came from it, or no resolver answered about its name.
 *
 * Every failure counts, also of a server that speaks, but no TLS or no HTTP/1.1 that we can use: no event gets through to it.
 * Other faults of ours say nothing about the endpoint, those of an egress proxy least of all, which all endpoints share.
 */
export function isSilence(outcome: Outcome): boolean {
  return outcome.kind === "failure" || (outcome.kind === "fault" && outcome.code === "resolver");
}

/** The short code that logs and metrics carry: `null` when delivered, else `http_503`, `timeout`, `blocked_address`, … */
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

/** Why there was no TLS connection; undefined of every other outcome. Unlike other causes it may be shown to everybody. */
export function tlsCause(outcome: Outcome): TlsCause | undefined {
  return outcome.kind === "failure" && outcome.code === "tls" ? (outcome.cause as TlsCause | undefined) : undefined;
}

/** An error code with its cause, as people are shown it: `timeout`, `tls (expired)`. */
export function nameError(error: string, cause: string | undefined): string {
  return cause === undefined ? error : `${error} (${cause})`;
}

/** The status as the log stores it: `null` when there was no response. */
export function statusCode(outcome: Outcome): number | null {
  return outcome.kind === "response" ? outcome.status : null;
}

/** One short phrase for job results and failure reasons: `HTTP 503 in 41 ms`, `tls (expired) after 12 ms`. */
export function describeOutcome(outcome: Outcome): string {
  switch (outcome.kind) {
    case "response":
      return `HTTP ${outcome.status} in ${outcome.durationMs} ms`;
    case "blocked":
      return outcome.code ?? `blocked_address (${outcome.range})`;
    case "expired":
    case "backlog_full":
      return outcome.kind;
    default:
      return `${nameError(outcome.code, tlsCause(outcome))} after ${outcome.durationMs} ms`;
  }
}
