/**
 * A rig for crashes and outages: a Valkey of its own, workers as processes, a receiver, a backend that keeps enqueueing,
 * and the books.
 */

import { test } from "bun:test";
import { Queue } from "bullmq";
import type { Redis } from "ioredis";
import { type Answer, startReceiver } from "../../src/dev/receiver.ts";
import { startValkey, type ThrowawayValkey, type ThrowawayValkeyOptions } from "../../src/dev/valkey.ts";
import { createFluxhook, type NewEvent } from "../../src/index.ts";
import { createAttemptLog } from "../../src/log/attempts.ts";
import { openValkey } from "../../src/valkey/connection.ts";
import { type Arrival, type Balance, createBooks } from "./books.ts";
import { type Chance, createChance } from "./chance.ts";
import { startLoad } from "./load.ts";
import { startWorkerProcess, type WorkerProcess } from "./process.ts";
import { bounded, eventually } from "./stack.ts";

/** How long one worker's crash may hold up its jobs. */
export const RECOVERY_MS = 30 * 1000;
/** How long to wait for the end of all that: recovery, and what a busy machine adds. */
export const SETTLE_MS = RECOVERY_MS + 15 * 1000;
/** Outlasts the job lock (15 s) of workers with the default settings. */
export const BEYOND_LOCK_MS = 17 * 1000;
/** Attempts in flight in each of the rig's workers. */
export const SLOTS = 32;

const TEST_MS = 240 * 1000; // on a busy machine; most take half a minute
const RUN_MS = 225 * 1000; // before the test's end, so that no process outlives it
const START_MS = 40 * 1000; // 40 s on a busy machine; half a second of one core
const READY_MS = 10 * 1000;
const POLL_MS = 50; // a dozen tests ask at the same time
const ENDPOINTS = 4;

export interface RigOptions {
  readonly valkey?: ThrowawayValkeyOptions;
  readonly workers?: number;
  /** How to get to that Valkey, as `VALKEY_URL`: straight on unless told otherwise. Ends as {@link Rig.atEnd} does. */
  readonly via?: (valkey: ThrowawayValkey, atEnd: Rig["atEnd"]) => Promise<string>;
  /** For every worker. */
  readonly env?: Record<string, string>;
  /** What the receiver takes for an answer, ms: from, to. */
  readonly answerMs?: readonly [number, number];
}

/** An event as the package's client takes it; its id is also the job's. */
export type EnqueuedEvent = NewEvent & { readonly id: string };

export interface Rig {
  readonly chance: Chance;
  readonly valkey: ThrowawayValkey;
  /** For questions and for harm. */
  readonly admin: Redis;
  readonly workers: WorkerProcess[];
  /** Where the receiver of all events listens. */
  readonly receiverUrl: string;
  readonly arrivals: readonly Arrival[];
  /** Enqueued events, by id: epoch ms at which Valkey had said yes. */
  readonly enqueued: ReadonlyMap<string, number>;
  /** Start a worker; resolves when it takes jobs, rejects if it ends before. */
  startWorker(env?: Record<string, string>): Promise<WorkerProcess>;
  /**
   * Enqueue one event. Resolves with its id once Valkey has said yes.
   *
   * @param put  in place of the package's client
   */
  enqueue(put?: (event: EnqueuedEvent) => Promise<unknown>): Promise<string>;
  /** Enqueue so many events a second until the returned function is called; that resolves once Valkey has them all. */
  load(perSecond: number): () => Promise<void>;
  /** Answer this way from now on; `undefined` is a 200 after a while. */
  answer(script: (arrival: Arrival) => Answer | undefined | Promise<Answer>): void;
  /** The events whose jobs some worker holds. */
  held(): Promise<Set<string>>;
  /** Wait until nothing is left to do. */
  settled(timeoutMs: number): Promise<void>;
  closeBooks(): Promise<Balance>;
  /** Call this when the test is over, however it ends; the last one first. */
  atEnd(end: () => unknown): void;
  /** How the test went, for those who ask with CHAOS_FIGURES=1. */
  figures(figures: Record<string, number | string>): void;
}

/**
 * A test with a rig of its own, at the same time as the others of its file. A failure names its seed; `CHAOS_SEED=…`
 * repeats it, as far as processes can be made to.
 */
export function chaos(name: string, options: RigOptions, run: (rig: Rig) => Promise<void>): void {
  test.concurrent(
    name,
    async () => {
      const seed = Number(process.env.CHAOS_SEED) || Math.floor(Math.random() * 2 ** 32);
      const ends: (() => unknown)[] = [];
      try {
        await bounded(build(name, seed, options, ends).then(run), () => "the test's end", RUN_MS);
      } catch (error) {
        if (error instanceof Error) error.message += `\n\nTo repeat it: CHAOS_SEED=${seed}`;
        throw error;
      } finally {
        for (const end of ends.reverse()) await end();
      }
    },
    TEST_MS,
  );
}

const lanes: Promise<unknown>[] = [Promise.resolve(), Promise.resolve()];

/** Twenty processes that start at the same time on two cores would all be late. */
function twoByTwo<T>(start: () => Promise<T>): Promise<T> {
  const started = (lanes.shift() as Promise<unknown>).then(start);
  lanes.push(started.catch(() => {}));
  return started;
}

async function build(name: string, seed: number, options: RigOptions, ends: (() => unknown)[]): Promise<Rig> {
  const { workers: count = 2, env: commonEnv = {}, answerMs = [20, 80] } = options;
  const chance = createChance(seed);
  const startedAt = performance.now();
  const atEnd: Rig["atEnd"] = (end) => void ends.push(end);

  const valkey = await startValkey(options.valkey);
  ends.push(() => valkey.stop());
  const receiver = await startReceiver();
  ends.push(() => receiver.stop());
  const url = (await options.via?.(valkey, atEnd)) ?? valkey.url;
  const admin = openValkey(url, { maxRetriesPerRequest: null, retryStrategy: () => 100 });
  admin.on("error", () => {}); // Valkey is away on purpose
  const queue = new Queue("webhooks", { connection: admin });
  queue.on("error", () => {});
  const backend = createFluxhook({ valkeyUrl: url, timeoutMs: 60_000 });
  ends.push(async () => {
    admin.disconnect();
    await Promise.race([backend.close().catch(() => {}), Bun.sleep(500)]);
  });

  const workers: WorkerProcess[] = [];
  let isOver = false;
  ends.push(() => {
    isOver = true;
    return Promise.all(workers.map(end));
  });
  const startWorker: Rig["startWorker"] = (env = {}) =>
    twoByTwo(async () => {
      if (isOver) throw new Error("the test is over");
      const slots = { WEBHOOK_CONCURRENCY: String(SLOTS), WEBHOOK_ENDPOINT_CONCURRENCY: String(SLOTS) };
      const worker = startWorkerProcess({ VALKEY_URL: url, ...slots, ...commonEnv, ...env });
      workers.push(worker);
      let isGone = false;
      worker.exited.then(() => {
        isGone = true;
      });
      const isReady = () => worker.lines.some(({ message }) => message === "worker.ready");
      await eventually(() => isGone || isReady(), Boolean, START_MS, POLL_MS);
      if (!isReady()) throw new Error("the worker ended before it took jobs");
      return worker;
    });

  const books = createBooks(createAttemptLog(admin), () => queue.getFailedCount());
  let script: Parameters<Rig["answer"]>[0] = () => undefined;
  receiver.answer((request) => {
    const delayMs = Math.round(chance.between(...answerMs));
    return script(books.arrive(request)) ?? { delayMs };
  });

  let made = 0;
  const enqueue: Rig["enqueue"] = async (put = (event) => backend.enqueue(event)) => {
    const index = made++;
    const id = crypto.randomUUID();
    await put({
      event: "file.created",
      id, // also the job's id: a backend whose connection was cut may ask again without enqueueing twice
      userId: books.nextUser(),
      endpoint: { url: receiver.url(`/${index % ENDPOINTS}`), secret: "s3cret-of-the-test" },
      data: { index },
    });
    books.wasEnqueued(id);
    return id;
  };

  for (let i = 0; i < count; i++) await startWorker();
  return {
    chance,
    valkey,
    admin,
    workers,
    receiverUrl: receiver.url("/"),
    arrivals: books.arrivals,
    enqueued: books.enqueued,
    startWorker,
    enqueue,
    load: (perSecond) => startLoad(perSecond, enqueue, { limitMs: 15_000, atEnd: (end) => ends.push(end) }),
    answer(next) {
      script = next;
    },
    held: async () => new Set(await admin.lrange("bull:webhooks:active", 0, -1)),
    async settled(timeoutMs) {
      const left = () => queue.getJobCounts("waiting", "active", "delayed", "prioritized");
      await eventually(left, (counts) => Object.values(counts).every((n) => n === 0), timeoutMs, POLL_MS);
    },
    closeBooks: () => books.close(),
    atEnd,
    figures(figures) {
      if (!process.env.CHAOS_FIGURES) return;
      const seconds = Math.round((performance.now() - startedAt) / 100) / 10;
      console.error(name, { seconds, enqueued: made, arrivals: books.arrivals.length, ...figures });
    },
  };
}

/** SIGKILL, and wait until it is gone. */
export async function kill(worker: WorkerProcess): Promise<void> {
  process.kill(worker.pid, "SIGKILL");
  await worker.exited;
}

/** SIGKILL, unless it is gone: its pid may be someone else's by then. Works on a stopped one too. */
export async function end(worker: WorkerProcess): Promise<void> {
  const isGone = await Promise.race([worker.exited.then(() => true), Bun.sleep(0).then(() => false)]);
  if (!isGone) await kill(worker);
}

/** Wait until a worker is ready, or is not; why it is not. */
export function whenReady(worker: WorkerProcess, isReady: boolean, timeoutMs = READY_MS): Promise<string[]> {
  const ask = async (): Promise<string[]> => {
    const response = await fetch(await worker.url("/readyz"));
    const { problems = ["no reason given"] } = (await response.json()) as { problems?: string[] };
    return response.status === 200 ? [] : problems;
  };
  return eventually(ask, (problems) => (problems.length === 0) === isReady, timeoutMs, POLL_MS);
}
