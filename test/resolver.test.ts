/** Names are asked of a real name server on loopback, whose answers each test writes. */
import { describe, expect, test } from "bun:test";
import { createSocket } from "node:dgram";
import { utimesSync, writeFileSync } from "node:fs";
import { createResolver } from "../src/dns/resolver.ts";
import { startNameServer, v4 } from "./support/name-server.ts";
import {
  DNS,
  deadBeside,
  file,
  movableClock,
  NO_SERVERS,
  outcomeOf,
  QUICK,
  resolverOf,
  timed,
} from "./support/resolving.ts";

describe("an answer", () => {
  test("has the addresses of both families, IPv4 first", async () => {
    using server = await startNameServer(({ type }) => ({
      addresses: type === "A" ? ["192.0.2.1", "192.0.2.2"] : ["2001:db8:0:0:0:0:0:1"],
    }));
    const { resolve } = resolverOf([server]);
    expect(await resolve("a.example")).toEqual([
      { address: "192.0.2.1", family: 4 },
      { address: "192.0.2.2", family: 4 },
      { address: "2001:db8:0:0:0:0:0:1", family: 6 },
    ]);
    expect([...server.asked].sort()).toEqual(["A a.example", "AAAA a.example"]);
  });

  test("may have IPv6 addresses alone", async () => {
    using server = await startNameServer(({ type }) => (type === "A" ? {} : { addresses: ["2001:db8:0:0:0:0:0:1"] }));
    expect(await outcomeOf(resolverOf([server]), "a.example")).toEqual(["2001:db8:0:0:0:0:0:1"]);
  });

  test("is followed along its aliases", async () => {
    using server = await startNameServer(({ type }) =>
      type === "A" ? { aliases: ["b.example", "c.example"], addresses: ["192.0.2.1"] } : { aliases: ["b.example"] },
    );
    expect(await outcomeOf(resolverOf([server]), "A.Example")).toEqual(["192.0.2.1"]);
  });

  test("that is longer than a datagram comes over TCP", async () => {
    const addresses = Array.from({ length: 100 }, (_, i) => `192.0.2.${i}`);
    using server = await startNameServer(({ type }) => (type === "A" ? { addresses, isTruncated: true } : {}));
    expect(await outcomeOf(resolverOf([server]), "a.example")).toEqual(addresses);
    expect(server.asked).toContain("A a.example/tcp");
  });

  test("may take a second and a half", async () => {
    using server = await startNameServer(() => ({ addresses: [], afterMs: 10 }));
    server.script = ({ type }) => ({ addresses: type === "A" ? ["192.0.2.1"] : [], afterMs: 1500 });
    expect(await outcomeOf(resolverOf([server], { resolvConf: "" }), "a.example")).toEqual(["192.0.2.1"]);
  });

  test("does not wait for the other family when its servers are silent about it", async () => {
    using server = await startNameServer(({ type }) => (type === "A" ? { addresses: ["192.0.2.1"] } : undefined));
    const { value, ms } = await timed(() => outcomeOf(resolverOf([server]), "a.example"));
    expect(value).toEqual(["192.0.2.1"]);
    expect(ms).toBeLessThan(800);
  });

  test("is not taken from what cannot be one: another id, another question, broken bytes", async () => {
    const liar = createSocket("udp4");
    using _ = { [Symbol.dispose]: () => liar.close() };
    liar.on("message", (message, { port }) => {
      const wrongId = Buffer.from(message);
      wrongId.writeUInt16BE(0x8180, 2);
      wrongId.writeUInt16BE(message.readUInt16BE(0) ^ 1, 0);
      const wrongName = Buffer.from(message);
      wrongName.writeUInt16BE(0x8183, 2);
      wrongName.write("b", 13);
      const endless = Buffer.concat([message, Buffer.from([0xc0, message.length])]);
      endless.writeUInt16BE(0x8180, 2);
      endless.writeUInt16BE(1, 6);
      for (const each of [wrongId, wrongName, endless, message.subarray(0, 5)]) liar.send(each, port);
      const right = Buffer.from(message);
      right.writeUInt16BE(0x8183, 2);
      liar.send(right, port);
    });
    await new Promise<void>((bound) => liar.bind(0, "127.0.0.1", bound));
    const servers = [{ address: "127.0.0.1", port: liar.address().port }];
    const resolver = createResolver({ servers, hostsPath: file(""), resolvConfPath: file(QUICK) });
    expect(await outcomeOf(resolver, "a.example")).toBe(DNS);
  });
});

describe.concurrent("a name", () => {
  test("that does not exist, or has no address, is the customer's trouble", async () => {
    using server = await startNameServer(({ name }) => (name === "no.example" ? { code: "NXDOMAIN" } : {}));
    const resolver = resolverOf([server]);
    expect(await outcomeOf(resolver, "no.example")).toBe(DNS);
    expect(await outcomeOf(resolver, "empty.example")).toBe(DNS);
  });

  test.each(["a..b", `${"x".repeat(64)}.example`, `${"x.".repeat(127)}xx`, "*", "a b.example"])(
    "as %p is asked of nobody",
    async (name) => {
      using server = await startNameServer(v4("192.0.2.1"));
      expect(await outcomeOf(resolverOf([server]), name)).toBe(DNS);
      expect(server.asked).toEqual([]);
    },
  );

  test("is found in the hosts file first: all its addresses, whatever its case, under its aliases too", async () => {
    using server = await startNameServer(v4("192.0.2.1"));
    const hosts =
      "10.0.0.9 Other # x\n2001:db8::1 web.example\n10.0.0.1\tWeb.Example  www\n10.0.0.2 web.example\nx y\n";
    const resolver = resolverOf([server], { hosts });
    expect(await outcomeOf(resolver, "WEB.example")).toEqual(["10.0.0.1", "10.0.0.2", "2001:db8::1"]);
    expect(await outcomeOf(resolver, "www.")).toEqual(["10.0.0.1"]);
    expect(server.asked).toEqual([]);
  });

  test("is looked for in the hosts file anew once that has changed", async () => {
    const hostsPath = file("10.0.0.1 web.example");
    using server = await startNameServer(v4("192.0.2.1"));
    const resolver = resolverOf([server], {}, { hostsPath });
    expect(await outcomeOf(resolver, "web.example")).toEqual(["10.0.0.1"]);
    writeFileSync(hostsPath, "10.0.0.2 web.example");
    utimesSync(hostsPath, new Date(), new Date(Date.now() + 5_000));
    const startedAt = performance.now();
    while ((await outcomeOf(resolver, "web.example"))[0] !== "10.0.0.2") {
      if (performance.now() > startedAt + 5_000) throw new Error("expected the new address");
      await Bun.sleep(50);
    }
  });

  test.each(["localhost", "localhost.", "a.b.localhost"])(
    "as %s is this machine, whatever a server says",
    async (name) => {
      using server = await startNameServer(v4("192.0.2.1"));
      expect(await outcomeOf(resolverOf([server]), name)).toEqual(["127.0.0.1", "::1"]);
      expect(server.asked).toEqual([]);
    },
  );

  test("with few dots is looked for in the search domains first, then as it is", async () => {
    using server = await startNameServer((question) =>
      question.name === "web.b.example" ? v4("192.0.2.1")(question) : { code: "NXDOMAIN" },
    );
    const resolvConf = "search a.example b.example.\noptions ndots:2 attempts:1";
    const resolver = resolverOf([server], { resolvConf });
    expect(await outcomeOf(resolver, "web")).toEqual(["192.0.2.1"]);
    expect(await outcomeOf(resolver, "web.nowhere")).toBe(DNS);
    expect(await outcomeOf(resolver, "web.")).toBe(DNS);
    expect(await outcomeOf(resolver, "x.y.z")).toBe(DNS);
    const inOrder = server.asked.filter((each) => each.startsWith("A ")).map((each) => each.slice(2));
    expect(inOrder).toEqual([
      ...["web.a.example", "web.b.example"],
      ...["web.nowhere.a.example", "web.nowhere.b.example", "web.nowhere"],
      "web",
      ...["x.y.z", "x.y.z.a.example", "x.y.z.b.example"],
    ]);
  });
});

describe.concurrent("what is known of a name", () => {
  test("holds for its TTL, at least a second", async () => {
    using server = await startNameServer(({ type }) =>
      type === "A" ? { addresses: ["192.0.2.1"], ttlSeconds: 0 } : {},
    );
    const { now, pass } = movableClock();
    const resolver = resolverOf([server], {}, { now });
    for (let i = 0; i < 5; i++) await outcomeOf(resolver, "a.example");
    expect(server.asked).toHaveLength(2);
    server.script = v4("192.0.2.2");
    pass(1_000);
    expect(await outcomeOf(resolver, "a.example")).toEqual(["192.0.2.2"]);
    pass(1_000);
    await outcomeOf(resolver, "a.example");
    expect(server.asked).toHaveLength(4);
  });

  test("is that it does not exist, or that nobody answers, for three seconds", async () => {
    using server = await startNameServer(deadBeside(() => ({ code: "NXDOMAIN" })));
    const { now, pass } = movableClock();
    const resolver = resolverOf([server], { resolvConf: QUICK }, { now });
    for (let i = 0; i < 3; i++) {
      expect(await outcomeOf(resolver, "no.example")).toBe(DNS);
      expect(await outcomeOf(resolver, "dead.example")).toBe(DNS);
    }
    expect(server.asked.filter((each) => each === "A no.example")).toHaveLength(1);
    expect(server.asked.filter((each) => each === "A dead.example")).toHaveLength(1);
    server.script = v4("192.0.2.1");
    pass(3_000);
    expect(await outcomeOf(resolver, "no.example")).toEqual(["192.0.2.1"]);
    expect(await outcomeOf(resolver, "dead.example")).toEqual(["192.0.2.1"]);
  });

  test("is asked for once, however many wait for it", async () => {
    using server = await startNameServer(({ type }) => ({ addresses: type === "A" ? ["192.0.2.1"] : [], afterMs: 50 }));
    const resolver = resolverOf([server]);
    const all = await Promise.all(Array.from({ length: 100 }, () => outcomeOf(resolver, "a.example")));
    expect(all).toEqual(Array(100).fill(["192.0.2.1"]));
    expect(server.asked).toHaveLength(2);
  });
});

describe.concurrent("a name server", () => {
  test("that is silent is followed by the next, which is asked first after a while", async () => {
    using silent = await startNameServer(() => undefined);
    using good = await startNameServer(v4("192.0.2.1"));
    const resolver = resolverOf([silent, good], { resolvConf: "options timeout:1 attempts:2" });
    const names = ["a.example", "b.example"];
    const first = await timed(() => Promise.all(names.map((name) => outcomeOf(resolver, name))));
    expect(first.value).toEqual([["192.0.2.1"], ["192.0.2.1"]]);
    expect(first.ms).toBeGreaterThan(900);
    const then = await timed(() => outcomeOf(resolver, "c.example"));
    expect(then.value).toEqual(["192.0.2.1"]);
    expect(then.ms).toBeLessThan(500);
  });

  test("that nobody runs, or that fails, is followed by the next at once", async () => {
    using gone = await startNameServer(() => undefined);
    gone.stop();
    using failing = await startNameServer(() => ({ code: "SERVFAIL" }));
    using good = await startNameServer(v4("192.0.2.1"));
    const { value, ms } = await timed(() => outcomeOf(resolverOf([gone, failing, good]), "a.example"));
    expect(value).toEqual(["192.0.2.1"]);
    expect(ms).toBeLessThan(500);
  });

  test("that answers after the next one was asked is heard", async () => {
    using server = await startNameServer(({ type }) => ({
      addresses: type === "A" ? ["192.0.2.1"] : [],
      afterMs: 1_300,
    }));
    const resolver = resolverOf([server], { resolvConf: "options timeout:1 attempts:2" });
    const { value, ms } = await timed(() => outcomeOf(resolver, "a.example"));
    expect(value).toEqual(["192.0.2.1"]);
    expect(ms).toBeLessThan(1_900); // the second question would be answered at 2,300
  });

  test.serial("takes no processor time while nobody listens there", async () => {
    using gone = await startNameServer(() => undefined);
    gone.stop();
    const before = process.cpuUsage();
    const { value, ms } = await timed(() => outcomeOf(resolverOf([gone]), "a.example"));
    expect(value).toBe(NO_SERVERS);
    expect(ms).toBeLessThan(500);
    expect(process.cpuUsage(before).user).toBeLessThan(200_000);
  });
});
