/**
 * One connection to a receiver. It carries one exchange at a time, and never mistakes bytes that arrived before the request for its
 * response.
 */
import type { Socket } from "node:net";
import { perPoll } from "../runtime/per-tick.ts";
import { type Dial, type Dialing, type Target, unsentBytes } from "./dial.ts";

/** One request on a connection: receives what happens on it. */
export interface Exchange {
  /** On the clock of performance.now(): a request that has not started to leave by then must not be sent. */
  readonly sendBy: number;
  /** `sendBy` passed before any byte was sent. The last call. */
  tooLate(): void;
  /** Response bytes arrived. Never empty, and never bytes that arrived before the request started to leave. */
  received(bytes: Buffer): void;
  /**
   * The receiver has finished sending. It may still be reading.
   *
   * @returns whether to send the rest of the request; otherwise the connection ends
   */
  receivedEnd(): boolean;
  /** The whole request has been sent. Not called if that happened in a single write; may be called more than once. */
  sent(): void;
  /**
   * The connection ended, perhaps with an error. For {@link UNSOLICITED}, `unsolicited` holds the bytes. Called at most once, as
   * the last call.
   */
  ended(error?: NodeJS.ErrnoException, unsolicited?: Buffer): void;
}

/**
 * The receiver sent bytes before any of the request had left. They are no response to it, and bytes that follow may belong to them:
 * the connection ends.
 *
 * @see RFC 9112 section 6.3
 */
export const UNSOLICITED: NodeJS.ErrnoException = Object.assign(new Error("unsolicited bytes"), {
  code: "EUNSOLICITED",
});

/** Bun's native socket beneath one of node:net or node:tls. */
interface NativeSocket {
  /** Writes as many bytes as fit, and returns how many; the rest must wait for `drain`. */
  write(bytes: Buffer): number;
  /** Replaces all handlers, those of the node:net socket included. */
  reload(handlers: {
    readonly socket: {
      readonly data: (socket: NativeSocket, bytes: Buffer) => void;
      readonly drain: () => void;
      readonly end: () => void;
      readonly close: (socket: NativeSocket, error?: NodeJS.ErrnoException) => void;
      readonly error: (socket: NativeSocket, error: NodeJS.ErrnoException) => void;
    };
  }): void;
}

/** The native socket; undefined where the runtime has none that can be used this way, as Node.js. */
function nativeSocketOf(socket: Socket): NativeSocket | undefined {
  const { _handle: native } = socket as { _handle?: Partial<NativeSocket> | null };
  return native?.reload === undefined ? undefined : (native as NativeSocket);
}

/**
 * Batches writes until after the next poll for incoming bytes. So bytes that were already in the kernel are recognized as
 * unsolicited (those still on the wire cannot be). And on a busy machine, each single write could wake a receiver that then
 * preempts this process.
 */
const unsent = perPoll((connections: Connection[]) => {
  for (const connection of connections) connection.write();
});

/**
 * One connection. Once open, it bypasses the node:net streams, which makes a delivery an eighth cheaper (bench/RESULTS.md).
 */
export class Connection implements Dialing {
  /** Whether it has carried an earlier exchange. */
  isReused = false;
  idleSince = 0;
  /** When it is too old to be kept, on the clock of performance.now(). */
  retireAt = Number.POSITIVE_INFINITY;
  /** Whether part of the request has been sent, so that incoming bytes may be its response. */
  hasBegun = false;
  /** When the last of the request was sent, on the clock of performance.now(); Infinity until then. */
  sentAt = Number.POSITIVE_INFINITY;
  /** Whether the name lookup is still pending. */
  isResolving: boolean;
  readonly origin: string;
  readonly #endDial: () => void;
  #socket: Socket | undefined; // once open
  #native: NativeSocket | undefined;
  #exchange: Exchange | undefined;
  #unsent: Buffer | undefined;
  #mayWrite = false;

  constructor(
    target: Target,
    dial: Dial,
    private readonly onGone: (connection: Connection) => void,
  ) {
    this.origin = target.origin;
    this.isResolving = !target.isLiteral;
    this.#endDial = dial(target, this);
  }

  lookedUp(): void {
    this.isResolving = false;
  }

  failed(error: NodeJS.ErrnoException): void {
    this.#ended(error);
  }

  opened(socket: Socket): void {
    this.#socket = socket;
    this.#native = nativeSocketOf(socket);
    const ended = (error?: NodeJS.ErrnoException): void => this.#ended(error);
    this.#native?.reload({
      socket: {
        data: (_, bytes) => this.#received(bytes),
        drain: () => {
          if (this.#mayWrite) this.#continueWriting();
        },
        end: () => this.#receivedEnd(),
        close: (_, error) => ended(error),
        error: (_, error) => ended(error),
      },
    });
    socket.on("data", (bytes: Buffer) => this.#received(bytes));
    socket.on("error", ended);
    socket.on("drain", () => this.#continueWriting());
    socket.on("end", () => this.#receivedEnd());
    socket.on("close", () => ended());
    if (this.#unsent !== undefined) unsent.add(this);
  }

  #received(bytes: Buffer): void {
    if (this.hasBegun && this.#exchange !== undefined) this.#exchange.received(bytes);
    else this.#ended(UNSOLICITED, bytes);
  }

  #receivedEnd(): void {
    if (!this.hasBegun || this.#exchange?.receivedEnd() !== true) this.#ended();
  }

  #ended(error?: NodeJS.ErrnoException, unsolicited?: Buffer): void {
    const exchange = this.#exchange;
    this.onGone(this);
    this.destroy();
    exchange?.ended(error, unsolicited);
  }

  /** Send a request once the connection is open. If any bytes arrive before that, the connection ends instead. */
  begin(exchange: Exchange, request: Buffer): void {
    this.#exchange = exchange;
    this.#unsent = request;
    this.hasBegun = false;
    this.#mayWrite = false;
    this.sentAt = Number.POSITIVE_INFINITY;
    if (this.#socket !== undefined) unsent.add(this);
  }

  /** Write as much of the unsent request as fits. */
  write(): void {
    const bytes = this.#unsent;
    if (bytes === undefined) return;
    const nowMs = performance.now();
    if (!this.hasBegun && nowMs > (this.#exchange?.sendBy ?? 0)) {
      this.#exchange?.tooLate();
      return;
    }
    this.#mayWrite = true;
    if (this.#native === undefined) {
      this.#unsent = undefined;
      this.hasBegun = true;
      this.#socket?.write(bytes);
    } else {
      const count = this.#native.write(bytes);
      if (count > 0) this.hasBegun = true;
      this.#unsent = count < bytes.length ? bytes.subarray(Math.max(0, count)) : undefined;
    }
    if (this.#unsent === undefined) this.sentAt = nowMs;
  }

  #continueWriting(): void {
    this.write();
    if (this.isSent) this.#exchange?.sent();
  }

  /** Whether the whole request has left this process. */
  get isSent(): boolean {
    return this.#unsent === undefined && this.#socket !== undefined && unsentBytes(this.#socket) === 0;
  }

  /** Detach the exchange, which is complete. */
  detach(): void {
    this.#exchange = undefined;
  }

  destroy(): void {
    this.#exchange = undefined;
    this.#unsent = undefined;
    if (this.#socket === undefined) this.#endDial();
    else this.#socket.destroy();
  }
}
