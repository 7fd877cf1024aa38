/**
 * Output: JSON, one object a line, on stdout.
 */
import { within } from "./deadline.ts";
import { perTurn } from "./per-tick.ts";
import { printableJson } from "./printable.ts";

const LEVELS = ["trace", "debug", "info", "warn", "error", "fatal"] as const;
type Level = (typeof LEVELS)[number];

/**
 * Write a line: `{"level","time",…fields,"message"}`, the time in ISO 8601 with milliseconds. What a terminal would not show is
 * escaped: logs are read there.
 *
 * @param fields   what JSON can say
 * @param message  what happened, as in `job.rejected`
 */
type Write = (fields: object, message: string) => void;

export type Logger = Readonly<Record<Level, Write>>;

const LAST_LINES_MS = 500; // for the last lines to leave, should their reader be slow
const MAX_WAITING = 32 * 1024 * 1024; // characters that wait for a reader, some 80,000 lines: beyond it lines are dropped

/**
 * Make the process's logger. Lines are written behind the back of the caller, those of one turn of the event loop together,
 * so that neither many lines nor a slow pipe slows a delivery. A reader that has stopped reading does not cost the process
 * its memory either: what it leaves beyond some 80,000 lines is dropped, and `output.dropped` says how many, in `lines`, when
 * it goes on. Await `flush` before the process ends: it never rejects, and ends in time also when nobody reads any more.
 *
 * @param level  the least that is written; `silent` for nothing
 */
export function createLogger(level: string): { logger: Logger; flush(): Promise<void> } {
  const sink = Bun.stdout.writer();
  let waiting = 0;
  let dropped = 0;
  const send = async (lines: string[]): Promise<void> => {
    const text = lines.join("");
    try {
      await sink.write(text);
      await sink.flush();
    } catch {
      // A reader that is gone is no reason to stop delivering.
    }
    waiting -= text.length;
    if (dropped === 0 || waiting > MAX_WAITING / 2) return;
    write("warn")({ lines: dropped }, "output.dropped");
    dropped = 0;
  };
  const lines = perTurn(send);
  const write = (name: Level): Write => {
    const begin = `{"level":"${name}","time":"`;
    return (fields, message) => {
      if (waiting > MAX_WAITING) {
        dropped += 1;
        return;
      }
      const text = printableJson(JSON.stringify(fields).slice(1, -1));
      const end = `"message":${JSON.stringify(message)}}\n`;
      const line = `${begin}${new Date().toISOString()}",${text}${text === "" ? "" : ","}${end}`;
      waiting += line.length;
      lines.add(line);
    };
  };
  const least = level === "silent" ? LEVELS.length : LEVELS.indexOf(level as Level);
  const writers = LEVELS.map((name, index) => [name, index < least ? () => {} : write(name)]);
  return { logger: Object.fromEntries(writers), flush: () => within(LAST_LINES_MS, flush(), undefined) };

  async function flush(): Promise<void> {
    lines.flush();
    await sink.flush();
  }
}
