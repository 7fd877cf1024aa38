/**
 * Connections to Valkey, and what it says about itself.
 */
import "./channel-subscribers.ts";
import { Redis, type RedisOptions, ReplyError } from "ioredis";
import { within } from "./deadline.ts";
import { joinWrites } from "./joined-writes.ts";
import type { Logger } from "./logger.ts";
import { addressOf, placeOf } from "./valkey-url.ts";

export type Valkey = Redis;

const SENTINEL_MS = 2 * 1000; // 2 s for one Sentinel to answer: then the next is asked

/**
 * Open a connection.
 *
 * @param url  as `VALKEY_URL`; where it names Sentinels, each connecting begins with asking them for the primary
 */
export function openValkey(url: string, options: RedisOptions): Valkey {
  const address = addressOf(url);
  if ("url" in address) return new Redis(address.url, options);
  const timeouts = { connectTimeout: SENTINEL_MS, sentinelCommandTimeout: SENTINEL_MS };
  const sentinelRetryStrategy = options.retryStrategy ?? (() => null);
  return new Redis({ ...address, ...timeouts, sentinelRetryStrategy, ...options });
}

const MAX_RECONNECT_DELAY_MS = 2 * 1000; // 2 s: how long after Valkey's return we may be unaware of it
const SILENCE_MS = 15 * 1000; // 15 s without an answer: longer than BullMQ's longest wait for jobs, which is 10 s

/**
 * Open a connection that never gives up: commands wait while Valkey is away and are sent again when it is back, so that
 * nothing that has happened goes unrecorded.
 *
 * @param url   as `VALKEY_URL`
 * @param name  shown in CLIENT LIST and in the log
 */
export function connectValkey(url: string, name: string, logger: Pick<Logger, "info" | "warn">): Valkey {
  const valkey = openValkey(url, {
    connectionName: name,
    maxRetriesPerRequest: null,
    // A machine that vanished closes nothing, and TCP alone would hope for a quarter of an hour.
    socketTimeout: SILENCE_MS,
    retryStrategy: (times) => Math.min(50 * 2 ** Math.min(times, 10), MAX_RECONNECT_DELAY_MS),
    // Go and find the new primary, then resend.
    reconnectOnError: (error) => (isReadonly(error) ? 2 : false),
  });
  expectFailovers(valkey);
  valkey.on("connect", () => joinWrites(valkey.stream));
  let isAway: boolean | undefined;
  valkey.on("ready", () => {
    if (isAway !== undefined) logger.info({ connection: name }, "valkey.back");
    isAway = undefined;
  });
  // One line an outage, not one a reconnect: the first says why.
  valkey.on("error", (error: NodeJS.ErrnoException) => {
    if (isAway === undefined) logger.warn({ connection: name, reason: error.code ?? error.message }, "valkey.away");
    isAway = true;
  });
  return valkey;
}

/** For each READONLY ioredis listens to the connection's end once more: a failover under load is no leak to warn of. */
function expectFailovers(valkey: Valkey): void {
  valkey.on("connect", () => valkey.stream.setMaxListeners(0));
}

/** What a primary that became a replica answers: the first word of an error is its code, not prose. */
function isReadonly(error: Error): boolean {
  return error.message.startsWith("READONLY ");
}

const REACH_MS = 2 * 1000; // 2 s: somebody waits at a terminal

const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nothing listens there",
  ENOTFOUND: "the host is not known",
  EAI_AGAIN: "the host cannot be looked up",
  ETIMEDOUT: "no answer",
  ECONNRESET: "it cut the connection",
};

/**
 * Open a connection that gives up: for what runs once and must not hang. It never reconnects, and a command fails that
 * has no answer within 2 s.
 *
 * @param url  as `VALKEY_URL`
 * @returns the connection, ready; or why there is none, in words, within 2 s
 * @throws  never
 */
export async function reachValkey(
  url: string,
  name: string,
): Promise<{ readonly ok: true; readonly valkey: Valkey } | { readonly ok: false; readonly reason: string }> {
  const valkey = openValkey(url, {
    connectionName: name,
    lazyConnect: true,
    retryStrategy: () => null,
    connectTimeout: REACH_MS,
    socketTimeout: REACH_MS,
    maxRetriesPerRequest: 0,
  });
  // A database that does not exist is told here alone: the connection would go on, with another one.
  let complaint: NodeJS.ErrnoException | undefined;
  valkey.on("error", (error: NodeJS.ErrnoException) => {
    complaint ??= error;
  });
  const isReady = await within(
    REACH_MS,
    valkey.connect().then(() => valkey.ping()),
    undefined,
  );
  if (isReady !== undefined && complaint === undefined) return { ok: true, valkey };
  valkey.disconnect();
  if (complaint === undefined) return { ok: false, reason: "no answer" };
  return { ok: false, reason: REASONS[complaint.code ?? ""] ?? complaint.message.replace(/\.$/, "") };
}

const RECONNECT_MS = 200; // a backend's caller waits meanwhile
const PAUSE_MS = 50; // between two tries

/**
 * Valkey did not answer in time. `mayBeQueued` says what is known of the event: false, it was never sent; true, the
 * connection was lost or silent meanwhile, and it may be on the queue, or still get there.
 */
export class ValkeyAwayError extends Error {
  override readonly name = "ValkeyAwayError";
  readonly code = "VALKEY_AWAY";
  constructor(
    message: string,
    readonly mayBeQueued: boolean,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** A connection for who has a caller that waits: nothing is kept for later, and nothing sent again by itself. */
export interface PromptValkey {
  readonly valkey: Valkey;
  /**
   * Do something within the time, again when the connection was cut: it must do no harm twice.
   *
   * @throws  ValkeyAwayError when the time is up; what Valkey answers with, when that is an error
   */
  run<T>(work: () => Promise<T>): Promise<T>;
}

/** @param timeoutMs  how long {@link PromptValkey.run} tries, the first connecting included */
export function connectPromptly(url: string, name: string, timeoutMs: number): PromptValkey {
  const valkey = openValkey(url, {
    connectionName: name,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    connectTimeout: timeoutMs,
    socketTimeout: timeoutMs,
    retryStrategy: () => RECONNECT_MS,
    reconnectOnError: (error) => (isReadonly(error) ? 1 : false),
  });
  expectFailovers(valkey);
  valkey.setMaxListeners(Number.POSITIVE_INFINITY); // every call that waits listens; BullMQ counts up from here
  let trouble: NodeJS.ErrnoException | undefined;
  valkey.on("error", (error) => {
    trouble = error;
  });
  valkey.on("ready", () => {
    trouble = undefined;
  });
  const isReady = (withinMs: number) =>
    new Promise<boolean>((resolve) => {
      // A stream that has just been destroyed is not closed yet, and its connection still calls itself ready.
      const isOpen = valkey.status === "ready" && valkey.stream.writable;
      if (isOpen || valkey.status === "end") return resolve(isOpen);
      const settle = (): void => {
        clearTimeout(timer);
        valkey.off("ready", settle).off("end", settle);
        resolve(valkey.status === "ready");
      };
      const timer = setTimeout(settle, withinMs);
      valkey.once("ready", settle).once("end", settle);
    });

  return {
    valkey,
    async run(work) {
      const until = performance.now() + timeoutMs;
      let isSent = false;
      for (let left = timeoutMs; left > 0; left = until - performance.now()) {
        if (!(await isReady(left))) break;
        isSent = true;
        const done = work().then(
          (value) => ({ value }),
          (error: Error) => ({ error }),
        );
        const result = await within(Math.max(1, until - performance.now()), done, undefined);
        if (result === undefined) {
          valkey.stream.destroy(); // what has not left yet must not leave later
          break;
        }
        if ("value" in result) return result.value;
        const { error } = result;
        if (error instanceof ReplyError && !isReadonly(error)) throw error;
        trouble = error;
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
      const why = trouble === undefined ? "" : ` (${trouble.code ?? trouble.message})`;
      const what = valkey.status === "end" ? "the connection was closed" : `no answer within ${timeoutMs} ms${why}`;
      throw new ValkeyAwayError(`Valkey at ${placeOf(url)}: ${what}`, isSent, { cause: trouble });
    },
  };
}

/** What a Valkey (or Redis) server says about itself. */
export interface ValkeyFacts {
  /** `Valkey 8.0.1` or `Redis 7.0.15`. */
  readonly server: string;
  /** `noeviction`, or a policy under which queued events may vanish. */
  readonly evictionPolicy: string;
  /** Whether the append-only file is on. */
  readonly appendOnly: boolean;
  /** Whether it takes writes: a replica does not. */
  readonly isPrimary: boolean;
  readonly usedMemoryBytes: number;
}

/** Ask Valkey about itself. Waits while it is away: race it with a deadline where that matters. */
export async function readFacts(valkey: Valkey): Promise<ValkeyFacts> {
  const info = new Map((await valkey.info()).split("\r\n").map((line) => line.split(":", 2) as [string, string]));
  const version = info.get("valkey_version");
  return {
    server: version === undefined ? `Redis ${info.get("redis_version")}` : `Valkey ${version}`,
    evictionPolicy: info.get("maxmemory_policy") ?? "unknown",
    appendOnly: info.get("aof_enabled") === "1",
    isPrimary: info.get("role") === "master",
    usedMemoryBytes: Number(info.get("used_memory")),
  };
}
