/**
 * A scripted HTTP receiver on loopback: a customer's endpoint for tests, demos and benchmarks.
 */
import http from "node:http";
import https from "node:https";
import type { AddressInfo, Socket } from "node:net";

/** One request, complete. */
export interface ReceivedRequest {
  /** 0-based, in the order of completion. */
  readonly index: number;
  readonly method: string;
  /** With the query. */
  readonly path: string;
  /** Name, value, name, value, …: in their original order and case. */
  readonly rawHeaders: readonly string[];
  /** Lowercase names, as `verify()` takes them. */
  readonly headers: Readonly<Record<string, string | undefined>>;
  /** The bytes as received. */
  readonly body: Buffer;
  /** The body, parsed when it is first read. Throws SyntaxError when it is not JSON. */
  readonly json: unknown;
  /** When its headers arrived, epoch ms. */
  readonly receivedAt: number;
  /** Resolves when the response was sent, or the connection closed before that. Never rejects. */
  readonly ended: Promise<"answered" | "aborted">;
}

/**
 * How to respond. By default: 200 with an empty body, immediately.
 *
 * - an object   an HTTP response, after `delayMs`
 * - `raw`       these bytes instead of an HTTP response; then the connection is closed, or kept open with `hang`
 * - `hang`      no response; the connection stays open until the client or stop() closes it
 * - `close`     the connection is closed without a response
 * - `reset`     the same, with a TCP reset
 */
export type Answer =
  | {
      readonly status?: number;
      readonly headers?: Readonly<Record<string, string>>;
      readonly body?: string | Uint8Array;
      readonly delayMs?: number;
    }
  | { readonly raw: string | Uint8Array; readonly hang?: boolean }
  | "hang"
  | "close"
  | "reset";

/** Chooses the response, sent once a returned promise resolves; `undefined` is the default 200. */
export type Script = (request: ReceivedRequest, index: number) => Answer | undefined | Promise<Answer | undefined>;

export interface ReceiverOptions {
  /** Speak HTTPS: PEM. */
  readonly tls?: { readonly key: string; readonly cert: string };
  /** Any free port by default. */
  readonly port?: number;
}

export interface Receiver {
  readonly port: number;
  /** Its address on 127.0.0.1, with this path. */
  url(path?: string): string;
  /** Set the response to all requests from now on, or a script. If a script throws, the response is 500 with its message. */
  answer(script: Script | Answer): void;
  /** Every request so far. */
  readonly requests: readonly ReceivedRequest[];
  /** Accepted TCP connections so far, with or without a request. */
  readonly connections: number;
  /**
   * The next request that was not returned yet.
   *
   * @throws  when none arrives within `timeoutMs`, or the receiver stops
   */
  next(timeoutMs?: number): Promise<ReceivedRequest>;
  /**
   * The first `count` requests, once there are that many. `next` still returns them.
   *
   * @throws  like {@link Receiver.next}
   */
  waitFor(count: number, timeoutMs?: number): Promise<readonly ReceivedRequest[]>;
  /** Close the server and all connections. May be called again. */
  stop(): Promise<void>;
}

const WAIT_MS = 10 * 1000; // 10 s

/** Start a receiver on 127.0.0.1. */
export async function startReceiver({ tls, port: wantedPort = 0 }: ReceiverOptions = {}): Promise<Receiver> {
  const requests: ReceivedRequest[] = [];
  const notHandedOut: ReceivedRequest[] = [];
  const waiters = createWaiters(() => requests.length);
  let script: Script = () => undefined;
  let connections = 0;

  const onRequest = async (incoming: http.IncomingMessage, response: http.ServerResponse): Promise<void> => {
    const request = await read(incoming, response, () => requests.length);
    if (request === undefined) return;
    requests.push(request);
    notHandedOut.push(request);
    waiters.look();
    give(await choose(script, request), response);
  };
  const server = tls ? https.createServer(tls, onRequest) : http.createServer(onRequest);
  server.on("connection", () => {
    connections++;
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject).listen(wantedPort, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;

  return {
    port,
    requests,
    url: (path = "/") => `${tls ? "https" : "http"}://127.0.0.1:${port}${path}`,
    answer(next) {
      script = typeof next === "function" ? next : () => next;
    },
    get connections() {
      return connections;
    },
    next: (timeoutMs = WAIT_MS) => waiters.wait("a further request", timeoutMs, () => notHandedOut.shift()),
    waitFor: (count, timeoutMs = WAIT_MS) =>
      waiters.wait(`${count} requests`, timeoutMs, () =>
        requests.length >= count ? requests.slice(0, count) : undefined,
      ),
    async stop() {
      waiters.stop();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}

/** Callers waiting for requests. Those who have waited longest look first. */
function createWaiters(countRequests: () => number) {
  const waiters = new Set<{ look(): void; fail(reason: string): void }>();
  let isStopped = false;
  return {
    /** Wait until `take` returns something. */
    wait: <T>(what: string, timeoutMs: number, take: () => T | undefined): Promise<T> =>
      new Promise((resolve, reject) => {
        const end = (): void => {
          clearTimeout(timer);
          waiters.delete(waiter);
        };
        const waiter = {
          look() {
            const found = take();
            if (found === undefined) return;
            end();
            resolve(found);
          },
          fail(reason: string) {
            end();
            reject(new Error(`expected ${what} ${reason}; got ${countRequests()} in all`));
          },
        };
        const timer = setTimeout(() => waiter.fail(`within ${timeoutMs} ms`), timeoutMs);
        waiters.add(waiter);
        waiter.look();
        if (isStopped) waiter.fail("before the receiver stopped");
      }),
    /** A request came: let everybody look. */
    look(): void {
      for (const waiter of waiters) waiter.look();
    },
    stop(): void {
      isStopped = true;
      for (const waiter of waiters) waiter.fail("before the receiver stopped");
    },
  };
}

async function choose(script: Script, request: ReceivedRequest): Promise<Answer> {
  try {
    return (await script(request, request.index)) ?? {};
  } catch (error) {
    return { status: 500, body: String(error) };
  }
}

/** @returns undefined when the client disconnects before its request is complete */
async function read(
  incoming: http.IncomingMessage,
  response: http.ServerResponse,
  nextIndex: () => number,
): Promise<ReceivedRequest | undefined> {
  const receivedAt = Date.now();
  const ended = new Promise<"answered" | "aborted">((resolve) => {
    response.once("close", () => resolve(response.writableFinished ? "answered" : "aborted"));
  });
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of incoming) chunks.push(chunk);
  } catch {
    return undefined;
  }
  const body = Buffer.concat(chunks);
  let parsed: { json: unknown } | undefined;
  return {
    index: nextIndex(),
    method: incoming.method as string,
    path: incoming.url as string,
    rawHeaders: incoming.rawHeaders,
    headers: incoming.headers as Record<string, string | undefined>,
    body,
    receivedAt,
    ended,
    get json() {
      parsed ??= { json: JSON.parse(body.toString()) };
      return parsed.json;
    },
  };
}

function give(answer: Answer, response: http.ServerResponse): void {
  const socket = response.socket as Socket | null;
  if (socket === null || answer === "hang") return; // null: the client has gone
  if (answer === "close") return void socket.destroy();
  if (answer === "reset") return void socket.resetAndDestroy();
  if ("raw" in answer) return void (answer.hang ? socket.write(answer.raw) : socket.end(answer.raw));
  const { status = 200, headers = {}, body = "", delayMs = 0 } = answer;
  const send = () => response.writeHead(status, headers).end(body);
  if (delayMs === 0) return void send(); // even a 0 ms timer takes 1 ms, which benchmarks would measure
  const timer = setTimeout(send, delayMs);
  response.once("close", () => clearTimeout(timer));
}
