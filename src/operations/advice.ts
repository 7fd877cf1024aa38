/**
 * An error code in words: what happened, and what to do about it. For the page and the command line. Pure.
 */
import type { TlsCause } from "../delivery/outcome.ts";

/** What an error code means. Plain sentences, without HTML. */
export interface Advice {
  /** What happened, as a phrase of a few words without a full stop. */
  readonly what: string;
  /** What to do about it, in a sentence or two; to the people who look after the endpoint unless it says otherwise. */
  readonly todo: string;
}

const OURS = "Nothing to do at the endpoint: this one is ours, and used up no attempt.";

/** Every code of `outcome.ts` that is no HTTP status. */
const CODES: Readonly<Record<string, Advice>> = {
  dns: {
    what: "The host name does not resolve, or its name servers do not answer",
    todo: "Check the spelling of the URL, that the name has a public A or AAAA record, and that its name servers answer.",
  },
  connection_refused: {
    what: "Nothing listens at that address and port",
    todo: "Start the server, or check the port in the URL and the firewall in front of it.",
  },
  connection_reset: {
    what: "The endpoint hung up before it answered",
    todo: "Look for a crash, a restart or a proxy's limit at that moment in the endpoint's own log.",
  },
  unreachable: {
    what: "No route to the endpoint's network",
    todo: "Check that the address is right and reachable from the Internet, over IPv4 and IPv6 if it has both.",
  },
  tls: {
    what: "There was no trusted TLS connection",
    todo: "Check the certificate: not expired, for this very host name, and sent with its whole chain.",
  },
  invalid_response: {
    what: "The answer was not HTTP/1.1",
    todo: "Check that the port speaks HTTP/1.1, with TLS or without as the URL says, and that no proxy in between garbles the answer.",
  },
  http2_only: {
    what: "The endpoint speaks HTTP/2 only",
    todo: "Let it, or the proxy in front of it, take HTTP/1.1 as well.",
  },
  network: {
    what: "The connection failed",
    todo: "Try the URL from outside the endpoint's network. If it answers there, look at firewalls and proxies in between.",
  },
  blocked_address: {
    what: "The URL's address is not a public one, or the operator denies it",
    todo: "Use a public address, or a name that resolves to one. A private network has to be opened by the operator, in WEBHOOK_ALLOW_NETWORKS. It is not tried again.",
  },
  blocked_port: {
    what: "The URL's port is not one that may be called",
    todo: "Use one of the ports that the operator allows in WEBHOOK_ALLOW_PORTS, such as 443. It is not tried again.",
  },
  https_required: {
    what: "The URL is not https, so it was not called",
    todo: "Use an https URL: the operator requires it (WEBHOOK_REQUIRE_HTTPS). It is not tried again.",
  },
  expired: {
    what: "It waited longer than an event may, and was given up",
    todo: "The endpoint took nothing for too long, or the workers were too few. Mend that, then redeliver.",
  },
  backlog_full: {
    what: "More events wait for this endpoint, or of this user, than may, and this was among the oldest",
    todo: "The endpoint took nothing for too long, or far too little. Mend that, then redeliver what is still wanted.",
  },
  resolver: { what: "Our own resolver did not answer", todo: OURS },
  resources: { what: "The worker had run out of sockets or files", todo: OURS },
  proxy: { what: "Our egress proxy could not be reached, or refused us", todo: OURS },
  shutdown: { what: "The worker was being stopped", todo: OURS },
  lock_lost: { what: "The worker lost touch with Valkey", todo: OURS },
};

/** What `tls` means with each of its causes. */
const TLS: Readonly<Record<TlsCause, Advice>> = {
  expired: {
    what: "The TLS certificate has expired",
    todo: "Renew it, or the intermediate certificate that is sent with it, and reload the server: many go on sending the old one.",
  },
  not_yet_valid: {
    what: "The TLS certificate is not valid yet",
    todo: "Install one that is valid now. If its dates look right, the clock of the machine that issued it was wrong.",
  },
  wrong_host: {
    what: "The endpoint has no TLS certificate for this host name",
    todo: "Get a certificate that names the host of the URL, or correct the URL. A server for several names has to choose by SNI.",
  },
  untrusted: {
    what: "The TLS certificate does not lead to a trusted authority",
    todo: "Send the certificate with its whole chain of intermediates, and use one for servers by a public authority, not one that is signed by itself. A private authority has to be added by the operator, in WEBHOOK_CA_FILE.",
  },
  handshake: {
    what: "The TLS handshake failed",
    todo: "Check that this port speaks TLS at all, in version 1.2 or 1.3 with usual ciphers, and asks for no client certificate: we have none.",
  },
};

/** Statuses that mean something of their own here. */
const STATUSES: Readonly<Record<number, Advice>> = {
  400: {
    what: "The endpoint found the request malformed",
    todo: "Look in its log for what it missed: our body is JSON, with id, event, timestamp and data.",
  },
  401: {
    what: "The endpoint wants other credentials, or refused the signature",
    todo: "Check that it verifies with the current secret, over the raw body as it came, before any parsing.",
  },
  403: {
    what: "The endpoint forbids the request",
    todo: "Often a firewall or bot protection in front of it: let POSTs with the user agent Fluxhook/1.0 through.",
  },
  404: { what: "There is nothing at that path", todo: "Check the path of the URL, and that the route is deployed." },
  405: {
    what: "The path takes no POST",
    todo: "Check that the URL is that of the webhook's route, which has to take POST.",
  },
  408: {
    what: "The endpoint got tired of waiting for the request",
    todo: "Usually an overloaded proxy in front of it: look at its timeouts and its load.",
  },
  410: {
    what: "The endpoint says it is gone for good",
    todo: "Taken at its word: it is not tried again. Answer something else, and redeliver, if that was not meant.",
  },
  413: {
    what: "The body is too large for the endpoint",
    todo: "Raise its limit: a body has up to WEBHOOK_MAX_BODY, 256 kB unless set.",
  },
  415: { what: "The endpoint does not take JSON", todo: "Let the route take Content-Type: application/json." },
  422: {
    what: "The endpoint could not use the data",
    todo: "Let it take events that it does not know with a 2xx, and ignore them.",
  },
  429: {
    what: "The endpoint asked us to slow down",
    todo: "Its Retry-After is honoured, up to 24 h. Raise its limit if events come too late.",
  },
  500: { what: "The endpoint failed inside", todo: "Look for the exception in its own log." },
  502: {
    what: "The endpoint's proxy got no good answer from the server behind it",
    todo: "Look at the server behind the proxy: down, restarting, or crashing on this request.",
  },
  503: {
    what: "The endpoint is not available for now",
    todo: "Down for maintenance, or overloaded: look at its load and health.",
  },
  504: {
    what: "The endpoint's proxy waited too long for the server behind it",
    todo: "Answer first, work later: take the event in, answer 2xx, and do the work afterwards.",
  },
};

/** The rest, by the status' first digit. */
const CLASSES: Readonly<Record<string, (status: string) => Advice>> = {
  "1": (status) => ({ what: `The endpoint answered ${status}, which is no final answer`, todo: "Answer with a 2xx." }),
  "3": (status) => ({
    what: `The endpoint redirects (${status})`,
    todo: "Redirects are not followed: set the endpoint's URL to the place it redirects to.",
  }),
  "4": (status) => ({
    what: `The endpoint refused the request (${status})`,
    todo: "Look in its log for the reason. Only a 2xx counts as delivered.",
  }),
  "5": (status) => ({ what: `The endpoint failed (${status})`, todo: "Look in its own log for the reason." }),
};

/**
 * Say what an error code means.
 *
 * @param error      as in an attempt: `timeout`, `http_503`, …
 * @param timeoutMs  an attempt's deadline, ms
 * @param cause      the attempt's cause, if it has one
 * @returns words for every code there is; for one from a newer version, words that say so
 * @throws  never
 */
export function adviceFor(error: string, timeoutMs = 10_000, cause?: string): Advice {
  if (error === "timeout") {
    return {
      what: `No answer within ${timeoutMs / 1000} s`,
      todo: "Answer first, work later: take the event in, answer 2xx at once, and do the work afterwards.",
    };
  }
  if (error === "tls" && cause !== undefined && Object.hasOwn(TLS, cause)) return TLS[cause as TlsCause];
  const status = /^http_(\d{3})$/.exec(error)?.[1];
  const known =
    status === undefined ? (Object.hasOwn(CODES, error) ? CODES[error] : undefined) : STATUSES[Number(status)];
  return (
    known ??
    CLASSES[status?.[0] ?? ""]?.(status as string) ?? {
      what: "An error that this version has no words for",
      todo: "Look at the worker's log line of this attempt.",
    }
  );
}
