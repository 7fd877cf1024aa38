/**
 * A shard of the queue, with a worker's connections to it.
 */
import { createValkeyCheck, type ValkeyProblems } from "../monitoring/readiness.ts";
import { watchPausedList } from "../queue/paused-list.ts";
import type { Shard } from "../queue/shards.ts";
import { watchStrays } from "../queue/stray-jobs.ts";
import { openQueue, type Queue } from "../queue/worker.ts";
import type { Logger } from "../runtime/logger.ts";
import { exitWithoutDatabase } from "../settings/check.ts";
import { connectValkey, type Valkey } from "../valkey/connection.ts";

export interface ConnectedShard extends Shard {
  /** For the queue and the log. */
  readonly valkey: Valkey;
  /** For lookups of registered endpoints: connects at the first. */
  readonly lookups: () => Valkey;
  /** For everything else: its commands fail where those of the other wait. */
  readonly probe: Valkey;
  /** The queue, over the probe. */
  readonly queueClient: Queue;
  /** Whether its Valkey is suitable, and gives the worker its rights. */
  readonly check: () => Promise<ValkeyProblems>;
}

/** Connect to a shard, and begin to look after its lists. Exits when its Valkey does not have the URL's database. */
export function connectShard(shard: Shard, logger: Logger): ConnectedShard {
  const { url, queue } = shard;
  const valkey = connectValkey(url, "fluxhook:queue", logger, { key: queue });
  exitWithoutDatabase(valkey);
  const probe = connectValkey(url, "fluxhook:probe", logger, { isProbe: true, key: queue });
  const queueClient = openQueue(queue, probe);
  queueClient.on("error", () => {}); // the connection reports it
  watchStrays(queueClient, probe);
  watchPausedList({ valkeyUrl: url, queue, logger });
  const check = createValkeyCheck({ valkey: probe, working: valkey, queue, program: "worker" });
  const lookups = () => connectValkey(url, "fluxhook:endpoints", logger, { key: queue });
  return { ...shard, valkey, lookups, probe, queueClient, check };
}
