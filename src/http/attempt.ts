/**
 * One attempt under way: from the connection to the outcome.
 */

import type { FaultCode, Outcome } from "../delivery/outcome.ts";
import type { WebhookRequest } from "../delivery/request.ts";
import type { Resolver } from "../dns/resolver.ts";
import { type Connection, type Exchange, UNASKED } from "./connection.ts";
import type { Connections } from "./connections.ts";
import type { Target } from "./dial.ts";
import { isReset, type Result, requestFailure } from "./failure.ts";
import type { EgressProxy } from "./proxy.ts";
import { ResponseReader } from "./response.ts";

const SILENT: Result = { kind: "failure", code: "timeout" };

/** A connection that ended without a word, as a reset says it. */
const HUNG_UP: NodeJS.ErrnoException = Object.assign(new Error("hung up"), { code: "ECONNRESET" });

const BLOCKED_MS = 500; // a deadline that is noticed so late: the loop was blocked, or the process stopped
const STALE_MS = 2 * 1000; // 2 s: a receiver that had closed the connection says so within a round trip

/** What an attempt shares with all others. */
export interface AttemptLimits {
  readonly timeoutMs: number;
  readonly lockMs: number;
  readonly resolver: Resolver;
  readonly proxy: EgressProxy | undefined;
}

/** One request out, whatever comes of it back. Told by its connection what is heard. */
export class Attempt implements Exchange {
  readonly #startedAt = performance.now();
  readonly sendBy: number;
  #reader = new ResponseReader();
  #connection: Connection | undefined;
  #request: Buffer | undefined;
  #deadline: Timer | undefined;
  #wasBlocked = false;
  /** The receiver took the event before all of it had left, and still gets the rest. */
  #isTakenEarly = false;
  #isOver = false;

  constructor(
    private readonly connections: Connections,
    private readonly target: Target,
    private readonly limits: AttemptLimits,
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
    const { resolver, proxy } = this.limits;
    if (this.#connection?.isResolving) return resolver.unresolved(this.target.host);
    return proxy?.silence(this.target) ?? SILENT;
  }

  received(bytes: Buffer): void {
    if (this.#isTakenEarly) {
      this.#reader.isReusable = false; // more than it had said
      return;
    }
    const reading = this.#reader.read(bytes);
    if (this.#reader.status === 408 && this.#mayBeStale) this.#beginAnew();
    else if (reading === "done" && !this.#goesOn()) this.#finish(this.#response() as Result);
    else if (reading === "invalid") this.#finish(this.#nonsense());
  }

  /** A 2xx may come before the event has been sent: it must arrive whole all the same. */
  #goesOn(): boolean {
    const { status = 0 } = this.#reader;
    this.#isTakenEarly = status >= 200 && status < 300 && this.#connection?.isSent === false;
    return this.#isTakenEarly;
  }

  heardAll(): boolean {
    this.#reader.isReusable = false;
    return this.#goesOn();
  }

  /** The outcome waits for it, and its duration counts it. */
  sent(): void {
    if (this.#isTakenEarly) this.#finish(this.#response() as Result);
  }

  /** What is heard now may have been said before this request was seen: the receiver was about to end an idle connection. */
  get #mayBeStale(): boolean {
    return (this.#connection?.isReused ?? false) && performance.now() - this.#startedAt < STALE_MS;
  }

  /** On a fresh connection, which is none of the pool: those are as stale. */
  #beginAnew(): void {
    this.#connection?.destroy();
    this.#reader = new ResponseReader();
    this.#begin(this.connections.open(this.target));
  }

  ended(error: NodeJS.ErrnoException = HUNG_UP, unasked?: Buffer): void {
    const { isReused, hasBegun } = this.#connection as Connection;
    const { isUntouched } = this.#reader;
    // The receiver closed an idle connection, or spoke on it, just as we took it: it has not seen this request.
    const isUnseen = hasBegun ? isUntouched && this.#mayBeStale && isReset(error) : isReused;
    if (unasked !== undefined) this.#reader.read(unasked);
    if (isUnseen) this.#beginAnew();
    else if (error === UNASKED) this.#finish(this.#nonsense());
    else if (isUntouched) this.#finish(requestFailure(error));
    else this.#finish(this.#response() ?? this.#nonsense());
  }

  #nonsense(): Result {
    return { kind: "failure", code: this.#reader.speaksHttp2 ? "http2_only" : "invalid_response" };
  }

  tooLate(): void {
    this.cancel("lock_lost");
  }

  /** What the receiver has taken stays taken, also when there is no time left for the rest; unless the job is another's by now. */
  cancel(code: FaultCode): void {
    const response = this.#isTakenEarly && code !== "lock_lost" ? this.#response() : undefined;
    this.#finish(response ?? { kind: "fault", code });
  }

  #response(): Result | undefined {
    const { status, retryAfter } = this.#reader;
    return status === undefined ? undefined : { kind: "response", status, retryAfter };
  }

  #finish(result: Result): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#deadline);
    if (result.kind === "response") this.limits.proxy?.heard(this.target);
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
