import { expect, test } from "bun:test";
import { formatAgo, formatDuration, formatExact, formatIn, formatSpan } from "../src/operations/moments.ts";

test.each<[number, string]>([
  [0, "0 ms"],
  [41.4, "41 ms"],
  [999, "999 ms"],
  [1_000, "1 s"],
  [1_249, "1.2 s"],
  [9_960, "10 s"],
  [10_000, "10 s"],
  [61_400, "61 s"],
])("%p ms took %s", (ms, text) => {
  expect(formatDuration(ms)).toBe(text);
});

test.each<[number, string]>([
  [-5, "0 s"],
  [12_900, "12 s"],
  [60_000, "1 min"],
  [3_599_999, "59 min"],
  [3_600_000, "1 h"],
  [47 * 3_600_000, "47 h"],
  [48 * 3_600_000, "2 days"],
])("%p ms are %s", (ms, text) => {
  expect(formatSpan(ms)).toBe(text);
});

test("what is less than a second away has no figure", () => {
  expect([formatAgo(-1), formatAgo(999), formatAgo(1_000)]).toEqual(["just now", "just now", "1 s ago"]);
  expect([formatIn(-1), formatIn(999), formatIn(240_000)]).toEqual(["in a moment", "in a moment", "in 4 min"]);
});

test("an exact moment is in UTC, and nothing for what is none", () => {
  expect(formatExact(0)).toBe("1970-01-01 00:00:00.000 UTC");
  expect([formatExact(Number.NaN), formatExact(1e300)]).toEqual(["", ""]);
});
