/**
 * Connections to receivers: opened, lent to one exchange at a time, kept for a while when idle.
 *
 * Over node:net and node:tls: they let us choose the address (`lookup`), give up while connecting, and cost a quarter of
 * what node:http does.
 */
import { connect, type LookupFunction, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { perTurn } from "./turn.ts";

/** Where a connection leads. One that was opened for a target carries requests of others with the same origin. */
export interface Target {
  /** As in `https://customer.example:8443`. */
  readonly origin: string;
  readonly isSecure: boolean;
  /** A name, or a literal address without brackets. */
  readonly host: string;
  readonly isLiteral: boolean;
  readonly port: number;
}

/** Who is told what comes over a connection. */
export interface Exchange {
  /** Never called with nothing. */
  received(bytes: Buffer): void;
  /** The connection is gone; with the error, if there was one. Called once at the most, and nothing after it. */
  ended(error?: NodeJS.ErrnoException): void;
}

export interface ConnectionsOptions {
  /** Asked for each new connection to a name, never for a literal. */
  readonly lookup: LookupFunction;
  /** Certificate authorities to trust, PEM; the system's otherwise. */
  readonly ca: string | undefined;
}

const MAX_IDLE = 2_048; // idle connections in all: with more hosts than that in rotation, the oldest goes
const IDLE_MS = 4 * 1000; // 4 s: below the 5 s after which Node's and many proxies' servers close an idle connection

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

/** Requests leave together: each wakes its receiver, and on a busy machine a receiver that wakes interrupts us. */
const unsent = perTurn((connections: Connection[]) => {
  for (const connection of connections) connection.flush();
});

/**
 * One connection. Once it is open it does without the streams of node:net, and is an eighth of a delivery cheaper (bench/RESULTS.md).
 */
export class Connection {
  /** It has carried an exchange before this one. */
  isReused = false;
  idleSince = 0;
  /** When the last of the request left, on the clock of performance.now(); Infinity until it has. */
  sentAt = Number.POSITIVE_INFINITY;
  /** It waits for the resolver. */
  isResolving = false;
  #exchange: Exchange | undefined;
  #unsent: Buffer | undefined;
  #isOpen = false;
  #bare: BareSocket | undefined;

  constructor(
    readonly origin: string,
    private readonly socket: Socket,
    { isSecure, isLiteral }: Target,
    private readonly onGone: (connection: Connection) => void,
  ) {
    if (!isLiteral) {
      this.isResolving = true;
      socket.once("lookup", () => {
        this.isResolving = false;
      });
    }
    const ended = (error?: NodeJS.ErrnoException): void => this.#ended(error);
    // Not before the certificate was found good: the request is the customer's data.
    socket.once(isSecure ? "secureConnect" : "connect", () => {
      this.#isOpen = true;
      this.#bare = bareSocketOf(socket);
      this.#bare?.reload({
        socket: {
          data: (_, bytes) => this.#received(bytes),
          drain: () => this.flush(),
          end: () => ended(),
          close: (_, error) => ended(error),
          error: (_, error) => ended(error),
        },
      });
      this.flush();
    });
    socket.on("data", (bytes: Buffer) => this.#received(bytes));
    socket.on("error", ended);
    socket.on("end", () => ended());
    socket.on("close", () => ended());
  }

  #received(bytes: Buffer): void {
    // Bytes that nobody asked for would be taken for the next answer.
    if (this.#exchange === undefined) this.#ended();
    else this.#exchange.received(bytes);
  }

  #ended(error?: NodeJS.ErrnoException): void {
    const exchange = this.#exchange;
    this.onGone(this);
    this.destroy();
    exchange?.ended(error);
  }

  /** Send a request, at the end of this turn of the event loop or as soon as the connection is open. */
  begin(exchange: Exchange, request: Buffer): void {
    this.#exchange = exchange;
    this.#unsent = request;
    this.sentAt = Number.POSITIVE_INFINITY;
    if (this.#isOpen) unsent.add(this);
  }

  /** Send what is unsent, as far as there is room for it. */
  flush(): void {
    const bytes = this.#unsent;
    if (bytes === undefined) return;
    if (this.#bare === undefined) {
      this.#unsent = undefined;
      this.socket.write(bytes);
    } else {
      const count = this.#bare.write(bytes);
      this.#unsent = count < bytes.length ? bytes.subarray(Math.max(0, count)) : undefined;
    }
    if (this.#unsent === undefined) this.sentAt = performance.now();
  }

  /** All of the request has left. */
  get isSent(): boolean {
    return this.#unsent === undefined && this.socket.writableLength === 0;
  }

  /** The exchange is over: it hears nothing any more. */
  leave(): void {
    this.#exchange = undefined;
  }

  destroy(): void {
    this.#exchange = undefined;
    this.#unsent = undefined;
    this.socket.destroy();
  }
}

export interface Connections {
  /** An idle connection to the target's origin, or a new one. */
  take(target: Target): Connection;
  /** A new connection. */
  open(target: Target): Connection;
  /** Keep a connection for the next exchange, for a while. */
  keep(connection: Connection): void;
  /** Drop the idle ones. */
  close(): void;
}

export function createConnections({ lookup, ca }: ConnectionsOptions): Connections {
  const idle = new Set<Connection>(); // oldest first
  const idleByOrigin = new Map<string, Connection[]>(); // oldest first
  let sweeper: Timer | undefined;

  function forget(connection: Connection): void {
    if (!idle.delete(connection)) return;
    const siblings = idleByOrigin.get(connection.origin) as Connection[];
    if (siblings.length === 1) idleByOrigin.delete(connection.origin);
    else siblings.splice(siblings.lastIndexOf(connection), 1);
  }

  function drop(connection: Connection): void {
    forget(connection);
    connection.destroy();
  }

  /** One timer for all, since the one that is idle for longest is the first. */
  function sweep(): void {
    sweeper = undefined;
    for (const connection of idle) {
      const leftMs = connection.idleSince + IDLE_MS - performance.now();
      if (leftMs > 0) {
        sweeper = setTimeout(sweep, leftMs).unref();
        return;
      }
      drop(connection);
    }
  }

  function open(target: Target): Connection {
    const { origin, isSecure, host, isLiteral, port } = target;
    const options = { host, port, lookup, noDelay: true };
    const socket = isSecure
      ? connectTls({ ...options, servername: isLiteral ? "" : host, rejectUnauthorized: true, ...(ca && { ca }) })
      : connect(options);
    return new Connection(origin, socket, target, forget);
  }

  return {
    open,
    take(target) {
      const connection = idleByOrigin.get(target.origin)?.at(-1); // the newest is the least likely to be stale
      if (connection === undefined) return open(target);
      forget(connection);
      connection.isReused = true;
      return connection;
    },
    keep(connection) {
      connection.leave();
      connection.idleSince = performance.now();
      idle.add(connection);
      const siblings = idleByOrigin.get(connection.origin);
      if (siblings === undefined) idleByOrigin.set(connection.origin, [connection]);
      else siblings.push(connection);
      if (idle.size > MAX_IDLE) drop(idle.values().next().value as Connection);
      sweeper ??= setTimeout(sweep, IDLE_MS).unref();
    },
    close() {
      clearTimeout(sweeper);
      for (const connection of [...idle]) drop(connection);
    },
  };
}
