import { expect, test } from "bun:test";
import { ParkedTurns } from "../src/parked-turns.ts";

/** All spans, in order. */
function spansOf(turns: ParkedTurns) {
  const spans = [];
  for (let span = turns.after(0); span !== undefined; span = turns.after(span.last)) spans.push(span);
  return spans;
}

function turnsAt(...spans: [first: number, last: number][]): ParkedTurns {
  const turns = new ParkedTurns();
  for (const [first, last] of spans) turns.add({ first, last }, 0);
  return turns;
}

test("turns that are near each other are one span, in whatever order they were given out", () => {
  const turns = turnsAt([90_000, 95_000], [10_000, 20_000], [20_500, 30_000], [15_000, 16_000], [60_000, 60_000]);
  expect(spansOf(turns)).toEqual([
    { first: 10_000, last: 30_000 },
    { first: 60_000, last: 60_000 },
    { first: 90_000, last: 95_000 },
  ]);
});

test("the next span is the first that ends after a time", () => {
  const turns = turnsAt([10_000, 20_000], [60_000, 60_000]);
  expect(turns.after(15_000)).toEqual({ first: 10_000, last: 20_000 });
  expect(turns.after(20_000)).toEqual({ first: 60_000, last: 60_000 });
  expect(turns.after(60_000)).toBeUndefined();
});

test("a span is dropped, and nothing else; what is left of it may come back", () => {
  const turns = turnsAt([10_000, 20_000], [60_000, 60_000]);
  const [first] = spansOf(turns);
  if (first === undefined) throw new Error("expected a span");
  turns.drop(first);
  turns.drop({ first: 60_000, last: 60_000 }); // it never gave that one
  expect(spansOf(turns)).toEqual([{ first: 60_000, last: 60_000 }]);
  turns.add({ first: 15_000, last: 20_000 }, 0);
  expect(spansOf(turns)).toEqual([
    { first: 15_000, last: 20_000 },
    { first: 60_000, last: 60_000 },
  ]);
});

test("there are eight at the most; none of the turns is forgotten", () => {
  const turns = new ParkedTurns();
  for (let index = 1; index <= 1_000; index++) turns.add({ first: index * 10_000, last: index * 10_000 + 5 }, 0);
  const spans = spansOf(turns);
  expect(spans).toHaveLength(8);
  expect(spans[0]).toEqual({ first: 10_000, last: 10_005 });
  expect(spans[7]).toEqual({ first: 80_000, last: 10_000_005 });
});

test("those whose time has come make room for others", () => {
  const turns = new ParkedTurns();
  for (let index = 1; index <= 1_000; index++)
    turns.add({ first: index * 10_000, last: index * 10_000 + 5 }, index * 10_000);
  turns.add({ first: 20_000_000, last: 20_000_005 }, 10_000_000);
  expect(spansOf(turns)).toEqual([
    { first: 10_000_000, last: 10_000_005 },
    { first: 20_000_000, last: 20_000_005 },
  ]);
});
