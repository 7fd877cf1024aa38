/** Which address a request goes to: what the guard lets through, and what the resolver finds. */
import { afterEach, describe, expect, test } from "bun:test";
import { type Address, type Network, parseNetwork } from "../src/dns/address.ts";
import { requestFailure } from "../src/http/failure.ts";
import { http } from "./support/listener.ts";
import {
  answering,
  blocked,
  endAll,
  failingWith,
  failure,
  fault,
  inside,
  LOOPBACK,
  requestTo,
  resolvingTo,
  response,
  senderWith,
  what,
} from "./support/sending.ts";

afterEach(endAll);

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
