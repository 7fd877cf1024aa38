/**
 * Output: JSON, one object a line, on stdout.
 */
import { within } from "./deadline.ts";
import { perTurn } from "./turn.ts";

const LEVELS = ["trace", "debug", "info", "warn", "error", "fatal"] as const;
type Level = (typeof LEVELS)[number];

/**
 * Write a line: `{"level","time",…fields,"message"}`, the time in ISO 8601 with milliseconds.
 *
 * @param fields   what JSON can say
 * @param message  what happened, as in `job.rejected`
 */
type Write = (fields: object, message: string) => void;

export type Logger = Readonly<Record<Level, Write>>;

const LAST_LINES_MS = 500; // for the last lines to leave, should their reader be slow

/**
 * Make the process's logger. Lines are written behind the back of the caller, those of one turn of the event loop together,
 * so that neither many lines nor a slow pipe slows a delivery; await `flush` before the process ends. It never rejects, and
 * ends in time also when nobody reads any more.
 *
 * @param level  the least that is written; `silent` for nothing
 */
export function createLogger(level: string): { logger: Logger; flush(): Promise<void> } {
  const sink = Bun.stdout.writer();
  const send = async (lines: string[]): Promise<void> => {
    await sink.write(lines.join(""));
    await sink.flush();
  };
  const lines = perTurn((lines: string[]) => send(lines).catch(ignore));
  const write = (name: Level): Write => {
    const begin = `{"level":"${name}","time":"`;
    return (fields, message) => {
      const text = JSON.stringify(fields).slice(1, -1);
      const end = `"message":${JSON.stringify(message)}}\n`;
      lines.add(`${begin}${new Date().toISOString()}",${text}${text === "" ? "" : ","}${end}`);
    };
  };
  const least = level === "silent" ? LEVELS.length : LEVELS.indexOf(level as Level);
  const writers = LEVELS.map((name, index) => [name, index < least ? ignore : write(name)]);
  return { logger: Object.fromEntries(writers), flush: () => within(LAST_LINES_MS, flush(), undefined) };

  async function flush(): Promise<void> {
    lines.flush();
    await sink.flush();
  }
}

/** A reader that is gone is no reason to stop delivering. */
function ignore(): void {}
