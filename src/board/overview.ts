/**
 * What the overview shows of a queue, and how it is judged.
 */
import { findWriteRefusal } from "../monitoring/readiness.ts";
import { holdPlacesOf, listHolds, type ShownHold } from "../operations/hold.ts";
import { judgeQueue, type QueueProblem } from "../operations/queue-problems.ts";
import { readSummary, type Summary } from "../operations/summary.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { shardName } from "../queue/shards.ts";
import type { KeptJobs } from "../queue/worker.ts";

export interface Overview extends Summary {
  /** Worst first. */
  readonly problems: readonly QueueProblem[];
  /** What operators hold. */
  readonly holds: readonly ShownHold[];
}

/**
 * Read and judge a queue, as `fluxhook status` does. Parameters and errors are those of {@link readSummary}.
 *
 * @param away  shards that do not answer
 */
export async function readOverview(
  shards: OpenShards,
  nowMs: number,
  kept?: KeptJobs,
  away: readonly OpenShard[] = [],
): Promise<Overview> {
  const [summary, refusal, holds] = await Promise.all([
    readSummary(shards, nowMs, kept),
    findRefusal(shards),
    listHolds(holdPlacesOf(shards), nowMs),
  ]);
  return { ...summary, holds, problems: judgeQueue({ ...summary, refusal, away }) };
}

/** Why the first shard that takes no writes does not. */
async function findRefusal(shards: OpenShards): Promise<string | undefined> {
  const found = await Promise.all(
    shards.map(async (shard) => {
      const refusal = await findWriteRefusal(shard.valkey, shard.queue);
      return refusal === undefined || shard.label === "" ? refusal : `Shard ${shardName(shard)}: ${refusal}`;
    }),
  );
  return found.find((refusal) => refusal !== undefined);
}
