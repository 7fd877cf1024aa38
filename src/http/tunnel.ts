/**
 * Opens tunnels through an egress proxy: connects to it, sends CONNECT, and reads its response.
 *
 * @see RFC 9110 section 9.3.6
 */
import type { Socket } from "node:net";
import { LookupError, type Resolve } from "../dns/address.ts";
import { UNSOLICITED } from "./connection.ts";
import { targetOf } from "./destination.ts";
import { createDial, createOpenSocket } from "./dial.ts";
import { ProxyError, requestFailure } from "./failure.ts";

export interface TunnelOptions {
  /** `http://` or `https://`, with user and password if the proxy requires them. */
  readonly url: URL;
  /** Resolves the proxy's name. The addresses are not vetted, since the operator chose the proxy. */
  readonly resolve: Resolve;
  /** Certificate authorities to trust in addition to the runtime's, PEM; for the proxy as for receivers. */
  readonly ca: string | undefined;
}

/** Receives the progress and result of asking for a tunnel: one of `answered` and `failed` is called, once. */
export interface TunnelRequest {
  /** The proxy was reached, and CONNECT has been sent. */
  asked(): void;
  /**
   * The proxy responded. Below 300, the socket is the tunnel. Called from within the socket's own event: add listeners before
   * returning.
   */
  answered(status: number, socket: Socket): void;
  failed(error: Error): void;
}

/**
 * Asks for a tunnel to an authority: address or name, and port.
 *
 * @returns aborts: no callback is called from then on, and the socket is destroyed, unless it was passed to `answered`
 */
export type AskForTunnel = (authority: string, request: TunnelRequest) => () => void;

const MAX_HEAD_BYTES = 16 * 1024; // 16 KiB; Squid's longest is about 2 KiB

/** Create the function that asks a proxy for tunnels, each over its own connection. Failures of the proxy are a {@link ProxyError}. */
export function createTunnels({ url, resolve, ca }: TunnelOptions): AskForTunnel {
  const proxy = targetOf(url);
  const authorization = authorizationOf(url);
  const dial = createDial((hostname, _, callback) => {
    resolve(hostname).then(
      (addresses) => callback(addresses.length > 0 ? null : NO_ADDRESS, [...addresses]),
      (error) => callback(error instanceof LookupError ? error : NO_ADDRESS, []),
    );
  }, createOpenSocket(ca));
  return (authority, request) => {
    let stop = dial(proxy, {
      lookedUp() {},
      failed: (error) => request.failed(unreachable(error)),
      opened(socket) {
        stop = requestTunnel(socket, authority, authorization, request);
        request.asked();
      },
    });
    return () => stop();
  };
}

const NO_ADDRESS = new LookupError({ kind: "failure", code: "dns" });

/** @see RFC 7617 */
function authorizationOf({ username, password }: URL): string {
  if (username === "" && password === "") return "";
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return `Proxy-Authorization: Basic ${Buffer.from(credentials).toString("base64")}\r\n`;
}

/** The fault to report when the proxy cannot be reached: `proxy`, unless this machine has run out of resources. */
function unreachable(error: NodeJS.ErrnoException): ProxyError {
  const result = requestFailure(error);
  if (result.kind === "fault" && result.code === "resources") return new ProxyError(result);
  if (result.kind !== "failure") return faultOf("resolver");
  return faultOf(result.code === "tls" && result.cause !== undefined ? `tls_${result.cause}` : result.code);
}

function faultOf(cause: string): ProxyError {
  return new ProxyError({ kind: "fault", code: "proxy", cause });
}

/** @returns as {@link AskForTunnel} */
function requestTunnel(
  socket: Socket,
  authority: string,
  authorization: string,
  { answered, failed }: TunnelRequest,
): () => void {
  let head: Buffer = Buffer.alloc(0);
  let isOver = false;
  const end = (): void => {
    isOver = true;
    socket.off("data", read);
  };
  const fail = (error: Error): void => {
    if (isOver) return;
    end();
    socket.destroy();
    failed(error);
  };
  const hungUp = (): void => fail(faultOf("connection_reset"));
  const read = (chunk: Buffer): void => {
    head = Buffer.concat([head, chunk]);
    const { status, length } = parseAnswer(head);
    if (status === undefined && head.length <= MAX_HEAD_BYTES) return;
    if (status === undefined || Number.isNaN(status) || length > MAX_HEAD_BYTES) fail(faultOf("invalid_response"));
    else if (status < 300 && head.length > length) fail(UNSOLICITED);
    else {
      end();
      answered(status, socket);
    }
  };
  // These listeners stay on: TLS inside the tunnel does not handle the errors of the socket that carries it.
  socket.on("data", read).on("end", hungUp).on("close", hungUp).on("error", hungUp);
  socket.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n${authorization}\r\n`, "latin1");
  return () => {
    if (isOver) return;
    end();
    socket.destroy();
  };
}

/** The status and length of a response whose head is complete; the status is NaN if it is no response. Skips 1xx responses. */
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
