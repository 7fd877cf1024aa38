/**
 * What `fluxhook status` shows: the state of the queue, its shards, its workers and its Valkey.
 */
import { holdPlacesOf, listHolds } from "../operations/hold.ts";
import { judgeQueue, PROBLEMS, type ProblemCode, type QueueProblem } from "../operations/queue-problems.ts";
import type { ShardSummary, Tally } from "../operations/summary.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { type Shard, shardName } from "../queue/shards.ts";
import type { ValkeyFacts } from "../valkey/connection.ts";
import { nameQueue, type Session } from "./context.ts";

const MAX_KEYS = 100_000; // counted here within a second; in larger databases use the workers' last count

export type Status = Awaited<ReturnType<typeof readStatus>>;
export type ShardStatus = ReturnType<typeof describeShards>[number];

const CODES = Object.keys(PROBLEMS); // worst first
const RAISE = "Raise WEBHOOK_SHARDS everywhere until it is empty";
const REORDER = "List all Valkeys in VALKEY_URL, in the order that they had";

/** Read it, of the shards that are there. @param nowMs  epoch ms */
export async function readStatus({ config, shards, away }: Session, nowMs: number) {
  const [{ readFacts }, { readSummary, RECENT_MINUTES }, unserved] = await Promise.all([
    import("../valkey/connection.ts"),
    import("../operations/summary.ts"),
    import("../queue/unserved-shards.ts"),
  ]);
  const [first] = shards;
  const [summary, refusal, holds, beyond, misplaced] = await Promise.all([
    readSummary(shards, nowMs, config),
    findRefusal(shards),
    listHolds(holdPlacesOf(shards), nowMs),
    away.length === 0 ? unserved.findUnserved(config.shards) : [], // a node that does not answer would be waited for again
    config.shards.length > 1 ? unserved.findMisplaced(shards) : [],
  ]);
  const facts = summary.valkey ?? (await readFacts(first.valkey));
  const strays = await countAllStrays(shards, summary.shards);
  const { counts, isPaused, workers, oldestWaitingMs, completed, failed, attempts, circuits } = summary;
  const parts = shards.length > 1 ? summary.shards : [];
  const problems = [
    ...beyond.map((one) => problem("unserved", unserved.describeUnserved(one), RAISE)),
    ...misplaced.map((one) => problem("unserved", unserved.describeMisplaced(one), REORDER)),
    ...judgeQueue({ ...summary, shards: parts, away: away.flatMap((some) => some.shards), strays, refusal }),
  ];
  problems.sort((a, b) => CODES.indexOf(a.code) - CODES.indexOf(b.code));
  return {
    ok: problems.length === 0,
    problems,
    queue: nameQueue(config),
    depth: counts,
    strays: strays ?? null,
    oldest_waiting_ms: oldestWaitingMs ?? null,
    lately: {
      minutes: RECENT_MINUTES,
      completed: describeTally(completed),
      failed: describeTally(failed),
      attempts: { made: attempts.made, failed: attempts.failed },
    },
    workers: workers ?? null,
    paused: isPaused,
    open_circuits: circuits,
    holds: holds.map(({ id, kind, name, until }) => ({ id, kind, target: name, until: new Date(until).toISOString() })),
    valkey: describeValkey(facts),
    ...(config.shards.length > 1 && { shards: describeShards(config.shards, shards, summary.shards) }),
  };
}

function problem(code: ProblemCode, text: string, todo: string): QueueProblem {
  return { code, severity: PROBLEMS[code].severity, text, todo };
}

/** Why a shard's Valkey takes no writes, of the first that does not. */
async function findRefusal(shards: OpenShards): Promise<string | undefined> {
  const { findWriteRefusal } = await import("../monitoring/readiness.ts");
  const refusals = await Promise.all(shards.map(({ valkey, queue }) => findWriteRefusal(valkey, queue)));
  return refusals.find((refusal) => refusal !== undefined);
}

/** Strays of all shards; undefined when no shard has a count. */
async function countAllStrays(shards: OpenShards, summaries: readonly ShardSummary[]): Promise<number | undefined> {
  const { countStrays } = await import("../queue/stray-jobs.ts");
  const count = async ({ client, valkey }: OpenShard, at: number) =>
    (await valkey.dbsize()) <= MAX_KEYS ? await countStrays(client, valkey) : summaries[at]?.strays;
  const counts = (await Promise.all(shards.map(count))).filter((strays) => strays !== undefined);
  return counts.length === 0 ? undefined : counts.reduce((sum, strays) => sum + strays);
}

/** Each shard alone. One that is away has only its names. */
function describeShards(all: readonly Shard[], open: readonly OpenShard[], summaries: readonly ShardSummary[]) {
  return all.map((shard) => {
    const at = open.findIndex(({ queue, url }) => queue === shard.queue && url === shard.url);
    const summary = summaries[at];
    const { remoteAddress, remotePort } = open[at]?.valkey.stream ?? {};
    return {
      shard: shardName(shard),
      queue: shard.queue,
      is_away: summary === undefined,
      depth: summary?.counts ?? null,
      workers: summary?.workers ?? null,
      paused: summary?.isPaused ?? null,
      node: remoteAddress === undefined ? null : `${bracketed(remoteAddress)}:${remotePort}`,
    };
  });
}

const bracketed = (address: string): string => (address.includes(":") ? `[${address}]` : address);

/** `at_least`: the queue keeps only the newest jobs, so there may have been more. */
function describeTally({ count, isLeast }: Tally) {
  return { count, at_least: isLeast };
}

function describeValkey(facts: ValkeyFacts) {
  const { server, evictionPolicy, appendOnly, isPrimary, usedMemoryBytes, maxMemoryBytes } = facts;
  return {
    server,
    eviction: evictionPolicy,
    append_only: appendOnly ?? null,
    role: isPrimary ? "primary" : "replica",
    used_memory_bytes: usedMemoryBytes ?? null,
    max_memory_bytes: maxMemoryBytes ?? null,
  };
}
