/**
 * A connection to Valkey for backends, whose callers wait.
 */
import { within } from "../runtime/deadline.ts";
import {
  expectFailovers,
  isAnswer,
  isReadonly,
  NoDatabaseError,
  openValkey,
  type Valkey,
} from "../valkey/connection.ts";
import { refusalOf } from "../valkey/refusals.ts";
import { placeOf } from "../valkey/url.ts";

const RECONNECT_MS = 200; // a backend's caller waits meanwhile
const REFUSED_MS = 1000; // 1 s after a refused login: nobody waits for it, and Valkey notes each
const PAUSE_MS = 50; // before the second try; then twice as long each time

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

/**
 * Valkey answers, with a refusal that waiting does not change: somebody has to.
 *
 * - `VALKEY_LOGIN`    user or password are wrong or missing
 * - `VALKEY_REFUSED`  the user may not do this, or a key is not what it should be
 */
export class ValkeyRefusedError extends Error {
  override readonly name = "ValkeyRefusedError";
  readonly code: "VALKEY_LOGIN" | "VALKEY_REFUSED";
  /** @param answer  what Valkey said */
  constructor(place: string, answer: Error) {
    super(`Valkey at ${place} refuses: ${answer.message}`, { cause: answer });
    this.code = /^(WRONGPASS|NOAUTH) /.test(answer.message) ? "VALKEY_LOGIN" : "VALKEY_REFUSED";
  }
}

/** A connection for who has a caller that waits: nothing is kept for later, and nothing sent again by itself. */
export interface PromptValkey {
  readonly valkey: Valkey;
  /**
   * Do something within the time, again when the connection was cut: it must do no harm twice.
   *
   * @param work  is told whether an earlier try may have come through
   * @throws  ValkeyAwayError when the time is up. At once: ValkeyRefusedError, when Valkey refuses for good; NoDatabaseError,
   *          when it does not have the database that the URL names
   */
  run<T>(work: (isAgain: boolean) => Promise<T>): Promise<T>;
}

/**
 * Open it. While no call waits, it does not keep the process from ending.
 *
 * @param timeoutMs  how long {@link PromptValkey.run} tries, the first connecting included
 */
export function connectPromptly(url: string, name: string, timeoutMs: number): PromptValkey {
  const place = placeOf(url);
  let trouble: NodeJS.ErrnoException | undefined;
  const isFinal = () => trouble instanceof NoDatabaseError || trouble instanceof ValkeyRefusedError;
  const valkey = openValkey(url, {
    connectionName: name,
    enableOfflineQueue: false,
    enableReadyCheck: false, // asks INFO, a right that a backend can do without; a Valkey that loads says so to each command
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    connectTimeout: timeoutMs,
    socketTimeout: timeoutMs,
    retryStrategy: () => (trouble instanceof ValkeyRefusedError ? REFUSED_MS : RECONNECT_MS),
    reconnectOnError: (error) => (isReadonly(error) ? 1 : false),
  });
  expectFailovers(valkey);
  valkey.setMaxListeners(Number.POSITIVE_INFINITY); // every call that waits listens; BullMQ counts up from here
  // Each call has a timer, which keeps the process until it ends.
  valkey.on("connect", () => valkey.stream.unref());
  valkey.on("reconnecting", () => (valkey as unknown as { reconnectTimeout?: Timer }).reconnectTimeout?.unref());
  const waiting = new Set<() => void>();
  const wake = (): void => {
    for (const settle of [...waiting]) settle();
  };
  valkey.on("error", (error) => {
    const isRefused = isAnswer(error) && refusalOf(error) === "never";
    trouble = isRefused ? new ValkeyRefusedError(place, error) : error;
    if (isFinal()) wake(); // to wait would not help
  });
  valkey.on("ready", () => {
    trouble = undefined;
    wake();
  });
  valkey.on("end", wake);
  const isReady = (withinMs: number) =>
    new Promise<boolean>((resolve) => {
      // A stream that has just been destroyed is not closed yet, and its connection still calls itself ready.
      const isOpen = valkey.status === "ready" && valkey.stream.writable;
      if (isOpen || valkey.status === "end" || isFinal()) return resolve(isOpen);
      const settle = (): void => {
        clearTimeout(timer);
        waiting.delete(settle);
        resolve(valkey.status === "ready");
      };
      const timer = setTimeout(settle, withinMs);
      waiting.add(settle);
    });

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
          valkey.stream.destroy(); // what has not left yet must not leave later
          break;
        }
        if ("value" in result) return result.value;
        const { error } = result;
        const isRefusal = isAnswer(error);
        if (isRefusal && refusalOf(error) !== "later") throw new ValkeyRefusedError(place, error);
        if (isRefusal) isSent = isAgain; // nothing of it was executed
        trouble = error;
        await new Promise((resolve) => setTimeout(resolve, Math.min(pauseMs, Math.max(1, until - performance.now()))));
        pauseMs *= 2;
      }
      if (isFinal() && !isSent) throw trouble;
      const why = trouble === undefined ? "" : ` (${trouble.code ?? trouble.message})`;
      const isRefused = trouble !== undefined && isAnswer(trouble);
      const isClosed = valkey.status === "end";
      const what = isClosed
        ? "the connection was closed"
        : `no ${isRefused ? "success" : "answer"} within ${timeoutMs} ms${why}`;
      throw new ValkeyAwayError(`Valkey at ${place}: ${what}`, isSent, { cause: trouble });
    },
  };
}
