import { describe, expect, test } from "bun:test";
import { dealOut, firstTurn, type Line, turnsOf } from "../src/line.ts";

const line = { startAt: 1_000, from: 2_000, spacingMs: 100, horizonAt: 10_000 };

describe("the first turn of a line", () => {
  test.each([
    [0, 2_000],
    [0.5, 2_050],
    [0.999, 2_100],
  ])("is the next one, give or take a spacing (random %p)", (random, expected) => {
    expect(firstTurn(line, () => random)).toBe(expected);
  });

  test("may be the horizon itself", () => {
    expect(firstTurn({ ...line, from: 10_000, spacingMs: 0 }, () => 0.9)).toBe(10_000);
  });

  test.each([
    [0, 5_500],
    [0.5, 7_750],
    [0.999, 9_996],
  ])("after the horizon is one in the second half of the way there (random %p)", (random, expected) => {
    expect(firstTurn({ ...line, from: 10_001 }, () => random)).toBe(expected);
  });

  test("is a whole number of milliseconds, and never before the line begins", () => {
    for (let i = 0; i < 1_000; i++) {
      const startAt = Math.random() * 1e12;
      const from = startAt + Math.random() * 1e6;
      const horizonAt = startAt + Math.random() * 1e6;
      const turn = firstTurn({ startAt, from, horizonAt, spacingMs: Math.random() * 1e4 }, Math.random);
      expect(Number.isInteger(turn)).toBe(true);
      expect(turn).toBeGreaterThanOrEqual(startAt);
      expect(turn).toBeLessThanOrEqual(Math.ceil(horizonAt));
    }
  });
});

describe("all turns of a line", () => {
  test.each([
    [1, 2_000, 2_000],
    [11, 2_000, 3_000],
    [81, 2_000, 10_000],
    [82, 2_000, 10_000], // the last is spread out: it may be anywhere in the second half
  ])("%i of them", (count, first, last) => {
    expect(turnsOf(line, count)).toEqual({ first, last });
  });

  test("lie within what is said of them, also where the line begins within a millisecond", () => {
    expect(turnsOf({ ...line, from: 2_000.9 }, 1).first).toBe(2_000);
    expect(turnsOf({ ...line, startAt: 1_000.5, from: 20_000 }, 5)).toEqual({ first: 5_500, last: 10_000 });
  });
});

describe("lines that are joined together", () => {
  const ownedBy = (owner: object, log: number[] = []): Line => ({
    ...line,
    owner,
    joined: (count) => void log.push(count),
  });

  test("are left as they are where each has an owner of its own", () => {
    const lines = [ownedBy({}), ownedBy({})];
    for (const { from, spacingMs } of dealOut(lines)) expect([from, spacingMs]).toEqual([2_000, 100]);
  });

  test("deal the turns of one and the same out in rounds, and are as much longer as the last of them says", () => {
    const joined: number[] = [];
    const [crowd, other] = [{}, {}];
    const dealt = dealOut([ownedBy(crowd, joined), ownedBy(other), ownedBy(crowd, joined), ownedBy(crowd, joined)]);
    expect(dealt.map(({ from, spacingMs }) => [from, spacingMs])).toEqual([
      [2_000, 300],
      [2_000, 100],
      [2_100, 300],
      [2_200, 300],
    ]);
    for (const [i, count] of [1, 1, 5, 2].entries()) dealt[i]?.joined(count);
    expect(joined).toEqual([1, 14, 6]); // the turns at 2,000, 3,300 and 2,500
  });
});
