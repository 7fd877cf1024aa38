/**
 * What the overview shows of a queue, and how it is judged.
 */
import { findWriteRefusal } from "../monitoring/readiness.ts";
import { listHolds, type ShownHold } from "../operations/hold.ts";
import { judgeQueue, type QueueProblem } from "../operations/queue-problems.ts";
import { readSummary, type Summary } from "../operations/summary.ts";
import type { KeptJobs, Queue } from "../queue/worker.ts";
import type { Valkey } from "../valkey/connection.ts";

export interface Overview extends Summary {
  /** Worst first. */
  readonly problems: readonly QueueProblem[];
  /** What operators hold. */
  readonly holds: readonly ShownHold[];
}

/** Read and judge a queue, as `fluxhook status` does. Parameters and errors are those of {@link readSummary}. */
export async function readOverview(queue: Queue, valkey: Valkey, nowMs: number, kept?: KeptJobs): Promise<Overview> {
  const [summary, refusal, holds] = await Promise.all([
    readSummary(queue, valkey, nowMs, kept),
    findWriteRefusal(valkey, queue.name),
    listHolds({ valkey, queue: queue.name }, nowMs),
  ]);
  return { ...summary, holds, problems: judgeQueue({ ...summary, refusal }) };
}
