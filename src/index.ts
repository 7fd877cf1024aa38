/**
 * The package for backends written in TypeScript or JavaScript. Any other BullMQ client works as well: see
 * docs/producers.md.
 */

import { ContractError, type ContractIssue, type JobData } from "./delivery/contract.ts";
import { createKey, seal } from "./delivery/seal.ts";
import { EVENT_TYPES, type NewEvent } from "./events.ts";
import { openHome } from "./homes/homes.ts";
import type { Place } from "./homes/move.ts";
import type { AttemptQuery } from "./log/attempt-query.ts";
import type { Attempt, KeptResponse } from "./log/attempts.ts";
import { joinLogs } from "./log/joined-logs.ts";
import type { MissedCause, MissedCounts, MissedEvent, MissedPage, MissedQuery } from "./missed/missed.ts";
import type { Replayed } from "./missed/replay.ts";
import {
  createEndpoints,
  type Enabled,
  type EnableOptions,
  type Endpoints,
  type ReplayOptions,
} from "./package/endpoints.ts";
import { buildJob, buildJobs, type EnqueueOptions } from "./package/event-jobs.ts";
import {
  ClosedError,
  checkAttemptQuery,
  checkEnqueueOptions,
  checkFluxhookOptions,
  shardsFor,
} from "./package/options.ts";
import { ValkeyAwayError, ValkeyRefusedError } from "./package/prompt-valkey.ts";
import { connectShard, type ShardClient } from "./package/shard-client.ts";
import type { EnqueueStatus, NewJob } from "./queue/enqueue.ts";
import { homeAmong, type Shard } from "./queue/shards.ts";
import type { EndpointSettings } from "./registry/document.ts";
import type { EndpointState, RateLimit } from "./registry/endpoint.ts";
import type { ExplainedEndpoint, ExplainOptions, Explanation, Reception } from "./registry/explain.ts";
import type { EndpointHealth } from "./registry/health.ts";
import { ConflictError, EndpointsMoved, LimitError, NotFoundError } from "./registry/refusals.ts";
import type {
  Endpoint,
  EndpointWithHealth,
  IfVersion,
  NewEndpoint,
  RotateOptions,
  WithSecret,
} from "./registry/registry.ts";
import { UsageError } from "./runtime/usage-error.ts";
import { NoDatabaseError } from "./valkey/connection.ts";

export type * from "./events.ts";
export {
  type Attempt,
  type AttemptQuery,
  ClosedError,
  ConflictError,
  ContractError,
  type ContractIssue,
  createKey,
  type Enabled,
  type EnableOptions,
  type Endpoint,
  type EndpointHealth,
  type EndpointSettings,
  type EndpointState,
  type Endpoints,
  EndpointsMoved,
  type EndpointWithHealth,
  type EnqueueOptions,
  type EnqueueStatus,
  EVENT_TYPES,
  type ExplainedEndpoint,
  type ExplainOptions,
  type Explanation,
  type IfVersion,
  type JobData,
  type KeptResponse,
  LimitError,
  type MissedCause,
  type MissedCounts,
  type MissedEvent,
  type MissedPage,
  type MissedQuery,
  type NewEndpoint,
  NoDatabaseError,
  NotFoundError,
  type RateLimit,
  type Reception,
  type Replayed,
  type ReplayOptions,
  type RotateOptions,
  seal,
  UsageError,
  ValkeyAwayError,
  ValkeyRefusedError,
  type WithSecret,
};

export interface FluxhookOptions {
  /** Like the worker's `VALKEY_URL`. */
  readonly valkeyUrl?: string | undefined;
  /** Like the worker's `WEBHOOK_SHARDS`; 1 by default. */
  readonly shards?: number | undefined;
  /**
   * Like the worker's `WEBHOOK_SHARDS_BEFORE`: endpoints that were registered before a change of `shards` are found, and `readAttempts`
   * reads the logs in shards that are to go.
   */
  readonly shardsBefore?: number | undefined;
  /** Like the worker's `WEBHOOK_DRAIN_URL`: `readAttempts` reads the logs there, too, and endpoints that were registered there are found. */
  readonly drainUrl?: string | undefined;
  /** Like the worker's `WEBHOOK_QUEUE`. */
  readonly queue?: string | undefined;
  /** How long a call may take while Valkey is away, including the first connect; 2,000 by default. */
  readonly timeoutMs?: number | undefined;
  /** Like the worker's `WEBHOOK_MAX_BODY`, in bytes. */
  readonly maxBodyBytes?: number | undefined;
  /** Seals every secret that is not sealed yet; the first of the worker's `WEBHOOK_SECRET_KEYS`. */
  readonly sealingKey?: string | Uint8Array | undefined;
  /** Like the worker's `WEBHOOK_REGISTRY`: an event may name no endpoint, and goes to all of the user's that want it. Not by default. */
  readonly registry?: boolean | undefined;
  /** Like the worker's `WEBHOOK_ALLOW_PLAIN`, for tests: without a sealing key, secrets of registered endpoints are stored as they are. */
  readonly allowPlainSecrets?: boolean | undefined;
  /** Like the command's `WEBHOOK_MAX_ENDPOINTS`: how many endpoints a user may have, 1 to 1,000; 50 by default. */
  readonly maxEndpoints?: number | undefined;
  /** Like the worker's `WEBHOOK_EVENTS`; {@link EVENT_TYPES} by default. */
  readonly events?: readonly string[] | undefined;
}

/** The result of enqueueing one event. */
export interface Enqueued {
  /** The event's id as given; receivers deduplicate by it. */
  readonly id: string;
  /** `new` and `failed` were queued, `known` was not: see {@link EnqueueStatus}. */
  readonly status: EnqueueStatus;
}

/**
 * A backend's connection. Every error has a `code`; calls reject, and nothing is thrown or emitted elsewhere.
 */
export interface Fluxhook {
  /**
   * Put an event on the queue: for the endpoint that it names or, without one, for all of the user's registered endpoints that want
   * it. The latter takes `WEBHOOK_REGISTRY=1` for the workers.
   *
   * With an `id`, an event enqueued twice is delivered once while its job is kept (the last `WEBHOOK_KEEP_COMPLETED`, for up to a
   * day), so after any error, enqueue it again. A failed event with the same id is replaced. Lost connections are retried
   * within `timeoutMs`, which never enqueues twice.
   *
   * @returns the event's id, which is also the payload's (and, in lower case, the job's), and whether it was queued
   * @throws  ContractError `INVALID_EVENT`: the event is invalid; nothing was queued
   * @throws  UsageError `INVALID_ARGUMENT`: an option is invalid; ClosedError `CLOSED`: after `close()`
   * @throws  NoDatabaseError `VALKEY_NO_DATABASE`, ValkeyRefusedError `VALKEY_LOGIN` or `VALKEY_REFUSED`: immediately; the URL,
   *          the user or its permissions have to be fixed
   * @throws  ValkeyAwayError `VALKEY_AWAY` within `timeoutMs`. With `mayBeQueued` the event had been sent when Valkey stopped
   *          responding, and may still be enqueued
   */
  enqueue(event: NewEvent, options?: EnqueueOptions): Promise<Enqueued>;
  /**
   * Put many events on the queue, in batches of 100, each within `timeoutMs`. All are checked before the first is queued: a
   * ContractError lists every issue with its index, as in `events[3].userId`. If Valkey goes away in between, some may be
   * queued: give events an `id` and enqueue all of them again.
   *
   * @returns the result of each, in order
   * @throws  like {@link Fluxhook.enqueue}
   */
  enqueueMany(events: readonly NewEvent[], options?: EnqueueOptions): Promise<Enqueued[]>;
  /** A user's attempts that are kept, newest first, or some of them. Throws like {@link Fluxhook.enqueue}. */
  readAttempts(userId: string, query?: AttemptQuery): Promise<Attempt[]>;
  /** The users' registered endpoints: events name them by their ids. Each call is within `timeoutMs`. */
  readonly endpoints: Endpoints;
  /** Close the connection once pending calls have ended. Never rejects; safe to call again. */
  close(): Promise<void>;
  /** The same, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}

const DEFAULT_TIMEOUT_MS = 2_000;
const BATCH = 100; // events per transaction, which blocks Valkey for a few milliseconds

/**
 * Connect a backend to Fluxhook. Connects immediately in the background, and reconnects whenever the connection is lost. The
 * connection does not keep the process alive.
 *
 * @throws  UsageError when an option is invalid or unknown
 */
export function createFluxhook(given: FluxhookOptions = {}): Fluxhook {
  checkFluxhookOptions(given);
  const options = { ...given, eventTypes: new Set(given.events ?? EVENT_TYPES) };
  checkSealingKey(options.sealingKey);
  const known = shardsFor(options);
  const shards = known.map((shard) => connectShard(shard, options.timeoutMs ?? DEFAULT_TIMEOUT_MS, options));
  const homes = shards.map((client, index) => ({ ...(known[index] as Shard), ...client.place, client })) as [
    Home,
    ...Home[],
  ];
  const log = joinLogs(shards);
  const pending = new Set<Promise<unknown>>();
  let closing: Promise<void> | undefined;

  /** Add jobs, 100 at a time, each in its user's shard. */
  async function add(jobs: readonly NewJob[]): Promise<Enqueued[]> {
    const statuses = new Map<NewJob, EnqueueStatus>();
    const addBatches = async (shard: ShardClient, own: readonly NewJob[]): Promise<void> => {
      for (let i = 0; i < own.length; i += BATCH) {
        const batch = own.slice(i, i + BATCH);
        const added = await shard.add(batch);
        for (const [index, job] of batch.entries()) statuses.set(job, added[index] as EnqueueStatus);
      }
    };
    const homes: NewJob[][] = shards.map(() => []);
    for (const job of jobs) homes[homeAmong(known, (job.data as JobData).userId).index]?.push(job);
    await Promise.all(shards.map((shard, home) => addBatches(shard, homes[home] as NewJob[])));
    return jobs.map((job) => ({ id: (job.data as JobData).id as string, status: statuses.get(job) as EnqueueStatus }));
  }

  /** Run a call, unless closed; `close()` waits for those that have started. */
  async function call<T>(work: () => Promise<T>): Promise<T> {
    if (closing !== undefined) throw new ClosedError();
    const done = work();
    pending.add(done);
    return await done.finally(() => pending.delete(done));
  }

  async function end(): Promise<void> {
    await Promise.allSettled(pending);
    await Promise.all(shards.map((shard) => shard.close()));
  }

  const close = (): Promise<void> => {
    closing ??= end();
    return closing;
  };
  return {
    enqueue: (event, how = {}) =>
      call(async () => {
        checkEnqueueOptions(how);
        const [enqueued] = await add([buildJob(event, options, how, Date.now())]);
        return enqueued as Enqueued;
      }),
    enqueueMany: (events, how = {}) =>
      call(async () => {
        checkEnqueueOptions(how);
        return await add(buildJobs(events, options, how, Date.now()));
      }),
    readAttempts: (userId, query = {}) =>
      call(async () => {
        if (typeof userId !== "string") throw new UsageError("expected userId to be a string");
        checkAttemptQuery(query);
        return await log.list(userId, Date.now(), query);
      }),
    endpoints: createEndpoints(async (...asked) => (await openHome(homes, ...asked)).client, call),
    close,
    [Symbol.asyncDispose]: close,
  };
}

type Home = Shard & Place & { readonly client: ShardClient };

function checkSealingKey(key: FluxhookOptions["sealingKey"]): void {
  try {
    if (key !== undefined) seal("any", key, "");
  } catch {
    throw new UsageError("expected sealingKey to be 32 bytes, or the same in base64");
  }
}
