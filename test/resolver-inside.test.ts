/** Names that lead to addresses inside the network, asked of a real name server on loopback. */
import { describe, expect, test } from "bun:test";
import { blockedRange } from "../src/dns/address.ts";
import { type Script, startNameServer, v4 } from "./support/name-server.ts";
import { DNS, movableClock, outcomeOf, QUICK, resolverOf, timed } from "./support/resolving.ts";

describe.concurrent("a name that leads inside", () => {
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
    using server = await startNameServer(script);
    const resolver = resolverOf([server], {}, { blocked });
    expect(await outcomeOf(resolver, "a.example")).toBe(`${DNS} (${cause})`);
    expect(await outcomeOf(resolver, "a.example")).toBe(`${DNS} (${cause})`); // and is remembered
  });

  test("is looked up like one that does not exist, name by name", async () => {
    const questionsFor = async (script: Script): Promise<string[]> => {
      using server = await startNameServer(script);
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
    using server = await startNameServer((question) =>
      v4(question.name.endsWith("b.example") ? PUBLIC : INSIDE)(question),
    );
    const resolver = resolverOf([server], { resolvConf: "search a.example b.example\noptions ndots:2" }, { blocked });
    expect(await outcomeOf(resolver, "web")).toEqual([PUBLIC]);
  });

  test("is not waited for any longer: the silence about its other family does not show", async () => {
    using server = await startNameServer(({ type }) => (type === "A" ? { addresses: [INSIDE] } : undefined));
    const resolver = resolverOf([server], { resolvConf: "options timeout:2 attempts:1" }, { blocked });
    const { value, ms } = await timed(() => outcomeOf(resolver, "a.example"));
    expect(value).toBe(`${DNS} (private)`);
    expect(ms).toBeLessThan(250);
  });

  test("is remembered for three seconds like one that does not exist, whatever its TTL", async () => {
    using server = await startNameServer((question) => ({ ...v4(INSIDE)(question), ttlSeconds: 3_600 }));
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
    using server = await startNameServer(() => ({ code: "NXDOMAIN" }));
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
    using silent = await startNameServer(() => undefined);
    const dead = resolverOf([silent], { hosts: "10.0.0.1 db.internal", resolvConf: QUICK }, { blocked });
    const [inside, missing] = await Promise.all(["db.internal", "dbx.internal"].map((name) => outcomeOf(dead, name)));
    expect(inside).toBe(missing as string);
  });

  test("by the hosts file is used when its address is allowed", async () => {
    using server = await startNameServer(() => ({ code: "NXDOMAIN" }));
    const resolver = resolverOf([server], { hosts: "10.0.0.1 db.internal" }, { blocked: () => undefined });
    expect(await outcomeOf(resolver, "db.internal")).toEqual([INSIDE]);
    expect(server.asked).toEqual([]);
  });

  test.each(["localhost", "a.localhost"])("as %s is no question for a name server", async (name) => {
    using server = await startNameServer(v4(PUBLIC));
    const resolver = resolverOf([server], { hosts: "127.0.0.1 localhost" }, { blocked });
    expect(await outcomeOf(resolver, name)).toBe(`${DNS} (loopback)`);
    expect(server.asked).toEqual([]);
  });
});
