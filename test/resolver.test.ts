/** Names are asked of a real name server on loopback, whose answers each test writes. */
import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { blockedRange, LookupError } from "../src/dns/address.ts";
import { createResolver, type Resolver, type ResolverOptions } from "../src/dns/resolver.ts";
import { type Script, startNameServer, type TestNameServer, v4 } from "./support/name-server.ts";

const directory = mkdtempSync(join(tmpdir(), "resolver-"));
const stops: (() => void)[] = [];

afterEach(() => {
  for (const stop of stops.splice(0)) stop();
});
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));

function file(text: string): string {
  const path = join(directory, crypto.randomUUID());
  writeFileSync(path, text);
  return path;
}

async function nameServer(script: Script): Promise<TestNameServer> {
  const started = await startNameServer(script);
  stops.push(started.stop);
  return started;
}

const QUICK = "options timeout:1 attempts:1";

/** A clock that a test puts forward: what is known of a name grows old by it. */
function movableClock() {
  let aheadMs = 0;
  return { now: () => performance.now() + aheadMs, pass: (ms: number) => (aheadMs += ms) };
}

/** A resolver that asks these servers alone, and knows no file of this machine. */
function resolverOf(servers: TestNameServer[], { resolvConf = QUICK, hosts = "" } = {}, options: ResolverOptions = {}) {
  return createResolver({
    servers: servers.map(({ server }) => server),
    resolvConfPath: file(resolvConf),
    hostsPath: file(hosts),
    ...options,
  });
}

/** The addresses of a name, or what the attempt ends with. */
async function outcomeOf({ resolve }: Resolver, name: string): Promise<string[] | string> {
  try {
    return (await resolve(name)).map(({ address }) => address);
  } catch (error) {
    if (!(error instanceof LookupError)) throw error;
    const { result } = error;
    const cause = "cause" in result ? ` (${result.cause})` : "";
    return `${result.kind} ${result.code}${cause}`;
  }
}

async function timed<T>(work: () => Promise<T>): Promise<{ value: T; ms: number }> {
  const startedAt = performance.now();
  return { value: await work(), ms: performance.now() - startedAt };
}

const DNS = "failure dns";
const NO_SERVERS = "fault resolver";

/** Silent for everything below `dead.example` and the like, and at once for the rest. */
const deadBeside =
  (healthy: Script, isDead = (name: string) => name.includes("dead")): Script =>
  (question) =>
    isDead(question.name) ? undefined : healthy(question);

describe("an answer", () => {
  test("has the addresses of both families, IPv4 first", async () => {
    const server = await nameServer(({ type }) => ({
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
    const server = await nameServer(({ type }) => (type === "A" ? {} : { addresses: ["2001:db8:0:0:0:0:0:1"] }));
    expect(await outcomeOf(resolverOf([server]), "a.example")).toEqual(["2001:db8:0:0:0:0:0:1"]);
  });

  test("is followed along its aliases", async () => {
    const server = await nameServer(({ type }) =>
      type === "A" ? { aliases: ["b.example", "c.example"], addresses: ["192.0.2.1"] } : { aliases: ["b.example"] },
    );
    expect(await outcomeOf(resolverOf([server]), "A.Example")).toEqual(["192.0.2.1"]);
  });

  test("that is longer than a datagram comes over TCP", async () => {
    const addresses = Array.from({ length: 100 }, (_, i) => `192.0.2.${i}`);
    const server = await nameServer(({ type }) => (type === "A" ? { addresses, isTruncated: true } : {}));
    expect(await outcomeOf(resolverOf([server]), "a.example")).toEqual(addresses);
    expect(server.asked).toContain("A a.example/tcp");
  });

  test("may take a second and a half", async () => {
    const server = await nameServer(() => ({ addresses: [], afterMs: 10 }));
    server.script = ({ type }) => ({ addresses: type === "A" ? ["192.0.2.1"] : [], afterMs: 1500 });
    expect(await outcomeOf(resolverOf([server], { resolvConf: "" }), "a.example")).toEqual(["192.0.2.1"]);
  });

  test("does not wait for the other family when its servers are silent about it", async () => {
    const server = await nameServer(({ type }) => (type === "A" ? { addresses: ["192.0.2.1"] } : undefined));
    const { value, ms } = await timed(() => outcomeOf(resolverOf([server]), "a.example"));
    expect(value).toEqual(["192.0.2.1"]);
    expect(ms).toBeLessThan(800);
  });

  test("is not taken from what cannot be one: another id, another question, broken bytes", async () => {
    const { createSocket } = await import("node:dgram");
    const liar = createSocket("udp4");
    stops.push(() => liar.close());
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

describe("a name", () => {
  test("that does not exist, or has no address, is the customer's trouble", async () => {
    const server = await nameServer(({ name }) => (name === "no.example" ? { code: "NXDOMAIN" } : {}));
    const resolver = resolverOf([server]);
    expect(await outcomeOf(resolver, "no.example")).toBe(DNS);
    expect(await outcomeOf(resolver, "empty.example")).toBe(DNS);
  });

  test.each(["a..b", `${"x".repeat(64)}.example`, `${"x.".repeat(127)}xx`, "*", "a b.example"])(
    "as %p is asked of nobody",
    async (name) => {
      const server = await nameServer(v4("192.0.2.1"));
      expect(await outcomeOf(resolverOf([server]), name)).toBe(DNS);
      expect(server.asked).toEqual([]);
    },
  );

  test("is found in the hosts file first: all its addresses, whatever its case, under its aliases too", async () => {
    const server = await nameServer(v4("192.0.2.1"));
    const hosts =
      "10.0.0.9 Other # x\n2001:db8::1 web.example\n10.0.0.1\tWeb.Example  www\n10.0.0.2 web.example\nx y\n";
    const resolver = resolverOf([server], { hosts });
    expect(await outcomeOf(resolver, "WEB.example")).toEqual(["10.0.0.1", "10.0.0.2", "2001:db8::1"]);
    expect(await outcomeOf(resolver, "www.")).toEqual(["10.0.0.1"]);
    expect(server.asked).toEqual([]);
  });

  test("is looked for in the hosts file anew once that has changed", async () => {
    const hostsPath = file("10.0.0.1 web.example");
    const resolver = resolverOf([await nameServer(v4("192.0.2.1"))], {}, { hostsPath });
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
      const server = await nameServer(v4("192.0.2.1"));
      expect(await outcomeOf(resolverOf([server]), name)).toEqual(["127.0.0.1", "::1"]);
      expect(server.asked).toEqual([]);
    },
  );

  test("with few dots is looked for in the search domains first, then as it is", async () => {
    const server = await nameServer((question) =>
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

describe("a name that leads inside", () => {
  const blocked = (address: string) => blockedRange(address, []);
  const INSIDE = "10.0.0.1";
  const PUBLIC = "1.1.1.1";
  const both =
    (a: string[], aaaa: string[]): Script =>
    ({ type }) => ({ addresses: type === "A" ? a : aaaa });

  test.each<[string, Script, string]>([
    ["by its only address", v4(INSIDE), "private"],
    ["by its only address, of IPv6", both([], ["fd00:0:0:0:0:0:0:1"]), "uniqueLocal"],
    ["by one of many", v4(PUBLIC, PUBLIC, INSIDE), "private"],
    ["in one family, and out in the other", both([PUBLIC], ["0:0:0:0:0:0:0:1"]), "loopback"],
    ["in the other family", both([INSIDE], ["2606:4700:0:0:0:0:0:1"]), "private"],
    ["by an alias", (question) => ({ ...v4(INSIDE)(question), aliases: ["db.internal"] }), "private"],
    ["over TCP", (question) => ({ ...v4(INSIDE)(question), isTruncated: true }), "private"],
    ["behind NAT64", both([], ["64:ff9b:0:0:0:0:a00:1"]), "private"],
  ])("%s is told like one that does not exist, but for the operator's cause", async (_, script, cause) => {
    const resolver = resolverOf([await nameServer(script)], {}, { blocked });
    expect(await outcomeOf(resolver, "a.example")).toBe(`${DNS} (${cause})`);
    expect(await outcomeOf(resolver, "a.example")).toBe(`${DNS} (${cause})`); // and is remembered
  });

  test("is looked up like one that does not exist, name by name", async () => {
    const questionsFor = async (script: Script): Promise<string[]> => {
      const server = await nameServer(script);
      const resolvConf = "search a.example b.example\noptions ndots:2 timeout:1 attempts:1";
      const resolver = resolverOf([server], { resolvConf }, { blocked });
      await outcomeOf(resolver, "db");
      await outcomeOf(resolver, "db");
      return server.asked.toSorted();
    };
    const missing = await questionsFor(() => ({ code: "NXDOMAIN" }));
    expect(missing).toHaveLength(6);
    expect(
      await questionsFor(({ name, type }) =>
        name === "db.a.example" ? v4(INSIDE)({ name, type, isTcp: false }) : { code: "NXDOMAIN" },
      ),
    ).toEqual(missing);
    expect(await questionsFor(v4(INSIDE))).toEqual(missing);
  });

  test("is passed over for a search domain where it leads out", async () => {
    const server = await nameServer((question) => v4(question.name.endsWith("b.example") ? PUBLIC : INSIDE)(question));
    const resolver = resolverOf([server], { resolvConf: "search a.example b.example\noptions ndots:2" }, { blocked });
    expect(await outcomeOf(resolver, "web")).toEqual([PUBLIC]);
  });

  test("is not waited for any longer: the silence about its other family does not show", async () => {
    const server = await nameServer(({ type }) => (type === "A" ? { addresses: [INSIDE] } : undefined));
    const resolver = resolverOf([server], { resolvConf: "options timeout:2 attempts:1" }, { blocked });
    const { value, ms } = await timed(() => outcomeOf(resolver, "a.example"));
    expect(value).toBe(`${DNS} (private)`);
    expect(ms).toBeLessThan(250);
  });

  test("is remembered for three seconds like one that does not exist, whatever its TTL", async () => {
    const server = await nameServer((question) => ({ ...v4(INSIDE)(question), ttlSeconds: 3_600 }));
    const { now, pass } = movableClock();
    const resolver = resolverOf([server], {}, { blocked, now });
    for (let i = 0; i < 3; i++) await outcomeOf(resolver, "a.example");
    server.script = v4(PUBLIC);
    pass(2_000);
    expect(await outcomeOf(resolver, "a.example")).toBe(`${DNS} (private)`);
    expect(server.asked.filter((each) => each === "A a.example")).toHaveLength(1);
    pass(1_000);
    expect(await outcomeOf(resolver, "a.example")).toEqual([PUBLIC]);
  });

  test("by the hosts file is asked of the name servers like one that is not there", async () => {
    const server = await nameServer(() => ({ code: "NXDOMAIN" }));
    const { now, pass } = movableClock();
    const resolver = resolverOf([server], { hosts: "10.0.0.1 db.internal" }, { blocked, now });
    expect(await outcomeOf(resolver, "db.internal")).toBe(`${DNS} (private)`);
    expect(await outcomeOf(resolver, "dbx.internal")).toBe(DNS);
    expect(server.asked.filter((each) => each.startsWith("A ")).toSorted()).toEqual([
      "A db.internal",
      "A dbx.internal",
    ]);
    server.script = v4(PUBLIC);
    pass(3_000);
    expect(await outcomeOf(resolver, "db.internal")).toBe(`${DNS} (private)`); // what servers say does not open it
    const dead = resolverOf([await nameServer(() => undefined)], { hosts: "10.0.0.1 db.internal" }, { blocked });
    expect(await outcomeOf(dead, "db.internal")).toBe(await outcomeOf(dead, "dbx.internal"));
  });

  test("by the hosts file is used when its address is allowed", async () => {
    const server = await nameServer(() => ({ code: "NXDOMAIN" }));
    const resolver = resolverOf([server], { hosts: "10.0.0.1 db.internal" }, { blocked: () => undefined });
    expect(await outcomeOf(resolver, "db.internal")).toEqual([INSIDE]);
    expect(server.asked).toEqual([]);
  });

  test.each(["localhost", "a.localhost"])("as %s is no question for a name server", async (name) => {
    const server = await nameServer(v4(PUBLIC));
    const resolver = resolverOf([server], { hosts: "127.0.0.1 localhost" }, { blocked });
    expect(await outcomeOf(resolver, name)).toBe(`${DNS} (loopback)`);
    expect(server.asked).toEqual([]);
  });
});

describe("what is known of a name", () => {
  test("holds for its TTL, at least a second", async () => {
    const server = await nameServer(({ type }) => (type === "A" ? { addresses: ["192.0.2.1"], ttlSeconds: 0 } : {}));
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
    const server = await nameServer(deadBeside(() => ({ code: "NXDOMAIN" })));
    const { now, pass } = movableClock();
    const resolver = resolverOf([server], {}, { now });
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
    const server = await nameServer(({ type }) => ({ addresses: type === "A" ? ["192.0.2.1"] : [], afterMs: 50 }));
    const resolver = resolverOf([server]);
    const all = await Promise.all(Array.from({ length: 100 }, () => outcomeOf(resolver, "a.example")));
    expect(all).toEqual(Array(100).fill(["192.0.2.1"]));
    expect(server.asked).toHaveLength(2);
  });
});

describe("a name server", () => {
  test("that is silent is followed by the next, which is asked first after a while", async () => {
    const silent = await nameServer(() => undefined);
    const good = await nameServer(v4("192.0.2.1"));
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
    const gone = await nameServer(() => undefined);
    gone.stop();
    stops.pop();
    const failing = await nameServer(() => ({ code: "SERVFAIL" }));
    const good = await nameServer(v4("192.0.2.1"));
    const { value, ms } = await timed(() => outcomeOf(resolverOf([gone, failing, good]), "a.example"));
    expect(value).toEqual(["192.0.2.1"]);
    expect(ms).toBeLessThan(500);
  });

  test("that answers after the next one was asked is heard", async () => {
    const server = await nameServer(({ type }) => ({ addresses: type === "A" ? ["192.0.2.1"] : [], afterMs: 1_300 }));
    const resolver = resolverOf([server], { resolvConf: "options timeout:1 attempts:2" });
    const { value, ms } = await timed(() => outcomeOf(resolver, "a.example"));
    expect(value).toEqual(["192.0.2.1"]);
    expect(ms).toBeLessThan(1_900);
  });

  test("takes no processor time while nobody listens there", async () => {
    const gone = await nameServer(() => undefined);
    gone.stop();
    stops.pop();
    const before = process.cpuUsage();
    const { value, ms } = await timed(() => outcomeOf(resolverOf([gone], { resolvConf: "" }), "a.example"));
    expect(value).toBe(NO_SERVERS);
    expect(ms).toBeLessThan(500);
    expect(process.cpuUsage(before).user).toBeLessThan(200_000);
  });
});

describe("a name that nobody answers for", () => {
  const healthy = v4("192.0.2.1");

  test.each([
    ["is silent", undefined],
    ["fails after 900 ms", { code: "SERVFAIL", afterMs: 900 } as const],
    ["fails at once", { code: "SERVFAIL" } as const],
    ["says that its answer is too long, and nothing over TCP", { isTruncated: true } as const],
  ])("is the customer's trouble while others are answered: its server %s", async (_, said) => {
    const server = await nameServer(({ isTcp, ...question }) =>
      question.name.includes("dead") ? (isTcp ? undefined : said) : healthy({ isTcp, ...question }),
    );
    const resolver = resolverOf([server]);
    await outcomeOf(resolver, "a.example");
    const dead = Array.from({ length: 20 }, (_, i) => outcomeOf(resolver, `x.dead${i}.example`));
    expect(await Promise.all(dead)).toEqual(Array(20).fill(DNS));
  });

  test("is the customer's trouble also where nothing else was ever asked: the servers know the root", async () => {
    const server = await nameServer(deadBeside(healthy));
    expect(await outcomeOf(resolverOf([server]), "x.dead.example")).toBe(DNS);
    expect(server.asked).toContain("A ");
  });

  test.each([
    ["are silent", () => undefined],
    ["fail", () => ({ code: "SERVFAIL" }) as const],
  ])("is ours when the servers %s for the others too, which are asked again", async (_, script) => {
    const server = await nameServer(healthy);
    const resolver = resolverOf([server]);
    for (const name of ["a.one.example", "a.two.example", "a.three.example"]) await outcomeOf(resolver, name);
    server.script = script;
    expect(await outcomeOf(resolver, "x.dead.example")).toBe(NO_SERVERS);
    expect(server.asked).toContain("A a.three.example");
    server.script = healthy;
    expect(await outcomeOf(resolver, "x.dead.example")).toEqual(["192.0.2.1"]); // a fault of ours is not remembered
  });

  test("says whose trouble it is also before its time is over", async () => {
    const server = await nameServer(deadBeside(healthy));
    const resolver = resolverOf([server]);
    await outcomeOf(resolver, "a.example");
    const dead = outcomeOf(resolver, "x.dead.example");
    await Bun.sleep(500); // by then others were asked
    expect(resolver.unresolved("x.dead.example")).toEqual({ kind: "failure", code: "dns" });
    server.script = () => undefined;
    const second = outcomeOf(resolver, "x.dead2.example");
    await Bun.sleep(500);
    expect(resolver.unresolved("x.dead2.example")).toEqual({ kind: "fault", code: "resolver" });
    await Promise.all([dead, second]);
  });
});

describe("many names", () => {
  const healthy = v4("192.0.2.1");

  test("of one healthy domain are not held back: 20,000 within five seconds", async () => {
    const server = await nameServer(healthy);
    const resolver = resolverOf([server], { resolvConf: "" });
    const { value, ms } = await timed(async () => {
      const found = await Promise.all(
        Array.from({ length: 10 }, async (_, lane) => {
          let good = 0;
          for (let i = 0; i < 2_000; i += 200) {
            const names = Array.from({ length: 200 }, (_, j) => `n${lane}-${i + j}.wild.example`);
            good += (await Promise.all(names.map((name) => outcomeOf(resolver, name)))).filter(Array.isArray).length;
          }
          return good;
        }),
      );
      return found.reduce((sum, each) => sum + each, 0);
    });
    expect(value).toBe(20_000);
    expect(ms).toBeLessThan(5_000);
  });

  test("of a dead domain wait in line, and take no place from the others", async () => {
    const server = await nameServer(deadBeside(healthy));
    const resolver = resolverOf([server]);
    const dead = Array.from({ length: 2_000 }, (_, i) => outcomeOf(resolver, `n${i}.dead.example`));
    for (let i = 0; i < 50; i++) {
      const { value, ms } = await timed(() => outcomeOf(resolver, `n${i}.healthy.example`));
      expect(value).toEqual(["192.0.2.1"]);
      expect(ms).toBeLessThan(200);
    }
    expect(server.asked.filter((each) => each.includes("dead")).length).toBeLessThanOrEqual(200);
    const outcomes = new Set(await Promise.all(dead));
    expect([...outcomes].sort()).toEqual([DNS, "fault resources"]); // asked in vain; not even asked
  });

  test("that were dead the last time leave places in their domain to the others", async () => {
    const server = await nameServer(deadBeside(healthy));
    const { now, pass } = movableClock();
    const resolver = resolverOf([server], {}, { now });
    const names = Array.from({ length: 100 }, (_, i) => `dead${i}.shared.example`);
    await Promise.all(names.map((name) => outcomeOf(resolver, name)));
    pass(3_000); // then they are asked for again
    const asked = server.asked.length;
    const again = names.map((name) => outcomeOf(resolver, name));
    const { value, ms } = await timed(() => outcomeOf(resolver, "live.shared.example"));
    expect(value).toEqual(["192.0.2.1"]);
    expect(ms).toBeLessThan(200);
    expect(server.asked.length - asked).toBeLessThanOrEqual(2 * 8 + 2);
    expect(new Set(await Promise.all(again))).toEqual(new Set([DNS])); // also those that were not asked for
  });

  test("of many dead domains do not use up the places: the oldest give way", async () => {
    const server = await nameServer(deadBeside(healthy));
    const resolver = resolverOf([server], { resolvConf: "options timeout:5 attempts:2" });
    const dead = Array.from({ length: 1_024 }, (_, i) => outcomeOf(resolver, `a.dead${i}.example`));
    await Bun.sleep(700);
    const { value, ms } = await timed(() => outcomeOf(resolver, "live.example"));
    expect(value).toEqual(["192.0.2.1"]);
    expect(ms).toBeLessThan(200);
    expect(await Promise.race(dead)).toBe(DNS);
  });
});
