/** Names whose servers do not answer, beside others, asked of a real name server on loopback. */
import { describe, expect, test } from "bun:test";
import { startNameServer, v4 } from "./support/name-server.ts";
import { DNS, deadBeside, movableClock, NO_SERVERS, outcomeOf, QUICK, resolverOf, timed } from "./support/resolving.ts";
import { eventually } from "./support/stack.ts";

describe.concurrent("a name that nobody answers for", () => {
  const healthy = v4("192.0.2.1");

  test.each([
    ["is silent", undefined],
    ["fails after 900 ms", { code: "SERVFAIL", afterMs: 900 } as const],
    ["fails at once", { code: "SERVFAIL" } as const],
    ["says that its answer is too long, and nothing over TCP", { isTruncated: true } as const],
  ])("is the customer's trouble while others are answered: its server %s", async (_, said) => {
    using server = await startNameServer(({ isTcp, ...question }) =>
      question.name.includes("dead") ? (isTcp ? undefined : said) : healthy({ isTcp, ...question }),
    );
    const resolver = resolverOf([server], { resolvConf: QUICK });
    await outcomeOf(resolver, "a.example");
    const dead = Array.from({ length: 20 }, (_, i) => outcomeOf(resolver, `x.dead${i}.example`));
    expect(await Promise.all(dead)).toEqual(Array(20).fill(DNS));
  });

  test("is the customer's trouble also where nothing else was ever asked: the servers know the root", async () => {
    using server = await startNameServer(deadBeside(healthy));
    expect(await outcomeOf(resolverOf([server], { resolvConf: QUICK }), "x.dead.example")).toBe(DNS);
    expect(server.asked).toContain("A ");
  });

  test.each([
    ["are silent", () => undefined],
    ["fail", () => ({ code: "SERVFAIL" }) as const],
  ])("is ours when the servers %s for the others too, which are asked again", async (_, script) => {
    using server = await startNameServer(healthy);
    const resolver = resolverOf([server], { resolvConf: QUICK });
    for (const name of ["a.one.example", "a.two.example", "a.three.example"]) await outcomeOf(resolver, name);
    server.script = script;
    expect(await outcomeOf(resolver, "x.dead.example")).toBe(NO_SERVERS);
    expect(server.asked).toContain("A a.three.example");
    server.script = healthy;
    expect(await outcomeOf(resolver, "x.dead.example")).toEqual(["192.0.2.1"]); // a fault of ours is not remembered
  });

  test("says whose trouble it is also before its time is over", async () => {
    using server = await startNameServer(deadBeside(healthy));
    const resolver = resolverOf([server]); // has 4 s for each name
    await outcomeOf(resolver, "a.example");
    const dead = outcomeOf(resolver, "x.dead.example");
    await eventually(
      () => resolver.unresolved("x.dead.example"),
      ({ kind, code }) => kind === "failure" && code === "dns",
    );
    server.script = () => undefined;
    const asked = server.asked.length;
    const second = outcomeOf(resolver, "x.dead2.example");
    await eventually(
      () => server.asked.slice(asked),
      (names) => names.includes("A a.example"), // which is asked in vain
    );
    expect(resolver.unresolved("x.dead2.example")).toEqual({ kind: "fault", code: "resolver" });
    expect(await Promise.race([dead, second, "none is over"])).toBe("none is over");
  });
});

describe.concurrent("many names", () => {
  const healthy = v4("192.0.2.1");

  test.serial("of one healthy domain are not held back: 5,000 within five seconds", async () => {
    using server = await startNameServer(healthy);
    const resolver = resolverOf([server]);
    const { value, ms } = await timed(async () => {
      const found = await Promise.all(
        Array.from({ length: 10 }, async (_, lane) => {
          let good = 0;
          for (let i = 0; i < 500; i += 100) {
            const names = Array.from({ length: 100 }, (_, j) => `n${lane}-${i + j}.wild.example`);
            good += (await Promise.all(names.map((name) => outcomeOf(resolver, name)))).filter(Array.isArray).length;
          }
          return good;
        }),
      );
      return found.reduce((sum, each) => sum + each, 0);
    });
    expect(value).toBe(5_000);
    expect(ms).toBeLessThan(5_000);
  });

  test("of a dead domain wait in line, and take no place from the others", async () => {
    using server = await startNameServer(deadBeside(healthy));
    const resolver = resolverOf([server], { resolvConf: QUICK });
    const startedAt = performance.now();
    const dead = Array.from({ length: 2_000 }, (_, i) => outcomeOf(resolver, `n${i}.dead.example`));
    for (let i = 0; i < 50; i++) {
      const { value, ms } = await timed(() => outcomeOf(resolver, `n${i}.healthy.example`));
      expect(value).toEqual(["192.0.2.1"]);
      expect(ms).toBeLessThan(500); // well below the second that the dead ones take
    }
    const rounds = 1 + Math.floor((performance.now() - startedAt) / 1_000); // one, unless the machine is very busy
    expect(server.asked.filter((each) => each.includes("dead")).length).toBeLessThanOrEqual(200 * rounds);
    const outcomes = new Set(await Promise.all(dead));
    expect([...outcomes].sort()).toEqual([DNS, "fault resources"]); // asked in vain; not even asked
  });

  test("that were dead the last time leave places in their domain to the others", async () => {
    using server = await startNameServer(deadBeside(healthy));
    const { now, pass } = movableClock();
    const resolver = resolverOf([server], { resolvConf: QUICK }, { now });
    const names = Array.from({ length: 100 }, (_, i) => `dead${i}.shared.example`);
    await Promise.all(names.map((name) => outcomeOf(resolver, name)));
    pass(3_000); // then they are asked for again
    const asked = server.asked.length;
    const again = names.map((name) => outcomeOf(resolver, name));
    const { value, ms } = await timed(() => outcomeOf(resolver, "live.shared.example"));
    expect(value).toEqual(["192.0.2.1"]);
    expect(ms).toBeLessThan(500); // well below the second that the dead ones take
    expect(server.asked.length - asked).toBeLessThanOrEqual(2 * 8 + 2);
    expect(new Set(await Promise.all(again))).toEqual(new Set([DNS])); // also those that were not asked for
  });

  test("of many dead domains do not use up the places: the oldest give way", async () => {
    using server = await startNameServer(deadBeside(healthy));
    const resolver = resolverOf([server], { resolvConf: "options timeout:5 attempts:2" });
    const dead = Array.from({ length: 1_024 }, (_, i) => outcomeOf(resolver, `a.dead${i}.example`));
    await Bun.sleep(700);
    const { value, ms } = await timed(() => outcomeOf(resolver, "live.example"));
    expect(value).toEqual(["192.0.2.1"]);
    expect(ms).toBeLessThan(500); // well below the second that the dead ones take
    expect(await Promise.race(dead)).toBe(DNS);
  });
});
