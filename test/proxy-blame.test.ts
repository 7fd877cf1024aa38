/** Whose fault it is when a delivery through a proxy fails: ours, which costs no attempt, or the receiver's. */
import { afterEach, describe, expect, test } from "bun:test";
import { connect, createServer, type Socket } from "node:net";
import { errorCode, isSilence, type Outcome } from "../src/delivery/outcome.ts";
import type { Address } from "../src/dns/address.ts";
import { http } from "./support/listener.ts";
import {
  endAll,
  failure,
  fault,
  names,
  OTHER,
  PUBLIC,
  proxying,
  RECEIVERS,
  receiver,
  requestTo,
  response,
  senderVia,
  stops,
  support,
  tls,
  what,
} from "./support/proxied.ts";

afterEach(endAll);

describe("our own fault, no attempt and no silence of the receiver's, is a proxy", () => {
  async function expectFault(outcome: Outcome, cause: string): Promise<void> {
    expect(what(outcome)).toEqual(fault(cause));
    expect(errorCode(outcome)).toBe("proxy");
    expect(isSilence(outcome)).toBe(false);
  }

  test("that refuses connections", async () => {
    await expectFault(await senderVia({ port: 1 }).send(requestTo("http://receiver.test/"), "1"), "connection_refused");
  });

  test("whose name does not resolve", async () => {
    await expectFault(await senderVia("http://proxy.internal:1").send(requestTo("http://receiver.test/"), "1"), "dns");
  });

  test("whose name is looked up in vain until the deadline", async () => {
    const resolve = (name: string) => (name === "proxy.internal" ? new Promise<Address[]>(() => {}) : RECEIVERS(name));
    const sender = senderVia("http://proxy.internal:1", { resolve, timeoutMs: 100 });
    await expectFault(await sender.send(requestTo("http://receiver.test/"), "1"), "silent");
  });

  test("with a certificate of nobody's", async () => {
    const proxy = await proxying("tunnel", { tls: support("self-signed.pem") });
    const outcome = await senderVia(`https://127.0.0.1:${proxy.port}`).send(requestTo("http://receiver.test/"), "1");
    await expectFault(outcome, "tls_untrusted");
    expect(proxy.requests).toHaveLength(0);
  });

  test.each([300, 400, 401, 403, 404, 405, 407, 429])("that answers %p, whoever else gets through", async (status) => {
    const to = await receiver();
    const proxy = await proxying(({ authority }) => (authority.startsWith(OTHER) ? "tunnel" : status));
    const sender = senderVia(proxy);
    expect(what(await sender.send(requestTo(`http://other.test:${to.port}/`), "1"))).toEqual(response(200));
    await expectFault(await sender.send(requestTo(`http://receiver.test:${to.port}/`), "2"), `status_${status}`);
  });

  test.each([500, 502, 503, 504])("that answers %p while nobody else gets through", async (status) => {
    const proxy = await proxying(status);
    const sender = senderVia(proxy);
    await expectFault(await sender.send(requestTo("http://receiver.test/"), "1"), `status_${status}`);
    await expectFault(await sender.send(requestTo("http://other.test/"), "2"), `status_${status}`);
  });

  test("that answers 503 for a receiver which alone got through before", async () => {
    const to = await receiver(http(200, "", ["Content-Length: 0", "Connection: close"]));
    const proxy = await proxying((_, index) => (index === 0 ? "tunnel" : 503));
    const sender = senderVia(proxy);
    expect(what(await sender.send(requestTo(`http://receiver.test:${to.port}/`), "1"))).toEqual(response(200));
    await expectFault(await sender.send(requestTo(`http://receiver.test:${to.port}/`), "2"), "status_503");
  });

  test("that answers 503 for one receiver after the other, as if it had lost its network", async () => {
    const to = await receiver();
    const proxy = await proxying(({ authority }) => (authority.startsWith(OTHER) ? "tunnel" : 503));
    const resolve = async (name: string) =>
      name === "other.test" ? await RECEIVERS(name) : [{ address: PUBLIC, family: 4 as const }];
    const sender = senderVia(proxy, { resolve });
    await sender.send(requestTo(`http://other.test:${to.port}/`), "1");
    const outcomes: unknown[] = [];
    for (const name of ["a.test", "b.test", "c.test", "d.test", "e.test"]) {
      outcomes.push(errorCode(await sender.send(requestTo(`http://${name}/`), name)));
    }
    expect(outcomes).toEqual(["unreachable", "unreachable", "unreachable", "proxy", "proxy"]);
  });

  test("that hangs up in place of an answer", async () => {
    const proxy = await proxying("hang up");
    await expectFault(await senderVia(proxy).send(requestTo("http://receiver.test/"), "1"), "connection_reset");
  });

  test.each([
    ["takes connections and reads nothing from them", "silence", () => false],
    ["never answers", "silence", undefined],
    ["never ends its answer", { pieces: ["HTTP/1.1 200 OK\r\n"] }, undefined],
  ] as const)("that %s", async (_, answer, accepts) => {
    const proxy = await proxying(answer, accepts && { accepts });
    const sender = senderVia(proxy, { timeoutMs: 200 });
    await expectFault(await sender.send(requestTo("http://receiver.test/"), "1"), "silent");
    await proxy.closed(0);
  });

  test("that answers no TLS handshake any more, although it did just now", async () => {
    const [to, proxy] = [await receiver(), await proxying("tunnel", { tls })];
    const front = createServer((near) => {
      if (proxy.connections > 0) return;
      const far = connect({ host: "127.0.0.1", port: proxy.port });
      near.pipe(far).pipe(near);
      for (const socket of [near, far]) socket.on("error", () => {});
    });
    await new Promise<void>((resolve) => front.listen(0, "127.0.0.1", resolve));
    stops.push(() => front.close());
    const { port } = front.address() as { port: number };
    const sender = senderVia(`https://127.0.0.1:${port}`, { timeoutMs: 1000 });
    expect(what(await sender.send(requestTo(`http://other.test:${to.port}/`), "1"))).toEqual(response(200));
    await expectFault(await sender.send(requestTo("http://receiver.test/"), "2"), "silent");
  });
});

describe("while others get through, the receiver is charged with", () => {
  test.each([
    [500, "unreachable"],
    [502, "unreachable"],
    [503, "unreachable"],
    [504, "timeout"],
  ])("a proxy's %p as %p", async (status, code) => {
    const to = await receiver();
    const proxy = await proxying(({ authority }) => (authority.startsWith(OTHER) ? "tunnel" : status));
    const sender = senderVia(proxy);
    await sender.send(requestTo(`http://other.test:${to.port}/`), "1");
    const outcome = await sender.send(requestTo("http://receiver.test/"), "2");
    expect(what(outcome)).toEqual(failure(code));
    expect(isSilence(outcome)).toBe(true);
  });

  test("a 503, also where the others' connections are old and still carry answers", async () => {
    const to = await receiver();
    const proxy = await proxying(({ authority }) => (authority.startsWith(OTHER) ? "tunnel" : 503));
    const sender = senderVia(proxy);
    const other = requestTo(`http://other.test:${to.port}/`);
    await sender.send(other, "1");
    const dead = ["93.184.216.1", "93.184.216.2", "93.184.216.3", "93.184.216.4"];
    for (const address of dead) await sender.send(requestTo(`http://${address}/`), address);
    expect(what(await sender.send(other, "2"))).toEqual(response(200));
    expect(proxy.requests.filter(({ authority }) => authority.startsWith(OTHER))).toHaveLength(1);
    expect(what(await sender.send(requestTo("http://receiver.test/"), "3"))).toEqual(failure("unreachable"));
  });

  test("a 503, also where another's tunnel opened and nothing came through it", async () => {
    const to = await receiver(http(200), { tls: support("self-signed.pem") });
    const proxy = await proxying(({ authority }) => (authority.startsWith(OTHER) ? "tunnel" : 503));
    const sender = senderVia(proxy);
    expect(errorCode(await sender.send(requestTo(`https://other.test:${to.port}/`), "1"))).toBe("tls");
    expect(what(await sender.send(requestTo("http://receiver.test/"), "2"))).toEqual(failure("unreachable"));
  });

  test("the proxy's silence, where another was reached lately", async () => {
    const to = await receiver();
    const proxy = await proxying(({ authority }) => (authority.startsWith(OTHER) ? "tunnel" : "silence"));
    const sender = senderVia(proxy, { timeoutMs: 500 });
    expect(what(await sender.send(requestTo(`http://other.test:${to.port}/`), "1"))).toEqual(response(200));
    expect(what(await sender.send(requestTo("http://receiver.test/"), "2"))).toEqual(failure("timeout"));
  });

  test("the proxy's silence until the deadline, where another is reached meanwhile", async () => {
    const to = await receiver();
    const proxy = await proxying(({ authority }) => (authority.startsWith(OTHER) ? "tunnel" : "silence"));
    const sender = senderVia(proxy, { timeoutMs: 500 });
    const silent = sender.send(requestTo("http://receiver.test/"), "1");
    await proxy.requested(1);
    expect(what(await sender.send(requestTo(`http://other.test:${to.port}/`), "2"))).toEqual(response(200));
    expect(what(await silent)).toEqual(failure("timeout"));
  });
});

describe("behind an open tunnel, the receiver is charged with", () => {
  test("its silence", async () => {
    const [to, proxy] = [await receiver(() => {}), await proxying()];
    const sender = senderVia(proxy, { timeoutMs: 200 });
    expect(what(await sender.send(requestTo(`http://receiver.test:${to.port}/`), "1"))).toEqual(failure("timeout"));
  });

  test("its silence at one address, whatever the proxy said about the other", async () => {
    const to = await receiver(() => {});
    const proxy = await proxying(({ authority }) => (authority.startsWith(PUBLIC) ? "silence" : "tunnel"));
    const sender = senderVia(proxy, { timeoutMs: 800, resolve: names({ "receiver.test": [PUBLIC, OTHER] }) });
    expect(what(await sender.send(requestTo(`http://receiver.test:${to.port}/`), "1"))).toEqual(failure("timeout"));
  });

  test("a TLS handshake that it never answers", async () => {
    const [to, proxy] = [await receiver(() => {}, { onConnection: () => {} }), await proxying()];
    const sender = senderVia(proxy, { timeoutMs: 200 });
    expect(what(await sender.send(requestTo(`https://receiver.test:${to.port}/`), "1"))).toEqual(failure("timeout"));
    await proxy.closed(0);
  });

  test.each(["http", "https"])("hanging up (%s), also over a proxy with TLS", async (scheme) => {
    const onConnection = (socket: Socket) => socket.once("data", () => socket.destroy());
    const to = await receiver(() => {}, { onConnection });
    const plain = senderVia(await proxying());
    const secure = senderVia(`https://127.0.0.1:${(await proxying("tunnel", { tls })).port}`);
    for (const sender of [plain, secure]) {
      const outcome = await sender.send(requestTo(`${scheme}://receiver.test:${to.port}/`), "1");
      expect(what(outcome)).toEqual(failure("connection_reset"));
    }
  });

  test.each([
    ["expired.pem", "expired"],
    ["self-signed.pem", "untrusted"],
  ])("a certificate that is not good (%s), also over a proxy with TLS", async (certificate, cause) => {
    const to = await receiver(http(200), { tls: support(certificate) });
    const plain = senderVia(await proxying());
    const secure = senderVia(`https://127.0.0.1:${(await proxying("tunnel", { tls })).port}`);
    for (const sender of [plain, secure]) {
      const outcome = await sender.send(requestTo(`https://receiver.test:${to.port}/`), "1");
      expect(what(outcome)).toEqual({ ...failure("tls"), cause });
    }
    expect(to.exchanges).toHaveLength(0);
  });
});
