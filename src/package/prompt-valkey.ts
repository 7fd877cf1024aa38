/**
 * The connection of a backend, whose calls must succeed or fail within a deadline.
 */
import type { RedisOptions } from "ioredis";
import { within } from "../runtime/deadline.ts";
import {
  expectFailovers,
  isAnswer,
  isElsewhere,
  NoDatabaseError,
  openValkey,
  type Valkey,
} from "../valkey/connection.ts";
import { codeOf, refusalOf } from "../valkey/refusals.ts";
import { placeOf } from "../valkey/url.ts";

const RECONNECT_MS = 200; // a backend's caller waits meanwhile
const REFUSED_MS = 1000; // 1 s after a refused login: no caller waits for it, and Valkey logs each
const PAUSE_MS = 50; // before the second try; doubled each time

/**
 * Valkey did not answer in time. `mayBeQueued` is false if the event was never sent. If true, the connection was lost or
 * silent after sending it: it may be on the queue, or still be enqueued.
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

/**
 * Valkey refuses, and will keep refusing until someone fixes the cause.
 *
 * - `VALKEY_LOGIN`    the user or password is wrong or missing
 * - `VALKEY_REFUSED`  the user lacks a permission, or a key has the wrong type
 */
export class ValkeyRefusedError extends Error {
  override readonly name = "ValkeyRefusedError";
  readonly code: "VALKEY_LOGIN" | "VALKEY_REFUSED";
  /** @param answer  Valkey's error */
  constructor(place: string, answer: Error) {
    super(`Valkey at ${place} refuses: ${answer.message}`, { cause: answer });
    this.code = /^(WRONGPASS|NOAUTH) /.test(answer.message) ? "VALKEY_LOGIN" : "VALKEY_REFUSED";
  }
}

/** A connection that neither queues commands for later nor resends them by itself. */
export interface PromptValkey {
  readonly valkey: Valkey;
  /**
   * Run `work` within the time limit, again if the connection is lost: it must be idempotent.
   *
   * @param work  is told whether an earlier try may have been executed
   * @throws  ValkeyAwayError when the time is up. Immediately: ValkeyRefusedError when Valkey refuses for good, and
   *          NoDatabaseError when it does not have the URL's database
   */
  run<T>(work: (isAgain: boolean) => Promise<T>): Promise<T>;
}

/**
 * Open the connection. While no call is pending, it does not keep the process alive.
 *
 * @param key        in a cluster: the connection leads to the node that owns its slot
 * @param timeoutMs  how long {@link PromptValkey.run} tries, including the first connect
 */
export function connectPromptly(url: string, name: string, timeoutMs: number, key?: string): PromptValkey {
  const place = placeOf(url);
  const health: Health = { trouble: undefined };
  const valkey = open(url, name, timeoutMs, health, key);
  const isReady = watchReadiness(valkey, place, health);
  return {
    valkey,
    async run(work) {
      const until = performance.now() + timeoutMs;
      let isSent = false;
      let pauseMs = PAUSE_MS;
      for (let left = timeoutMs; left > 0; left = until - performance.now()) {
        if (!(await isReady(left))) break;
        const isAgain: boolean = isSent;
        isSent = true;
        const done = work(isAgain).then(
          (value) => ({ value }),
          (error: Error) => ({ error }),
        );
        const result = await within(Math.max(1, until - performance.now()), done, undefined);
        if (result === undefined) {
          valkey.stream.destroy(); // commands not sent yet must not be sent later
          break;
        }
        if ("value" in result) return result.value;
        const { error } = result;
        const isRefusal = isAnswer(error) && codeOf(error) !== "NOSCRIPT"; // which `work` sends in full when it is tried again
        const isForNow = refusalOf(error) === "later" || isElsewhere(error, valkey.isInCluster);
        if (isRefusal && !isForNow) throw new ValkeyRefusedError(place, error);
        if (isRefusal) isSent = isAgain; // nothing of it was executed
        health.trouble = error;
        await new Promise((resolve) => setTimeout(resolve, Math.min(pauseMs, Math.max(1, until - performance.now()))));
        pauseMs *= 2;
      }
      if (isFinal(health) && !isSent) throw health.trouble;
      throw describeOutage(valkey, place, timeoutMs, health, isSent);
    },
  };
}

interface Health {
  /** The last error; undefined while the connection is usable. */
  trouble: NodeJS.ErrnoException | undefined;
}

/** Whether waiting cannot help. */
const isFinal = ({ trouble }: Health): boolean =>
  trouble instanceof NoDatabaseError || trouble instanceof ValkeyRefusedError;

function open(
  url: string,
  name: string,
  timeoutMs: number,
  health: Health,
  key?: string,
): ReturnType<typeof openValkey> {
  const options: RedisOptions = {
    connectionName: name,
    enableOfflineQueue: false,
    enableReadyCheck: false, // needs INFO, which backends may lack; a loading Valkey refuses each command anyway
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    connectTimeout: timeoutMs,
    socketTimeout: timeoutMs,
    retryStrategy: () => (health.trouble instanceof ValkeyRefusedError ? REFUSED_MS : RECONNECT_MS),
    reconnectOnError: (error) => (isElsewhere(error, valkey.isInCluster) ? 1 : false),
  };
  const valkey = openValkey(url, options, key);
  expectFailovers(valkey);
  valkey.setMaxListeners(Number.POSITIVE_INFINITY); // each pending call listens; BullMQ raises the limit from here
  // Pending calls have timers, which keep the process alive instead.
  valkey.on("connect", () => valkey.stream.unref());
  valkey.on("reconnecting", () => (valkey as unknown as { reconnectTimeout?: Timer }).reconnectTimeout?.unref());
  return valkey;
}

/** Track the connection's errors. Returns a function that waits until it is usable, at most `withinMs`. */
function watchReadiness(valkey: Valkey, place: string, health: Health): (withinMs: number) => Promise<boolean> {
  const waiting = new Set<() => void>();
  const wake = (): void => {
    for (const settle of [...waiting]) settle();
  };
  valkey.on("error", (error) => {
    const isRefused = isAnswer(error) && refusalOf(error) === "never";
    health.trouble = isRefused ? new ValkeyRefusedError(place, error) : error;
    if (isFinal(health)) wake();
  });
  valkey.on("ready", () => {
    health.trouble = undefined;
    wake();
  });
  valkey.on("end", wake);
  return (withinMs) =>
    new Promise<boolean>((resolve) => {
      // A stream that was just destroyed is not closed yet, and ioredis still reports its connection as ready.
      const isOpen = valkey.status === "ready" && valkey.stream.writable;
      if (isOpen || valkey.status === "end" || isFinal(health)) return resolve(isOpen);
      const settle = (): void => {
        clearTimeout(timer);
        waiting.delete(settle);
        resolve(valkey.status === "ready");
      };
      const timer = setTimeout(settle, withinMs);
      waiting.add(settle);
    });
}

function describeOutage(valkey: Valkey, place: string, timeoutMs: number, { trouble }: Health, isSent: boolean) {
  const why = trouble === undefined ? "" : ` (${trouble.code ?? trouble.message})`;
  const isRefused = trouble !== undefined && isAnswer(trouble);
  const what =
    valkey.status === "end"
      ? "the connection was closed"
      : `no ${isRefused ? "success" : "answer"} within ${timeoutMs} ms${why}`;
  return new ValkeyAwayError(`Valkey at ${place}: ${what}`, isSent, { cause: trouble });
}
