/**
 * The package's door for backends written in TypeScript or JavaScript. Any other BullMQ client does as well: see
 * docs/producers.md.
 */
import { randomUUID } from "node:crypto";
import { ContractError, type ContractIssue, checkEvent, type JobData, writeBody } from "./delivery/contract.ts";
import { parseExact } from "./delivery/exact-json.ts";
import { createKey, isSealed, seal } from "./delivery/seal.ts";
import { EVENT_TYPES, type NewEvent } from "./events.ts";
import { type Attempt, createAttemptLog } from "./log/attempts.ts";
import { ClosedError, checkEnqueueOptions, checkFluxhookOptions, findUnknown, isRecord } from "./package/options.ts";
import { connectPromptly, ValkeyAwayError, ValkeyRefusedError } from "./package/prompt-valkey.ts";
import { addJobs, type EnqueueStatus, type NewJob } from "./queue/enqueue.ts";
import { openQueue, type Queue } from "./queue/worker.ts";
import { within } from "./runtime/deadline.ts";
import { UsageError } from "./runtime/usage-error.ts";
import { NoDatabaseError } from "./valkey/connection.ts";

export type * from "./events.ts";
export {
  type Attempt,
  ClosedError,
  ContractError,
  type ContractIssue,
  createKey,
  type EnqueueStatus,
  EVENT_TYPES,
  type JobData,
  NoDatabaseError,
  seal,
  UsageError,
  ValkeyAwayError,
  ValkeyRefusedError,
};

export interface FluxhookOptions {
  /** As the worker's `VALKEY_URL`. */
  readonly valkeyUrl?: string | undefined;
  /** As the worker's `WEBHOOK_QUEUE`. */
  readonly queue?: string | undefined;
  /** How long a call may take while Valkey is away, the first connecting included; 2,000 by default. */
  readonly timeoutMs?: number | undefined;
  /** As the worker's `WEBHOOK_MAX_BODY`, in bytes. */
  readonly maxBodyBytes?: number | undefined;
  /** Seal every secret that is not sealed yet: the first of the worker's `WEBHOOK_SECRET_KEYS`. */
  readonly sealingKey?: string | Uint8Array | undefined;
}

export interface EnqueueOptions {
  /** Deliver this much later, in ms. */
  readonly delayMs?: number | undefined;
  /** How often it is tried in all, instead of the worker's schedule; 1 to 100. */
  readonly attempts?: number | undefined;
  /** The pauses between, instead of the worker's schedule: ms, or one of BullMQ's, with a jitter from 0 to 1. */
  readonly backoff?:
    | number
    | { readonly type: "fixed" | "exponential"; readonly delay: number; readonly jitter?: number | undefined }
    | undefined;
}

/** What came of enqueueing one event. */
export interface Enqueued {
  /** The event's id, as it was given: what its receiver deduplicates by. */
  readonly id: string;
  /** `new` and `failed` were queued, `known` was not: see {@link EnqueueStatus}. */
  readonly status: EnqueueStatus;
}

/**
 * A backend's connection. Every error has a `code`, and every call that fails rejects; nothing is thrown elsewhere.
 */
export interface Fluxhook {
  /**
   * Put an event on the queue.
   *
   * With an `id`, the same event enqueued twice is one delivery for as long as its job is kept (1,000 delivered ones, for
   * a day at the most): after any error, enqueue it again. An event that failed is replaced by one with its id. A
   * connection that is cut is tried again within the time; that never enqueues twice.
   *
   * @returns the event's id, the payload's as well; in lower case it is the job's. And whether it was queued
   * @throws  ContractError `INVALID_EVENT`: the event breaks the contract; nothing was queued
   * @throws  UsageError `INVALID_ARGUMENT`: an option is not what it must be; ClosedError `CLOSED`: after `close()`
   * @throws  NoDatabaseError `VALKEY_NO_DATABASE`, ValkeyRefusedError `VALKEY_LOGIN` or `VALKEY_REFUSED`: at once; somebody
   *          has to mend URL, user or rights
   * @throws  ValkeyAwayError `VALKEY_AWAY` within `timeoutMs`. With `mayBeQueued` the event was on its way when Valkey fell
   *          silent: a Valkey that is frozen, or whose answer was lost, may still take it
   */
  enqueue(event: NewEvent, options?: EnqueueOptions): Promise<Enqueued>;
  /**
   * Put many events on the queue, 100 at a time, each 100 within `timeoutMs`. Checked before the first is queued: a
   * ContractError names every breach with its index, as in `events[3].userId`. When Valkey goes away in between, some may be queued; give the
   * events an `id`, and enqueue all of them again.
   *
   * @returns what came of each, in order
   * @throws  like {@link Fluxhook.enqueue}
   */
  enqueueMany(events: readonly NewEvent[], options?: EnqueueOptions): Promise<Enqueued[]>;
  /** A user's last attempts, newest first: at most 10, of the last 7 days. Throws like {@link Fluxhook.enqueue}. */
  readAttempts(userId: string): Promise<Attempt[]>;
  /** Close the connection, once the calls under way have ended. Never fails, and does no harm twice. */
  close(): Promise<void>;
  /** The same, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}

const MAX_BODY_BYTES = 256 * 1024; // 256 KiB
const BATCH = 100; // events to a transaction: some milliseconds in which Valkey does nothing else
const CLOSE_MS = 1000;
const MAX_BREACHES = 20; // told in one message
const EVENT_FIELDS = ["event", "userId", "endpoint", "data", "id"];
const ENDPOINT_FIELDS = ["url", "secret"];
const NO_EVENT = "expected an object with event, userId, endpoint and data";

/**
 * Connect a backend to Fluxhook. Connects at once, in the background, and again whenever the connection is lost. The
 * connection does not keep the process from ending.
 *
 * @throws  UsageError when an option is not what it must be, or is none
 */
export function createFluxhook(options: FluxhookOptions = {}): Fluxhook {
  checkFluxhookOptions(options);
  const { valkeyUrl = "redis://127.0.0.1:6379", queue: name = "webhooks", timeoutMs = 2_000 } = options;
  checkSealingKey(options.sealingKey);
  const { valkey, run } = connectPromptly(valkeyUrl, "fluxhook:backend", timeoutMs);
  const log = createAttemptLog(valkey);
  const underWay = new Set<Promise<unknown>>();
  let opened: Queue | undefined;
  let closing: Promise<void> | undefined;

  /** A queue whose connection was cut while it was opened stays unusable: the next call opens another. */
  async function withQueue<T>(work: (queue: Queue) => Promise<T>): Promise<T> {
    const queue = opened ?? openQueue(name, valkey);
    if (opened === undefined) queue.on("error", () => {}); // a command that fails says so to its caller
    opened = queue;
    try {
      await queue.waitUntilReady();
    } catch (error) {
      if (opened === queue) opened = undefined;
      throw error;
    }
    return await work(queue);
  }

  async function add(jobs: readonly NewJob[]): Promise<Enqueued[]> {
    const statuses = await run((isAgain) => withQueue((queue) => addJobs(queue, valkey, jobs, isAgain)));
    return jobs.map(({ data }, index) => ({
      id: (data as JobData).id as string,
      status: statuses[index] as EnqueueStatus,
    }));
  }

  /** Every call goes through here: none begins after `close()`, which waits for those that have begun. */
  async function call<T>(work: () => Promise<T>): Promise<T> {
    if (closing !== undefined) throw new ClosedError();
    const done = work();
    underWay.add(done);
    return await done.finally(() => underWay.delete(done));
  }

  async function end(): Promise<void> {
    await Promise.allSettled(underWay);
    if (opened !== undefined) await within(CLOSE_MS, opened.close(), undefined);
    valkey.disconnect();
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
        const jobs = buildJobs(events, options, how, Date.now());
        const enqueued: Enqueued[] = [];
        for (let i = 0; i < jobs.length; i += BATCH) enqueued.push(...(await add(jobs.slice(i, i + BATCH))));
        return enqueued;
      }),
    readAttempts: (userId) =>
      call(async () => {
        if (typeof userId !== "string") throw new UsageError("expected userId to be a string");
        return await run(() => log.list(userId, Date.now()));
      }),
    close,
    [Symbol.asyncDispose]: close,
  };
}

function checkSealingKey(key: FluxhookOptions["sealingKey"]): void {
  try {
    if (key !== undefined) seal("any", key, "");
  } catch {
    throw new UsageError("expected sealingKey to be 32 bytes, or the same in base64");
  }
}

/** The job of an event. @throws ContractError by the names of the event's fields */
function buildJob(given: unknown, options: FluxhookOptions, how: EnqueueOptions, nowMs: number): NewJob {
  const stored = asStored(given);
  if (!isRecord(stored)) throw new ContractError([{ path: "", message: NO_EVENT }]);
  const { maxBodyBytes = MAX_BODY_BYTES, sealingKey } = options;
  const { event, ...data } = stored;
  const { id = randomUUID() } = data;
  const unknown = findUnknownFields(stored);
  try {
    const checked = checkEvent(event, { ...data, id }, nowMs);
    if (unknown.length > 0) throw new ContractError([]);
    writeBody(id as string, checked.type, nowMs, checked.data.data, maxBodyBytes);
    const sealed = sealingKey === undefined ? checked.data : sealSecrets(checked.data, sealingKey);
    const { delayMs: delay, attempts, backoff } = how;
    const jobId = (id as string).toLowerCase(); // one event, however its id is spelled
    return { name: checked.type, data: sealed, opts: { jobId, timestamp: nowMs, delay, attempts, backoff } };
  } catch (error) {
    if (!(error instanceof ContractError)) throw error;
    throw new ContractError([...unknown, ...error.issues.map(named)]);
  }
}

/** An issue by the names of an event's fields, where a job has its own. */
function named({ path, message }: ContractIssue): ContractIssue {
  return { path: path === "name" ? "event" : path.replace(/^data\.?/, ""), message };
}

/** The worker takes what it does not know, since who enqueues may be newer; here it is a slip. */
function findUnknownFields(event: Readonly<Record<string, unknown>>): ContractIssue[] {
  const { endpoint } = event;
  return [
    ...findUnknown(event, EVENT_FIELDS, "a field of an event").map(({ name, message }) => ({ path: name, message })),
    ...(isRecord(endpoint) ? findUnknown(endpoint, ENDPOINT_FIELDS, "a field of an endpoint") : []).map(
      ({ name, message }) => ({ path: `endpoint.${name}`, message }),
    ),
  ];
}

/** The jobs of many events. @throws ContractError with the breaches of all */
function buildJobs(events: unknown, options: FluxhookOptions, how: EnqueueOptions, nowMs: number): NewJob[] {
  if (!Array.isArray(events)) throw new UsageError("expected events to be an array");
  const broken: ContractError[] = [];
  const jobs = Array.from(events, (event, index) => {
    try {
      return buildJob(event, options, how, nowMs);
    } catch (error) {
      if (!(error instanceof ContractError)) throw error;
      const at = (path: string) => `events[${index}]${path === "" ? "" : `.${path}`}`;
      broken.push(new ContractError(error.issues.map(({ path, message }) => ({ path: at(path), message }))));
      return undefined;
    }
  }).filter((job) => job !== undefined);
  if (broken.length === 0) return jobs;
  const told = broken.slice(0, MAX_BREACHES).map(({ message }) => message);
  if (broken.length > MAX_BREACHES) told.push(`and ${broken.length - MAX_BREACHES} more events`);
  throw new ContractError(
    broken.flatMap(({ issues }) => issues),
    told.join("\n"),
  );
}

/** What the worker will see of it: a Date is a text there, `undefined` nothing, and what JSON.rawJSON made keeps its digits. */
function asStored(event: unknown): unknown {
  try {
    return event === undefined ? undefined : parseExact(JSON.stringify(event));
  } catch {
    const message = "expected what can be written as JSON: no BigInt, no circle, not too deep";
    throw new ContractError([{ path: "data", message }]);
  }
}

function sealSecrets(data: JobData, key: string | Uint8Array): JobData {
  const sealOne = (secret: string) => (isSealed(secret) ? secret : seal(secret, key, data.userId));
  const { secret } = data.endpoint;
  return {
    ...data,
    endpoint: { ...data.endpoint, secret: typeof secret === "string" ? sealOne(secret) : secret.map(sealOne) },
  };
}
