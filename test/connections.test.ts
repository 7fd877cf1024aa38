/** Which connections are used again, and what becomes of a delivery on one that is not there any more; TLS too. */
import { afterEach, describe, expect, test } from "bun:test";
import { type Exchange, http, type Listener } from "./support/listener.ts";
import {
  answering,
  endAll,
  failure,
  fault,
  requestTo,
  resolvingTo,
  response,
  senderWith,
  support,
  tls,
  to,
  what,
} from "./support/sending.ts";

afterEach(endAll);

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
