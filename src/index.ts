/**
 * The package's door for backends written in TypeScript or JavaScript. Any other BullMQ client does as well: see
 * docs/producers.md.
 */
import { randomUUID } from "node:crypto";
import { ContractError, checkEvent, type JobData, writeBody } from "../jobs/event.ts";
import { type Attempt, createAttemptLog } from "./attempts.ts";
import { within } from "./deadline.ts";
import { addJobs, type EnqueueStatus, type NewJob } from "./enqueue.ts";
import { EVENT_TYPES, type NewEvent } from "./events.ts";
import { parseExact } from "./exact-json.ts";
import { connectPromptly, ValkeyAwayError } from "./prompt-valkey.ts";
import { openQueue, type Queue } from "./queue.ts";
import { createKey, isSealed, seal } from "./seal.ts";
import { isValkeyUrl, VALKEY_URL_FORMS } from "./valkey-url.ts";

export type * from "./events.ts";
export { type Attempt, ContractError, createKey, type EnqueueStatus, EVENT_TYPES, type JobData, seal, ValkeyAwayError };

export interface FluxhookOptions {
  /** As the worker's `VALKEY_URL`. */
  readonly valkeyUrl?: string;
  /** As the worker's `WEBHOOK_QUEUE`. */
  readonly queue?: string;
  /** How long a call may take while Valkey is away, the first connecting included; 2,000 by default. */
  readonly timeoutMs?: number;
  /** As the worker's `WEBHOOK_MAX_BODY`, in bytes. */
  readonly maxBodyBytes?: number;
  /** Seal every secret that is not sealed yet: the first of the worker's `WEBHOOK_SECRET_KEYS`. */
  readonly sealingKey?: string | Uint8Array;
}

export interface EnqueueOptions {
  /** Deliver this much later, in ms. */
  readonly delayMs?: number;
  /** How often it is tried in all, instead of the worker's schedule; 1 to 100. */
  readonly attempts?: number;
  /** The pauses between, instead of the worker's schedule: ms, or one of BullMQ's. */
  readonly backoff?:
    | number
    | { readonly type: "fixed" | "exponential"; readonly delay: number; readonly jitter?: number };
}

/** What came of enqueueing one event. */
export interface Enqueued {
  /** The event's id: what its receiver deduplicates by. */
  readonly id: string;
  /** `new` and `failed` were queued, `known` was not: see {@link EnqueueStatus}. */
  readonly status: EnqueueStatus;
}

export interface Fluxhook {
  /**
   * Put an event on the queue.
   *
   * With an `id`, the same event enqueued twice is one delivery for as long as its job is kept (1,000 delivered ones, for
   * a day at the most): after any error, enqueue it again. An event that failed is replaced by one with its id. A
   * connection that is cut is tried again within the time; that never enqueues twice.
   *
   * @returns the event's id, the payload's and the job's; and whether it was queued
   * @throws  ContractError when the event breaks the contract, in the worker's words; nothing was queued
   * @throws  ValkeyAwayError within `timeoutMs`. With `mayBeQueued` the event was on its way when Valkey fell silent: a
   *          Valkey that is frozen, or whose answer was lost, may still take it
   */
  enqueue(event: NewEvent, options?: EnqueueOptions): Promise<Enqueued>;
  /**
   * Put many events on the queue, 100 at a time, each 100 within `timeoutMs`. Checked before the first is queued: a
   * ContractError names every breach with its index. When Valkey goes away in between, some may be queued; give the
   * events an `id`, and enqueue all of them again.
   *
   * @returns what came of each, in order
   * @throws  like {@link Fluxhook.enqueue}
   */
  enqueueMany(events: readonly NewEvent[], options?: EnqueueOptions): Promise<Enqueued[]>;
  /** A user's last attempts, newest first: at most 10, of the last 7 days. Throws ValkeyAwayError. */
  readAttempts(userId: string): Promise<Attempt[]>;
  /** Close the connection. */
  close(): Promise<void>;
}

const MAX_BODY_BYTES = 256 * 1024; // 256 KiB
const BATCH = 100; // events to a transaction: some milliseconds in which Valkey does nothing else
const CLOSE_MS = 1000;
const MAX_TIMER_MS = 2 ** 31 - 1;
const MAX_BREACHES = 20; // told of one batch

/**
 * Connect a backend to Fluxhook. Connects at once, in the background, and again whenever the connection is lost.
 *
 * @throws  RangeError when an option is not what it must be
 */
export function createFluxhook({
  valkeyUrl = "redis://127.0.0.1:6379",
  queue: name = "webhooks",
  timeoutMs = 2_000,
  maxBodyBytes = MAX_BODY_BYTES,
  sealingKey,
}: FluxhookOptions = {}): Fluxhook {
  expect(isValkeyUrl(valkeyUrl), `valkeyUrl to be ${VALKEY_URL_FORMS}`);
  expect(timeoutMs > 0 && timeoutMs <= MAX_TIMER_MS, "timeoutMs to be a number of ms above 0");
  if (sealingKey !== undefined) seal("any", sealingKey, ""); // says so when the key is none
  const { valkey, run } = connectPromptly(valkeyUrl, "fluxhook:backend", timeoutMs);
  const log = createAttemptLog(valkey);
  let opened: Queue | undefined;

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
    return jobs.map(({ opts }, index) => ({ id: opts.jobId, status: statuses[index] as EnqueueStatus }));
  }

  function buildJob({ event, ...data }: NewEvent, options: EnqueueOptions, nowMs: number): NewJob {
    const id = data.id?.toLowerCase?.() ?? randomUUID();
    const stored = asStored({ ...data, id: data.id ?? id });
    const checked = checkEvent(event, stored, nowMs).data;
    writeBody(id, event, nowMs, checked.data, maxBodyBytes);
    const sealed = sealingKey === undefined ? checked : sealSecrets(checked, sealingKey);
    const { delayMs: delay, attempts, backoff } = options;
    return { name: event, data: sealed, opts: { jobId: id, timestamp: nowMs, delay, attempts, backoff } };
  }

  return {
    async enqueue(event, options = {}) {
      checkOptions(options);
      const [enqueued] = await add([buildJob(event, options, Date.now())]);
      return enqueued as Enqueued;
    },
    async enqueueMany(events, options = {}) {
      checkOptions(options);
      const nowMs = Date.now();
      const breaches: string[] = [];
      const jobs = events.flatMap((event, index) => {
        try {
          return [buildJob(event, options, nowMs)];
        } catch (error) {
          if (!(error instanceof ContractError)) throw error;
          breaches.push(`events[${index}]: ${error.message}`);
          return [];
        }
      });
      const more = breaches.length - MAX_BREACHES;
      if (more > 0) breaches.splice(MAX_BREACHES, more, `and ${more} more events`);
      if (breaches.length > 0) throw new ContractError(breaches.join("\n"));
      const enqueued: Enqueued[] = [];
      for (let i = 0; i < jobs.length; i += BATCH) enqueued.push(...(await add(jobs.slice(i, i + BATCH))));
      return enqueued;
    },
    readAttempts: (userId) => run(() => log.list(userId, Date.now())),
    async close() {
      if (opened !== undefined) await within(CLOSE_MS, opened.close(), undefined);
      valkey.disconnect();
    },
  };
}

/** What the worker will see of it: a Date is a text there, `undefined` nothing, and what JSON.rawJSON made keeps its digits. */
function asStored(data: object): unknown {
  try {
    return parseExact(JSON.stringify(data));
  } catch {
    throw new ContractError("data: expected what can be written as JSON: no BigInt, no circle, not too deep");
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

function checkOptions({ delayMs = 0, attempts = 1, backoff }: EnqueueOptions): void {
  expect(Number.isSafeInteger(delayMs) && delayMs >= 0, "delayMs to be a whole number of ms, 0 or more");
  expect(
    Number.isSafeInteger(attempts) && attempts >= 1 && attempts <= 100,
    "attempts to be a whole number from 1 to 100",
  );
  const pauseMs = typeof backoff === "object" ? backoff.delay : (backoff ?? 1);
  const isKnown = typeof backoff !== "object" || backoff.type === "fixed" || backoff.type === "exponential";
  expect(
    isKnown && Number.isFinite(pauseMs) && pauseMs > 0,
    "backoff to be ms above 0, or fixed or exponential with a delay",
  );
}

function expect(isSo: boolean, what: string): asserts isSo {
  if (!isSo) throw new RangeError(`expected ${what}`);
}
