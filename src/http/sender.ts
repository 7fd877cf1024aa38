/**
 * One request out, one {@link Outcome} back.
 *
 * Not `fetch`: in Bun it has no hook for name resolution, so it cannot be held to the address that was checked. Not
 * node:http either: it can, but costs four times as much as what we need of it (bench/RESULTS.md).
 */

import type { NameServer } from "../dns/resolv-conf.ts";
import { createResolver, NO_SERVERS, type Resolver } from "../dns/resolver.ts";
import type { FaultCode, Outcome } from "../outcome.ts";
import type { WebhookRequest } from "../payload.ts";
import { blockedRange, createLookup, literalOf, type Resolve } from "./address.ts";
import { type Connection, type Exchange, UNASKED } from "./connection.ts";
import { type Connections, createConnections } from "./connections.ts";
import { type DestinationRules, portOf, type Refusal, refusalOf } from "./destination.ts";
import { createDial, createOpenSocket, type Target } from "./dial.ts";
import { isReset, type Result, requestFailure } from "./failure.ts";
import { ResponseReader } from "./response.ts";

export interface SenderOptions extends DestinationRules {
  /** Deadline of one attempt, from DNS to the last byte, in ms. */
  readonly timeoutMs: number;
  /**
   * How long after its attempt began a request may begin to leave, ms: the job's lock. A process that was stopped for longer
   * must not send it, since another worker has the job by now. Without end unless given.
   */
  readonly lockMs?: number;
  /** Who is asked for names; the system's name servers when empty. */
  readonly dnsServers?: readonly NameServer[];
  /** Injected by tests; a resolver of our own otherwise. */
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

export function createSender(options: SenderOptions): Sender {
  const {
    timeoutMs,
    lockMs = Number.POSITIVE_INFINITY,
    allowNetworks,
    denyNetworks,
    dnsServers,
    resolve,
    ca,
  } = options;
  const attempts = new Map<string, Attempt>();
  const destinations = new WeakMap<URL, Destination>();
  let ended: FaultCode | undefined;

  const blocked = (address: string): string | undefined => blockedRange(address, allowNetworks, denyNetworks);
  const resolver: Resolver =
    resolve === undefined
      ? createResolver({ servers: dnsServers, blocked })
      : { resolve, unresolved: () => NO_SERVERS };
  const dial = createDial(createLookup(resolver.resolve, blocked), createOpenSocket(ca));
  const connections = createConnections(dial);

  function destinationOf(url: URL): Destination {
    const known = destinations.get(url);
    if (known !== undefined) return known;
    const destination = describeDestination(url, options);
    destinations.set(url, destination);
    return destination;
  }

  return {
    send(request, key) {
      if (ended !== undefined) return Promise.resolve({ kind: "fault", code: ended, durationMs: 0 });
      const destination = destinationOf(request.url);
      if (destination.refusal !== undefined) return Promise.resolve({ ...destination.refusal, durationMs: 0 });
      attempts.get(key)?.cancel("lock_lost"); // the job was taken up again while we still held it: only one may live
      return new Promise((settle) => {
        const attempt: Attempt = new Attempt(
          connections,
          destination.target,
          { timeoutMs, lockMs, resolver },
          (outcome) => {
            if (attempts.get(key) === attempt) attempts.delete(key);
            settle(outcome);
          },
        );
        attempts.set(key, attempt);
        attempt.start(destination.requestLine, request);
      });
    },
    cancel: (key, code) => attempts.get(key)?.cancel(code),
    cancelAll: (code) => {
      ended = code;
      for (const attempt of [...attempts.values()]) attempt.cancel(code);
    },
    get inFlight() {
      return attempts.size;
    },
    close: () => connections.close(),
  };
}

/** What an URL says about where to go, worked out once. */
interface Destination {
  readonly target: Target;
  readonly requestLine: string;
  /** Why it may not be called, where the URL tells by itself. */
  readonly refusal: Refusal | undefined;
}

function describeDestination(url: URL, rules: DestinationRules): Destination {
  const literal = literalOf(url.hostname);
  const isSecure = url.protocol === "https:";
  return {
    target: {
      origin: url.origin,
      isSecure,
      host: literal ?? url.hostname,
      isLiteral: literal !== undefined,
      port: portOf(url),
    },
    requestLine: `POST ${url.pathname}${url.search} HTTP/1.1\r\n`,
    refusal: refusalOf(url, rules),
  };
}

const SILENT: Result = { kind: "failure", code: "timeout" };

/** A connection that ended without a word, as a reset says it. */
const HUNG_UP: NodeJS.ErrnoException = Object.assign(new Error("hung up"), { code: "ECONNRESET" });

const BLOCKED_MS = 500; // a deadline that is noticed so late: the loop was blocked, or the process stopped
const STALE_MS = 2 * 1000; // 2 s: a receiver that had closed the connection says so within a round trip

/** One attempt under way: from the connection to the outcome. */
class Attempt implements Exchange {
  readonly #startedAt = performance.now();
  readonly sendBy: number;
  #reader = new ResponseReader();
  #connection: Connection | undefined;
  #request: Buffer | undefined;
  #deadline: Timer | undefined;
  #wasBlocked = false;
  #isOver = false;

  constructor(
    private readonly connections: Connections,
    private readonly target: Target,
    private readonly limits: { readonly timeoutMs: number; readonly lockMs: number; readonly resolver: Resolver },
    private readonly settle: (outcome: Outcome) => void,
  ) {
    this.sendBy = this.#startedAt + limits.lockMs;
  }

  start(requestLine: string, request: WebhookRequest): void {
    this.#deadline = setTimeout(this.#expired, this.limits.timeoutMs);
    try {
      this.#request = writeRequest(requestLine, request);
      this.#begin(this.connections.take(this.target));
    } catch (error) {
      this.#finish(requestFailure(error as NodeJS.ErrnoException));
    }
  }

  #begin(connection: Connection): void {
    this.#connection = connection;
    connection.begin(this, this.#request as Buffer);
  }

  readonly #expired = (): void => {
    // A loop that was blocked could not send in time: what left after the deadline, or has not yet, has its time from now
    // on, once.
    const dueAt = this.#startedAt + this.limits.timeoutMs;
    const isLate = performance.now() > dueAt + BLOCKED_MS && (this.#connection?.sentAt ?? 0) > dueAt;
    if (isLate && !this.#wasBlocked) {
      this.#wasBlocked = true;
      this.#deadline = setTimeout(this.#expired, this.limits.timeoutMs);
      return;
    }
    // And answers that have arrived come before the verdict that none did. Bun looks at its sockets between the two turns,
    // not before the first.
    setImmediate(() => setImmediate(() => this.#finish(this.#response() ?? this.#silence())));
  };

  #silence(): Result {
    return this.#connection?.isResolving ? this.limits.resolver.unresolved(this.target.host) : SILENT;
  }

  received(bytes: Buffer): void {
    const reading = this.#reader.read(bytes);
    if (reading === "done") this.#finish(this.#response() as Result);
    if (reading === "invalid") this.#finish({ kind: "failure", code: "invalid_response" });
  }

  ended(error: NodeJS.ErrnoException = HUNG_UP): void {
    const { isReused, hasBegun } = this.#connection as Connection;
    const { isUntouched } = this.#reader;
    const isQuick = performance.now() - this.#startedAt < STALE_MS; // later it may well have seen the request, and failed
    // The receiver closed an idle connection, or spoke on it, just as we took it: it has not seen this request.
    const isUnseen = !hasBegun || (isUntouched && isQuick && isReset(error));
    if (isReused && isUnseen) this.#begin(this.connections.open(this.target));
    else if (error === UNASKED) this.#finish({ kind: "failure", code: "invalid_response" });
    else if (isUntouched) this.#finish(requestFailure(error));
    else this.#finish(this.#response() ?? { kind: "failure", code: "invalid_response" });
  }

  tooLate(): void {
    this.cancel("lock_lost");
  }

  cancel(code: FaultCode): void {
    this.#finish({ kind: "fault", code });
  }

  #response(): Result | undefined {
    const { status, retryAfter } = this.#reader;
    return status === undefined ? undefined : { kind: "response", status, retryAfter };
  }

  #finish(result: Result): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#deadline);
    const connection = this.#connection;
    // A connection that still has something of ours or of theirs in it is of no use to the next attempt.
    if (this.#reader.isReusable && connection?.isSent) this.connections.keep(connection);
    else connection?.destroy();
    this.settle({ ...result, durationMs: Math.round(performance.now() - this.#startedAt) });
  }
}

const HEAD = /^(?:[\w-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*$/; // an empty line would end it, and begin the body

function writeRequest(requestLine: string, { head, body }: WebhookRequest): Buffer {
  if (!HEAD.test(head)) throw new RangeError("a header holds what no header may");
  const text = `${requestLine}${head}Connection: keep-alive\r\n\r\n`;
  const request = Buffer.allocUnsafe(text.length + body.length);
  request.write(text, "latin1");
  request.set(body, text.length);
  return request;
}
