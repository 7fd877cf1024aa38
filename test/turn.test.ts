import { expect, test } from "bun:test";
import { perTurn } from "../src/turn.ts";

test("what is given in one turn is handed on together, in order, and nothing twice", async () => {
  const handedOn: number[][] = [];
  const { add: give, flush } = perTurn<number>((items) => void handedOn.push(items));
  give(1);
  await Promise.resolve().then(() => give(2)); // a microtask is of the same turn
  give(3);
  expect(handedOn).toEqual([]);
  await new Promise(setImmediate);
  expect(handedOn).toEqual([[1, 2, 3]]);
  give(4);
  await new Promise(setImmediate);
  await new Promise(setImmediate);
  expect(handedOn).toEqual([[1, 2, 3], [4]]);
  give(5);
  flush();
  flush();
  expect(handedOn).toEqual([[1, 2, 3], [4], [5]]);
  await new Promise(setImmediate);
  expect(handedOn).toHaveLength(3);
});
