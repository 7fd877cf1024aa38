/** Deliveries through an egress proxy that takes CONNECT. Against a real squid and tinyproxy: test/chaos/egress-proxy.ts. */
import { afterEach, describe, expect, test } from "bun:test";
import { connect, createServer, type Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { errorCode } from "../src/delivery/outcome.ts";
import { type Network, parseNetwork } from "../src/dns/address.ts";
import type { ConnectRequest } from "./support/connect-proxy.ts";
import { type Exchange, http } from "./support/listener.ts";
import {
  endAll,
  failure,
  fault,
  headersOf,
  names,
  OTHER,
  PUBLIC,
  proxying,
  receiver,
  requestTo,
  response,
  senderVia,
  stops,
  tls,
  what,
} from "./support/proxied.ts";

afterEach(endAll);

/** A relay to a port that carries everything back, and the other way 1 MB until it is told to go on. */
async function slowWayTo(port: number) {
  const { promise: mayGoOn, resolve: goOn } = Promise.withResolvers<void>();
  const { promise: closed, resolve: close } = Promise.withResolvers<void>();
  const { promise: stuck, resolve: stick } = Promise.withResolvers<void>();
  let bytes = 0;
  const relay = createServer((near) => {
    const far = connect({ host: "127.0.0.1", port });
    let left = 1024 * 1024;
    near.on("data", (chunk: Buffer) => {
      far.write(chunk);
      bytes += chunk.length;
      left -= chunk.length;
      if (left > 0) return;
      left = Number.POSITIVE_INFINITY;
      near.pause();
      stick();
      mayGoOn.then(() => near.resume());
    });
    near.on("close", () => far.end()).on("error", () => {});
    near.on("close", () => close());
    far.pipe(near);
    far.on("error", () => {});
  });
  await new Promise<void>((resolve) => relay.listen(0, "127.0.0.1", resolve));
  stops.push(() => relay.close());
  return { port: (relay.address() as { port: number }).port, goOn, stuck, closed, bytes: () => bytes };
}

describe("the proxy is asked", () => {
  test("for the vetted address, and the receiver for the name", async () => {
    const [to, proxy] = [await receiver(), await proxying()];
    expect(what(await senderVia(proxy).send(requestTo(`http://receiver.test:${to.port}/in`), "1"))).toEqual(
      response(200),
    );
    expect(proxy.requests.map(({ requestLine, headers }) => ({ requestLine, headers }))).toEqual([
      { requestLine: `CONNECT ${PUBLIC}:${to.port} HTTP/1.1`, headers: [["Host", `${PUBLIC}:${to.port}`]] },
    ]);
    const { requestLine, headers } = await to.received(1);
    expect(requestLine).toBe("POST /in HTTP/1.1");
    expect(headers[0]).toEqual(["Host", `receiver.test:${to.port}`]);
  });

  test("for a tunnel that TLS goes through, checked against the name", async () => {
    const servernames: unknown[] = [];
    const answer = ({ socket }: Exchange) => {
      servernames.push((socket as TLSSocket).servername);
      socket.write(http(200));
    };
    const [to, proxy] = [await receiver(answer, { tls }), await proxying()];
    const sender = senderVia(proxy);
    expect(what(await sender.send(requestTo(`https://receiver.test:${to.port}/`), "1"))).toEqual(response(200));
    expect(servernames).toEqual(["receiver.test"]);
    expect(what(await sender.send(requestTo(`https://other.test:${to.port}/`), "2"))).toEqual({
      ...failure("tls"),
      cause: "wrong_host",
    });
    expect(to.exchanges).toHaveLength(1);
  });

  test("for an IPv6 address in brackets", async () => {
    const [to, proxy] = [await receiver(), await proxying()];
    const sender = senderVia(proxy, { resolve: names({ "receiver.test": ["2606:2800:21f::1"] }) });
    await sender.send(requestTo(`http://receiver.test:${to.port}/`), "1");
    await sender.send(requestTo(`http://[2606:2800:21f::2]:${to.port}/`), "2");
    expect(proxy.requests.map(({ authority }) => authority)).toEqual([
      `[2606:2800:21f::1]:${to.port}`,
      `[2606:2800:21f::2]:${to.port}`,
    ]);
    expect(headersOf(await to.received(2)).host).toBe(`[2606:2800:21f::2]:${to.port}`);
  });

  test("for the name where it resolves, which nobody else looks up", async () => {
    const [to, proxy] = [await receiver(), await proxying()];
    const resolve = () => Promise.reject(new Error("nobody asks"));
    const sender = senderVia(proxy, { resolve, proxyResolves: true });
    expect(what(await sender.send(requestTo(`http://receiver.test:${to.port}/`), "1"))).toEqual(response(200));
    expect(proxy.requests[0]?.authority).toBe(`receiver.test:${to.port}`);
  });

  test.each([false, true])("for nothing inside (it resolves: %p)", async (proxyResolves) => {
    const proxy = await proxying();
    const sender = senderVia(proxy, { proxyResolves });
    expect((await sender.send(requestTo("http://10.0.0.1/"), "1")).kind).toBe("blocked");
    if (!proxyResolves) expect(errorCode(await sender.send(requestTo("http://inside.test/"), "2"))).toBe("dns");
    for (const name of ["localhost", "LocalHost.", "sub.localhost"]) {
      expect(errorCode(await sender.send(requestTo(`http://${name}/`), name))).toBe("dns");
    }
    expect(proxy.connections).toBe(0);
  });

  test("with the user and password of its URL, which no receiver sees", async () => {
    const [to, proxy] = [await receiver(), await proxying()];
    const sender = senderVia(`http://us%40er:p%C3%A4ss%3Aword@127.0.0.1:${proxy.port}`);
    expect(what(await sender.send(requestTo(`http://receiver.test:${to.port}/`), "1"))).toEqual(response(200));
    const given = headersOf(proxy.requests[0] as ConnectRequest)["proxy-authorization"];
    expect(given).toBe(`Basic ${Buffer.from("us@er:päss:word").toString("base64")}`);
    expect(Object.keys(headersOf(await to.received(1))).filter((name) => name.includes("proxy"))).toEqual([]);
  });

  test("at its own address, private as it is, which the resolver knows", async () => {
    const [to, proxy] = [await receiver(), await proxying()];
    const resolve = names({ "receiver.test": [PUBLIC], "proxy.internal": ["127.0.0.1"] });
    const sender = senderVia(`http://proxy.internal:${proxy.port}`, { resolve });
    expect(what(await sender.send(requestTo(`http://receiver.test:${to.port}/`), "1"))).toEqual(response(200));
  });

  test.each(["http", "https"])(
    "over TLS, and carries 1 MB to an %s:// receiver and its answer back",
    async (scheme) => {
      const answer = http(200, "x".repeat(50_000));
      const to = await receiver(answer, scheme === "https" ? { tls } : {});
      const proxy = await proxying("tunnel", { tls });
      const sender = senderVia(`https://127.0.0.1:${proxy.port}`);
      for (const key of ["1", "2"]) {
        const request = requestTo(`${scheme}://receiver.test:${to.port}/`, { text: "größe🦊".repeat(100_000) });
        expect(what(await sender.send(request, key))).toEqual(response(200));
        expect((await to.received(Number(key))).body.equals(request.body)).toBe(true);
      }
    },
  );
});

test.each([
  ["http", "http"],
  ["http", "https"],
  ["https", "http"],
  ["https", "https"],
])("an event that is taken early arrives whole (proxy %s, receiver %s)", async (ofProxy, scheme) => {
  const { promise: read, resolve } = Promise.withResolvers<number>();
  const { promise: answered, resolve: hasAnswered } = Promise.withResolvers<void>();
  const onConnection = (socket: Socket): void => {
    let bytes = 0;
    socket.once("data", () => {
      socket.write(http(200, "", ["Content-Length: 0", "Connection: close"]), () => hasAnswered());
    });
    socket.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
    });
    socket.on("close", () => resolve(bytes));
  };
  const to = await receiver(() => {}, { ...(scheme === "https" && { tls }), onConnection });
  const proxy = await proxying("tunnel", ofProxy === "https" ? { tls } : {});
  const way = await slowWayTo(proxy.port);
  const request = requestTo(`${scheme}://receiver.test:${to.port}/`, { text: "x".repeat(16 * 1024 * 1024) });
  const sending = senderVia(`${ofProxy}://127.0.0.1:${way.port}`, { timeoutMs: 15_000 }).send(request, "1");
  await answered;
  setTimeout(way.goOn, 200); // the answer is there by then; an event that is cut off would be by then, too
  expect(what(await sending)).toEqual(response(200));
  expect(await read).toBeGreaterThan(request.body.length);
});

test.each([
  ["http", "http"],
  ["http", "https"],
  ["https", "http"],
  ["https", "https"],
])("a tunnel that is stuck ends with its attempt (proxy %s, receiver %s)", async (ofProxy, scheme) => {
  const to = await receiver(() => {}, {
    ...(scheme === "https" && { tls }),
    onConnection: (socket) => socket.resume(),
  });
  const proxy = await proxying("tunnel", ofProxy === "https" ? { tls } : {});
  const way = await slowWayTo(proxy.port);
  const request = requestTo(`${scheme}://receiver.test:${to.port}/`, { text: "x".repeat(16 * 1024 * 1024) });
  const sender = senderVia(`${ofProxy}://127.0.0.1:${way.port}`, { timeoutMs: 15_000 });
  const sending = sender.send(request, "1");
  await way.stuck;
  sender.cancelAll("shutdown");
  expect(what(await sending)).toEqual({ kind: "fault", code: "shutdown" });
  way.goOn(); // it sees the end only once it reads
  await way.closed;
  expect(way.bytes()).toBeLessThan(request.body.length);
});

describe("an answer of the proxy", () => {
  const accepted = "HTTP/1.1 200 Connection established\r\nProxy-Agent: test\r\nContent-Length: 5\r\n\r\n";

  test.each([
    ["byte by byte", [...accepted]],
    ["cut before the last byte", [accepted.slice(0, -1), "\n"]],
    ["of HTTP/1.0, without a reason", ["HTTP/1.0 200\r\n\r\n"]],
    ["of another 2xx", ["HTTP/1.1 204 Fine\r\n\r\n"]],
    ["after an interim one", ["HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"]],
    ["with bare line feeds", ["HTTP/1.1 200 OK\n\n"]],
  ])("is understood: %s", async (_, pieces) => {
    const [to, proxy] = [await receiver(http(200), { tls }), await proxying({ pieces })];
    expect(what(await senderVia(proxy).send(requestTo(`https://receiver.test:${to.port}/`), "1"))).toEqual(
      response(200),
    );
  });

  test.each([
    ["is no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n"],
    ["has no status", "HTTP/1.1 OK\r\n\r\n"],
    ["has a head without an end", `HTTP/1.1 200 OK\r\n${"X-Filler: 0123456789\r\n".repeat(1000)}`],
    ["is of HTTP/2", "HTTP/2 200\r\n\r\n"],
  ])("that %s is our fault, and the connection is closed", async (_, answer) => {
    const proxy = await proxying({ pieces: [answer] });
    expect(what(await senderVia(proxy).send(requestTo("http://receiver.test:9/"), "1"))).toEqual(
      fault("invalid_response"),
    );
    await proxy.closed(0);
  });

  test.each(["http", "https"])("with bytes behind its head is what a receiver says unasked (%s)", async (scheme) => {
    const to = await receiver(http(200), scheme === "https" ? { tls } : {});
    const proxy = await proxying({ pieces: ["HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"] });
    const outcome = await senderVia(proxy).send(requestTo(`${scheme}://receiver.test:${to.port}/`), "1");
    expect(what(outcome)).toEqual(failure("invalid_response"));
    await proxy.closed(0);
    expect(to.exchanges).toHaveLength(0);
  });

  test("that refuses ends the connection, also one that the proxy would keep", async () => {
    const proxy = await proxying(({ socket }) => {
      socket.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nwhy?");
      return "silence";
    });
    expect(what(await senderVia(proxy).send(requestTo("http://receiver.test/"), "1"))).toEqual(fault("status_403"));
    await proxy.closed(0);
  });
});

describe("a tunnel", () => {
  test.each(["http", "https"])("is kept for the next request (%s)", async (scheme) => {
    const [to, proxy] = [await receiver(http(200), scheme === "https" ? { tls } : {}), await proxying()];
    const sender = senderVia(proxy);
    for (const key of ["1", "2", "3"]) {
      expect(what(await sender.send(requestTo(`${scheme}://receiver.test:${to.port}/`), key))).toEqual(response(200));
    }
    expect(proxy.requests).toHaveLength(1);
  });

  test.each(["http", "https"])("that the proxy closed while it was idle costs no attempt (%s)", async (scheme) => {
    const [to, proxy] = [await receiver(http(200), scheme === "https" ? { tls } : {}), await proxying()];
    const sender = senderVia(proxy);
    const send = (key: string) => sender.send(requestTo(`${scheme}://receiver.test:${to.port}/`), key);
    expect(what(await send("1"))).toEqual(response(200));
    proxy.hangUp();
    expect(what(await send("2"))).toEqual(response(200));
    expect(proxy.requests).toHaveLength(2);
    expect(to.exchanges).toHaveLength(2);
  });

  test("leads to the next address where the proxy cannot reach the first", async () => {
    const to = await receiver();
    const proxy = await proxying(({ authority }) => (authority.startsWith(PUBLIC) ? 503 : "tunnel"));
    const sender = senderVia(proxy, { resolve: names({ "receiver.test": [PUBLIC, OTHER] }) });
    expect(what(await sender.send(requestTo(`http://receiver.test:${to.port}/`), "1"))).toEqual(response(200));
    expect(proxy.requests.map(({ authority }) => authority.split(":")[0])).toEqual([PUBLIC, OTHER]);
  });

  test("leads to the next address while the proxy is silent about the first, which is then left", async () => {
    const to = await receiver();
    const proxy = await proxying(({ authority }) => (authority.startsWith(PUBLIC) ? "silence" : "tunnel"));
    const sender = senderVia(proxy, { resolve: names({ "receiver.test": [PUBLIC, OTHER] }) });
    expect(what(await sender.send(requestTo(`http://receiver.test:${to.port}/`), "1"))).toEqual(response(200));
    await proxy.closed(0);
  });

  test("that is being opened is closed with its attempt", async () => {
    const proxy = await proxying("silence");
    const sender = senderVia(proxy);
    const sending = sender.send(requestTo("http://receiver.test/"), "1");
    await proxy.requested(1);
    sender.cancelAll("shutdown");
    expect(what(await sending)).toEqual({ kind: "fault", code: "shutdown" });
    await proxy.closed(0);
  });
});

test("an allowed network opens what lies behind the proxy, as it does without one", async () => {
  const [to, proxy] = [await receiver(), await proxying()];
  const sender = senderVia(proxy, { allowNetworks: [parseNetwork("10.0.0.0/8") as Network] });
  expect(what(await sender.send(requestTo(`http://inside.test:${to.port}/`), "1"))).toEqual(response(200));
  expect(proxy.requests[0]?.authority).toBe(`10.0.0.1:${to.port}`);
});
