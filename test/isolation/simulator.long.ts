/** The policy under a simulator, in more runs than `simulator.test.ts` has time for. */
import { expect, test } from "bun:test";
import { failuresOfSeeds } from "./random-run.ts";

const SEEDS = 3_000;

test(`the policy keeps its promises in ${SEEDS.toLocaleString("en")} more runs at random`, async () => {
  expect(await failuresOfSeeds(300, 300 + SEEDS)).toEqual([]);
}, 600_000);
