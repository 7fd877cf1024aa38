/**
 * Run many seeds, or one again.
 *
 *   bun test/isolation/simulate.ts [--seeds 10000] [--from 0] [--seed N]
 *
 * Prints each seed that fails, with what was found, and exits with 1 if there was one.
 */
import { parseArgs } from "node:util";
import { runAtRandom } from "./random-run.ts";

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "10000" },
    from: { type: "string", default: "0" },
    seed: { type: "string" },
  },
});
const from = Number(values.seed ?? values.from);
const count = values.seed === undefined ? Number(values.seeds) : 1;
const startedAt = performance.now();
let failures = 0;
let steps = 0;
let parked = 0;
for (let seed = from; seed < from + count; seed++) {
  try {
    const { simulation, endpoints, jobs } = await runAtRandom({ seed });
    steps += simulation.timeline.steps;
    parked += simulation.parked;
    if (values.seed !== undefined) console.log({ seed, endpoints, jobs, steps, parked });
  } catch (error) {
    failures += 1;
    console.error(`seed ${seed}: ${values.seed === undefined ? (error as Error).message : (error as Error).stack}`);
  }
}
const seconds = (performance.now() - startedAt) / 1000;
console.log(
  `${count} seeds, ${failures} failed, ${steps} steps, ${parked} jobs parked, ${seconds.toFixed(1)} s, ${Math.round(count / seconds)} seeds/s`,
);
process.exit(failures > 0 ? 1 : 0);
