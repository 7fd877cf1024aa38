/**
 * Output: JSON, one object a line, on stdout.
 */
import pino from "pino";

export type Logger = pino.Logger;

/**
 * Make the process's logger. Lines are written behind the back of the caller, so that a slow pipe never slows a delivery;
 * call `flush` before the process ends.
 */
export function createLogger(level: string): { logger: Logger; flush(): void } {
  const destination = pino.destination({ sync: false });
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
