/**
 * A proxy on 127.0.0.1 that takes CONNECT, and does to it what the test says. Whatever address or name it is asked for, it
 * connects to that port of 127.0.0.1, so that tests can use public addresses and names.
 */
import { connect, type Socket } from "node:net";
import { Arrivals, acceptConnections } from "./accepting.ts";

/** One request for a tunnel, or whatever else came as a head. */
export interface ConnectRequest {
  /** As in `CONNECT 93.184.216.34:443 HTTP/1.1`. */
  readonly requestLine: string;
  /** What the tunnel is to lead to: `93.184.216.34:443`. */
  readonly authority: string;
  /** Name and value, in the order and case in which they came. */
  readonly headers: readonly (readonly [string, string])[];
  /** 0-based, in the order in which connections were accepted. */
  readonly connection: number;
  readonly socket: Socket;
}

/**
 * What is done with a request: `tunnel` connects, and answers 200 or 503; a number is a status; `silence` and `hang up` are
 * no answer; pieces are sent one by one, as they stand, and where they end a head, the tunnel opens after the last of them.
 */
export type ConnectAnswer = "tunnel" | "silence" | "hang up" | number | { readonly pieces: readonly string[] };

export interface ConnectProxy {
  readonly port: number;
  /** Accepted connections so far. */
  readonly connections: number;
  readonly requests: readonly ConnectRequest[];
  /** Resolves when as many requests were read, with the last of them. */
  requested(count: number): Promise<ConnectRequest>;
  /** Resolves when that connection is gone. */
  closed(connection: number): Promise<void>;
  /** Close every connection there is, as a proxy does that is started anew. */
  hangUp(): void;
  stop(): Promise<void>;
}

/** Start one on a free port. */
export async function startConnectProxy(
  answer: (request: ConnectRequest, index: number) => ConnectAnswer = () => "tunnel",
  { tls, accepts = () => true }: { readonly tls?: string; readonly accepts?: (connection: number) => boolean } = {},
): Promise<ConnectProxy> {
  const requests = new Arrivals<ConnectRequest>();
  const server = await acceptConnections((socket, connection) => {
    if (!accepts(connection)) {
      socket.resume();
      return;
    }
    let head = "";
    const read = (chunk: Buffer): void => {
      head += chunk.toString("latin1");
      if (!head.includes("\r\n\r\n")) return;
      socket.off("data", read);
      const [requestLine = "", ...lines] = head.slice(0, head.indexOf("\r\n\r\n")).split("\r\n");
      const headers = lines.map((line) => line.split(/: (.*)/s, 2) as [string, string]);
      const request = { requestLine, authority: requestLine.split(" ")[1] ?? "", headers, connection, socket };
      reply(request, answer(request, requests.add(request)));
    };
    socket.on("data", read);
  }, tls);

  return {
    port: server.port,
    get connections() {
      return server.sockets.length;
    },
    requests: requests.all,
    requested: (count) => requests.reached(count),
    closed: server.closed,
    hangUp() {
      for (const socket of server.sockets) socket.destroy();
    },
    stop: server.stop,
  };
}

function reply(request: ConnectRequest, answer: ConnectAnswer): void {
  const { socket } = request;
  if (answer === "silence") return;
  if (answer === "hang up") socket.destroy();
  else if (answer === "tunnel") carry(request, () => socket.write("HTTP/1.1 200 Connection established\r\n\r\n"));
  else if (typeof answer === "number") socket.end(`HTTP/1.1 ${answer} Reason\r\nContent-Length: 4\r\n\r\nwhy?`);
  else sendPieces(request, answer.pieces, () => /\n\r?\n/.test(answer.pieces.join("")) && carry(request, () => {}));
}

/** One piece a round trip of the loop, so that each arrives by itself. */
function sendPieces(request: ConnectRequest, [piece = "", ...rest]: readonly string[], sent: () => void): void {
  request.socket.setNoDelay(true);
  request.socket.write(piece, "latin1", () => {
    if (rest.length === 0) sent();
    else setTimeout(sendPieces, 1, request, rest, sent);
  });
}

/** Connect to where the request says, and carry bytes both ways until either side closes. */
function carry({ socket, authority }: ConnectRequest, opened: () => void): void {
  const far = connect({ host: "127.0.0.1", port: Number(authority.slice(authority.lastIndexOf(":") + 1)) });
  let isOpen = false;
  far.on("connect", () => {
    isOpen = true;
    opened();
    socket.pipe(far).pipe(socket);
  });
  far.on("error", () => {
    if (!isOpen) socket.end("HTTP/1.1 503 Service Unavailable\r\n\r\n");
  });
  // What is still on its way arrives.
  far.on("close", () => isOpen && socket.end());
  socket.on("close", () => far.end());
}
