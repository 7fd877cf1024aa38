/**
 * A worker inside the test process: wired as src/worker.ts wires it, with the parts that tests replace left open.
 */
import { Queue } from "bullmq";
import type { Completed } from "../../jobs/completion.ts";
import type { Missed } from "../../jobs/locate.ts";
import { DEFAULT_EVENTS, type InlineJobData, parseEvent } from "../../src/delivery/contract.ts";
import type { RetryPolicy } from "../../src/delivery/retry.ts";
import { type Network, parseNetwork, type Resolve } from "../../src/dns/address.ts";
import type { NameServer } from "../../src/dns/resolv-conf.ts";
import type { Sender } from "../../src/http/sender.ts";
import type { Gate } from "../../src/isolation/gate.ts";
import type { Holds } from "../../src/isolation/holds.ts";
import { type Attempt, type AttemptLog, createAttemptLog } from "../../src/log/attempts.ts";
import type { Metrics } from "../../src/monitoring/metrics.ts";
import type { DeliveryWorker, Job } from "../../src/queue/worker.ts";
import type { Logger } from "../../src/runtime/logger.ts";
import type { Config } from "../../src/settings/config.ts";
import { connectValkey, type Valkey } from "../../src/valkey/connection.ts";
import { createPipeline } from "../../src/worker/pipeline.ts";
import { testValkeyUrl } from "./valkey.ts";

export interface StackOptions {
  /** Another stack's queue name; a new one otherwise. */
  readonly queue?: string;
  readonly concurrency?: number;
  readonly timeoutMs?: number;
  readonly policy?: RetryPolicy;
  readonly resolve?: Resolve;
  readonly dnsServers?: readonly NameServer[];
  readonly allowNetworks?: readonly string[];
  readonly gate?: Gate;
  /** In place of the log in Valkey, which it gets. */
  readonly log?: (log: AttemptLog) => Pick<AttemptLog, "record">;
  /** In place of the completion hook, which it gets. */
  readonly completed?: (completed: Completed) => Completed;
  readonly missed?: Missed;
  readonly random?: () => number;
  /** Do not take jobs yet: the test calls `worker.run()`. */
  readonly isIdle?: boolean;
  /** The event types; the ten by default. */
  readonly events?: readonly string[];
  /** What is kept; the settings' defaults for the rest. */
  readonly retention?: Partial<typeof RETENTION>;
  readonly maxAgeMs?: number;
  readonly maxBacklog?: number;
  readonly missedMax?: number;
  readonly registry?: boolean;
  readonly disableAfterMs?: number;
  readonly notices?: boolean;
  readonly noticeUrl?: URL;
  readonly noticeSecret?: string;
  readonly maxBodyBytes?: number;
  readonly secretKeys?: Config["secretKeys"];
  /** Settings that have their defaults otherwise. */
  readonly destinations?: Partial<Destinations>;
}

/** One line of output: its message and its fields. */
export interface Line {
  readonly message: string;
  readonly level: string;
  readonly [field: string]: unknown;
}

/** A job's end: BullMQ has it in the completed or the failed set. */
export interface Settled {
  readonly state: "completed" | "failed";
  readonly job: Job;
}

export interface Stack {
  /** A plain BullMQ queue, as a backend has it. */
  readonly queue: Queue;
  readonly worker: DeliveryWorker;
  readonly sender: Sender;
  readonly metrics: Metrics;
  /** Empty until the test watches them. */
  readonly holds: Holds;
  readonly logger: Logger;
  readonly log: AttemptLog;
  readonly valkey: Valkey;
  /** What was logged so far. */
  readonly lines: readonly Line[];
  /** The `count`-th line with this message, 1-based, as soon as there is one. */
  line(message: string, count?: number): Promise<Line>;
  /** The job's final state, as soon as it has one; after a retry by hand, call it before the retry. */
  settled(job: { readonly id?: string | undefined }): Promise<Settled>;
  /** Everything Valkey keeps of a job. */
  stored(job: { readonly id?: string | undefined }): Promise<Record<string, string>>;
  /** A user's log. */
  attempts(userId: string): Promise<Attempt[]>;
  stop(): Promise<void>;
}

const WAIT_MS = 20 * 1000; // 20 s, below a test's 25: Bun answers a test's timeout by killing its child processes, Valkey too

/** Lets every job go: for tests that are not about the gate. */
export const OPEN_GATE: Gate = {
  admit: () => ({ kind: "go" }),
  release: () => {},
  changed: () => {},
  openCircuits: 0,
  listOpen: () => [],
};

/** The settings' defaults, for what looks at a contract. */
export const LIMITS = { maxBodyBytes: 256 * 1024, secretKeys: [], events: DEFAULT_EVENTS };

/** The settings' defaults of what is kept. */
export const RETENTION = {
  logSize: 10,
  logAgeMs: 7 * 24 * 60 * 60 * 1000,
  keepResponseBytes: 1024,
  showResponse: false,
  keepCompleted: 1_000,
  keepFailed: 10_000,
};

type Destinations = Pick<Config, "denyNetworks" | "allowPorts" | "requireHttps" | "ca" | "proxy" | "proxyResolves">;

const ANYWHERE: Destinations = {
  denyNetworks: [],
  allowPorts: [],
  requireHttps: false,
  ca: undefined,
  proxy: undefined,
  proxyResolves: false,
};

/** Three attempts, a millisecond apart. */
export const QUICK: RetryPolicy = { attempts: 3, delaysMs: [1], jitter: 0 };

export async function startStack(options: StackOptions = {}): Promise<Stack> {
  const { queue: name = `test-${crypto.randomUUID()}`, concurrency = 16, timeoutMs = 5_000, policy = QUICK } = options;
  const { logger, lines, line } = createRecorder();
  const url = await testValkeyUrl();
  const valkey = connectValkey(url, "test:queue", logger);

  const retention = { ...RETENTION, ...options.retention };
  const log = createAttemptLog(valkey, retention);
  const { workers, noticeWorkers, sender, metrics, holds } = createPipeline({
    config: {
      events: options.events === undefined ? DEFAULT_EVENTS : new Set(options.events),
      concurrency,
      endpointConcurrency: concurrency,
      timeoutMs,
      retryDelaysMs: [],
      maxAgeMs: options.maxAgeMs ?? 30 * 24 * 60 * 60 * 1000,
      maxBacklog: options.maxBacklog ?? 1_000_000,
      missedMax: options.missedMax ?? 1_000,
      registry: options.registry ?? false,
      disableAfterMs: options.disableAfterMs ?? 5 * 24 * 60 * 60 * 1000,
      notices: options.notices ?? false,
      noticeUrl: options.noticeUrl,
      noticeSecret: options.noticeSecret,
      maxBodyBytes: options.maxBodyBytes ?? 256 * 1024,
      allowNetworks: (options.allowNetworks ?? ["127.0.0.0/8"]).map((cidr) => parseNetwork(cidr) as Network),
      ...retention,
      ...ANYWHERE,
      ...options.destinations,
      dnsServers: [...(options.dnsServers ?? [])],
      secretKeys: options.secretKeys ?? [],
    },
    logger,
    shards: [{ index: 0, queue: name, tag: "", label: "", valkey }],
    parts: {
      resolve: options.resolve,
      gate: options.gate,
      log: options.log,
      completed: options.completed,
      missed: options.missed,
      random: options.random,
      policy,
    },
  });
  const [worker] = workers;
  const ends = new Map<string, { promise: Promise<Settled>; resolve: (settled: Settled) => void }>();
  const endOf = (id: string) => {
    const end = ends.get(id) ?? Promise.withResolvers<Settled>();
    ends.set(id, end);
    return end;
  };
  worker.on("completed", (job) => endOf(job.id as string).resolve({ state: "completed", job }));
  worker.on("failed", (job) => {
    if (job?.finishedOn) endOf(job.id as string).resolve({ state: "failed", job });
  });
  const queue = new Queue(name, { connection: valkey });
  if (options.isIdle !== true) worker.run();
  for (const one of noticeWorkers) one?.run();

  return {
    queue,
    worker,
    sender,
    metrics,
    holds,
    logger,
    log,
    valkey,
    lines,
    line,
    async settled({ id }) {
      const end = endOf(id as string);
      const settled = await bounded(
        end.promise,
        () => `the end of job ${id}, last logged ${JSON.stringify(lines.slice(-3))}`,
      );
      ends.delete(id as string);
      return settled;
    },
    stored: ({ id }) => valkey.hgetall(queue.toKey(id as string)),
    attempts: (userId) => log.list(userId, Date.now()),
    async stop() {
      await Promise.all([worker, ...noticeWorkers].map((one) => one?.close()));
      sender.close();
      await queue.close();
      valkey.disconnect();
    },
  };
}

/** A backend's job data: an endpoint, and a user of its own unless given. */
export function jobData(url: string, overrides: Partial<InlineJobData> = {}): InlineJobData {
  const userId = `usr_${crypto.randomUUID()}`;
  return { userId, endpoint: { url, secret: "s3cret-of-the-test" }, data: { path: "/a.txt", bytes: 12 }, ...overrides };
}

/** The event that a job is: what the worker makes of it. */
export function eventOf(
  queue: Queue,
  job: { id?: string | undefined; name: string; data: unknown; timestamp: number },
) {
  const { id, name, data, timestamp } = job;
  return parseEvent({ id, name, data, timestamp, queueName: queue.name }, LIMITS);
}

/** Wait for a promise, but not for ever. */
export async function bounded<T>(promise: Promise<T>, what: () => string, timeoutMs = WAIT_MS): Promise<T> {
  let timer: Timer | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`expected ${what()} within ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Ask until the answer is good: for what nothing signals. */
export async function eventually<T>(
  ask: () => Promise<T> | T,
  isGood: (answer: T) => boolean,
  timeoutMs = WAIT_MS,
  everyMs = 5,
): Promise<T> {
  const giveUpAt = performance.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (isGood(answer)) return answer;
    if (performance.now() > giveUpAt) {
      throw new Error(`expected a better answer within ${timeoutMs} ms, last got ${JSON.stringify(answer)}`);
    }
    await Bun.sleep(everyMs);
  }
}

/** A logger that keeps its lines, and says when one comes. */
function createRecorder() {
  const lines: Line[] = [];
  const waiting = new Set<() => void>();
  const write = (level: string) => (fields: object, message: string) => {
    lines.push({ level, message, ...fields });
    for (const check of [...waiting]) check();
  };
  const logger = {
    debug: () => {},
    info: write("info"),
    warn: write("warn"),
    error: write("error"),
  } as unknown as Logger;
  const line = (message: string, count = 1): Promise<Line> => {
    const { promise, resolve } = Promise.withResolvers<Line>();
    const check = () => {
      const found = lines.filter((candidate) => candidate.message === message)[count - 1];
      if (found === undefined) return;
      waiting.delete(check);
      resolve(found);
    };
    waiting.add(check);
    check();
    return bounded(promise, () => `${count} lines ${message}, last got ${JSON.stringify(lines.slice(-3))}`);
  };
  return { logger, lines: lines as readonly Line[], line };
}
