/**
 * Opens a connection: looks the name up once, and races its addresses (Happy Eyeballs).
 *
 * node:net can also try several addresses, but gives up on each after a fixed time, however much of the deadline is left.
 *
 * @see RFC 8305
 */
import { connect, type LookupFunction, type Socket } from "node:net";
import { connect as connectTls, createSecureContext, getCACertificates, type SecureContext } from "node:tls";
import type { Address } from "../dns/address.ts";

/** What a connection is opened to. Requests to any target with the same origin may share it. */
export interface Target {
  /** As in `https://customer.example:8443`. */
  readonly origin: string;
  readonly isSecure: boolean;
  /** A name, or a literal address without brackets. */
  readonly host: string;
  readonly isLiteral: boolean;
  readonly port: number;
}

/** Receives the result of opening a socket: exactly one of these is called, once, after the function that started it returned. */
export interface Opening {
  /**
   * The socket is ready for a request. With TLS, its certificate has been verified.
   *
   * Called from within the socket's own event: add listeners before returning, or bytes may be missed.
   */
  opened(socket: Socket): void;
  failed(error: NodeJS.ErrnoException): void;
}

/**
 * Opens a socket to one vetted address of a target.
 *
 * @returns aborts: destroys the socket, after which no callback is called
 * @throws  when it cannot even start; counts as a failure
 */
export type OpenSocket = (address: string, target: Target, opening: Opening) => () => void;

/** Receives the progress and result of a dial. */
export interface Dialing extends Opening {
  /** The lookup has ended, with or without addresses. Never called for a literal. */
  lookedUp(): void;
  /** With an AggregateError of one error per address when there were several. */
  failed(error: NodeJS.ErrnoException): void;
}

/**
 * Opens a socket to whichever address of a target is ready first.
 *
 * @returns aborts, as in {@link OpenSocket}
 */
export type Dial = (target: Target, dialing: Dialing) => () => void;

const STAGGER_MS = 250; // RFC 8305 section 5: from the start of one connection to the next, unless the first fails sooner
const MAX_AT_ONCE = 8; // sockets per dial, so that a name with a hundred dead addresses does not use a hundred descriptors

/**
 * Create the function that dials targets.
 *
 * @param lookup  called once per dial to a name, never for a literal; only the addresses it returns are dialed. It must not report
 *                an error synchronously
 * @param open    opens one socket
 */
export function createDial(lookup: LookupFunction, open: OpenSocket): Dial {
  return (target, dialing) => {
    if (target.isLiteral) return race([target.host], target, open, dialing);
    let isOver = false;
    let end = (): void => {
      isOver = true;
    };
    lookup(target.host, { all: true }, (error, addresses) => {
      if (isOver) return;
      dialing.lookedUp();
      if (error) dialing.failed(error);
      else end = race(interleave(addresses as Address[]), target, open, dialing);
    });
    return () => end();
  };
}

/** Alternate families, starting with that of the first address, so that a broken IPv6 network does not delay all IPv4 addresses. */
function interleave(addresses: readonly Address[]): string[] {
  const first = addresses.filter(({ family }) => family === addresses[0]?.family);
  const second = addresses.filter(({ family }) => family !== addresses[0]?.family);
  const rows = Math.max(first.length, second.length);
  return Array.from({ length: rows }, (_, index) => [first[index], second[index]])
    .flat()
    .flatMap((entry) => (entry === undefined ? [] : entry.address));
}

/** Dial addresses staggered in time. None is given up before the race is over: one may be slow, and all others dead. */
function race(addresses: readonly string[], target: Target, open: OpenSocket, opening: Opening): () => void {
  const running = new Set<() => void>();
  const errors: NodeJS.ErrnoException[] = [];
  let begun = 0;
  let timer: Timer | undefined;

  const end = (): void => {
    clearTimeout(timer);
    begun = addresses.length;
    for (const stop of running) stop();
    running.clear();
  };
  const failed = (error: NodeJS.ErrnoException): void => {
    errors.push(error);
    if (begun < addresses.length) next();
    else if (running.size === 0) opening.failed(errors.length === 1 ? error : new AggregateError(errors));
  };
  const next = (): void => {
    clearTimeout(timer);
    const address = addresses[begun++] as string;
    if (begun < addresses.length) timer = setTimeout(nextInTime, STAGGER_MS);
    let stop: () => void;
    try {
      stop = open(address, target, {
        opened(socket) {
          running.delete(stop);
          end();
          opening.opened(socket);
        },
        failed(error) {
          running.delete(stop);
          failed(error);
        },
      });
    } catch (error) {
      stop = () => {};
      queueMicrotask(() => {
        if (running.delete(stop)) failed(error as NodeJS.ErrnoException);
      });
    }
    running.add(stop);
  };
  const nextInTime = (): void => {
    if (running.size < MAX_AT_ONCE) next(); // otherwise the next failure starts it
  };
  next();
  return end;
}

/** Stands for the error of a socket that closed without one before it was ready; it counts as a reset. */
const HUNG_UP: NodeJS.ErrnoException = Object.assign(new Error("hung up"), { code: "ECONNRESET" });

/**
 * Create the function that opens sockets directly, without a proxy, over TCP or TLS.
 *
 * @param ca  certificate authorities to trust in addition to the runtime's, PEM
 */
export function createOpenSocket(ca: string | undefined): OpenSocket {
  return (address, target, opening) => {
    const { isSecure, port } = target;
    const options = { host: address, port, noDelay: true };
    const socket = isSecure ? connectTls({ ...options, ...tlsOptions(target, ca) }) : connect(options);
    let isOver = false;
    const end = awaitReady(socket, isSecure, {
      opened: opening.opened,
      async failed(error) {
        const isUnreachable = DOUBTFUL.has(error.code ?? "") && !(await hasRoute(address, port));
        if (!isOver) opening.failed(isUnreachable ? NO_ROUTE : error);
      },
    });
    return () => {
      isOver = true;
      end();
    };
  };
}

/** Bun also reports these when there is no route: the first for the address, the second for its whole family. */
const DOUBTFUL = new Set(["ECONNREFUSED", "EADDRNOTAVAIL"]);
const WITHOUT_ROUTE = new Set(["ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EACCES"]);
const NO_ROUTE: NodeJS.ErrnoException = Object.assign(new Error("no route"), { code: "ENETUNREACH" });

/** Whether this machine has a route to an address. Connecting a UDP socket checks that without sending anything. */
async function hasRoute(address: string, port: number): Promise<boolean> {
  try {
    const hostname = address.includes(":") ? "::" : "0.0.0.0";
    (await Bun.udpSocket({ hostname, connect: { hostname: address, port } })).close();
    return true;
  } catch (error) {
    return !WITHOUT_ROUTE.has((error as NodeJS.ErrnoException).code ?? "");
  }
}

/**
 * Open TLS to a target inside a socket that is already connected to it.
 *
 * @returns aborts, as in {@link OpenSocket}
 */
export function openTlsWithin(socket: Socket, target: Target, ca: string | undefined, opening: Opening): () => void {
  const within = connectTls({ socket, ...tlsOptions(target, ca) });
  carriers.set(within, socket);
  within.on("close", () => socket.destroy()); // otherwise, for TLS inside TLS, Bun flushes all pending data first
  return awaitReady(within, true, opening);
}

const carriers = new WeakMap<Socket, Socket>();

/** How many bytes are still buffered in this process, in a socket and in the one that carries it. */
export function unsentBytes(socket: Socket): number {
  return socket.writableLength + (carriers.get(socket)?.writableLength ?? 0);
}

/**
 * Report when a new socket is ready, or why it failed.
 *
 * @returns aborts, as in {@link OpenSocket}
 */
function awaitReady(socket: Socket, isSecure: boolean, { opened, failed }: Opening): () => void {
  let isOver = false;
  const fail = (error: NodeJS.ErrnoException = HUNG_UP): void => {
    if (isOver) return;
    isOver = true;
    socket.destroy();
    failed(error);
  };
  socket.on("error", fail);
  socket.on("end", () => fail());
  socket.on("close", () => fail());
  // Not before the certificate is verified: the request holds the customer's data.
  socket.once(isSecure ? "secureConnect" : "connect", () => {
    if (isOver) return;
    isOver = true;
    opened(socket);
  });
  return () => {
    isOver = true;
    socket.destroy();
  };
}

/**
 * The node:tls options for a target, except where to connect.
 *
 * A trailing dot is removed from the name: certificates and SNI have none (RFC 6066 section 3).
 */
function tlsOptions({ host, isLiteral }: Target, ca: string | undefined) {
  const servername = isLiteral ? "" : host.replace(/(?<=.)\.$/, "");
  return {
    servername,
    rejectUnauthorized: true,
    ALPNProtocols: ["http/1.1"],
    ...(ca && { secureContext: trusting(ca) }),
  };
}

const contexts = new Map<string, SecureContext>(); // creating one takes milliseconds

/** A context that trusts `ca` in addition to the runtime's authorities; the plain `ca` option would replace those. */
function trusting(ca: string): SecureContext {
  const context = contexts.get(ca) ?? createSecureContext({ ca: [...getCACertificates("default"), ca] });
  contexts.set(ca, context);
  return context;
}
