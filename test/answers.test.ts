/** What a receiver says, or does not, and what becomes of the delivery. */
import { afterEach, describe, expect, test } from "bun:test";
import type { Socket } from "node:net";
import { gzipSync } from "node:zlib";
import { type Exchange, http } from "./support/listener.ts";
import {
  answering,
  BODY_LIMIT,
  endAll,
  failure,
  requestTo,
  resolvingTo,
  response,
  senderWith,
  to,
  what,
} from "./support/sending.ts";

afterEach(endAll);

describe("an answer", () => {
  test.each([200, 201, 202, 299, 300, 400, 401, 404, 409, 410, 429, 500, 502, 503, 599])(
    "of %p is a response",
    async (status) => {
      const listener = await answering(http(status, "some body"));
      expect(what(await senderWith().send(to(listener), "1"))).toEqual(response(status));
    },
  );

  test.each([
    ["without a body", "HTTP/1.1 204 No Content\r\n\r\n", 204],
    ["without a reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200],
    ["of 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304],
    ["in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200],
    ["with a code of its own", "HTTP/1.1 799 Whatever\r\nContent-Length: 0\r\n\r\n", 799],
  ])("%s is a response", async (_, text, status) => {
    const listener = await answering(text);
    expect(what(await senderWith().send(to(listener), "1"))).toEqual(response(status));
  });

  test("of HTTP/1.0 that ends with the connection is a response", async () => {
    const listener = await answering(({ socket }) => void socket.end("HTTP/1.0 200 OK\r\n\r\nbody"));
    expect(what(await senderWith().send(to(listener), "1"))).toEqual(response(200));
  });

  test("carries its Retry-After as text, also when there are two", async () => {
    const headers = ["Retry-After: 120", "Content-Length: 0"];
    const once = await answering(http(503, "", headers));
    expect(what(await senderWith().send(to(once), "1"))).toEqual(response(503, "120"));
    const twice = await answering(http(503, "", ["retry-after: 60", ...headers]));
    expect(what(await senderWith().send(to(twice), "1"))).toEqual(response(503, "60"));
  });

  test.each([301, 302, 303, 307, 308])("of %p is not followed: its target sees no connection", async (status) => {
    const target = await answering(http(200));
    const listener = await answering(
      http(status, "", [`Location: http://127.0.0.1:${target.port}/`, "Content-Length: 0"]),
    );
    expect(what(await senderWith().send(to(listener), "1"))).toEqual(response(status));
    expect(listener.connections).toBe(1);
    expect(target.connections).toBe(0);
  });

  test("cut off after the status is a response", async () => {
    const cuts: ((exchange: Exchange) => void)[] = [
      ({ socket }) => void socket.end(http(200, "", ["Content-Length: 100"])),
      ({ socket }) => void socket.end(`${http(200, "", ["Content-Length: 100"])}half`),
      ({ socket }) => void socket.end(`${http(200, "", ["Transfer-Encoding: chunked"])}5\r\nab`),
      ({ socket }) => void socket.end(`${http(200, "", ["Transfer-Encoding: chunked"])}junk\r\n`),
      ({ socket }) => void socket.write(http(200, "", ["Content-Length: 100"]), () => socket.resetAndDestroy()),
    ];
    for (const cut of cuts) {
      const listener = await answering(cut);
      expect(what(await senderWith().send(to(listener), "1"))).toEqual(response(200));
      expect(listener.connections).toBe(1);
    }
  });

  test("of 16 KiB is read whole, and its connection used again", async () => {
    const listener = await answering(http(200, "x".repeat(BODY_LIMIT)));
    const sender = senderWith();
    expect(what(await sender.send(to(listener), "1"))).toEqual(response(200));
    expect(what(await sender.send(to(listener), "1"))).toEqual(response(200));
    expect(listener.connections).toBe(1);
  });

  test("of more than 16 KiB is cut off, and its connection ends", async () => {
    const listener = await answering(({ socket }) => {
      socket.write(http(200, "", ["Transfer-Encoding: chunked"]));
      const chunk = `${(1024).toString(16)}\r\n${"x".repeat(1024)}\r\n`;
      const pour = (): void => {
        while (!socket.destroyed && socket.write(chunk));
      };
      socket.on("drain", pour);
      pour();
    });
    const outcome = await senderWith({ timeoutMs: 30_000 }).send(to(listener), "1");
    expect(what(outcome)).toEqual(response(200));
    await listener.closed(0);
  });

  test("that is compressed is not inflated", async () => {
    const bomb = gzipSync(Buffer.alloc(10 * 1024 * 1024)); // some 10 KB, and 10 MiB inflated
    expect(bomb.length).toBeLessThan(BODY_LIMIT);
    const head = http(200, "", ["Content-Encoding: gzip", `Content-Length: ${bomb.length}`]);
    const listener = await answering(Buffer.concat([Buffer.from(head), bomb]));
    const sender = senderWith();
    for (const key of ["1", "2"]) expect(what(await sender.send(to(listener), key))).toEqual(response(200));
    expect(listener.connections).toBe(1); // inflated it would have been over the limit, and cut off
  });

  test("that comes before the body is read wins, and the rest of the body is not sent", async () => {
    const accepted = Promise.withResolvers<Socket>();
    const listener = await answering(() => {}, {
      onConnection: (socket) => {
        socket.once("data", () => {
          socket.pause();
          socket.write(http(413, "too large"));
          accepted.resolve(socket);
        });
      },
    });
    const request = requestTo(`http://127.0.0.1:${listener.port}`, { text: "x".repeat(20_000_000) });
    const outcome = await senderWith({ timeoutMs: 10_000 }).send(request, "1");
    expect(what(outcome)).toEqual(response(413));
    expect(outcome.durationMs).toBeLessThan(5000);
    let received = 0;
    const socket = await accepted.promise;
    socket.on("data", (chunk) => {
      received += chunk.length;
    });
    socket.resume();
    await listener.closed(0);
    expect(received).toBeLessThan(20_000_000);
  });

  test("that comes before the body is read, and then a reset, is a response or a reset, but no hang", async () => {
    const listener = await answering(() => {}, {
      onConnection: (socket) => {
        socket.once("data", () => {
          socket.pause();
          socket.write(http(413, "too large"), () => socket.resetAndDestroy());
        });
      },
    });
    const request = requestTo(`http://127.0.0.1:${listener.port}`, { text: "x".repeat(20_000_000) });
    const outcome = await senderWith({ timeoutMs: 10_000 }).send(request, "1");
    expect([response(413), failure("connection_reset")]).toContainEqual(what(outcome) as never);
    expect(listener.connections).toBe(1);
  });

  test.each([
    ["a length that is no number", http(200, "", ["Content-Length: ten"])],
    ["two lengths", http(200, "", ["Content-Length: 1", "Content-Length: 2"])],
    ["a length and chunks", http(200, "0\r\n\r\n", ["Content-Length: 5", "Transfer-Encoding: chunked"])],
    ["a head that the end of the connection cuts off", "HTTP/1.1 200 OK\r\nContent-Le"],
    ["headers of 1 MB in one", http(200, "", [`X-Huge: ${"x".repeat(1_000_000)}`])],
    ["headers of 1 MB in many", http(200, "", Array(20_000).fill(`X-Many: ${"x".repeat(50)}`))],
  ])("with %s is judged by its status, and ends the connection", async (_, text) => {
    const listener = await answering(({ socket }) => void socket.end(text));
    expect(what(await senderWith().send(to(listener), "1"))).toEqual(response(200));
    await listener.closed(0);
  });

  test.each([
    ["in one piece with it", (socket: Socket) => void socket.write(`${http(200, "ok")}\r\n`)],
    ["a moment later", (socket: Socket) => void socket.write(http(200, "ok"), () => socket.write("\r\n"))],
  ])("with an empty line behind it, %s, does no harm to the deliveries after it", async (_, answer) => {
    const listener = await answering(({ socket }) => answer(socket));
    const sender = senderWith();
    for (let i = 0; i < 20; i++) expect(what(await sender.send(to(listener), `${i}`))).toEqual(response(200));
    expect(listener.exchanges).toHaveLength(20);
  });

  test("of 101 is no answer, since we asked for no upgrade, and ends the connection", async () => {
    const upgrade = ["Connection: Upgrade", "Upgrade: websocket"];
    const listener = await answering(`${http(101, "", upgrade)}\x81\x05hello`);
    expect(what(await senderWith().send(to(listener), "1"))).toEqual(failure("invalid_response"));
    await listener.closed(0);
  });

  test.each([100, 102, 103])("follows any number of %p", async (status) => {
    const listener = await answering(http(status, "", []).repeat(500) + http(204, "", []));
    expect(what(await senderWith().send(to(listener), "1"))).toEqual(response(204));
  });

  test("is not taken from what was sent before it was asked for", async () => {
    const listener = await answering(({ socket }, index) => {
      socket.write(index === 0 ? http(200) + http(200) : http(503));
    });
    const sender = senderWith();
    expect(what(await sender.send(to(listener), "1"))).toEqual(response(200));
    expect(what(await sender.send(to(listener), "2"))).toEqual(response(503));
  });
});

describe("no answer", () => {
  test.each([
    ["another protocol", "SSH-2.0-OpenSSH_9.2\r\n"],
    ["bytes", "\u0000\u0001\u0002\u0003"],
    ["a page without a status", "<html>hello</html>"],
    ["a status that is no number", "HTTP/1.1 abc OK\r\n\r\n"],
    ["a version that does not exist", "HTTP/7.3 200 OK\r\nContent-Length: 0\r\n\r\n"],
  ])("but %s is an invalid response", async (_, text) => {
    const listener = await answering(({ socket }) => void socket.end(text));
    expect(what(await senderWith().send(to(listener), "1"))).toEqual(failure("invalid_response"));
    await listener.closed(0);
    expect(listener.connections).toBe(1);
  });

  test("but a close is a reset", async () => {
    const listener = await answering(({ socket }) => void socket.end());
    expect(what(await senderWith().send(to(listener), "1"))).toEqual(failure("connection_reset"));
  });

  test("but a reset is one", async () => {
    const listener = await answering(({ socket }) => void socket.resetAndDestroy());
    expect(what(await senderWith().send(to(listener), "1"))).toEqual(failure("connection_reset"));
  });

  test("but half a status and a close is a failure", async () => {
    const listener = await answering(({ socket }) => void socket.end("HTTP/1.1 20"));
    expect(what(await senderWith().send(to(listener), "1"))).toMatchObject({ kind: "failure" });
  });

  test("and nobody listening is a refusal", async () => {
    const listener = await answering(http(200));
    await listener.stop();
    expect(what(await senderWith().send(to(listener), "1"))).toEqual(failure("connection_refused"));
    const { resolve } = resolvingTo("127.0.0.1", "127.0.0.1");
    const request = requestTo(`http://receiver.test:${listener.port}`);
    expect(what(await senderWith({ resolve }).send(request, "1"))).toEqual(failure("connection_refused"));
  });

  test("and a request that cannot be sent is a failure, not an exception", async () => {
    const listener = await answering(http(200));
    const sender = senderWith();
    const heads = [
      "Host: a\r\n\r\nX-Injected: 1\r\n",
      "Host: a\nX-Injected: 1\r\n",
      "Host: a",
      "Host: 文\r\n",
      "Host: \0\r\n",
    ];
    for (const head of heads) {
      expect(what(await sender.send({ ...to(listener), head }, "1"))).toMatchObject({ kind: "failure" });
    }
    expect(sender.inFlight).toBe(0);
    expect(listener.exchanges).toEqual([]);
  });
});
