/**
 * Output: JSON, one object a line, on stdout.
 */
import pino from "pino";

export type Logger = pino.Logger;

const MIN_WRITE_BYTES = 4 * 1024; // some ten lines: a busy worker writes thousands a second
const FLUSH_MS = 100; // how long a line may wait for more to be written with

/**
 * Make the process's logger. Lines are written behind the back of the caller, so that a slow pipe never slows a delivery;
 * call `flush` before the process ends.
 */
export function createLogger(level: string): { logger: Logger; flush(): void } {
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
  return { logger, flush: () => destination.flushSync() };
}
