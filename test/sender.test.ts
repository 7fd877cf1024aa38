import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import type { Outcome } from "../src/delivery/outcome.ts";
import { buildBody, buildRequest, type WebhookRequest } from "../src/delivery/request.ts";
import { type Address, type Network, parseNetwork } from "../src/dns/address.ts";
import { requestFailure } from "../src/http/failure.ts";
import { createSender, type Sender, type SenderOptions } from "../src/http/sender.ts";
import { type Exchange, http, type Listener, type ListenerOptions, listen } from "./support/listener.ts";

const LOOPBACK = [parseNetwork("127.0.0.0/8") as Network];
const BODY_LIMIT = 16 * 1024;
const support = (name: string) => readFileSync(join(import.meta.dir, "support", name), "utf8");

const listeners: Listener[] = [];
const senders: Sender[] = [];

afterEach(async () => {
  for (const sender of senders.splice(0)) sender.close();
  await Promise.all(listeners.splice(0).map((listener) => listener.stop()));
});

/** A listener that answers every request with this text, or does what the function does. */
async function answering(
  answer: string | Buffer | ((exchange: Exchange, index: number) => void),
  options?: ListenerOptions,
): Promise<Listener> {
  const script = typeof answer === "function" ? answer : ({ socket }: Exchange) => void socket.write(answer);
  const listener = await listen(script, options);
  listeners.push(listener);
  return listener;
}

function senderWith(options: Partial<SenderOptions> = {}): Sender {
  const sender = createSender({ timeoutMs: 3000, allowNetworks: LOOPBACK, ...options });
  senders.push(sender);
  return sender;
}

function requestTo(url: string, data: object = { fileId: "f_1" }): WebhookRequest {
  const id = "2c5ea4c0-4067-51fe-9e7f-1b1c3c8f9a10";
  const timestampMs = 1_760_000_000_000;
  const event = {
    id,
    type: "file.created",
    timestampMs,
    userId: "usr_42",
    endpoint: { url: new URL(url), secrets: ["current", "previous"] as [string, string] },
    body: buildBody(id, "file.created", timestampMs, data),
  };
  return buildRequest(event, "6e2f7f3e-8a3b-4d5c-9f60-0d1e2f3a4b5c", 1_760_000_000_000);
}

const to = ({ port }: Listener, path = "/in") => requestTo(`http://127.0.0.1:${port}${path}`);
const resolvingTo = (...addresses: string[]) => {
  const asked: string[] = [];
  const resolve = async (name: string): Promise<Address[]> => {
    asked.push(name);
    return addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
  };
  return { resolve, asked };
};
const failingWith = (code: string) => () => Promise.reject(Object.assign(new Error("the resolver's words"), { code }));

/** An outcome without its duration, which each test that is about time checks itself. */
function what(outcome: Outcome): object {
  const { durationMs, ...rest } = outcome;
  expect(Number.isInteger(durationMs) && durationMs >= 0).toBe(true);
  return rest;
}

const response = (status: number, retryAfter?: string) => ({ kind: "response", status, retryAfter });
const failure = (code: string) => ({ kind: "failure", code });
const tls = (cause: string) => ({ kind: "failure", code: "tls", cause });
const fault = (code: string) => ({ kind: "fault", code });
const blocked = (range: string) => ({ kind: "blocked", range });
/** A name that leads to an address of that kind: as if there were no such name. */
const inside = (cause: string) => ({ kind: "failure", code: "dns", cause });

describe("the request on the wire", () => {
  test("is the contract's, in order and case, and nothing else", async () => {
    const listener = await answering(http(200));
    const request = to(listener, "/in?token=t#fragment");
    await senderWith().send(request, "1");
    const { requestLine, headers, body } = await listener.received(1);
    expect(requestLine).toBe("POST /in?token=t HTTP/1.1");
    expect(headers).toEqual([
      ["Host", `127.0.0.1:${listener.port}`],
      ["User-Agent", "Fluxhook/1.0"],
      ["Content-Type", "application/json"],
      ["Content-Length", String(request.body.length)],
      ["Accept-Encoding", "identity"],
      ["X-Fluxdrop-Event", "file.created"],
      ["X-Fluxdrop-Delivery", "6e2f7f3e-8a3b-4d5c-9f60-0d1e2f3a4b5c"],
      ["X-Fluxdrop-Timestamp", "1760000000"],
      ["X-Fluxdrop-Signature", expect.stringMatching(/^[0-9a-f]{64}$/)],
      ["webhook-id", "2c5ea4c0-4067-51fe-9e7f-1b1c3c8f9a10"],
      ["webhook-timestamp", "1760000000"],
      ["webhook-signature", expect.stringMatching(/^v1,\S{44} v1,\S{44}$/)],
      ["Connection", "keep-alive"],
    ]);
    expect(body).toEqual(request.body);
  });

  test("carries a large body whole", async () => {
    const listener = await answering(http(200));
    const request = requestTo(`http://127.0.0.1:${listener.port}`, { text: "größe🦊".repeat(200_000) });
    expect(what(await senderWith().send(request, "1"))).toEqual(response(200));
    expect((await listener.received(1)).body.equals(request.body)).toBe(true);
  });
});

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

describe("the deadline", () => {
  const timeoutMs = 200;

  async function timed(request: WebhookRequest, options: Partial<SenderOptions> = {}): Promise<object> {
    const sender = senderWith({ timeoutMs, ...options });
    const outcome = await sender.send(request, "1");
    expect(outcome.durationMs).toBeGreaterThanOrEqual(timeoutMs - 5);
    expect(outcome.durationMs).toBeLessThan(timeoutMs + 500);
    expect(sender.inFlight).toBe(0);
    return what(outcome);
  }

  const dripping = (start: string, drop: string) => (exchange: Exchange) => {
    exchange.socket.write(start);
    const timer = setInterval(() => exchange.socket.write(drop), 20);
    exchange.socket.on("close", () => clearInterval(timer));
  };

  test("covers silence, and ends the connection", async () => {
    const listener = await answering(() => {});
    expect(await timed(to(listener))).toEqual(failure("timeout"));
    await listener.closed(0);
  });

  test("covers a receiver that does not even read", async () => {
    const listener = await answering(() => {}, { onConnection: (socket) => void socket.pause() });
    const request = requestTo(`http://127.0.0.1:${listener.port}`, { text: "x".repeat(20_000_000) });
    expect(await timed(request)).toEqual(failure("timeout"));
  });

  test("covers headers that drip, which leave the status as it is", async () => {
    const listener = await answering(dripping("HTTP/1.1 200 OK\r\nX-Slow: ", "x"));
    expect(await timed(to(listener))).toEqual(response(200));
    await listener.closed(0);
  });

  test("covers 1xx without end", async () => {
    const listener = await answering(dripping("", http(102, "", [])));
    expect(await timed(to(listener))).toEqual(failure("timeout"));
    await listener.closed(0);
  });

  test("covers a body that drips: the status has come, and counts", async () => {
    const listener = await answering(dripping(http(200, "", ["Transfer-Encoding: chunked"]), "1\r\nx\r\n"));
    expect(await timed(to(listener))).toEqual(response(200));
    await listener.closed(0);
  });

  test("covers a body that stops: the status has come, and counts", async () => {
    const listener = await answering(http(503, "", ["Content-Length: 10", "Retry-After: 7"]));
    expect(await timed(to(listener))).toEqual(response(503, "7"));
    await listener.closed(0);
  });

  test("covers a handshake that never ends", async () => {
    const listener = await answering(() => {}, { onConnection: (socket) => void socket.resume() });
    expect(await timed(requestTo(`https://127.0.0.1:${listener.port}`))).toEqual(failure("timeout"));
    await listener.closed(0);
  });

  test("covers a resolver that never answers, which is our fault; a late answer of it connects nowhere", async () => {
    const listener = await answering(http(200));
    const late = Promise.withResolvers<Address[]>();
    const resolve = () => late.promise;
    for (const scheme of ["http", "https"]) {
      const request = requestTo(`${scheme}://receiver.test:${listener.port}`);
      expect(await timed(request, { resolve })).toEqual(fault("resolver"));
    }
    late.resolve([{ address: "127.0.0.1", family: 4 }]);
    await senderWith().send(to(listener), "2"); // a connection made meanwhile would have come first
    expect(listener.connections).toBe(1);
  });

  test("covers a receiver that was found and says nothing: not the resolver's silence", async () => {
    const listener = await answering(() => {});
    const resolve = async (): Promise<Address[]> => [{ address: "127.0.0.1", family: 4 }];
    for (const scheme of ["http", "https"]) {
      const request = requestTo(`${scheme}://receiver.test:${listener.port}`);
      expect(await timed(request, { resolve })).toEqual(failure("timeout"));
    }
  });

  test("lets answers pass that came while the loop was blocked", async () => {
    const count = 50;
    // A process of its own, since this one is blocked: answers 100 ms after the last request came.
    const script = `
      const sockets = [];
      const answer = () => sockets.map((socket) => socket.write(${JSON.stringify(http(200))}));
      const server = require("node:net").createServer((socket) => socket.once("data", () => {
        if (sockets.push(socket) === ${count}) console.log("all"), setTimeout(answer, 100);
      }));
      server.listen(0, "127.0.0.1", () => console.log(server.address().port));`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
    try {
      const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
      const { value: port } = await reader.read();
      const request = requestTo(`http://127.0.0.1:${port?.trim()}`);
      const sender = senderWith({ timeoutMs: 1000 });
      const startedAt = performance.now();
      const attempts = Array.from({ length: count }, (_, key) => sender.send(request, `${key}`));
      expect((await reader.read()).value).toBe("all\n");
      while (performance.now() < startedAt + 1200); // all answers come and all deadlines pass in here
      expect((await Promise.all(attempts)).map(what)).toEqual(Array(count).fill(response(200)));
    } finally {
      child.kill();
    }
  });

  test("does not let a request leave once the job's lock may be another worker's", async () => {
    const listener = await answering(http(200));
    const sender = senderWith({ timeoutMs: 200, lockMs: 300 });
    const fresh = sender.send(to(listener), "1");
    const startedAt = performance.now();
    while (performance.now() < startedAt + 400); // as a stopped process would
    expect(what(await fresh)).toEqual({ kind: "fault", code: "lock_lost" });
    await sender.send(to(listener), "2");
    const reused = sender.send(to(listener), "3");
    const againAt = performance.now();
    while (performance.now() < againAt + 400);
    expect(what(await reused)).toEqual({ kind: "fault", code: "lock_lost" });
    expect(listener.exchanges).toHaveLength(1);
  });

  test("begins anew, once, for what could not be sent because the loop was blocked", async () => {
    const listener = await answering(http(200));
    const sender = senderWith({ timeoutMs: 300, resolve: () => new Promise(() => {}) });
    const block = (ms: number) => {
      const until = performance.now() + ms;
      while (performance.now() < until);
    };
    const attempt = sender.send(to(listener), "1");
    block(1_000); // the connection is open by then, and the deadline long past
    expect(what(await attempt)).toEqual(response(200));

    const never = sender.send(requestTo("http://name.test/"), "2");
    block(1_000);
    const wokenAt = performance.now();
    expect(what(await never)).toEqual(fault("resolver"));
    expect(performance.now() - wokenAt).toBeGreaterThan(200);
    expect(performance.now() - wokenAt).toBeLessThan(300 + 200);
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

describe("connections", () => {
  test("are used again", async () => {
    const listener = await answering(http(200, "ok"));
    const sender = senderWith();
    for (let index = 0; index < 20; index++) await sender.send(to(listener), "1");
    expect(listener.connections).toBe(1);
    await Promise.all(["1", "2", "3", "4"].map((key) => sender.send(to(listener), key)));
    await Promise.all(["1", "2", "3", "4"].map((key) => sender.send(to(listener), key)));
    expect(listener.connections).toBe(4);
  });

  test("are not used again when the receiver says so", async () => {
    const listener = await answering(http(200, "", ["Connection: close", "Content-Length: 0"]));
    const sender = senderWith();
    for (const key of ["1", "2"]) expect(what(await sender.send(to(listener), key))).toEqual(response(200));
    expect(listener.connections).toBe(2);
  });

  test("that idle are closed after 4 s; a slow answer is waited for longer than that", async () => {
    const quick = await answering(http(200));
    const slow = await answering(({ socket }) => void setTimeout(() => socket.write(http(200)), 4600));
    const sender = senderWith({ timeoutMs: 10_000 });
    const slowOutcome = sender.send(to(slow), "slow");
    await sender.send(to(quick), "quick");
    const idleAt = performance.now();
    await quick.closed(0);
    const idleMs = performance.now() - idleAt;
    expect(idleMs).toBeGreaterThan(3500);
    expect(idleMs).toBeLessThan(4900);
    expect(what(await slowOutcome)).toEqual(response(200));
    expect(slow.connections).toBe(1);
  }, 10_000);

  test("that idle are closed by close()", async () => {
    const listener = await answering(http(200));
    const sender = senderWith();
    await sender.send(to(listener), "1");
    sender.close();
    await listener.closed(0);
  });

  describe("that turn out stale:", () => {
    /** Answers the first request; what comes second on the same connection meets `second`, on later ones `fresh`. */
    const staleAfterFirst = (second: (exchange: Exchange) => void, fresh: (exchange: Exchange) => void) =>
      answering((exchange, index) => {
        if (index === 0) exchange.socket.write(http(200));
        else if (exchange.connection === 0) second(exchange);
        else fresh(exchange);
      });
    const reset = ({ socket }: Exchange) => void socket.resetAndDestroy();
    const close = ({ socket }: Exchange) => void socket.end();
    const take = ({ socket }: Exchange) => void socket.write(http(202));

    test.each([
      ["reset", reset],
      ["closed", close],
    ])("%s as the request arrives, it is sent once more on a fresh one", async (_, end) => {
      const listener = await staleAfterFirst(end, take);
      const sender = senderWith();
      await sender.send(to(listener), "1");
      expect(what(await sender.send(to(listener), "1"))).toEqual(response(202));
      expect(listener.connections).toBe(2);
      expect(listener.exchanges[2]?.headers.slice(0, -1)).toEqual(listener.exchanges[1]?.headers.slice(0, -1) as never);
      expect(listener.exchanges[2]?.body).toEqual(listener.exchanges[1]?.body as never);
      expect(sender.inFlight).toBe(0);
    });

    test.each([
      ["reset", reset],
      ["closed", close],
    ])("%s while idle, just as we take it, it is sent once more on a fresh one", async (_, end) => {
      const listener = await staleAfterFirst(take, take);
      const sender = senderWith();
      await sender.send(to(listener), "1");
      end(await listener.received(1));
      expect(what(await sender.send(to(listener), "1"))).toEqual(response(202));
      expect(listener.connections).toBe(2);
    });

    test("exactly one more time", async () => {
      const listener = await staleAfterFirst(reset, reset);
      const sender = senderWith();
      await sender.send(to(listener), "1");
      expect(what(await sender.send(to(listener), "1"))).toEqual(failure("connection_reset"));
      expect(listener.connections).toBe(2);
      expect(sender.inFlight).toBe(0);
    });

    test("on a fresh one, not on another of the pool, which is as stale", async () => {
      const listener = await answering((exchange) => {
        if (exchange.connection >= 2) take(exchange);
        else if (listener.exchanges.length > 2) reset(exchange);
        else if (listener.exchanges.length === 2) for (const { socket } of listener.exchanges) socket.write(http(200));
      });
      const sender = senderWith();
      await Promise.all(["1", "2"].map((key) => sender.send(to(listener), key)));
      expect(what(await sender.send(to(listener), "3"))).toEqual(response(202));
      expect(listener.exchanges.slice(2).map(({ connection }) => connection)).toEqual([expect.any(Number), 2]);
    });

    test.each(["H", "HTTP/1.1 ", "HTTP/1.1 200", http(100, "", [])])(
      "not when %j of an answer had come",
      async (start) => {
        const listener = await staleAfterFirst(({ socket }) => {
          socket.write(start, () => socket.resetAndDestroy());
        }, take);
        const sender = senderWith();
        await sender.send(to(listener), "1");
        expect(what(await sender.send(to(listener), "1"))).toMatchObject({ kind: "failure" });
        expect(listener.connections).toBe(1);
      },
    );

    test("not when the connection was a fresh one", async () => {
      const listener = await answering(reset);
      expect(what(await senderWith().send(to(listener), "1"))).toEqual(failure("connection_reset"));
      expect(listener.connections).toBe(1);
    });

    test("not when the reset comes so late that the receiver may have seen the request", async () => {
      const listener = await staleAfterFirst(
        ({ socket }) => void setTimeout(() => socket.resetAndDestroy(), 2_300),
        take,
      );
      const sender = senderWith({ timeoutMs: 10_000 });
      await sender.send(to(listener), "1");
      expect(what(await sender.send(to(listener), "1"))).toEqual(failure("connection_reset"));
      expect(listener.connections).toBe(1);
    });

    test("not after the attempt was cancelled", async () => {
      const listener = await staleAfterFirst(() => {}, take);
      const sender = senderWith();
      await sender.send(to(listener), "1");
      const second = sender.send(to(listener), "1");
      const { socket } = await listener.received(2);
      sender.cancel("1", "lock_lost");
      socket.resetAndDestroy();
      expect(what(await second)).toEqual(fault("lock_lost"));
      await listener.closed(0);
      expect(listener.connections).toBe(1);
    });

    test("and the second try runs into the deadline of the first", async () => {
      const listener = await staleAfterFirst(reset, () => {});
      const sender = senderWith({ timeoutMs: 300 });
      await sender.send(to(listener), "1");
      const outcome = await sender.send(to(listener), "1");
      expect(what(outcome)).toEqual(failure("timeout"));
      expect(outcome.durationMs).toBeLessThan(800);
      await listener.closed(1);
    });
  });
});

describe("the guard", () => {
  test.each(["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "１２７.０.０.１", "[::ffff:127.0.0.1]"])(
    "lets nothing reach the literal %s",
    async (host) => {
      const listener = await answering(http(200));
      const { resolve, asked } = resolvingTo("127.0.0.1");
      const sender = senderWith({ allowNetworks: [], resolve });
      expect(what(await sender.send(requestTo(`http://${host}:${listener.port}/`), "1"))).toEqual(blocked("loopback"));
      expect(what(await sender.send(requestTo(`https://${host}:${listener.port}/`), "1"))).toEqual(blocked("loopback"));
      expect(listener.connections).toBe(0);
      expect(asked).toEqual([]);
      expect(sender.inFlight).toBe(0);
    },
  );

  test.each([
    [["127.0.0.1"], "loopback"],
    [["::1"], "loopback"],
    [["::ffff:127.0.0.1"], "loopback"],
    [["1.1.1.1", "127.0.0.1"], "loopback"],
    [["127.0.0.1", "1.1.1.1"], "loopback"],
    [["2606:4700::1111", "1.1.1.1", "169.254.169.254"], "linkLocal"],
    [["not an address"], "invalid"],
  ])("lets nothing reach a name that resolves to %j", async (addresses, range) => {
    const listener = await answering(http(200));
    const { resolve } = resolvingTo(...addresses);
    const sender = senderWith({ allowNetworks: [], resolve });
    for (const scheme of ["http", "https"]) {
      const request = requestTo(`${scheme}://receiver.test:${listener.port}/`);
      expect(what(await sender.send(request, "1"))).toEqual(inside(range));
    }
    expect(listener.connections).toBe(0);
    expect(sender.inFlight).toBe(0);
  });

  test("looks at every address, not just at the one it would dial", async () => {
    const listener = await answering(http(200));
    const { resolve } = resolvingTo("127.0.0.1", "10.0.0.1"); // the first is allowed and answers
    const request = requestTo(`http://receiver.test:${listener.port}/`);
    expect(what(await senderWith({ resolve }).send(request, "1"))).toEqual(inside("private"));
    expect(listener.connections).toBe(0);
  });

  test("asks once for a connection, and dials what it was told then", async () => {
    const listener = await answering(http(200, "", ["Connection: close", "Content-Length: 0"]));
    let asked = 0;
    const resolve = async (): Promise<Address[]> => [{ address: asked++ === 0 ? "127.0.0.1" : "10.0.0.1", family: 4 }];
    const sender = senderWith({ resolve });
    const request = requestTo(`http://receiver.test:${listener.port}/`);
    expect(what(await sender.send(request, "1"))).toEqual(response(200));
    expect(asked).toBe(1);
    expect(what(await sender.send(request, "2"))).toEqual(inside("private")); // rebound
    expect(asked).toBe(2);
    expect(listener.connections).toBe(1);
  });

  test("checks the name again before the second try after a stale connection", async () => {
    const listener = await answering(({ socket }, index) => {
      index === 0 ? socket.write(http(200)) : socket.resetAndDestroy();
    });
    let asked = 0;
    const resolve = async (): Promise<Address[]> => [{ address: asked++ === 0 ? "127.0.0.1" : "10.0.0.1", family: 4 }];
    const sender = senderWith({ resolve });
    const request = requestTo(`http://receiver.test:${listener.port}/`);
    expect(what(await sender.send(request, "1"))).toEqual(response(200));
    expect(what(await sender.send(request, "2"))).toEqual(inside("private"));
    expect(listener.connections).toBe(1);
  });

  test("leaves names to the injected resolver, also those that the system would know", async () => {
    const listener = await answering(http(200));
    const { resolve, asked } = resolvingTo("127.0.0.1");
    const sender = senderWith({ resolve });
    for (const name of ["localhost", "receiver.test", "receiver.test."]) {
      expect(what(await sender.send(requestTo(`http://${name}:${listener.port}/`), "1"))).toEqual(response(200));
    }
    expect(asked).toEqual(["localhost", "receiver.test", "receiver.test."]);
  });

  test.each(["localhost", "*"])("blocks %s, as the system's own resolver knows it", async (name) => {
    const listener = await answering(http(200));
    const request = requestTo(`http://${name}:${listener.port}/`);
    const outcome = what(await senderWith({ allowNetworks: [] }).send(request, "1"));
    expect([inside("loopback"), failure("dns")]).toContainEqual(outcome as never);
    expect(listener.connections).toBe(0);
  });
});

describe("name resolution", () => {
  const request = requestTo("http://receiver.test/");

  test.each(["ENOTFOUND", "ENODATA"])("that ends in %s is the customer's: dns", async (code) => {
    expect(what(await senderWith({ resolve: failingWith(code) }).send(request, "1"))).toEqual(failure("dns"));
  });

  test("that ends without an address is the customer's: dns", async () => {
    expect(what(await senderWith({ resolve: async () => [] }).send(request, "1"))).toEqual(failure("dns"));
  });

  test.each(["EAI_AGAIN", "ESERVFAIL", "ETIMEOUT", "ECONNREFUSED", "EAI_FAIL", "ECONNRESET", ""])(
    "that ends in %p is ours: a fault",
    async (code) => {
      expect(what(await senderWith({ resolve: failingWith(code) }).send(request, "1"))).toEqual(fault("resolver"));
    },
  );

  test("that throws instead of rejecting is ours: a fault", async () => {
    const resolve = () => {
      throw new Error("no resolver");
    };
    expect(what(await senderWith({ resolve }).send(request, "1"))).toEqual(fault("resolver"));
  });

  test("by the system calls a name that cannot be one dns", async () => {
    for (const name of ["a..b", `${"x".repeat(64)}.example`]) {
      expect(what(await senderWith().send(requestTo(`http://${name}/`), "1"))).toEqual(failure("dns"));
    }
  });

  test("with two addresses tries the second when the first refuses", async () => {
    const listener = await answering(http(200));
    const { resolve } = resolvingTo("::1", "127.0.0.1"); // nobody listens on the first
    const allowNetworks = [...LOOPBACK, parseNetwork("::1") as Network];
    const request = requestTo(`http://receiver.test:${listener.port}/`);
    const outcome = await senderWith({ resolve, allowNetworks }).send(request, "1");
    expect(what(outcome)).toEqual(response(200));
  });
});

// What a machine without IPv6 says, which this one may not be.
describe("of two addresses that both fail", () => {
  const error = (code: string) => Object.assign(new Error("connect"), { code });
  const both = (...codes: string[]) => Object.assign(new AggregateError(codes.map(error)), { code: codes[0] });

  test.each([
    [["EADDRNOTAVAIL", "ECONNREFUSED"], failure("connection_refused")],
    [["ECONNREFUSED", "EADDRNOTAVAIL"], failure("connection_refused")],
    [["EADDRNOTAVAIL", "EHOSTUNREACH"], failure("unreachable")],
    [["EADDRNOTAVAIL", "EMFILE"], fault("resources")],
  ])("%j, it is our fault only when both say so", (codes, expected) => {
    expect(requestFailure(both(...codes))).toEqual(expected as never);
  });
});

describe("TLS", () => {
  const ca = support("ca.pem");
  const { resolve } = resolvingTo("127.0.0.1");
  const secure = (listener: Listener, host = "receiver.test") => requestTo(`https://${host}:${listener.port}/in`);

  test("with the right name and authority delivers, and uses its connection again", async () => {
    const listener = await answering(http(200), { tls: support("right.pem") });
    const sender = senderWith({ resolve, ca });
    for (const key of ["1", "2", "3"]) {
      expect(what(await sender.send(secure(listener), key))).toEqual(response(200));
    }
    expect(listener.connections).toBe(1);
    expect(what(await sender.send(secure(listener, "127.0.0.1"), "4"))).toEqual(response(200));
  });

  test.each([
    ["another name", "right.pem", "other.test", ca, "wrong_host"],
    ["another name below", "right.pem", "a.receiver.test", ca, "wrong_host"],
    ["a certificate signed by itself", "self-signed.pem", "receiver.test", ca, "untrusted"],
    ["a certificate that is over", "expired.pem", "receiver.test", ca, "expired"],
    ["an authority that the system does not trust", "right.pem", "receiver.test", undefined, "untrusted"],
  ])("with %s fails, and no request is sent", async (_, pem, host, authority, cause) => {
    const listener = await answering(http(200), { tls: support(pem) });
    const sender = senderWith({ resolve, ca: authority });
    expect(what(await sender.send(secure(listener, host), "1"))).toEqual(tls(cause));
    expect(listener.exchanges).toEqual([]);
  });

  test("does not lend a connection to another name at the same address", async () => {
    const listener = await answering(http(200), { tls: support("right.pem") });
    const sender = senderWith({ resolve, ca });
    expect(what(await sender.send(secure(listener), "1"))).toEqual(response(200));
    expect(what(await sender.send(secure(listener, "other.test"), "2"))).toEqual(tls("wrong_host"));
    expect(listener.exchanges).toHaveLength(1);
  });

  test("to a port that speaks plain HTTP fails", async () => {
    const listener = await answering(() => {}, { onConnection: (socket) => void socket.end(http(400, "plain")) });
    expect(what(await senderWith().send(secure(listener, "127.0.0.1"), "1"))).toEqual(tls("handshake"));
  });

  test("is not guessed: plain HTTP to a port that speaks TLS fails", async () => {
    const listener = await answering(http(200), { tls: support("right.pem") });
    const outcome = what(await senderWith().send(to(listener), "1"));
    expect([failure("invalid_response"), failure("connection_reset")]).toContainEqual(outcome as never);
    expect(listener.exchanges).toEqual([]);
  });

  test("is sent once more on a fresh connection when the pooled one turns out stale", async () => {
    const listener = await answering(
      ({ socket, connection }, index) => {
        index === 0 || connection > 0 ? socket.write(http(200)) : socket.destroy();
      },
      { tls: support("right.pem") },
    );
    const sender = senderWith({ resolve, ca });
    await sender.send(secure(listener), "1");
    expect(what(await sender.send(secure(listener), "2"))).toEqual(response(200));
    expect(listener.connections).toBe(2);
  });
});

describe("cancelling", () => {
  test("ends one attempt at once, with the fault, and its connection", async () => {
    const listener = await answering(() => {});
    const sender = senderWith({ timeoutMs: 60_000 });
    const first = sender.send(to(listener), "1");
    const second = sender.send(to(listener), "2");
    await listener.received(2);
    expect(sender.inFlight).toBe(2);
    sender.cancel("1", "lock_lost");
    expect(what(await first)).toEqual(fault("lock_lost"));
    expect(sender.inFlight).toBe(1);
    await Promise.race([listener.closed(0), listener.closed(1)]);
    sender.cancel("2", "shutdown");
    expect(what(await second)).toEqual(fault("shutdown"));
  });

  test("ends all attempts at once, whatever they wait for", async () => {
    const silent = await answering(() => {});
    const dripping = await answering(http(200, "", ["Content-Length: 10"]));
    const deaf = await answering(() => {}, { onConnection: (socket) => void socket.resume() });
    const sender = senderWith({ timeoutMs: 60_000, resolve: () => new Promise(() => {}) });
    const attempts = [
      sender.send(to(silent), "1"),
      sender.send(to(dripping), "2"),
      sender.send(requestTo("http://receiver.test/"), "3"),
      sender.send(requestTo(`https://127.0.0.1:${deaf.port}/`), "4"),
    ];
    await Promise.all([silent.received(1), dripping.received(1)]);
    sender.cancelAll("shutdown");
    expect(sender.inFlight).toBe(0);
    expect((await Promise.all(attempts)).map(what)).toEqual(Array(4).fill(fault("shutdown")));
    await Promise.all([silent.closed(0), dripping.closed(0)]);
  });

  test("in the same moment as it began ends it", async () => {
    const listener = await answering(http(200));
    const sender = senderWith();
    const attempt = sender.send(to(listener), "1");
    sender.cancel("1", "lock_lost");
    expect(what(await attempt)).toEqual(fault("lock_lost"));
    expect(listener.exchanges).toEqual([]);
  });

  test("does nothing to what is not under way", async () => {
    const listener = await answering(http(200));
    const sender = senderWith();
    sender.cancel("1", "lock_lost");
    expect(what(await sender.send(to(listener), "1"))).toEqual(response(200));
    sender.cancel("1", "lock_lost");
    expect(what(await sender.send(to(listener), "1"))).toEqual(response(200));
    expect(listener.connections).toBe(1);
  });

  test("is what a second attempt with the same key does to the first", async () => {
    const listener = await answering(({ socket }, index) => {
      if (index > 0) socket.write(http(200));
    });
    const sender = senderWith({ timeoutMs: 60_000 });
    const first = sender.send(to(listener), "1");
    await listener.received(1);
    const second = sender.send(to(listener), "1");
    expect(what(await first)).toEqual(fault("lock_lost"));
    expect(what(await second)).toEqual(response(200));
    expect(sender.inFlight).toBe(0);
    await listener.closed(0);
  });
});

describe("a process of its own", () => {
  const script = `
    import { createSender } from "./src/http/sender.ts";
    import { parseNetwork } from "./src/dns/address.ts";
    const sender = createSender({ timeoutMs: 60_000, allowNetworks: [parseNetwork("127.0.0.0/8")] });
    const url = new URL(process.argv.at(-1));
    const send = (key) => sender.send({ url, head: "Host: " + url.host + "\\r\\nContent-Length: 2\\r\\n", body: Buffer.from("{}") }, key);
    const sent = [send("1"), send("2")];
    if (url.pathname === "/hang") sender.cancelAll("shutdown");
    for (const { kind, status } of await Promise.all(sent)) console.log(kind, status);
    sender.close();`;

  const run = async (url: string, env: Record<string, string> = {}) => {
    const startedAt = performance.now();
    const child = Bun.spawn([process.execPath, "-e", script, url], {
      cwd: join(import.meta.dir, ".."),
      env: { PATH: process.env.PATH, ...env },
      stdout: "pipe",
      stderr: "inherit",
      timeout: 10_000,
    });
    const output = await new Response(child.stdout).text();
    return { exitCode: await child.exited, output, elapsedMs: performance.now() - startedAt };
  };

  test.each([
    ["/", "response 200\nresponse 200\n"],
    ["/hang", "fault undefined\nfault undefined\n"],
  ])("ends by itself: no timer and no socket is left behind (%s)", async (path, expected) => {
    const listener = await answering(({ socket, requestLine }) => {
      if (!requestLine.includes("/hang")) socket.write(http(200));
    });
    const { exitCode, output, elapsedMs } = await run(`http://127.0.0.1:${listener.port}${path}`);
    expect(output).toBe(expected);
    expect(exitCode).toBe(0);
    expect(elapsedMs).toBeLessThan(3500); // an idle connection would have held it for 4 s, a deadline for 60 s
  });

  test("that has no file descriptor left blames nobody else", async () => {
    const listener = await answering(http(200));
    const script = `
      import { closeSync, openSync } from "node:fs";
      import { createSender } from "./src/http/sender.ts";
      import { parseNetwork } from "./src/dns/address.ts";
      const resolve = async () => [{ address: "127.0.0.1", family: 4 }];
      const notThere = () => Promise.reject(Object.assign(new Error(), { code: "ENOTFOUND" }));
      const options = { timeoutMs: 1_000, allowNetworks: [parseNetwork("127.0.0.0/8")] };
      const head = "Content-Length: 2\\r\\n";
      const send = (url, resolve) =>
        createSender({ ...options, resolve }).send({ url: new URL(url), head, body: Buffer.from("{}") }, "1");
      const sendAll = async () => [
        await send("http://127.0.0.1:${listener.port}", resolve),
        await send("http://receiver.test:${listener.port}", resolve),
        await send("https://receiver.test:${listener.port}", resolve),
        await send("http://127.0.0.1:1", resolve),
        await send("http://receiver.test", notThere),
      ].map(({ code, status }) => code ?? status);
      const held = [];
      try { for (;;) held.push(openSync("/dev/null", "r")); } catch {}
      const without = await sendAll();
      for (const descriptor of held) closeSync(descriptor);
      console.log(JSON.stringify([without, await sendAll()]));
      process.exit(0);`;
    const child = Bun.spawn(["sh", "-c", 'ulimit -n 100; exec "$0" -e "$1"', process.execPath, script], {
      cwd: join(import.meta.dir, ".."),
      stdout: "pipe",
      stderr: "inherit",
      timeout: 10_000,
    });
    const [without, afterwards] = (await new Response(child.stdout).json()) as [unknown[], unknown[]];
    expect(without).toEqual(Array(5).fill("resources"));
    expect(afterwards).toEqual([200, 200, expect.any(String), "connection_refused", "dns"]);
  });

  test("goes past every proxy that the environment names", async () => {
    const listener = await answering(http(200));
    const proxy = await answering(http(200));
    const url = `http://127.0.0.1:${proxy.port}`;
    const names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].flatMap((name) => [name, name.toLowerCase()]);
    const env = { ...Object.fromEntries(names.map((name) => [name, url])), NODE_USE_ENV_PROXY: "1" };
    const { output } = await run(`http://127.0.0.1:${listener.port}/`, env);
    expect(output).toBe("response 200\nresponse 200\n");
    expect(listener.connections).toBeGreaterThan(0);
    expect(proxy.connections).toBe(0);
  });
});

test("the listener of these tests is one: it accepts what connects", async () => {
  const listener = await answering(http(200));
  const socket = connect(listener.port, "127.0.0.1");
  await new Promise((resolve) => socket.once("connect", resolve));
  socket.destroy();
  await listener.closed(0);
  expect(listener.connections).toBe(1);
});
