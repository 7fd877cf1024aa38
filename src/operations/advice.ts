/**
 * Error codes explained: what happened and what to do about it. For the user's page and the command. Pure.
 */
import type { TlsCause } from "../delivery/outcome.ts";

/** What an error code means. Plain text. */
export interface Advice {
  /** What happened: a short phrase without a period. */
  readonly what: string;
  /** What to do about it, in a sentence or two, addressed to the endpoint's owner. */
  readonly todo: string;
}

const RESPOND_FIRST = "Respond first, work later: store the event, return a 2xx right away, and process it afterwards.";
const OURS = "No action needed at the endpoint: this was a problem on our side and did not use up an attempt.";

/** Every code of `outcome.ts` other than HTTP statuses. */
const CODES: Readonly<Record<string, Advice>> = {
  dns: {
    what: "The host name does not resolve, or its name servers do not respond",
    todo: "Check the spelling of the URL, that the name has a public A or AAAA record, and that its name servers respond.",
  },
  connection_refused: {
    what: "Connection refused",
    todo: "Start the server, or check the port in the URL and the firewall in front of it.",
  },
  connection_reset: {
    what: "Connection closed before a response",
    todo: "Check the endpoint's log for a crash, a restart or a proxy limit at that time.",
  },
  unreachable: {
    what: "Network unreachable",
    todo: "Check that the address is correct and reachable from the internet, over both IPv4 and IPv6 if it has both.",
  },
  tls: {
    what: "TLS connection failed",
    todo: "Check that the certificate is not expired, is issued for this host name, and is sent with its full chain.",
  },
  invalid_response: {
    what: "The response was not valid HTTP/1.1",
    todo: "Check that the port speaks HTTP/1.1, with or without TLS as in the URL, and that no proxy in between corrupts the response.",
  },
  http2_only: {
    what: "The endpoint supports only HTTP/2",
    todo: "Enable HTTP/1.1 on it, or on the proxy in front of it.",
  },
  network: {
    what: "The connection failed",
    todo: "Try the URL from outside the endpoint's network. If it works there, check firewalls and proxies in between.",
  },
  blocked_address: {
    what: "The URL's address is not public, or is blocked by the operator",
    todo: "Use a public address, or a name that resolves to one. The operator can allow a private network in WEBHOOK_ALLOW_NETWORKS. Not retried.",
  },
  blocked_port: {
    what: "The URL's port is not allowed",
    todo: "Use one of the ports that the operator allows in WEBHOOK_ALLOW_PORTS, such as 443. Not retried.",
  },
  https_required: {
    what: "The URL is not https",
    todo: "Use an https URL: the operator requires it (WEBHOOK_REQUIRE_HTTPS). Not retried.",
  },
  expired: {
    what: "The event waited too long, or its time was over",
    todo: "The endpoint was unavailable for too long, or there were too few workers. Fix that, then redeliver. An event past its own expiresAt is not sent any more.",
  },
  backlog_full: {
    what: "Too many events were waiting for this endpoint or user, and this was among the oldest",
    todo: "The endpoint was unavailable or too slow for too long. Fix that, then redeliver the events that are still needed.",
  },
  resolver: { what: "Our DNS resolver did not respond", todo: OURS },
  resources: { what: "The worker ran out of sockets or file descriptors", todo: OURS },
  proxy: { what: "Our egress proxy was unreachable or refused the connection", todo: OURS },
  shutdown: { what: "The worker was shutting down", todo: OURS },
  lock_lost: { what: "The worker lost its connection to Valkey", todo: OURS },
};

/** What `tls` means, by cause. */
const TLS: Readonly<Record<TlsCause, Advice>> = {
  expired: {
    what: "The TLS certificate has expired",
    todo: "Renew it, or the intermediate certificate sent with it, and reload the server: many servers keep sending the old one.",
  },
  not_yet_valid: {
    what: "The TLS certificate is not valid yet",
    todo: "Install one that is valid now. If its dates look right, the clock of the issuing machine was wrong.",
  },
  wrong_host: {
    what: "The TLS certificate is for another host name",
    todo: "Get a certificate for the host name in the URL, or correct the URL. A server with several certificates has to choose by SNI.",
  },
  untrusted: {
    what: "The TLS certificate is not trusted",
    todo: "Use a server certificate from a public authority, not a self-signed one, and send it with all intermediates. The operator can add a private authority in WEBHOOK_CA_FILE.",
  },
  handshake: {
    what: "The TLS handshake failed",
    todo: "Check that this port speaks TLS 1.2 or 1.3 with common ciphers, and does not require a client certificate.",
  },
};

/** Statuses with advice of their own. */
const STATUSES: Readonly<Record<number, Advice>> = {
  400: {
    what: "Bad request",
    todo: "Check the endpoint's log for what it expected. The body is JSON with id, event, timestamp and data.",
  },
  401: {
    what: "Unauthorized: the signature was rejected, or other credentials are required",
    todo: "Check that the endpoint verifies with the current secret, over the raw body, before any parsing.",
  },
  403: {
    what: "Forbidden",
    todo: "Often a firewall or bot protection: allow POST requests with the user agent Fluxhook/1.0.",
  },
  404: { what: "Not found", todo: "Check the URL's path, and that the route is deployed." },
  405: {
    what: "The path does not accept POST",
    todo: "Check that the URL is the webhook route, and that the route accepts POST.",
  },
  408: {
    what: "The endpoint timed out waiting for the request",
    todo: "Usually an overloaded proxy in front of it: check its timeouts and its load.",
  },
  410: {
    what: "Gone: the endpoint no longer exists",
    todo: "Not retried. If that was a mistake, return another status and redeliver.",
  },
  413: {
    what: "The body is too large for the endpoint",
    todo: "Raise its limit: bodies have up to WEBHOOK_MAX_BODY, 256 kB by default.",
  },
  415: { what: "The endpoint does not accept JSON", todo: "Accept Content-Type: application/json on the route." },
  422: {
    what: "The endpoint could not process the data",
    todo: "Return a 2xx for event types that it does not know, and ignore them.",
  },
  429: {
    what: "Too many requests",
    todo: "Retry-After is honored, up to 24 h. Raise the endpoint's rate limit if events arrive too late.",
  },
  500: { what: "Server error", todo: "Check the endpoint's log for the exception." },
  502: {
    what: "Bad gateway: the endpoint's proxy got no valid response from the server behind it",
    todo: "Check the server behind the proxy: it may be down, restarting, or crashing on this request.",
  },
  503: {
    what: "Service unavailable",
    todo: "Down for maintenance, or overloaded: check its load and health.",
  },
  504: {
    what: "Gateway timeout: the server behind the endpoint's proxy took too long",
    todo: RESPOND_FIRST,
  },
};

/** All other statuses, by first digit. */
const CLASSES: Readonly<Record<string, (status: string) => Advice>> = {
  "1": (status) => ({ what: `The endpoint sent ${status} without a final status`, todo: "Return a 2xx." }),
  "3": (status) => ({
    what: `Redirect (${status})`,
    todo: "Redirects are not followed: change the endpoint's URL to the redirect target.",
  }),
  "4": (status) => ({
    what: `The endpoint rejected the request (${status})`,
    todo: "Check its log for the reason. Only a 2xx counts as delivered.",
  }),
  "5": (status) => ({ what: `Server error (${status})`, todo: "Check the endpoint's log for the reason." }),
};

/**
 * Explain an error code.
 *
 * @param error      as in an attempt: `timeout`, `http_503`, …
 * @param timeoutMs  the deadline of an attempt, ms
 * @param cause      the attempt's cause, if it has one
 * @returns advice for every known code; a generic text for codes of a newer version
 * @throws  never
 */
export function adviceFor(error: string, timeoutMs = 10_000, cause?: string): Advice {
  if (error === "timeout") {
    return {
      what: `No response within ${timeoutMs / 1000} s`,
      todo: RESPOND_FIRST,
    };
  }
  if (error === "tls" && cause !== undefined && Object.hasOwn(TLS, cause)) return TLS[cause as TlsCause];
  const status = /^http_(\d{3})$/.exec(error)?.[1];
  const known =
    status === undefined ? (Object.hasOwn(CODES, error) ? CODES[error] : undefined) : STATUSES[Number(status)];
  return (
    known ??
    CLASSES[status?.[0] ?? ""]?.(status as string) ?? {
      what: "Unknown error code",
      todo: "Check the worker's log line for this attempt.",
    }
  );
}
