/**
 * Opening a connection: a name is looked up once, and its addresses race each other.
 *
 * In place of what node:net does with several addresses, which gives up on each after a while, however much of the attempt's
 * time is left.
 *
 * @see Happy Eyeballs: RFC 8305
 */
import { connect, type LookupFunction, type Socket } from "node:net";
import { connect as connectTls, createSecureContext, getCACertificates, type SecureContext } from "node:tls";
import type { Address } from "../dns/address.ts";

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

/** Who is told how an opening went: of one of the two, once, and after the function that began it has returned. */
export interface Opening {
  /**
   * The socket is ready for a request; over TLS, its certificate was found good.
   *
   * Told from the very event that said so: whoever takes the socket must listen to it before returning, or bytes may be missed.
   */
  opened(socket: Socket): void;
  failed(error: NodeJS.ErrnoException): void;
}

/**
 * Opens a socket to one address of a target, which was vetted.
 *
 * @returns ends it: nothing is told from then on, and whatever was opened by then is destroyed
 * @throws  what a connection cannot be opened for at all; it counts as a failure
 */
export type OpenSocket = (address: string, target: Target, opening: Opening) => () => void;

/** Who is told how a dial goes. */
export interface Dialing extends Opening {
  /** The name was looked up, whether or not it has addresses. Never told about a literal. */
  lookedUp(): void;
  /** With an AggregateError when there were several addresses and each had its own. */
  failed(error: NodeJS.ErrnoException): void;
}

/**
 * Opens a socket to a target, at whichever of its addresses is ready first.
 *
 * @returns ends it, as in {@link OpenSocket}
 */
export type Dial = (target: Target, dialing: Dialing) => () => void;

const STAGGER_MS = 250; // RFC 8305 section 5: between the beginnings of two attempts, unless the first of them fails before
const MAX_AT_ONCE = 8; // sockets of one dial: a name with a hundred dead addresses must not take a hundred descriptors

/**
 * @param lookup  asked once for each dial to a name, never for a literal; its addresses are dialed and no others. Fails later only,
 *                never during the call
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

/** Families take turns, beginning with that of the first address: one whose network is broken costs one attempt, not all. */
function interleave(addresses: readonly Address[]): string[] {
  const first = addresses.filter(({ family }) => family === addresses[0]?.family);
  const second = addresses.filter(({ family }) => family !== addresses[0]?.family);
  const rows = Math.max(first.length, second.length);
  return Array.from({ length: rows }, (_, index) => [first[index], second[index]])
    .flat()
    .flatMap((entry) => (entry === undefined ? [] : entry.address));
}

/** None is abandoned before the race is over: an address may be slow, and the others dead. */
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
    if (running.size < MAX_AT_ONCE) next(); // else with the next failure
  };
  next();
  return end;
}

/** A peer that closed before the connection was ready, as a reset says it. */
const HUNG_UP: NodeJS.ErrnoException = Object.assign(new Error("hung up"), { code: "ECONNRESET" });

/**
 * Make what opens a socket straight to an address, over TCP or TLS.
 *
 * @param ca  certificate authorities to trust beside those of the runtime, PEM
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
        const isLost = DOUBTFUL.has(error.code ?? "") && !(await hasRoute(address, port));
        if (!isOver) opening.failed(isLost ? NO_ROUTE : error);
      },
    });
    return () => {
      isOver = true;
      end();
    };
  };
}

/** Of an address that this machine has no route to, Bun says the first, and where it has no address of that family the second. */
const DOUBTFUL = new Set(["ECONNREFUSED", "EADDRNOTAVAIL"]);
const WITHOUT_ROUTE = new Set(["ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EACCES"]);
const NO_ROUTE: NodeJS.ErrnoException = Object.assign(new Error("no route"), { code: "ENETUNREACH" });

/** Whether this machine knows a way to an address. Connecting UDP asks just that: nothing is sent. */
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
 * Open TLS to a target within a socket that leads to it.
 *
 * @returns ends it, as in {@link OpenSocket}
 */
export function openTlsWithin(socket: Socket, target: Target, ca: string | undefined, opening: Opening): () => void {
  const within = connectTls({ socket, ...tlsOptions(target, ca) });
  carriers.set(within, socket);
  within.on("close", () => socket.destroy()); // else Bun lets TLS within TLS send all that it has, however long that takes
  return awaitReady(within, true, opening);
}

const carriers = new WeakMap<Socket, Socket>();

/** How many bytes have been written to a socket, or to one that carries it, and have not left this process. */
export function unsentBytes(socket: Socket): number {
  return socket.writableLength + (carriers.get(socket)?.writableLength ?? 0);
}

/**
 * Tell when a socket that was just made is ready, or why it never will be.
 *
 * @returns ends it, as in {@link OpenSocket}
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
  // Not before the certificate was found good: the request is the customer's data.
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
 * The options of node:tls for a target, apart from where to connect.
 *
 * The name without a final dot: certificates and SNI have none (RFC 6066 section 3).
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

const contexts = new Map<string, SecureContext>(); // making one takes milliseconds

/** Trusts what the runtime trusts by itself, and these authorities: `ca` alone would take the place of those. */
function trusting(ca: string): SecureContext {
  const context = contexts.get(ca) ?? createSecureContext({ ca: [...getCACertificates("default"), ca] });
  contexts.set(ca, context);
  return context;
}
