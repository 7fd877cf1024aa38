/**
 * A backend's connections to the shards of the queue.
 */
import type { Place } from "../homes/move.ts";
import { ALL_KEPT, type Attempt, type AttemptLog, createAttemptLog } from "../log/attempts.ts";
import { listMissed, type MissedPage, type MissedQuery } from "../missed/missed.ts";
import { type Replayed, type ReplayQuery, replayMissed } from "../missed/replay.ts";
import { addJobs, type EnqueueStatus, type NewJob } from "../queue/enqueue.ts";
import type { Shard } from "../queue/shards.ts";
import { createRegistry, type Registry } from "../registry/registry.ts";
import { readEndpointLog } from "../streaks/endpoint-log.ts";
import { createLazyQueue } from "./lazy-queue.ts";
import { connectPromptly } from "./prompt-valkey.ts";

/** A backend's connection to one shard. Its calls fail within the time limit. */
export interface ShardClient {
  /** Add jobs in one transaction; their statuses, in order. */
  add(jobs: readonly NewJob[]): Promise<EnqueueStatus[]>;
  /** What its log has of a user. */
  readonly list: AttemptLog["list"];
  /** The endpoints of its users. */
  readonly registry: Registry;
  /** An endpoint's last attempts; its ids must be valid. */
  readonly attempts: (userId: string, id: string) => Promise<Attempt[]>;
  /** A page of what an endpoint missed; its ids must be valid. */
  readonly missed: (userId: string, id: string, query: MissedQuery) => Promise<MissedPage>;
  /** Replay what an endpoint missed. */
  readonly replay: (userId: string, id: string, query: ReplayQuery) => Promise<Replayed>;
  /** For what moves endpoints from one shard to another. */
  readonly place: Place;
  /** Never rejects. */
  close(): Promise<void>;
}

/** What the registry of endpoints needs to know, as of `FluxhookOptions`. */
interface RegistryOptions {
  readonly eventTypes: ReadonlySet<string>;
  readonly sealingKey?: string | Uint8Array | undefined;
  readonly allowPlainSecrets?: boolean | undefined;
  readonly maxEndpoints?: number | undefined;
}

/** Connect to a shard, immediately and in the background. */
export function connectShard(
  { url, queue: name, tag }: Shard,
  timeoutMs: number,
  { eventTypes, sealingKey, allowPlainSecrets: allowPlain, maxEndpoints }: RegistryOptions,
): ShardClient {
  const { valkey, run } = connectPromptly(url, "fluxhook:backend", timeoutMs, name);
  const log = createAttemptLog(valkey, { ...ALL_KEPT, tag });
  const secretKeys = sealingKey === undefined ? [] : [sealingKey];
  const registry = createRegistry(valkey, {
    tag,
    eventTypes,
    secretKeys,
    allowPlain,
    maxEndpoints,
    run: (work) => run(() => work()),
  });
  const lazyQueue = createLazyQueue(name, valkey);
  return {
    add: (jobs) => run((isAgain) => lazyQueue.use((queue) => addJobs(queue, valkey, jobs, isAgain))),
    registry,
    place: { queue: name, tag, valkey, run: (work) => run(() => work()) },
    attempts: (...asked) => run(() => readEndpointLog(valkey, tag, ...asked)),
    missed: (...asked) => run(() => listMissed(valkey, tag, ...asked)),
    replay: (...asked) => replayMissed({ queue: name, tag, valkey }, ...asked, (work) => run(() => work())),
    list: (...asked) => run(() => log.list(...asked)),
    async close() {
      await lazyQueue.close();
      valkey.disconnect();
    },
  };
}
