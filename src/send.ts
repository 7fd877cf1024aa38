/**
 * One request out, one {@link Outcome} back, over node:http(s).
 *
 * Not `fetch`: in Bun it has no hook for name resolution, so it cannot be held to the address that was checked.
 */
import http from "node:http";
import https from "node:https";
import type { LookupFunction, Socket } from "node:net";
import { type Address, blockedRange, literalOf, type Network, type Resolve, resolveBySystem } from "./address.ts";
import type { FailureCode, FaultCode, Outcome } from "./outcome.ts";
import type { WebhookRequest } from "./payload.ts";

/** An outcome but for its duration. */
type Result =
  Exclude<Outcome, { kind: "expired" }> extends infer O ? (O extends Outcome ? Omit<O, "durationMs"> : never) : never;

export interface SenderOptions {
  /** Deadline of one attempt, from DNS to the last byte, in ms. */
  readonly timeoutMs: number;
  /** Ranges that may be reached although they are not public. */
  readonly allowNetworks: readonly Network[];
  /** Injected by tests; the system's resolver otherwise. */
  readonly resolve?: Resolve;
  /** Certificate authorities to trust, PEM; the system's otherwise. */
  readonly ca?: string;
}

/** Sends requests over private keep-alive connections, which nothing else may use: they lead to checked addresses only. */
export interface Sender {
  /**
   * Send one request.
   *
   * @param key  names the attempt for {@link Sender.cancel}; the job's id
   * @throws  never; whatever happens is an outcome
   */
  send(request: WebhookRequest, key: string): Promise<Outcome>;
  /** End one attempt at once; its outcome is the fault. Does nothing when there is none. */
  cancel(key: string, code: FaultCode): void;
  /** End every attempt at once, and every one that comes after: for shutdowns. */
  cancelAll(code: FaultCode): void;
  /** How many attempts are under way. */
  readonly inFlight: number;
  /** Drop the idle connections. */
  close(): void;
}

const MAX_RESPONSE_BYTES = 16 * 1024; // 16 KiB: the most of a response that is read; the status has said all we need
const MAX_HEADER_BYTES = 16 * 1024; // 16 KiB of response headers
const MAX_INTERIM = 1_000; // 1xx before the answer: parsing a flood of them would leave no time for anything else
const MAX_IDLE = 2_048; // idle connections in all: with more hosts than that in rotation, the oldest goes
const IDLE_MS = 4 * 1000; // 4 s: below the 5 s after which Node's and many proxies' servers close an idle connection

/** Looking up a host ended without an address that may be used. */
class LookupError extends Error {
  override readonly name = "LookupError";
  constructor(readonly result: Result) {
    super();
  }
}

export function createSender(options: SenderOptions): Sender {
  const { timeoutMs, allowNetworks, resolve = resolveBySystem, ca } = options;
  const attempts = new Map<string, (code: FaultCode) => void>();
  let ended: FaultCode | undefined;

  // Called for every new connection to a name; never for a literal, and never for a connection that is reused.
  const lookup: LookupFunction = (hostname, { all }, callback) => {
    resolveChecked(hostname, resolve, allowNetworks).then(
      (addresses) => (all ? callback(null, addresses) : callback(null, addresses[0].address, addresses[0].family)),
      (error) => callback(error instanceof LookupError ? error : new LookupError(lookupFailure(error)), []),
    );
  };
  const connection = { lookup, maxHeaderSize: MAX_HEADER_BYTES, ...(ca === undefined ? {} : { ca }) };
  const pooled = { ...connection, keepAlive: true, timeout: IDLE_MS };
  const agents = { "http:": new http.Agent(pooled), "https:": new https.Agent(pooled) };
  const idle = new Set<Socket>(); // oldest first
  for (const agent of Object.values(agents)) {
    agent.on("free", (socket: Socket) => {
      idle.add(socket);
      if (idle.size <= MAX_IDLE) return;
      const oldest = idle.values().next().value as Socket;
      idle.delete(oldest); // at once: its close comes later, and many connections may fall idle until then
      oldest.destroy();
    });
  }

  function send(request: WebhookRequest, key: string): Promise<Outcome> {
    if (ended !== undefined) return Promise.resolve({ kind: "fault", code: ended, durationMs: 0 });
    const { url, headers, body } = request;
    const startedAt = performance.now();
    const literal = literalOf(url.hostname);
    const range = literal === undefined ? undefined : blockedRange(literal, allowNetworks);
    if (range !== undefined) return Promise.resolve({ kind: "blocked", range, durationMs: 0 });

    const protocol = url.protocol as "http:" | "https:";
    const { request: open } = protocol === "https:" ? https : http;
    const target = {
      ...connection,
      host: literal ?? url.hostname,
      port: url.port === "" ? (protocol === "https:" ? 443 : 80) : Number(url.port),
      path: url.pathname + url.search,
      method: "POST",
      headers,
    };

    return new Promise((settle) => {
      let current: http.ClientRequest;
      let message: http.IncomingMessage | undefined;
      let response: Result | undefined;

      const finish = (result: Result): void => {
        if (attempts.get(key) !== cancel) return;
        attempts.delete(key);
        clearTimeout(deadline);
        // A connection that still has something of ours or of theirs in it is of no use to the next attempt.
        if (!message?.complete || !current.writableFinished) current.destroy();
        settle({ ...result, durationMs: Math.round(performance.now() - startedAt) });
      };
      const cancel = (code: FaultCode): void => finish({ kind: "fault", code });
      attempts.get(key)?.("lock_lost"); // the job was taken up again while we still held it: only one may live
      attempts.set(key, cancel);
      // After a loop that was blocked, answers that have arrived come before the verdict that none did. Bun looks at its
      // sockets between the two turns, not before the first.
      const late = (): void => finish(response ?? { kind: "failure", code: "timeout" });
      const deadline = setTimeout(() => setImmediate(() => setImmediate(late)), timeoutMs);

      const attempt = (agent: http.Agent | false): void => {
        let socket: Socket | undefined;
        let bytesBefore = 0;
        let interim = 0;
        current = open({ ...target, agent } as http.RequestOptions);
        const self = current;
        self.on("socket", (assigned) => {
          socket = assigned;
          if (!idle.delete(assigned)) assigned.once("close", () => idle.delete(assigned));
          bytesBefore = assigned.bytesRead ?? 0;
        });
        self.on("information", () => {
          interim += 1;
          if (interim > MAX_INTERIM) finish({ kind: "failure", code: "invalid_response" });
        });
        self.on("response", (incoming) => {
          let bytes = 0;
          const done: Result = {
            kind: "response",
            status: incoming.statusCode ?? 0,
            retryAfter: incoming.headers["retry-after"],
          };
          message = incoming;
          response = done;
          incoming.on("data", (chunk: Buffer) => {
            bytes += chunk.length;
            if (bytes > MAX_RESPONSE_BYTES) finish(done);
          });
          incoming.on("end", () => finish(done));
          incoming.on("error", () => finish(done));
        });
        self.on("error", (error: NodeJS.ErrnoException) => {
          if (self !== current) return;
          if (response !== undefined) return finish(response);
          const isStale = self.reusedSocket && isReset(error.code) && (socket?.bytesRead ?? 0) === bytesBefore;
          // The receiver closed an idle connection just as we took it: it has not seen this request.
          if (isStale && attempts.get(key) === cancel) return attempt(false);
          finish(requestFailure(error));
        });
        self.on("close", () => {
          if (self === current) finish(response ?? { kind: "failure", code: "invalid_response" });
        });
        self.end(body);
      };
      try {
        attempt(agents[protocol]);
      } catch (error) {
        attempts.delete(key);
        clearTimeout(deadline);
        settle({ ...requestFailure(error as NodeJS.ErrnoException), durationMs: 0 });
      }
    });
  }

  return {
    send,
    cancel: (key, code) => attempts.get(key)?.(code),
    cancelAll: (code) => {
      ended = code;
      for (const cancel of [...attempts.values()]) cancel(code);
    },
    get inFlight() {
      return attempts.size;
    },
    close: () => {
      agents["http:"].destroy();
      agents["https:"].destroy();
    },
  };
}

/** Every address must be allowed, not just the first: the connection may go to any of them. */
async function resolveChecked(
  hostname: string,
  resolve: Resolve,
  allowNetworks: readonly Network[],
): Promise<[Address, ...Address[]]> {
  const [first, ...rest] = await resolve(hostname);
  if (first === undefined) throw new LookupError({ kind: "failure", code: "dns" });
  for (const { address } of [first, ...rest]) {
    const range = blockedRange(address, allowNetworks);
    if (range !== undefined) throw new LookupError({ kind: "blocked", range });
  }
  return [first, ...rest];
}

const NO_SUCH_NAME = new Set(["ENOTFOUND", "ENODATA", "ENONAME", "EBADNAME"]);
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

/** A name that does not exist is the customer's; a resolver that does not answer is ours. */
function lookupFailure(error: NodeJS.ErrnoException): Result {
  return NO_SUCH_NAME.has(error.code ?? "") ? { kind: "failure", code: "dns" } : { kind: "fault", code: "resolver" };
}

function requestFailure(error: NodeJS.ErrnoException): Result {
  if (error instanceof LookupError) return error.result;
  const code = error.code ?? "";
  if (OUR_RESOURCES.has(code)) return { kind: "fault", code: "resources" };
  if (code.startsWith("HPE_")) return { kind: "failure", code: "invalid_response" };
  return { kind: "failure", code: FAILURES[code] ?? (TLS.test(code) ? "tls" : "network") };
}

function isReset(code: string | undefined): boolean {
  return code === "ECONNRESET" || code === "EPIPE";
}
