/**
 * A summary of the queue: counts by state, recent deliveries and failures, hosts that do not respond.
 */
import { readPastCounts } from "../homes/past-homes.ts";
import { readCircuits } from "../isolation/open-circuits.ts";
import { type AttemptTally, readAttemptTally } from "../log/attempt-tally.ts";
import type { OpenShards } from "../queue/open-shard.ts";
import { DEFAULT_KEPT, type KeptJobs } from "../queue/worker.ts";
import type { ValkeyFacts } from "../valkey/connection.ts";
import { evictionProblem } from "../valkey/facts.ts";
import { FAILURES, RECENT_MINUTES, readShardSummary, type ShardSummary, total } from "./shard-summary.ts";

export { type Failure, MINUTES, RECENT_MINUTES, type ShardSummary, type Tally } from "./shard-summary.ts";

/** All shards together: counts are sums, ages the longest, facts of Valkey the worst. */
export interface Summary extends Omit<ShardSummary, "label" | "queue"> {
  /** The most that any shard has: a worker serves all of them. */
  readonly workers: number | undefined;
  /** Whether any shard is paused. */
  readonly isPaused: boolean;
  /** In the last 5 minutes, in all workers. */
  readonly attempts: AttemptTally;
  /** Hosts with an open circuit in at least one worker. */
  readonly circuits: readonly string[];
  /** Numbers of shards of past changes: users may still have endpoints where they had them. */
  readonly pastCounts: readonly number[];
  /** Each shard alone, in their order. */
  readonly shards: readonly ShardSummary[];
}

/**
 * Read the summary in a few round trips to each shard, at a cost that does not grow with the queue. Takes a second longer while
 * events wait for a long time.
 *
 * @param shards  the first of them has the holds, open circuits and tallies of all
 * @param kept  how many jobs a shard keeps; the settings' defaults when absent
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readSummary(shards: OpenShards, nowMs: number, kept: KeptJobs = DEFAULT_KEPT): Promise<Summary> {
  const [first] = shards;
  const [summaries, attempts, circuits, pastCounts] = await Promise.all([
    Promise.all(shards.map((shard) => readShardSummary(shard, shards, nowMs, kept))),
    readAttemptTally(first.valkey, first.queue, RECENT_MINUTES, nowMs),
    readCircuits(first.valkey, first.queue, nowMs),
    readPastCounts(first.valkey, shards),
  ]);
  return { ...join(summaries as [ShardSummary, ...ShardSummary[]]), attempts, circuits, pastCounts, shards: summaries };
}

type Joined = Omit<Summary, "attempts" | "circuits" | "pastCounts" | "shards">;

function join(shards: readonly [ShardSummary, ...ShardSummary[]]): Joined {
  const [first] = shards;
  const known = <T>(pick: (shard: ShardSummary) => T | undefined): T[] =>
    shards.map(pick).filter((value) => value !== undefined);
  const longest = (values: readonly number[]) => (values.length === 0 ? undefined : Math.max(...values));
  const strays = known((shard) => shard.strays);
  return {
    counts: addUp(shards.map(({ counts }) => counts)),
    keepFailed: first.keepFailed,
    isPaused: shards.some(({ isPaused }) => isPaused),
    workers: longest(known(({ workers }) => workers)),
    strays: strays.length === 0 ? undefined : strays.reduce((sum, count) => sum + count),
    oldestWaitingMs: longest(known(({ oldestWaitingMs }) => oldestWaitingMs)),
    completed: total(shards.map(({ completed }) => completed)),
    failed: total(shards.map(({ failed }) => failed)),
    finished: addUp(shards.map(({ finished }) => finished)),
    minutes: first.minutes.map((_, minute) => ({
      completed: total(known(({ minutes }) => minutes[minute]?.completed)),
      failed: total(known(({ minutes }) => minutes[minute]?.failed)),
    })),
    failures: shards
      .flatMap(({ failures }) => failures)
      .sort((a, b) => b.failedAt - a.failedAt)
      .slice(0, FAILURES),
    valkey: worst(known(({ valkey }) => valkey)),
  };
}

/** The sums of fields that all have. */
function addUp<T extends object>(all: readonly T[]): T {
  const [first, ...others] = all as readonly [T, ...T[]];
  const sums = Object.entries(first).map(([name, value]) => [
    name,
    others.reduce((sum, other) => sum + Number(other[name as keyof T]), Number(value)),
  ]);
  return Object.fromEntries(sums);
}

/** Of several Valkeys what is judged: whether one is a replica or may evict, and the fullest one's memory. */
function worst(facts: readonly ValkeyFacts[]): ValkeyFacts | undefined {
  const [first] = facts;
  if (first === undefined || facts.length === 1) return first;
  const shareOf = ({ usedMemoryBytes = 0, maxMemoryBytes = 0 }: ValkeyFacts) =>
    maxMemoryBytes > 0 ? usedMemoryBytes / maxMemoryBytes : 0;
  const { usedMemoryBytes, maxMemoryBytes } = facts.reduce((most, one) => (shareOf(one) > shareOf(most) ? one : most));
  const evicting = facts.find((one) => evictionProblem(one) !== undefined) ?? first;
  return {
    server: first.server,
    evictionPolicy: evicting.evictionPolicy,
    appendOnly: facts.some(({ appendOnly }) => appendOnly === false) ? false : first.appendOnly,
    isPrimary: facts.every(({ isPrimary }) => isPrimary),
    usedMemoryBytes,
    maxMemoryBytes,
  };
}
