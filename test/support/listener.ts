/**
 * A bare TCP (or TLS) listener on 127.0.0.1 that reads HTTP requests and leaves every byte of the answer to the test:
 * what an HTTP server would not let one send is what the sender must survive.
 */
import type { Socket } from "node:net";
import { Arrivals, acceptConnections } from "./accepting.ts";

/** One request, read completely. */
export interface Exchange {
  readonly socket: Socket;
  /** 0-based, in the order in which connections were accepted. */
  readonly connection: number;
  readonly requestLine: string;
  /** Name and value, in the order and case in which they came. */
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Buffer;
}

export interface ListenerOptions {
  /** PEM with key and certificate. */
  readonly tls?: string;
  /** Takes the connection instead: no request is read from it. */
  readonly onConnection?: (socket: Socket, connection: number) => void;
}

export interface Listener {
  readonly port: number;
  /** Accepted TCP connections so far; with TLS, handshakes that were completed. */
  readonly connections: number;
  readonly exchanges: readonly Exchange[];
  /** Resolves when as many requests were read, with the last of them. */
  received(count: number): Promise<Exchange>;
  /** Resolves when that connection is gone. */
  closed(connection: number): Promise<void>;
  stop(): Promise<void>;
}

/** Listen on a free port and call `answer` for each request, `index` counting from 0. */
export async function listen(
  answer: (exchange: Exchange, index: number) => void,
  { tls, onConnection }: ListenerOptions = {},
): Promise<Listener> {
  const exchanges = new Arrivals<Exchange>();
  const server = await acceptConnections((socket, connection) => {
    if (onConnection) {
      onConnection(socket, connection);
      return;
    }
    let buffered: Buffer = Buffer.alloc(0);
    socket.on("data", (chunk: Buffer) => {
      buffered = Buffer.concat([buffered, chunk]);
      for (let parsed = parse(buffered); parsed !== undefined; parsed = parse(buffered)) {
        buffered = parsed.rest;
        const exchange = { ...parsed.request, socket, connection };
        answer(exchange, exchanges.add(exchange));
      }
    });
  }, tls);

  return {
    port: server.port,
    get connections() {
      return server.sockets.length;
    },
    exchanges: exchanges.all,
    received: (count) => exchanges.reached(count),
    closed: server.closed,
    stop: server.stop,
  };
}

function parse(bytes: Buffer): { request: Omit<Exchange, "socket" | "connection">; rest: Buffer } | undefined {
  const end = bytes.indexOf("\r\n\r\n");
  if (end < 0) return undefined;
  const [requestLine = "", ...lines] = bytes.toString("latin1", 0, end).split("\r\n");
  const headers = lines.map((line) => line.split(/: (.*)/s, 2) as [string, string]);
  const length = Number(headers.find(([name]) => name.toLowerCase() === "content-length")?.[1] ?? 0);
  const bodyEnd = end + 4 + length;
  if (bytes.length < bodyEnd) return undefined;
  return { request: { requestLine, headers, body: bytes.subarray(end + 4, bodyEnd) }, rest: bytes.subarray(bodyEnd) };
}

/** An HTTP/1.1 answer as text, with a Content-Length unless it is given headers of its own. */
export function http(
  status: number,
  body = "",
  headers: readonly string[] = [`Content-Length: ${body.length}`],
): string {
  return [`HTTP/1.1 ${status} Reason`, ...headers, "", body].join("\r\n");
}
