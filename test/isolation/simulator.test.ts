/**
 * The policy under a simulator: whatever comes in whatever order, its promises hold at every step (judge.ts says which), and
 * bugs that are put in on purpose are found.
 *
 * A seed that fails prints itself; `bun test/isolation/simulate.ts --seed N` runs it again, step by step the same.
 */
import { describe, expect, test } from "bun:test";
import { PLANTED_BUGS } from "./planted-bugs.ts";
import { failuresOfSeeds, runAtRandom } from "./random-run.ts";

const SEEDS = 300; // more of them: simulator.long.ts
const MAX_SEEDS = 1_000; // in which a planted bug must be found
const PATIENCE_MS = 120_000; // beside whatever else runs: alone, all of this takes a few seconds

test(
  `keeps its promises in ${SEEDS.toLocaleString("en")} runs at random, of 1 to 20,000 endpoints`,
  async () => {
    expect(await failuresOfSeeds(0, SEEDS)).toEqual([]);
  },
  PATIENCE_MS,
);

test("a seed replays exactly", async () => {
  const played = async () => {
    const { simulation } = await runAtRandom({ seed: 7 });
    const { timeline, parked, deliveries } = simulation;
    return { steps: timeline.steps, parked, times: deliveries.map(({ job, latencyMs }) => [job.id, latencyMs]) };
  };
  const [first, second] = [await played(), await played()];
  expect(first.times.length).toBeGreaterThan(0);
  expect(second).toEqual(first);
});

describe("a planted bug is found", () => {
  test.each(PLANTED_BUGS.map((bug) => [bug.name, bug] as const))(
    "%s",
    async (_, { plant, options }) => {
      const remove = plant();
      try {
        let found: unknown;
        for (let seed = 0; seed < MAX_SEEDS && found === undefined; seed++) {
          await runAtRandom({ seed, maxEndpoints: 500, ...options }).catch((error) => {
            found = error;
          });
        }
        expect(found).toBeInstanceOf(Error);
      } finally {
        remove();
      }
    },
    PATIENCE_MS,
  );
});
