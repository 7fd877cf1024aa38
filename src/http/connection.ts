/**
 * One connection to a receiver: carries one exchange at a time, and takes nothing for an answer that came before the request.
 */
import type { Socket } from "node:net";
import { perPoll } from "../runtime/per-tick.ts";
import { type Dial, type Dialing, type Target, unsentBytes } from "./dial.ts";

/** Who is told what comes over a connection. */
export interface Exchange {
  /** On the clock of performance.now(): what has not begun to leave by then must not leave. */
  readonly sendBy: number;
  /** Nothing has left by then; nothing is called after it. */
  tooLate(): void;
  /** Never called with nothing, nor with what came before any of the request had left. */
  received(bytes: Buffer): void;
  /**
   * The receiver will say no more. It may still read.
   *
   * @returns whether the rest of the request is to be sent all the same; the connection has ended otherwise
   */
  heardAll(): boolean;
  /** The last of the request has left. Not called when all of it left at once; perhaps more than once. */
  sent(): void;
  /**
   * The connection is gone; with the error, if there was one, or with {@link UNASKED} and the bytes. Called once at the most, and
   * nothing after it.
   */
  ended(error?: NodeJS.ErrnoException, unasked?: Buffer): void;
}

/**
 * The receiver sent something before any of the request had left. Whatever it says, it is no answer, and what comes after it
 * may be more of the same: the connection has ended.
 *
 * @see RFC 9112 section 6.3
 */
export const UNASKED: NodeJS.ErrnoException = Object.assign(new Error("bytes that nobody asked for"), {
  code: "EUNASKED",
});

/** The socket of Bun's own under one of node:net or node:tls. */
interface BareSocket {
  /** Takes as much as there is room for, and returns how many bytes that was; what is left must wait for `drain`. */
  write(bytes: Buffer): number;
  /** From now on these are told, and nobody else. */
  reload(handlers: {
    readonly socket: {
      readonly data: (socket: BareSocket, bytes: Buffer) => void;
      readonly drain: () => void;
      readonly end: () => void;
      readonly close: (socket: BareSocket, error?: NodeJS.ErrnoException) => void;
      readonly error: (socket: BareSocket, error: NodeJS.ErrnoException) => void;
    };
  }): void;
}

/** Bun has one, node has none that can be used so. */
function bareSocketOf(socket: Socket): BareSocket | undefined {
  const { _handle: bare } = socket as { _handle?: Partial<BareSocket> | null };
  return bare?.reload === undefined ? undefined : (bare as BareSocket);
}

/**
 * Requests leave together: each wakes its receiver, and on a busy machine a receiver that wakes interrupts us. And they wait
 * until what lay in the kernel has been heard, which would be taken for the answer. What is still under way then cannot be told
 * from one.
 */
const unsent = perPoll((connections: Connection[]) => {
  for (const connection of connections) connection.write();
});

/**
 * One connection. Once it is open it does without the streams of node:net, and is an eighth of a delivery cheaper (bench/RESULTS.md).
 */
export class Connection implements Dialing {
  /** It has carried an exchange before this one. */
  isReused = false;
  idleSince = 0;
  /** From then on it is not kept any more, on the clock of performance.now(). */
  retireAt = Number.POSITIVE_INFINITY;
  /** Something of the request has left: what comes now may be the answer. */
  hasBegun = false;
  /** When the last of the request left, on the clock of performance.now(); Infinity until it has. */
  sentAt = Number.POSITIVE_INFINITY;
  /** It waits for the resolver. */
  isResolving: boolean;
  readonly origin: string;
  readonly #endDial: () => void;
  #socket: Socket | undefined; // once it is open
  #bare: BareSocket | undefined;
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
    this.#bare = bareSocketOf(socket);
    const ended = (error?: NodeJS.ErrnoException): void => this.#ended(error);
    this.#bare?.reload({
      socket: {
        data: (_, bytes) => this.#received(bytes),
        drain: () => {
          if (this.#mayWrite) this.#writeOn();
        },
        end: () => this.#heardAll(),
        close: (_, error) => ended(error),
        error: (_, error) => ended(error),
      },
    });
    socket.on("data", (bytes: Buffer) => this.#received(bytes));
    socket.on("error", ended);
    socket.on("drain", () => this.#writeOn());
    socket.on("end", () => this.#heardAll());
    socket.on("close", () => ended());
    if (this.#unsent !== undefined) unsent.add(this);
  }

  #received(bytes: Buffer): void {
    if (this.hasBegun && this.#exchange !== undefined) this.#exchange.received(bytes);
    else this.#ended(UNASKED, bytes);
  }

  #heardAll(): void {
    if (!this.hasBegun || this.#exchange?.heardAll() !== true) this.#ended();
  }

  #ended(error?: NodeJS.ErrnoException, unasked?: Buffer): void {
    const exchange = this.#exchange;
    this.onGone(this);
    this.destroy();
    exchange?.ended(error, unasked);
  }

  /** Send a request once the connection is open, unless something is heard on it before: then it ends. */
  begin(exchange: Exchange, request: Buffer): void {
    this.#exchange = exchange;
    this.#unsent = request;
    this.hasBegun = false;
    this.#mayWrite = false;
    this.sentAt = Number.POSITIVE_INFINITY;
    if (this.#socket !== undefined) unsent.add(this);
  }

  /** Send what is unsent, as far as there is room for it. */
  write(): void {
    const bytes = this.#unsent;
    if (bytes === undefined) return;
    const nowMs = performance.now();
    if (!this.hasBegun && nowMs > (this.#exchange?.sendBy ?? 0)) {
      this.#exchange?.tooLate();
      return;
    }
    this.#mayWrite = true;
    if (this.#bare === undefined) {
      this.#unsent = undefined;
      this.hasBegun = true;
      this.#socket?.write(bytes);
    } else {
      const count = this.#bare.write(bytes);
      if (count > 0) this.hasBegun = true;
      this.#unsent = count < bytes.length ? bytes.subarray(Math.max(0, count)) : undefined;
    }
    if (this.#unsent === undefined) this.sentAt = nowMs;
  }

  /** There is room again for what is unsent. */
  #writeOn(): void {
    this.write();
    if (this.isSent) this.#exchange?.sent();
  }

  /** All of the request has left. */
  get isSent(): boolean {
    return this.#unsent === undefined && this.#socket !== undefined && unsentBytes(this.#socket) === 0;
  }

  /** The exchange is over: it hears nothing any more. */
  leave(): void {
    this.#exchange = undefined;
  }

  destroy(): void {
    this.#exchange = undefined;
    this.#unsent = undefined;
    if (this.#socket === undefined) this.#endDial();
    else this.#socket.destroy();
  }
}
