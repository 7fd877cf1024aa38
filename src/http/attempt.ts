/**
 * One attempt in flight, from taking a connection to settling the outcome.
 */

import type { FaultCode, Outcome } from "../delivery/outcome.ts";
import type { WebhookRequest } from "../delivery/request.ts";
import type { Resolver } from "../dns/resolver.ts";
import { type Connection, type Exchange, UNSOLICITED } from "./connection.ts";
import type { Connections } from "./connections.ts";
import type { Target } from "./dial.ts";
import { isReset, type Result, requestFailure } from "./failure.ts";
import type { EgressProxy } from "./proxy.ts";
import { ResponseReader } from "./response.ts";

const SILENT: Result = { kind: "failure", code: "timeout" };

/** Stands for the error of a connection that closed without one; it counts as a reset. */
const HUNG_UP: NodeJS.ErrnoException = Object.assign(new Error("hung up"), { code: "ECONNRESET" });

const BLOCKED_MS = 500; // a deadline timer this late means that the event loop was blocked or the process suspended
const STALE_MS = 2 * 1000; // 2 s: if the receiver had already closed the connection, we learn of it within a round trip

/** What all attempts of a sender share. */
export interface AttemptLimits {
  readonly timeoutMs: number;
  readonly lockMs: number;
  readonly resolver: Resolver;
  readonly proxy: EgressProxy | undefined;
  /** How much of a failed response's body to return, in bytes; 0 returns nothing of the response. */
  readonly responseBytes: number;
}

/** Sends one request and settles once with its outcome. Its connection calls the methods of {@link Exchange}. */
export class Attempt implements Exchange {
  readonly #startedAt = performance.now();
  readonly sendBy: number;
  #reader: ResponseReader;
  #connection: Connection | undefined;
  #request: Buffer | undefined;
  #deadline: Timer | undefined;
  #wasBlocked = false;
  /** A 2xx arrived before the whole request had been sent. The rest is still sent. */
  #isAcceptedEarly = false;
  #isOver = false;

  constructor(
    private readonly connections: Connections,
    private readonly target: Target,
    private readonly limits: AttemptLimits,
    private readonly settle: (outcome: Outcome) => void,
  ) {
    this.sendBy = this.#startedAt + limits.lockMs;
    this.#reader = new ResponseReader(limits.responseBytes);
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
    // If the event loop was blocked so long that the request left after its deadline, or has not left yet, the receiver has had
    // no chance to answer: restart the deadline, once.
    const dueAt = this.#startedAt + this.limits.timeoutMs;
    const isLate = performance.now() > dueAt + BLOCKED_MS && (this.#connection?.sentAt ?? 0) > dueAt;
    if (isLate && !this.#wasBlocked) {
      this.#wasBlocked = true;
      this.#deadline = setTimeout(this.#expired, this.limits.timeoutMs);
      return;
    }
    // Let an answer that has arrived be read before concluding that there is none. Bun polls its sockets between the two
    // setImmediate callbacks, not before the first.
    setImmediate(() => setImmediate(() => this.#finish(this.#response() ?? this.#silence())));
  };

  #silence(): Result {
    const { resolver, proxy } = this.limits;
    if (this.#connection?.isResolving) return resolver.unresolved(this.target.host);
    return proxy?.silence(this.target) ?? SILENT;
  }

  received(bytes: Buffer): void {
    if (this.#isAcceptedEarly) {
      this.#reader.isReusable = false; // bytes beyond the end of the response
      return;
    }
    const reading = this.#reader.read(bytes);
    if (this.#reader.status === 408 && this.#mayBeStale) this.#retryOnNewConnection();
    else if (reading === "done" && !this.#keepsSending()) this.#finish(this.#response() as Result);
    else if (reading === "invalid") this.#finish(this.#invalidResponse());
  }

  /** Whether to send the rest of the request: after a 2xx, so that the event the receiver accepted arrives complete. */
  #keepsSending(): boolean {
    const { status = 0 } = this.#reader;
    this.#isAcceptedEarly = status >= 200 && status < 300 && this.#connection?.isSent === false;
    return this.#isAcceptedEarly;
  }

  receivedEnd(): boolean {
    this.#reader.end();
    return this.#keepsSending();
  }

  sent(): void {
    if (this.#isAcceptedEarly) this.#finish(this.#response() as Result);
  }

  /** Whether the receiver may have been closing an idle connection, and so never saw this request. */
  get #mayBeStale(): boolean {
    return (this.#connection?.isReused ?? false) && performance.now() - this.#startedAt < STALE_MS;
  }

  /** Not on a pooled connection, which may be just as stale. */
  #retryOnNewConnection(): void {
    this.#connection?.destroy();
    this.#reader = new ResponseReader(this.limits.responseBytes);
    this.#begin(this.connections.open(this.target));
  }

  ended(error: NodeJS.ErrnoException = HUNG_UP, unsolicited?: Buffer): void {
    const { isReused, hasBegun } = this.#connection as Connection;
    const { isUntouched } = this.#reader;
    // If the receiver closed an idle connection, or sent something on it, just as we took it, it has not seen this request.
    const isUnseen = hasBegun ? isUntouched && this.#mayBeStale && isReset(error) : isReused;
    if (unsolicited !== undefined) this.#reader.read(unsolicited);
    if (isUnseen) this.#retryOnNewConnection();
    else if (error === UNSOLICITED) this.#finish(this.#invalidResponse());
    else if (isUntouched) this.#finish(requestFailure(error));
    else this.#finish(this.#response() ?? this.#invalidResponse());
  }

  #invalidResponse(): Result {
    return { kind: "failure", code: this.#reader.speaksHttp2 ? "http2_only" : "invalid_response" };
  }

  tooLate(): void {
    this.cancel("lock_lost");
  }

  /** Abort. A 2xx that has already arrived still counts, unless another worker has the job now. */
  cancel(code: FaultCode): void {
    const response = this.#isAcceptedEarly && code !== "lock_lost" ? this.#response() : undefined;
    this.#finish(response ?? { kind: "fault", code });
  }

  #response(): Result | undefined {
    const { status, retryAfter, beginning } = this.#reader;
    if (status === undefined) return undefined;
    return beginning === undefined
      ? { kind: "response", status, retryAfter }
      : { kind: "response", status, retryAfter, beginning };
  }

  #finish(result: Result): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#deadline);
    if (result.kind === "response") this.limits.proxy?.answered(this.target);
    const connection = this.#connection;
    // Reuse a connection only if no bytes of this exchange are left on it in either direction.
    if (this.#reader.isReusable && connection?.isSent) this.connections.keep(connection);
    else connection?.destroy();
    this.settle({ ...result, durationMs: Math.round(performance.now() - this.#startedAt) });
  }
}

const HEAD = /^(?:[\w-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*$/; // no empty line, which would start the body

function writeRequest(requestLine: string, { head, body }: WebhookRequest): Buffer {
  if (!HEAD.test(head)) throw new RangeError("invalid character in a header");
  const text = `${requestLine}${head}Connection: keep-alive\r\n\r\n`;
  const request = Buffer.allocUnsafe(text.length + body.length);
  request.write(text, "latin1");
  request.set(body, text.length);
  return request;
}
