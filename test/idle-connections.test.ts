/** What receivers send that nobody asked for: on connections that idle, and on new ones ahead of the request. */
import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { createServer as createTlsServer, type TLSSocket } from "node:tls";
import { errorCode } from "../src/delivery/outcome.ts";
import { type Network, parseNetwork } from "../src/dns/address.ts";
import { createSender, type Sender } from "../src/http/sender.ts";
import { type Exchange, http, type Listener, listen } from "./support/listener.ts";

const UNSOLICITED = http(200, "ok");
const BLOCK_MS = 50; // far longer than loopback needs to carry bytes
const support = (name: string) => readFileSync(join(import.meta.dir, "support", name), "utf8");
const right = support("right.pem");

const open: { stop(): unknown }[] = [];
afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

/** A listener that answers every request with 503, or as told. */
async function refusing(
  scheme: "http" | "https" = "http",
  answer = ({ socket }: Exchange): void => void socket.write(http(503)),
): Promise<Listener> {
  const listener = await listen(answer, scheme === "https" ? { tls: right } : {});
  open.push(listener);
  return listener;
}

/** Deliveries to a port of this machine, and the code that each ends with: null for delivered. */
function deliveriesTo({ port }: { port: number }, scheme = "http", timeoutMs = 5_000) {
  const sender: Sender = createSender({
    timeoutMs,
    allowNetworks: [parseNetwork("127.0.0.0/8") as Network],
    resolve: async () => [{ address: "127.0.0.1", family: 4 }],
    ca: support("ca.pem"),
  });
  open.push({ stop: () => sender.close() });
  const url = new URL(`${scheme}://receiver.test:${port}/in`);
  const request = { url, head: `Host: ${url.host}\r\nContent-Length: 2\r\n`, body: Buffer.from("{}") };
  let key = 0;
  return async () => errorCode(await sender.send(request, `${key++}`));
}

/** Keep the event loop for so long. */
function block(ms: number): void {
  for (const until = performance.now() + ms; performance.now() < until; );
}

describe("an answer that comes unasked on an idle connection", () => {
  test.each([
    ["http", 100, 0],
    ["http", 20, BLOCK_MS],
    ["https", 100, 0],
    ["https", 20, BLOCK_MS],
  ] as const)(
    "never settles the next delivery (%s, %d of them, the loop blocked for %d ms)",
    async (scheme, count, ms) => {
      const listener = await refusing(scheme);
      const deliver = deliveriesTo(listener, scheme);
      const codes = [await deliver()];
      for (let index = 0; index < count; index++) {
        listener.exchanges.at(-1)?.socket.write(UNSOLICITED);
        block(ms);
        codes.push(await deliver());
      }
      expect(codes).toEqual(Array(count + 1).fill("http_503"));
      expect(listener.connections).toBe(count + 1); // each of them ended the connection
      expect(listener.exchanges).toHaveLength(count + 1); // and no request was sent twice
    },
  );

  test.each(["http", "https"] as const)("never settles one of fifty that leave at once (%s)", async (scheme) => {
    const AT_ONCE = 50;
    const listener = await refusing(scheme);
    const deliver = deliveriesTo(listener, scheme);
    const deliverAll = () => Promise.all(Array.from({ length: AT_ONCE }, deliver));
    const codes = await deliverAll();
    for (const ms of [0, BLOCK_MS]) {
      for (const { socket } of listener.exchanges.slice(-AT_ONCE)) socket.write(UNSOLICITED);
      block(ms);
      codes.push(...(await deliverAll()));
    }
    expect(codes).toEqual(Array(3 * AT_ONCE).fill("http_503"));
    expect(listener.connections).toBe(3 * AT_ONCE);
    expect(listener.exchanges).toHaveLength(3 * AT_ONCE);
  });

  test.each(["http", "https"] as const)(
    "does not do so when it comes just after the connection was taken (%s)",
    async (scheme) => {
      const listener = await refusing(scheme);
      const deliver = deliveriesTo(listener, scheme);
      await deliver();
      const code = deliver();
      listener.exchanges[0]?.socket.write(UNSOLICITED);
      expect(await code).toBe("http_503");
      expect(listener.connections).toBe(2);
    },
  );

  test("does not do so when it comes with the end of the answer before, or right behind it", async () => {
    const listener = await refusing("http", ({ socket }) => {
      socket.write(http(503) + UNSOLICITED);
      socket.write(UNSOLICITED);
    });
    const deliver = deliveriesTo(listener);
    for (let count = 1; count <= 20; count++) {
      expect(await deliver()).toBe("http_503");
      expect(listener.connections).toBe(count);
    }
  });

  test.each(["H", "\r\n", "SSH-2.0-OpenSSH_9.2\r\n", http(100, "", []), http(408, "", ["Connection: close"])])(
    "is no more than its connection's end when it is %j",
    async (bytes) => {
      const listener = await refusing();
      const deliver = deliveriesTo(listener);
      await deliver();
      listener.exchanges[0]?.socket.write(bytes);
      expect(await deliver()).toBe("http_503");
      expect(listener.connections).toBe(2);
    },
  );

  test("does not count when the receiver hangs up behind it", async () => {
    const listener = await refusing();
    const deliver = deliveriesTo(listener);
    await deliver();
    listener.exchanges[0]?.socket.end(UNSOLICITED);
    expect(await deliver()).toBe("http_503");
    expect(listener.connections).toBe(2);
  });
});

test("a connection that ended before the request left is made anew, also when the loop was blocked for seconds", async () => {
  const listener = await refusing();
  const deliver = deliveriesTo(listener);
  await deliver();
  const code = deliver();
  listener.exchanges[0]?.socket.resetAndDestroy();
  block(2_100); // later than a reset is taken for a stale connection's
  expect(await code).toBe("http_503");
  expect(listener.connections).toBe(2);
  expect(listener.exchanges).toHaveLength(2);
});

describe("a 408", () => {
  /** Answers with 200, and then with 408 what comes again on the first connection; what comes on others, as told. */
  const timingOut = (last = http(200), timeout = http(408, "", ["Connection: close"]), delayMs = 0) =>
    refusing("http", ({ socket, connection }) => {
      const { length } = listener.exchanges;
      if (length === 1) socket.write(http(200));
      else if (connection > 0) socket.write(last);
      else setTimeout(() => socket.write(timeout), delayMs);
    }).then((each) => {
      listener = each;
      return each;
    });
  let listener: Listener;

  test.each([
    ["that ends its connection", http(408, "", ["Connection: close"])],
    ["with a body", http(408, "<h1>408 Request Time-out</h1>")],
  ])("%s, on a connection that idled, has the request sent again on a fresh one", async (_, timeout) => {
    const deliver = deliveriesTo(await timingOut(http(200), timeout));
    expect([await deliver(), await deliver()]).toEqual([null, null]);
    expect(listener.connections).toBe(2);
    expect(listener.exchanges[2]?.body).toEqual(listener.exchanges[1]?.body as never);
  });

  test("on a fresh connection counts, and nothing is sent again", async () => {
    const deliver = deliveriesTo(await timingOut(http(408)));
    expect([await deliver(), await deliver()]).toEqual([null, "http_408"]);
    expect(listener.connections).toBe(2); // the second of them after a 408, too
    expect(listener.exchanges).toHaveLength(3);
  });

  test("counts when the receiver had the time to read the request", async () => {
    const deliver = deliveriesTo(await timingOut(http(200), http(408), 2_300));
    expect([await deliver(), await deliver()]).toEqual([null, "http_408"]);
    expect(listener.connections).toBe(1);
  });
});

test("a connection that is always busy is made anew in time, so that its name is looked up again", async () => {
  const first = await refusing("http", ({ socket }) => void socket.write(http(200)));
  const second = createServer((socket) => void socket.on("error", () => {}).on("data", () => socket.write(http(503))));
  await new Promise<void>((resolve) => second.listen(first.port, "127.0.0.2", resolve));
  open.push({ stop: () => second.close() });
  let address = "127.0.0.1";
  let lookups = 0;
  const sender = createSender({
    timeoutMs: 5_000,
    allowNetworks: [parseNetwork("127.0.0.0/8") as Network],
    resolve: async () => {
      lookups += 1;
      return [{ address, family: 4 }];
    },
    connectionAgeMs: 1_000,
  });
  open.push({ stop: () => sender.close() });
  const url = new URL(`http://receiver.test:${first.port}/`);
  const deliver = async () =>
    errorCode(await sender.send({ url, head: "Content-Length: 0\r\n", body: Buffer.alloc(0) }, "1"));

  const beganAt = performance.now();
  expect(await deliver()).toBeNull();
  while (performance.now() < beganAt + 400) await deliver(); // 800 ms is the least of its age
  expect([lookups, first.connections]).toEqual([1, 1]);
  address = "127.0.0.2";
  let code = await deliver();
  while (code === null && performance.now() < beganAt + 5_000) code = await deliver();
  expect(code).toBe("http_503");
  expect([lookups, first.connections]).toEqual([2, 1]);
});

test("an answer to what has begun to leave counts, although the rest has not", async () => {
  const listener = await listen(() => {}, {
    onConnection: (socket) => {
      socket.once("data", () => socket.pause().write(http(413)));
    },
  });
  open.push(listener);
  const { port } = listener;
  const sender = createSender({ timeoutMs: 5_000, allowNetworks: [parseNetwork("127.0.0.0/8") as Network] });
  open.push({ stop: () => sender.close() });
  const body = Buffer.alloc(16 * 1024 * 1024);
  const url = new URL(`http://127.0.0.1:${port}/`);
  const outcome = await sender.send({ url, head: `Content-Length: ${body.length}\r\n`, body }, "1");
  expect(errorCode(outcome)).toBe("http_413");
});

describe("an answer that comes on a new connection ahead of the request", () => {
  test("is none, and no second connection is tried", async () => {
    // In a thread of its own, so that it speaks while our loop is blocked.
    const script = `
      onmessage = ({ data: greeted }) => {
        const open = (socket) => {
          socket.write(${JSON.stringify(UNSOLICITED)});
          Atomics.add(greeted, 0, 1);
          Atomics.notify(greeted, 0);
        };
        postMessage(Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { open, data() {} } }).port);
      };`;
    const receiver = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
    open.push({ stop: () => receiver.terminate() });
    const greeted = new Int32Array(new SharedArrayBuffer(4));
    const listening = new Promise<number>((resolve) => {
      receiver.onmessage = ({ data }) => resolve(data);
    });
    receiver.postMessage(greeted);
    const deliver = deliveriesTo({ port: await listening });
    for (let count = 1; count <= 20; count++) {
      const code = deliver();
      await new Promise(setImmediate); // it connects by now, and the sockets have yet to be looked at
      Atomics.wait(greeted, 0, count - 1, 5_000);
      expect(greeted[0]).toBe(count);
      expect(await code).toBe("invalid_response");
      expect(greeted[0]).toBe(count);
    }
  });

  test("is none over TLS either, where it comes together with the handshake's end", async () => {
    let connections = 0;
    const sockets: TLSSocket[] = [];
    const server = createTlsServer({ key: right, cert: right, maxVersion: "TLSv1.2" }, (socket) => {
      connections += 1;
      sockets.push(socket.on("error", () => {}));
      socket.write(UNSOLICITED);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    open.push({
      stop: () => {
        for (const socket of sockets) socket.destroy();
        return new Promise((resolve) => server.close(resolve));
      },
    });
    const deliver = deliveriesTo(server.address() as AddressInfo, "https");
    for (let count = 1; count <= 5; count++) {
      expect(await deliver()).toBe("invalid_response");
      expect(connections).toBe(count);
    }
  });
});
