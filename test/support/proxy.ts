/**
 * A TCP proxy on loopback that can lose its memory (the connections it has stay open and carry nothing any more, as when
 * the machine behind an address vanished and another took its place; new ones work), and hold a reply back.
 */
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export interface Proxy {
  readonly url: string;
  /** Carry nothing on the connections there are; nobody is told. */
  forget(): void;
  /** Hold the next reply with this text back, and all that comes after it on its connection, until it is let go. */
  hold(text: string): { readonly held: Promise<void>; letGo(): void };
  stop(): Promise<void>;
}

/** Start a proxy to a port of 127.0.0.1. */
export async function startProxy(port: number): Promise<Proxy> {
  const pairs = new Set<[Socket, Socket]>();
  let holding: { text: string; pair?: [Socket, Socket]; chunks: Buffer[]; hasCome: () => void } | undefined;

  /** Whether a reply must wait, and then does. */
  const waits = (pair: [Socket, Socket], chunk: Buffer): boolean => {
    if (holding === undefined) return false;
    if (holding.pair === undefined && chunk.includes(holding.text)) {
      holding.pair = pair;
      holding.hasCome();
    }
    if (holding.pair !== pair) return false;
    holding.chunks.push(chunk);
    return true;
  };
  const server = createServer((near) => {
    const far = connect({ host: "127.0.0.1", port });
    const pair: [Socket, Socket] = [near, far];
    pairs.add(pair);
    const end = (): void => {
      if (!pairs.delete(pair)) return;
      near.destroy();
      far.destroy();
    };
    near.on("data", (chunk) => pairs.has(pair) && far.write(chunk));
    far.on("data", (chunk: Buffer) => pairs.has(pair) && !waits(pair, chunk) && near.write(chunk));
    for (const socket of pair) socket.on("close", end).on("error", end);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject).listen(0, "127.0.0.1", resolve);
  });
  const forgotten: [Socket, Socket][] = [];
  return {
    url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`,
    forget() {
      for (const pair of pairs) {
        pair[1].destroy(); // the machine is gone
        forgotten.push(pair);
      }
      pairs.clear();
    },
    hold(text) {
      const { promise: held, resolve: hasCome } = Promise.withResolvers<void>();
      holding = { text, chunks: [], hasCome };
      return {
        held,
        letGo() {
          for (const chunk of holding?.chunks ?? []) holding?.pair?.[0].write(chunk);
          holding = undefined;
        },
      };
    },
    async stop() {
      for (const [near, far] of [...pairs, ...forgotten]) {
        near.destroy();
        far.destroy();
      }
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
