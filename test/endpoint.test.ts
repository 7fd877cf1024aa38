import { describe, expect, test } from "bun:test";
import { Endpoint } from "../src/endpoint.ts";
import type { Outcome } from "../src/outcome.ts";

const BOUND = 64;
const answer = (durationMs: number, status = 200): Outcome => ({
  kind: "response",
  status,
  retryAfter: undefined,
  durationMs,
});
const silence: Outcome = { kind: "failure", code: "timeout", durationMs: 10_000 };

/** What is left of an endpoint's limit after these, one after the other. */
function limitAfter(outcomes: readonly Outcome[], endpoint = new Endpoint()): number {
  for (const outcome of outcomes) endpoint.learn(outcome, BOUND, 0);
  return endpoint.limit;
}
const times = (count: number, outcome: Outcome): Outcome[] => Array(count).fill(outcome);

describe("the limit of an endpoint", () => {
  test("starts small, grows with each quick answer, and ends at its bound", () => {
    const start = limitAfter([]);
    expect(start).toBeGreaterThanOrEqual(1);
    expect(start).toBeLessThan(BOUND / 2);
    expect(limitAfter([answer(5)])).toBeGreaterThan(start);
    expect(limitAfter(times(1_000, answer(5)))).toBe(BOUND);
  });

  test.each([400, 401, 404, 410, 429, 301, 799])("grows with an answer of %p too: it came quickly", (status) => {
    expect(limitAfter([answer(5, status)])).toBeGreaterThan(limitAfter([]));
  });

  test("does not grow with quick errors of the receiver's own", () => {
    expect(limitAfter(times(100, answer(5, 503)))).toBeLessThanOrEqual(limitAfter([]));
  });

  test("shrinks to a share of the bound with slow answers, and no further", () => {
    const grown = times(1_000, answer(5));
    const limits = [1, 10, 100, 1_000].map((count) => limitAfter([...grown, ...times(count, answer(9_000))]));
    expect(limits).toEqual(limits.toSorted((a, b) => b - a));
    expect(limits[0]).toBeLessThan(BOUND);
    expect(limits.at(-1)).toBeLessThanOrEqual(BOUND / 2);
    expect(limits.at(-1)).toBeGreaterThanOrEqual(1);
  });

  test("shrinks faster with silence, down to one", () => {
    const grown = times(1_000, answer(5));
    expect(limitAfter([...grown, silence])).toBeLessThan(limitAfter([...grown, answer(9_000)]));
    expect(limitAfter([...grown, ...times(100, silence)])).toBe(1);
  });

  test("shrinks, and the circuit opens, when no resolver answers for its name: a fault, but slots are held as long", () => {
    const unresolved: Outcome = { kind: "fault", code: "resolver", durationMs: 9_000 };
    expect(limitAfter([...times(1_000, answer(5)), ...times(100, unresolved)])).toBe(1);
    const endpoint = new Endpoint();
    for (const outcome of times(5, unresolved)) endpoint.learn(outcome, BOUND, 0);
    expect(endpoint.breaker.isOpen).toBe(true);
  });

  test("is the same after what says nothing about the endpoint", () => {
    const nothing: Outcome[] = [
      { kind: "fault", code: "resources", durationMs: 9_000 },
      { kind: "fault", code: "shutdown", durationMs: 9_000 },
      { kind: "blocked", range: "private", durationMs: 0 },
    ];
    expect(limitAfter(nothing)).toBe(limitAfter([]));
  });

  test("stays between one and its bound, whatever comes", () => {
    const all = [answer(1), answer(9_000), answer(1, 500), answer(9_000, 500), silence];
    for (const bound of [1, 2, 5, 64, 10_000]) {
      const endpoint = new Endpoint();
      for (let i = 0; i < 5_000; i++) {
        endpoint.learn(all[Math.floor(Math.random() * all.length)] as Outcome, bound, i);
        expect(endpoint.limit).toBeGreaterThanOrEqual(1);
        expect(endpoint.limit).toBeLessThanOrEqual(Math.max(bound, 4)); // 4: what an unknown one starts with
      }
    }
  });
});

describe("the line of an endpoint", () => {
  test("has turns one after the other, none before its time", () => {
    const endpoint = new Endpoint();
    endpoint.took(100, 0);
    let last = 0;
    for (let i = 0; i < 100; i++) {
      const line = endpoint.line("fresh", 4, 1_000);
      expect(line.from).toBeGreaterThanOrEqual(1_000);
      expect(line.from).toBeGreaterThan(last);
      last = line.from;
      line.joined(1);
    }
    // Little's law: 100 attempts of 100 ms, four at a time, take 2.5 s.
    expect(last - 1_000).toBeCloseTo(2_500, 0);
  });

  test("is as long for many at once as for as many one by one", () => {
    const [one, many] = [new Endpoint(), new Endpoint()];
    for (let i = 0; i < 50; i++) one.line("fresh", 4, 0).joined(1);
    many.line("fresh", 4, 0).joined(50);
    expect(many.line("fresh", 4, 0).from).toBeCloseTo(one.line("fresh", 4, 0).from, 3);
  });

  test("has those in front that have had a turn in vain", () => {
    const endpoint = new Endpoint();
    endpoint.line("fresh", 4, 0).joined(1_000);
    expect(endpoint.line("again", 4, 0).from).toBeLessThan(endpoint.line("fresh", 4, 0).from / 10);
  });

  test("goes at the endpoint's pace: slower after slow answers", () => {
    const [quick, slow] = [new Endpoint(), new Endpoint()];
    for (let i = 0; i < 50; i++) quick.took(10, 0);
    for (let i = 0; i < 50; i++) slow.took(2_000, 0);
    const spacings = [quick, slow].map((endpoint) => endpoint.line("fresh", 1, 5_000).spacingMs);
    expect(spacings[0]).toBeLessThan(20);
    expect(spacings[1]).toBeGreaterThan(1_500);
  });

  test("begins half a second off while there is no first answer, which would call them forward", () => {
    const endpoint = new Endpoint();
    endpoint.started(1_000);
    expect(endpoint.line("fresh", 4, 1_010).from).toBe(1_515);
    expect(endpoint.line("again", 4, 2_000).from).toBeGreaterThan(2_900); // by then it has been silent for longer than that
    endpoint.took(10, 2_000);
    expect(endpoint.line("fresh", 4, 2_000).from).toBeLessThan(2_010);
  });

  test("that has not answered yet goes at the pace of what it has taken so far, if that is more than expected", () => {
    const endpoint = new Endpoint();
    const spacingAt = (nowMs: number) => endpoint.line("fresh", 4, nowMs).spacingMs;
    expect(spacingAt(9_000)).toBe(5); // nothing is in flight
    endpoint.started(10_000);
    expect(spacingAt(10_001)).toBe(5);
    expect(spacingAt(12_000)).toBe(500);
    endpoint.took(2_000, 12_000);
    expect(spacingAt(13_000)).toBe(500); // from now on at its own
  });

  test("is put off by a silence, for as long as that has lasted, and not stretched by it", () => {
    const endpoint = new Endpoint();
    for (let i = 0; i < 50; i++) endpoint.took(10, 0);
    endpoint.started(0);
    const { from, spacingMs } = endpoint.line("fresh", 1, 5_000);
    expect(from).toBeGreaterThan(9_900);
    expect(from).toBeLessThan(10_100);
    expect(spacingMs).toBeLessThan(20);
    expect(endpoint.waitMs(1, 1, 5_000)).toBeGreaterThan(4_900); // no reason to wait here for its next answer
    endpoint.took(10, 5_000);
    expect(endpoint.waitMs(1, 1, 5_000)).toBeLessThan(20);
  });
});
