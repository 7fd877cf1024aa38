/**
 * A connection to Valkey for backends, whose callers wait.
 */
import { within } from "./deadline.ts";
import { refusalOf } from "./refusals.ts";
import { expectFailovers, isAnswer, isReadonly, NoDatabaseError, openValkey, type Valkey } from "./valkey.ts";
import { placeOf } from "./valkey-url.ts";

const RECONNECT_MS = 200; // a backend's caller waits meanwhile
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

/** A connection for who has a caller that waits: nothing is kept for later, and nothing sent again by itself. */
export interface PromptValkey {
  readonly valkey: Valkey;
  /**
   * Do something within the time, again when the connection was cut: it must do no harm twice.
   *
   * @param work  is told whether an earlier try may have come through
   * @throws  ValkeyAwayError when the time is up; what Valkey answers with, when that is an error; NoDatabaseError, at once,
   *          when Valkey does not have the database that the URL names
   */
  run<T>(work: (isAgain: boolean) => Promise<T>): Promise<T>;
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
  const waiting = new Set<() => void>();
  const wake = (): void => {
    for (const settle of [...waiting]) settle();
  };
  valkey.on("error", (error) => {
    trouble = error;
    if (error instanceof NoDatabaseError) wake(); // to wait would not help
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
      if (isOpen || valkey.status === "end" || trouble instanceof NoDatabaseError) return resolve(isOpen);
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
        if (isRefusal && refusalOf(error) !== "later") throw error;
        if (isRefusal) isSent = isAgain; // nothing of it was executed
        trouble = error;
        await new Promise((resolve) => setTimeout(resolve, Math.min(pauseMs, until - performance.now())));
        pauseMs *= 2;
      }
      if (trouble instanceof NoDatabaseError && !isSent) throw trouble;
      const why = trouble === undefined ? "" : ` (${trouble.code ?? trouble.message})`;
      const isRefused = trouble !== undefined && isAnswer(trouble);
      const isClosed = valkey.status === "end";
      const what = isClosed
        ? "the connection was closed"
        : `no ${isRefused ? "success" : "answer"} within ${timeoutMs} ms${why}`;
      throw new ValkeyAwayError(`Valkey at ${placeOf(url)}: ${what}`, isSent, { cause: trouble });
    },
  };
}
