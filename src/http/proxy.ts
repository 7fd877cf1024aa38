/**
 * The egress proxy: opens tunnels through it, and tells its faults from those of the receivers behind it.
 *
 * Every target goes through CONNECT, `http://` too. In the absolute form (`POST http://…`) the proxy would see the body, would write
 * the address in the place of the name, and its own answers could not be told from the receiver's.
 *
 * @see RFC 9110 section 9.3.6
 */
import type { LookupFunction, Socket } from "node:net";
import { LookupError, type Resolve } from "./address.ts";
import { UNASKED } from "./connection.ts";
import { targetOf } from "./destination.ts";
import { createDial, createOpenSocket, type Opening, type OpenSocket, openTlsWithin, type Target } from "./dial.ts";
import { ProxyError, type Result, requestFailure } from "./failure.ts";
import { ProxyEvidence } from "./proxy-evidence.ts";

export interface ProxyOptions {
  /** `http://` or `https://`, with a user and password where the proxy asks for them. */
  readonly url: URL;
  /** Looks up the proxy's own name. Its address is not vetted: it is the operator's. */
  readonly resolve: Resolve;
  /** Certificate authorities to trust, PEM: for the proxy as for receivers. The system's otherwise. */
  readonly ca: string | undefined;
}

export interface EgressProxy {
  /** Opens a tunnel to an address, or to a name where the proxy resolves, and TLS within it for a target that is secure. */
  readonly open: OpenSocket;
  /** A receiver answered: the proxy gets through to it. */
  heard(target: Target): void;
  /** What an attempt ends with that waited for the proxy until its deadline; undefined when it did not wait for it. */
  silence(target: Target): Result | undefined;
}

/** A tunnel that is being opened. */
interface Opened {
  /** When it was asked for, on the clock of performance.now(). */
  askedAt?: number;
  /** The proxy has got through. */
  isThrough?: boolean;
}

const MAX_HEAD_BYTES = 16 * 1024; // 16 KiB: squid's with all that it may add is 2

export function createProxy({ url, resolve, ca }: ProxyOptions): EgressProxy {
  const proxy = targetOf(url);
  const authorization = authorizationOf(url);
  const dialProxy = createDial((hostname, _, callback) => {
    resolve(hostname).then(
      (addresses) => callback(addresses.length > 0 ? null : NO_ADDRESS, [...addresses]),
      (error) => callback(error instanceof LookupError ? error : NO_ADDRESS, []),
    );
  }, createOpenSocket(ca));
  const evidence = new ProxyEvidence();
  const opening = new Map<Target, Set<Opened>>();

  /** Whose fault a refusal is, by its status. */
  function refusal(status: number, { host }: Target): ProxyError {
    const isToBlame = status >= 500 && evidence.isToBlame(host, performance.now());
    if (!isToBlame) return new ProxyError({ kind: "fault", code: "proxy", cause: `status_${status}` });
    return new ProxyError({ kind: "failure", code: status === 504 ? "timeout" : "unreachable" });
  }

  function begin(target: Target): { readonly state: Opened; end(): void } {
    const state: Opened = {};
    const states = opening.get(target) ?? new Set();
    opening.set(target, states.add(state));
    return {
      state,
      end() {
        states.delete(state);
        if (states.size === 0) opening.delete(target);
      },
    };
  }

  const open: OpenSocket = (address, target, { opened, failed }) => {
    const { state, end } = begin(target);
    const settle: Opening = {
      opened(socket) {
        end();
        opened(socket);
      },
      failed(error) {
        end();
        failed(error);
      },
    };
    let stop = dialProxy(proxy, {
      lookedUp() {},
      failed: (error) => settle.failed(unreachable(error)),
      opened(socket) {
        const authority = `${address.includes(":") ? `[${address}]` : address}:${target.port}`;
        state.askedAt = performance.now();
        stop = requestTunnel(socket, authority, authorization, (answer) => {
          if (typeof answer === "number" && answer < 300) {
            state.isThrough = true;
            evidence.passed(target.host, performance.now());
            if (!target.isSecure) settle.opened(socket);
            else stop = openTlsWithin(socket, target, ca, settle);
            return;
          }
          socket.destroy();
          settle.failed(typeof answer === "number" ? refusal(answer, target) : answer);
        });
      },
    });
    return () => {
      end();
      stop();
    };
  };

  return {
    open,
    heard: ({ host }) => evidence.passed(host, performance.now()),
    silence(target) {
      const states = [...(opening.get(target) ?? [])];
      if (states.length === 0 || states.some(({ isThrough }) => isThrough)) return undefined;
      const askedAt = Math.min(...states.map((state) => state.askedAt ?? Number.POSITIVE_INFINITY));
      const isTheirs = evidence.hasReachedOthersSince(target.host, askedAt);
      return isTheirs ? { kind: "failure", code: "timeout" } : { kind: "fault", code: "proxy", cause: "silent" };
    },
  };
}

/** In the place of a lookup, where the proxy resolves: it is asked for the name. */
export const namesAsTheyAre: LookupFunction = (hostname, _, callback) =>
  callback(null, [{ address: hostname, family: 4 }]);

const NO_ADDRESS = new LookupError({ kind: "failure", code: "dns" });

/** @see RFC 7617 */
function authorizationOf({ username, password }: URL): string {
  if (username === "" && password === "") return "";
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return `Proxy-Authorization: Basic ${Buffer.from(credentials).toString("base64")}\r\n`;
}

/** The proxy cannot be reached, whatever the reason: ours, but for what this machine has run out of. */
function unreachable(error: NodeJS.ErrnoException): ProxyError {
  const result = requestFailure(error);
  if (result.kind === "fault" && result.code === "resources") return new ProxyError(result);
  return new ProxyError({ kind: "fault", code: "proxy", cause: "code" in result ? result.code : undefined });
}

/**
 * Ask for a tunnel over a connection to the proxy.
 *
 * @param authority  address or name, and port
 * @param onAnswer   told the status, at the very event that brought it, with nothing of what comes after it read; or why there is none
 * @returns ends it: nothing is told from then on, and the socket is destroyed
 */
function requestTunnel(
  socket: Socket,
  authority: string,
  authorization: string,
  onAnswer: (answer: number | Error) => void,
): () => void {
  let head: Buffer = Buffer.alloc(0);
  const answer = (told: number | Error): void => {
    socket.off("data", read).off("end", hungUp).off("close", hungUp).off("error", hungUp);
    socket.on("error", () => {}); // of a socket that has another on top of it
    onAnswer(told);
  };
  const fault = (cause: string): void => answer(new ProxyError({ kind: "fault", code: "proxy", cause }));
  const hungUp = (): void => fault("connection_reset");
  const read = (chunk: Buffer): void => {
    head = Buffer.concat([head, chunk]);
    const { status, length } = parseAnswer(head);
    if (status === undefined && head.length <= MAX_HEAD_BYTES) return;
    if (status === undefined || Number.isNaN(status) || length > MAX_HEAD_BYTES) fault("invalid_response");
    else if (status < 300 && head.length > length) answer(UNASKED);
    else answer(status);
  };
  socket.on("data", read).on("end", hungUp).on("close", hungUp).on("error", hungUp);
  socket.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n${authorization}\r\n`, "latin1");
  return () => {
    socket.off("data", read).off("end", hungUp).off("close", hungUp).off("error", hungUp);
    socket.on("error", () => {});
    socket.destroy();
  };
}

/** The status of an answer whose head is complete, and how long that is; NaN for what is no answer. Interim answers are skipped. */
function parseAnswer(bytes: Buffer): { readonly status?: number; readonly length: number } {
  const text = bytes.toString("latin1");
  const end = /\r?\n\r?\n/g;
  for (let from = 0; end.exec(text) !== null; from = end.lastIndex) {
    const [, digits] = /^HTTP\/1\.\d ([1-5]\d\d)(?=[ \r\n])/.exec(text.slice(from, end.lastIndex)) ?? [];
    const status = Number(digits);
    if (!(status < 200)) return { status, length: end.lastIndex };
  }
  return { length: 0 };
}
