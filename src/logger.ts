/**
 * Output: JSON, one object a line, on stdout.
 */
import pino from "pino";
import { within } from "./deadline.ts";

export type Logger = pino.Logger;

const MIN_WRITE_BYTES = 4 * 1024; // some ten lines: a busy worker writes thousands a second
const FLUSH_MS = 100; // how long a line may wait for more to be written with
const LAST_LINES_MS = 500; // for the last lines to leave, should their reader be slow

/**
 * Make the process's logger. Lines are written behind the back of the caller, so that a slow pipe never slows a delivery;
 * await `flush` before the process ends. It never rejects, and ends in time also when nobody reads any more: the
 * destination's own synchronous flush would try for ever then, and the process would not end.
 */
export function createLogger(level: string): { logger: Logger; flush(): Promise<void> } {
  const destination = pino.destination({ sync: false, minLength: MIN_WRITE_BYTES, periodicFlush: FLUSH_MS });
  const logger = pino(
    {
      level,
      base: null,
      messageKey: "message",
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination,
  );
  return {
    logger,
    flush() {
      const flushed = new Promise<void>((resolve) => destination.flush(() => resolve()));
      return within(LAST_LINES_MS, flushed, undefined);
    },
  };
}
