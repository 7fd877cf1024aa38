/**
 * Output: JSON, one object a line, on stdout.
 */
import pino from "pino";
import { within } from "./deadline.ts";

export type Logger = pino.Logger;

const MAX_BUFFERED_BYTES = 64 * 1024; // some 150 lines: a busy worker writes thousands a second
const FLUSH_MS = 100; // how long a line may wait for more to be written with
const LAST_LINES_MS = 500; // for the last lines to leave, should their reader be slow

/**
 * Make the process's logger. Lines are written behind the back of the caller, so that a slow pipe never slows a delivery;
 * await `flush` before the process ends. It never rejects, and ends in time also when nobody reads any more.
 *
 * Not pino's own destination: in Bun it costs twice as much, and its synchronous flush tries for ever when nobody reads.
 */
export function createLogger(level: string): { logger: Logger; flush(): Promise<void> } {
  const sink = Bun.stdout.writer({ highWaterMark: MAX_BUFFERED_BYTES });
  const flush = async (): Promise<void> => {
    await sink.flush();
  };
  setInterval(() => flush().catch(ignore), FLUSH_MS).unref();
  const logger = pino(
    {
      level,
      base: null,
      messageKey: "message",
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    {
      write(line) {
        const written = sink.write(line);
        if (written instanceof Promise) written.catch(ignore);
      },
    },
  );
  return { logger, flush: () => within(LAST_LINES_MS, flush(), undefined) };
}

/** A reader that is gone is no reason to stop delivering. */
function ignore(): void {}
