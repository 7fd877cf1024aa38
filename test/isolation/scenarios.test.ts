/** What isolation promises in situations with names, in virtual time: bench/isolation.ts measures them in real time. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { Scenario } from "./scenarios.ts";
import { TIMEOUT_MS } from "./world.ts";

setDefaultTimeout(120_000); // each keeps a core busy for a second or two, on a machine that may be busy

const DEAD = TIMEOUT_MS;
const MANY = 20_000;

describe("healthy endpoints that nobody knows", () => {
  test("get a broadcast to 20,000 of them no slower than from a plain worker with as many slots", async () => {
    const scenario = new Scenario();
    scenario.batch(0, MANY, (i) => {
      return { endpoint: scenario.endpoint("one.example", `${i}`, 200), user: `u${i}`, mark: "broadcast" };
    });
    const { delivered, lastAt } = (await scenario.run(60_000))("broadcast");
    expect(delivered).toBe(MANY);
    expect(lastAt).toBeLessThan((MANY * 200) / 256);
  });

  test("do not wait for others of a large population that take their time", async () => {
    const scenario = new Scenario();
    scenario.stream(200, 0, 20_000, (i) => {
      const n = (i * 7_919) % MANY;
      return { endpoint: scenario.endpoint("one.example", `${n}`, 900), user: `u${n}`, mark: "population" };
    });
    const { sent, delivered, p99 } = (await scenario.run(25_000))("population");
    expect(delivered).toBe(sent);
    expect(p99).toBeLessThan(50);
  });

  test("are tried at once beside a host with thousands of silent paths", async () => {
    const scenario = new Scenario();
    scenario.away("provider.example", { outages: [[0, Number.MAX_SAFE_INTEGER]] });
    scenario.healthy(40_000);
    scenario.newcomers(20, 0, 40_000);
    scenario.stream(100, 0, 40_000, (i) => {
      return { endpoint: scenario.endpoint("provider.example", `${i}`, 5), user: `d${i}`, mark: "dead" };
    });
    const report = await scenario.run(45_000);
    for (const mark of ["new", "healthy"]) {
      const { sent, delivered, p99 } = report(mark);
      expect(delivered).toBe(sent);
      expect(p99).toBeLessThan(50);
    }
  });

  test("are tried at once beside a thousand dead hosts, and beside two hundred dead paths of their own host", async () => {
    const scenario = new Scenario();
    scenario.newcomers(20, 0, 40_000);
    scenario.newcomers(20, 0, 40_000, () => "shared.example");
    scenario.stream(200, 0, 40_000, (i) => {
      const n = (i * 7_919) % 1_000;
      return { endpoint: scenario.endpoint(`dead-${n}.example`, "x", DEAD), user: `d${n}`, mark: "dead" };
    });
    scenario.stream(100, 0, 40_000, (i) => {
      const n = i % 200;
      return { endpoint: scenario.endpoint("shared.example", `dead/${n}`, DEAD), user: `s${n}`, mark: "dead" };
    });
    const { sent, delivered, p99 } = (await scenario.run(45_000))("new");
    expect(delivered).toBe(sent);
    expect(p99).toBeLessThan(100);
  });
});

describe("a healthy path on a shared origin", () => {
  test("gets every event at once, however many silent paths another user has there", async () => {
    const scenario = new Scenario();
    scenario.stream(1, 0, 600_000, (i) => {
      return { endpoint: scenario.endpoint("shared.example", `m/${i % 5}`, DEAD), user: "m", mark: "dead" };
    });
    scenario.stream(1 / 30, 15_000, 600_000, () => {
      return { endpoint: scenario.endpoint("shared.example", "h", 20), user: "h", mark: "healthy" };
    });
    const { sent, delivered, p99 } = (await scenario.run(600_000))("healthy");
    expect({ sent, delivered }).toEqual({ sent: 20, delivered: 20 });
    expect(p99).toBeLessThan(50);
  });

  test("is found again by its own user's probe, though others' silence closed the origin", async () => {
    const scenario = new Scenario();
    scenario.stream(10, 0, 120_000, (i) => {
      return { endpoint: scenario.endpoint("shared.example", `m/${i}`, DEAD), user: `m${i % 2}`, mark: "dead" };
    });
    scenario.stream(1, 30_000, 120_000, () => {
      return { endpoint: scenario.endpoint("shared.example", "h", 20), user: "h", mark: "healthy" };
    });
    const { sent, delivered } = (await scenario.run(125_000))("healthy");
    expect(delivered).toBe(sent);
    const late = scenario.simulation.deliveries.filter(({ job }) => job.user === "h" && job.addedAt > 60_000);
    expect(Math.max(...late.map(({ latencyMs }) => latencyMs))).toBeLessThan(50);
  });
});

describe("one user's events", () => {
  test("to an endpoint at three quarters of its pace: those of a burst do not wait for the ones that come after them", async () => {
    const scenario = new Scenario();
    const mark = (mark: string) => () => ({
      endpoint: scenario.endpoint("busy.example", "x", 300),
      user: "busy",
      mark,
    });
    scenario.batch(0, 800, mark("burst")); // at 213 a second, with 64 attempts at once
    scenario.stream(160, 0, 40_000, mark("later"));
    const report = await scenario.run(50_000);
    const { sent, delivered, p99, lastAt } = report("burst");
    expect(delivered).toBe(sent);
    expect(p99).toBeLessThan(7_000);
    expect(lastAt).toBeLessThan(10_000);
    expect(report("later").delivered).toBe(report("later").sent);
  });

  test.each([
    ["20,000 to quick paths of its own", 1],
    ["20,000 to paths that take 300 ms", 300],
    ["20,000 to dead hosts", DEAD],
  ])("(%s) do not slow others", async (_, answerMs) => {
    const scenario = new Scenario();
    scenario.healthy(12_000);
    scenario.batch(1_500, MANY, (i) => {
      const origin = answerMs === DEAD ? `dead-${i}.example` : "busy.example";
      return { endpoint: scenario.endpoint(origin, `${i}`, answerMs), user: "busy", mark: "busy" };
    });
    const { sent, delivered, p99 } = (await scenario.run(15_000))("healthy");
    expect(delivered).toBe(sent);
    expect(p99).toBeLessThan(110); // the bench has the real figure: here one core does it all, one after the other
  });

  test("of whoever enqueues to another's URL do not fill the other's line", async () => {
    const scenario = new Scenario();
    const shared = scenario.endpoint("shared.example", "in", 100);
    scenario.batch(1_000, 5_000, () => ({ endpoint: shared, user: "m", mark: "flood" }));
    scenario.stream(1, 0, 30_000, () => ({ endpoint: shared, user: "h", mark: "healthy" }));
    const { sent, delivered, p99 } = (await scenario.run(35_000))("healthy");
    expect(delivered).toBe(sent);
    expect(p99).toBeLessThan(1_000);
  });
});

test("one hot endpoint with 10,000 events of 500 users does not slow others", async () => {
  const scenario = new Scenario();
  scenario.healthy(12_000);
  const hot = scenario.endpoint("hot.example", "in", 50);
  scenario.batch(1_500, 10_000, (i) => ({ endpoint: hot, user: `u${i % 500}`, mark: "hot" }));
  const report = await scenario.run(30_000);
  expect(report("healthy").p99).toBeLessThan(75);
  expect(report("hot").delivered).toBe(10_000);
});

test("a broadcast to 20,000 hosts of which a tenth is dead reaches the others, and slows no traffic beside it", async () => {
  const scenario = new Scenario();
  scenario.healthy(20_000);
  scenario.batch(2_000, MANY, (i) => {
    const isDead = i % 10 === 0;
    const endpoint = scenario.endpoint(`b${i}.example`, "x", isDead ? DEAD : 200);
    return { endpoint, user: `u${i}`, mark: isDead ? "dead" : "broadcast" };
  });
  const report = await scenario.run(30_000);
  expect(report("broadcast").delivered).toBe(MANY * 0.9);
  expect(report("broadcast").lastAt).toBeLessThan(17_000);
  expect(report("healthy").delivered).toBe(2_000);
});

describe("endpoints that answer slowly", () => {
  test("get what they can take: 200 of 5 s each, 400 events a second", async () => {
    const scenario = new Scenario();
    scenario.healthy(20_000);
    scenario.stream(400, 0, 20_000, (i) => {
      const n = i % 200;
      return { endpoint: scenario.endpoint("slow.example", `${n}`, 5_000), user: `s${n}`, mark: "slow" };
    });
    const report = await scenario.run(40_000);
    expect(report("slow").delivered).toBe(8_000);
    expect(report("healthy").p99).toBeLessThan(50);
  });
});

describe("other traffic does not notice", () => {
  test.each([
    ["20 dead endpoints", 20, DEAD],
    ["50 dead endpoints", 50, DEAD],
    ["20 slow endpoints", 20, 2_000],
  ])("%s", async (_, count, answerMs) => {
    const scenario = new Scenario();
    scenario.healthy(20_000, 115);
    scenario.stream(115, 0, 20_000, (i) => {
      const n = i % count;
      return { endpoint: scenario.endpoint("healthy.example", `other/${n}`, answerMs), user: `o${n}`, mark: "other" };
    });
    const { sent, delivered, p99 } = (await scenario.run(23_000))("healthy");
    expect(delivered).toBe(sent);
    expect(p99).toBeLessThan(20);
  });

  test.each([
    ["one dead endpoint", 1, DEAD],
    ["one slow endpoint", 1, 2_000],
    ["fifty dead endpoints", 50, DEAD],
    ["fifty slow endpoints", 50, 2_000],
  ])("a backlog of 10,000 that is for nine tenths of %s", async (_, count, answerMs) => {
    const scenario = new Scenario();
    scenario.batch(0, MANY / 2, (i) => {
      const n = i % count;
      const other = {
        endpoint: scenario.endpoint("healthy.example", `other/${n}`, answerMs),
        user: `o${n}`,
        mark: "other",
      };
      const well = {
        endpoint: scenario.endpoint("healthy.example", `${i % 20}`, 1),
        user: `healthy-${i % 20}`,
        mark: "old",
      };
      return i % 10 === 0 ? well : other;
    });
    scenario.healthy(12_000, 115);
    const report = await scenario.run(20_000);
    expect(report("old").delivered).toBe(1_000);
    expect(report("old").lastAt).toBeLessThan(5_000);
    expect(report("healthy").p99).toBeLessThan(1_000);
  });

  test("more dead URLs than a worker remembers", async () => {
    const scenario = new Scenario();
    scenario.healthy(100_000, 20);
    scenario.stream(300, 5_000, 80_000, (i) => {
      return { endpoint: scenario.endpoint(`dead-${i}.example`, "x", DEAD), user: `d${i % 100}`, mark: "dead" };
    });
    const { sent, delivered, p99 } = (await scenario.run(105_000))("healthy");
    expect(delivered).toBe(sent);
    expect(p99).toBeLessThan(20);
  });

  test("name servers that stay silent for the names of one customer", async () => {
    const scenario = new Scenario();
    for (let n = 0; n < 5; n++) {
      scenario.away(`lost-${n}.example`, { nameOutages: [[0, Number.MAX_SAFE_INTEGER]] });
    }
    scenario.healthy(60_000);
    scenario.stream(1, 0, 60_000, (i) => {
      return { endpoint: scenario.endpoint(`lost-${i % 5}.example`, "x", 1), user: "lost", mark: "lost" };
    });
    const { sent, delivered, p99 } = (await scenario.run(65_000))("healthy");
    expect(delivered).toBe(sent);
    expect(p99).toBeLessThan(20);
  });
});

test("an endpoint that answers 429 with Retry-After is left alone for that time, and comes back spread out", async () => {
  const scenario = new Scenario();
  const sentAt: number[] = [];
  const busy = scenario.endpoint("busy.example", "in", 5, (nowMs) => {
    sentAt.push(nowMs);
    return nowMs < 30_000 ? 429 : 200;
  });
  scenario.batch(1_000, 400, () => ({ endpoint: busy, user: "u", mark: "busy" }));
  await scenario.run(120_000);
  const first = sentAt.filter((ms) => ms < 60_000);
  const second = sentAt.filter((ms) => ms > 61_000);
  expect(first.length).toBeLessThanOrEqual(5);
  expect(second).toHaveLength(400);
  for (let from = 61_000; from < 66_000; from += 10) {
    expect(second.filter((ms) => ms >= from && ms < from + 10).length).toBeLessThanOrEqual(64);
  }
});
