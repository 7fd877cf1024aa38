import { describe, expect, test } from "bun:test";
import { Breaker } from "../src/breaker.ts";
import { firstTurn } from "../src/line.ts";

const MINUTE_MS = 60 * 1000;
const HOUR_MS = 60 * MINUTE_MS;
const EPOCH_MS = 1_760_000_000_000;
const LATER_MS = EPOCH_MS + HOUR_MS;

/** An open circuit, and when it opened. */
function opened(nowMs = EPOCH_MS): { breaker: Breaker; failures: number } {
  const breaker = new Breaker();
  let failures = 0;
  for (; !breaker.isOpen && failures < 100; failures++) breaker.failed(nowMs);
  return { breaker, failures };
}

/** When the next probe may go, found by the first of the line. */
const probeAt = (breaker: Breaker, nowMs: number) => breaker.line(nowMs).startAt;

/** Join the line; the turn there, epoch ms. */
function join(breaker: Breaker, nowMs: number): number {
  const line = breaker.line(nowMs);
  line.joined(1);
  return firstTurn(line, Math.random);
}

describe("a circuit", () => {
  test("is closed at first, and opens after a few failures in a row", () => {
    expect(new Breaker().isOpen).toBe(false);
    const { failures } = opened();
    expect(failures).toBeGreaterThan(1);
    expect(failures).toBeLessThan(20);
  });

  test("does not open while answers come between the failures", () => {
    const { failures } = opened();
    const breaker = new Breaker();
    for (let i = 0; i < 50; i++) {
      for (let j = 1; j < failures; j++) breaker.failed(EPOCH_MS + i);
      breaker.succeeded();
    }
    expect(breaker.isOpen).toBe(false);
  });

  test("does not open by attempts that say nothing about the endpoint", () => {
    const breaker = new Breaker();
    for (let i = 0; i < 1_000; i++) breaker.undecided();
    expect(breaker.isOpen).toBe(false);
  });

  test("that is open lets nobody go until the probe is due, and then exactly one", () => {
    const nowMs = EPOCH_MS;
    const { breaker } = opened(nowMs);
    const dueAt = probeAt(breaker, nowMs);
    expect(dueAt).toBeGreaterThan(nowMs);
    expect([nowMs, dueAt - 1].map((at) => breaker.admit(at) > 0)).toEqual([false, false]);
    expect([dueAt, dueAt, dueAt + HOUR_MS].map((at) => breaker.admit(at) > 0)).toEqual([true, false, false]);
  });

  test("is closed by one answer, also of an attempt that went before it opened", () => {
    for (const isProbing of [true, false]) {
      const { breaker } = opened();
      if (isProbing) expect(breaker.admit(LATER_MS)).toBeGreaterThan(0);
      breaker.succeeded();
      expect(breaker.isOpen).toBe(false);
      breaker.failed(LATER_MS);
      expect(breaker.isOpen).toBe(false); // it counts from nothing again
    }
  });

  test("stays open for longer after each probe in vain, but not beyond a few minutes", () => {
    let nowMs = EPOCH_MS;
    const { breaker } = opened(nowMs);
    const pauses: number[] = [];
    for (let i = 0; i < 20; i++) {
      const dueAt = probeAt(breaker, nowMs);
      pauses.push(dueAt - nowMs);
      nowMs = dueAt;
      const probe = breaker.admit(nowMs);
      expect(probe).toBeGreaterThan(0);
      breaker.failed(nowMs, probe);
      expect(breaker.isOpen).toBe(true);
    }
    expect(pauses).toEqual(pauses.toSorted((a, b) => a - b));
    expect(pauses[1]).toBeGreaterThan(pauses[0] as number);
    expect(pauses.at(-1)).toBeLessThanOrEqual(5 * MINUTE_MS);
  });

  test("lets another probe go at once after one that said nothing about the endpoint", () => {
    const { breaker } = opened();
    const probe = breaker.admit(LATER_MS);
    expect(probe).toBeGreaterThan(0);
    breaker.undecided(probe);
    expect([LATER_MS, LATER_MS].map((at) => breaker.admit(at) > 0)).toEqual([true, false]);
  });

  test("is not held open for longer by attempts that went before it opened", () => {
    const { breaker } = opened();
    const dueAt = probeAt(opened().breaker, EPOCH_MS);
    for (let i = 0; i < 50; i++) breaker.failed(dueAt - 1);
    expect(breaker.admit(dueAt)).toBeGreaterThan(0);
  });

  test("does not take an old attempt's end for that of the probe under way", () => {
    const { breaker } = opened();
    const dueAt = probeAt(breaker, EPOCH_MS);
    const probe = breaker.admit(dueAt);
    breaker.failed(dueAt + 1);
    expect(breaker.admit(LATER_MS)).toBe(0); // the probe is still out
    breaker.undecided();
    expect(breaker.admit(LATER_MS)).toBe(0);
    expect(probeAt(breaker, EPOCH_MS)).toBe(dueAt);
    breaker.failed(LATER_MS, probe);
    expect(probeAt(breaker, LATER_MS)).toBeGreaterThan(LATER_MS);
  });

  test("does not take the probe of an earlier outage for its own", () => {
    const { breaker, failures } = opened();
    const earlier = breaker.admit(LATER_MS);
    breaker.succeeded();
    for (let i = 0; i < failures; i++) breaker.failed(LATER_MS);
    const dueAt = probeAt(breaker, LATER_MS);
    expect(breaker.admit(dueAt)).not.toBe(earlier);
    breaker.failed(dueAt, earlier);
    expect(probeAt(breaker, LATER_MS)).toBe(dueAt);
  });
});

describe("those who wait for an open circuit", () => {
  test("come back one by one: the first as the probe is due, nobody before", () => {
    const nowMs = EPOCH_MS;
    const { breaker } = opened(nowMs);
    const dueAt = probeAt(opened(nowMs).breaker, nowMs);
    const turns = Array.from({ length: 200 }, () => join(breaker, nowMs));
    expect(Math.min(...turns)).toBeGreaterThanOrEqual(dueAt);
    expect(turns[0]).toBeLessThanOrEqual(dueAt + 1_000);
    expect(turns.slice(1).every((turn) => turn > dueAt + 1_000)).toBe(true);
  });

  test("have a prober among them however often somebody asked for the line and then did not join it", () => {
    const nowMs = EPOCH_MS;
    const { breaker } = opened(nowMs);
    const dueAt = probeAt(breaker, nowMs);
    for (let i = 0; i < 10; i++) breaker.line(nowMs);
    expect(join(breaker, nowMs)).toBeLessThanOrEqual(dueAt + 1_000);
  });

  test("have a prober among them when others joined a line of the outage before", () => {
    const { breaker, failures } = opened();
    const old = breaker.line(EPOCH_MS);
    breaker.succeeded();
    for (let i = 0; i < failures; i++) breaker.failed(LATER_MS);
    old.joined(1);
    expect(join(breaker, LATER_MS)).toBeLessThanOrEqual(probeAt(breaker, LATER_MS) + 1_000);
  });

  test("are spread out further the longer the endpoint is away, 15 min at the most", () => {
    const widths: number[] = [];
    const { breaker } = opened();
    for (const awayMs of [1, 10, 60, 600, 6_000].map((minutes) => EPOCH_MS + minutes * MINUTE_MS)) {
      join(breaker, awayMs); // the prober
      const turns = Array.from({ length: 200 }, () => join(breaker, awayMs));
      widths.push(Math.max(...turns) - awayMs);
    }
    expect(widths[2]).toBeGreaterThan(widths[0] as number);
    expect(Math.max(...widths)).toBeLessThanOrEqual(15 * MINUTE_MS);
  });
});
