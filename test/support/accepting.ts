/** What listeners on 127.0.0.1 have in common: the connections that they accepted, and what came over these. */
import { type AddressInfo, createServer, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";

export interface Accepting {
  readonly port: number;
  /** In the order in which they were accepted; with TLS, once the handshake was completed. */
  readonly sockets: readonly Socket[];
  /** Resolves when that connection is gone. */
  closed(connection: number): Promise<void>;
  /** Closes all connections, too. */
  stop(): Promise<void>;
}

/**
 * Accept connections on a free port.
 *
 * @param accept  called with each, `connection` counting from 0
 * @param tls     PEM with key and certificate
 */
export async function acceptConnections(
  accept: (socket: Socket, connection: number) => void,
  tls?: string,
): Promise<Accepting> {
  const sockets: Socket[] = [];
  const closings: PromiseWithResolvers<void>[] = [];
  const closing = (connection: number) => (closings[connection] ??= Promise.withResolvers<void>());
  const onSocket = (socket: Socket): void => {
    const connection = sockets.push(socket) - 1;
    socket.on("error", () => {}); // a client that hangs up is what many tests are about
    socket.on("close", () => closing(connection).resolve());
    accept(socket, connection);
  };
  const server = tls ? createTlsServer({ key: tls, cert: tls }, onSocket) : createServer(onSocket);
  server.on("tlsClientError", () => {}); // a client that refuses our certificate
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    sockets,
    closed: (connection) => closing(connection).promise,
    async stop() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

/** Things that came one after the other. */
export class Arrivals<T> {
  readonly all: T[] = [];
  readonly #waiting: { count: number; resolve: (item: T) => void }[] = [];

  /** Add one; returns its index. */
  add(item: T): number {
    const count = this.all.push(item);
    for (const waiting of this.#waiting) if (count >= waiting.count) waiting.resolve(item);
    return count - 1;
  }

  /** Resolves when as many have come, with the last of them. */
  reached(count: number): Promise<T> {
    return new Promise((resolve) => {
      if (this.all.length >= count) resolve(this.all[count - 1] as T);
      else this.#waiting.push({ count, resolve });
    });
  }
}
