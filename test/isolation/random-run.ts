/** A run at random: how many workers, endpoints, hosts and users, what they do and when, all from one seed. */
import { type Chance, createChance } from "../support/chance.ts";
import { Simulation, type SimulationOptions } from "./simulator.ts";
import type { ModelEndpoint, ModelHost, Outages } from "./world.ts";

const MAX_ENDPOINTS = 20_000;
const MAX_JOBS = 800; // besides as many as 600
const MAX_HEAP = 300; // jobs that come at once
const NEVER: Outages = [];
const HOUR_MS = 60 * 60 * 1000;
const MAX_MS = 48 * HOUR_MS; // by then all is done, however slowly

export interface RunOptions {
  readonly seed: number;
  readonly maxEndpoints?: number;
  readonly isOnWallClock?: boolean;
  /** Endpoints that a worker remembers, whatever the seed says. */
  readonly capacity?: number;
}

/** What a run was, for those who look at it. */
export interface Run {
  readonly simulation: Simulation;
  readonly endpoints: number;
  readonly jobs: number;
}

/** From 1 to `max`, as often from 1 to 10 as from 10 to 100. */
function logUniform(chance: Chance, max: number): number {
  return Math.max(1, Math.round(Math.exp(chance.between(0, Math.log(max)))));
}

/** What the judges find in the runs of these seeds: at most three of them, each with what runs it again. */
export async function failuresOfSeeds(from: number, to: number): Promise<string[]> {
  const failures: string[] = [];
  for (let seed = from; seed < to && failures.length < 3; seed++) {
    await runAtRandom({ seed }).catch((error: Error) => {
      failures.push(`seed ${seed}: ${error.message}; bun test/isolation/simulate.ts --seed ${seed}`);
    });
  }
  return failures;
}

/** Build a run and let it go to its end; throws what a judge finds. */
export async function runAtRandom({
  seed,
  maxEndpoints = MAX_ENDPOINTS,
  isOnWallClock,
  capacity,
}: RunOptions): Promise<Run> {
  const chance = createChance(seed);
  const isOneIn = (n: number) => chance.between(0, n) < 1;
  const endpoints = logUniform(chance, maxEndpoints);
  const users = logUniform(chance, Math.max(2, endpoints));
  const spanMs = 1000 * logUniform(chance, 300);
  const hosts = Array.from({ length: logUniform(chance, Math.min(endpoints, 2_000)) }, (_, i) =>
    makeHost(chance, i, spanMs),
  );
  const deadUser = isOneIn(3) ? "u0" : undefined; // all of whose endpoints are dead
  const all = Array.from({ length: endpoints }, (_, i) => {
    const endpoint = makeEndpoint(chance, i, chance.pick(hosts), users, spanMs);
    return endpoint.users[0] === deadUser ? { ...endpoint, outages: [[-HOUR_MS, spanMs] as const] } : endpoint;
  });
  const slots = Math.max(logUniform(chance, 64), Math.ceil(endpoints / 200));
  const options: SimulationOptions = {
    chance,
    workers: isOneIn(3) ? Math.ceil(chance.between(1, 4)) : 1,
    slots,
    endpointSlots: logUniform(chance, slots),
    maxBytes: isOneIn(2) ? 256 * 1024 * 1024 : 1024 * (2_048 + logUniform(chance, 8_192)),
    capacity: capacity ?? (isOneIn(8) ? logUniform(chance, 1_000) : endpoints),
    endpoints,
    faultShare: isOneIn(4) ? 0.1 : 0,
    isOnWallClock,
  };
  const simulation = new Simulation(options);
  const jobs = logUniform(chance, 600) + Math.min(MAX_JOBS, logUniform(chance, endpoints));
  enqueue(simulation, chance, all, jobs, spanMs);
  if (isOneIn(4)) simulation.timeline.at(chance.between(0, spanMs), () => simulation.restart(0));
  if (isOneIn(3)) {
    const byMs = chance.pick([-HOUR_MS, -5_000, -500, 500, 5_000, HOUR_MS]);
    simulation.timeline.at(chance.between(0, spanMs), () => simulation.queue.stepClock(byMs));
  }
  await simulation.run(MAX_MS);
  simulation.finished();
  return { simulation, endpoints, jobs };
}

/** Jobs come one by one or in heaps, at random endpoints or at a favorite one. */
function enqueue(simulation: Simulation, chance: Chance, all: ModelEndpoint[], jobs: number, spanMs: number): void {
  const favorite = chance.pick(all);
  const sizes = chance.pick([[500], [500, 100_000], [500, 500, 1_000_000]]);
  const isHot = chance.between(0, 1) < 0.3;
  for (let left = jobs; left > 0; ) {
    const heap = Math.min(left, chance.between(0, 1) < 0.9 ? 1 : logUniform(chance, MAX_HEAP));
    const target = chance.between(0, 1) < 0.5 ? favorite : undefined;
    const made = Array.from({ length: heap }, () => {
      const endpoint = target !== undefined && (isHot || heap > 1) ? target : chance.pick(all);
      return { endpoint, user: chance.pick(endpoint.users), bytes: chance.pick(sizes) };
    });
    simulation.timeline.at(chance.between(0, spanMs), () => simulation.add(made));
    left -= heap;
  }
}

function makeOutages(chance: Chance, spanMs: number, oneIn: number): Outages {
  if (chance.between(0, oneIn) >= 1) return NEVER;
  const from = chance.between(-spanMs, spanMs);
  return [[from, from + chance.between(1_000, spanMs * 2 + 60_000)]];
}

function makeHost(chance: Chance, index: number, spanMs: number): ModelHost {
  return {
    origin: `https://h${index}.example`,
    outages: makeOutages(chance, spanMs, 6),
    nameOutages: makeOutages(chance, spanMs, 15),
    isRefusing: chance.between(0, 1) < 0.4,
  };
}

function makeEndpoint(chance: Chance, index: number, host: ModelHost, users: number, spanMs: number): ModelEndpoint {
  const kind = chance.pick(["quick", "quick", "quick", "slow", "flaky", "busy", "failing"] as const);
  const baseMs = kind === "slow" ? chance.between(500, 6_000) : logUniform(chance, 300);
  const owners = Array.from({ length: chance.between(0, 1) < 0.8 ? 1 : 3 }, (_, i) => `u${(index + i * 7) % users}`);
  const retryAfter = chance.pick([undefined, "1", "20", "120"]);
  return {
    key: `${host.origin}/in/${index}?tenant=${index}`,
    host,
    users: owners,
    outages: makeOutages(chance, spanMs, 8),
    durationMs: () => (kind === "flaky" && chance.between(0, 4) < 1 ? 20_000 : baseMs * chance.between(0.5, 1.5)),
    answer: () => {
      if (kind === "busy" && chance.between(0, 3) < 1) return { status: chance.pick([429, 503, 502]), retryAfter };
      return { status: kind === "failing" ? chance.pick([500, 404, 200]) : 200 };
    },
  };
}
