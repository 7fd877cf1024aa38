/**
 * Logging: one JSON object per line on stdout.
 */
import { within } from "./deadline.ts";
import { perTurn } from "./per-tick.ts";
import { printableJson } from "./printable.ts";

const LEVELS = ["trace", "debug", "info", "warn", "error", "fatal"] as const;
type Level = (typeof LEVELS)[number];

/**
 * Write a line: `{"level","time",…fields,"message"}`, with the time in ISO 8601 with milliseconds. Characters that a terminal
 * would not show are escaped.
 *
 * @param fields   any JSON object
 * @param message  the event, as in `job.rejected`
 */
type Write = (fields: object, message: string) => void;

export type Logger = Readonly<Record<Level, Write>>;

const FLUSH_MS = 500; // for the last lines, if the reader is slow
const MAX_BUFFERED = 32 * 1024 * 1024; // characters, about 80,000 lines; further lines are dropped

/**
 * Create the process's logger.
 *
 * Lines are written asynchronously, those of one event-loop turn together, so that neither many lines nor a slow pipe slows
 * deliveries. If the reader stops reading, about 80,000 lines are buffered and the rest dropped; `output.dropped` reports how
 * many, in `lines`, once it resumes. Await `flush` before the process ends: it never rejects, and ends within 0.5 s.
 *
 * @param level  minimum level; `silent` for nothing
 */
export function createLogger(level: string): { logger: Logger; flush(): Promise<void> } {
  const sink = Bun.stdout.writer();
  let buffered = 0;
  let dropped = 0;
  const send = async (lines: string[]): Promise<void> => {
    const text = lines.join("");
    try {
      await sink.write(text);
      await sink.flush();
    } catch {
      // Keep delivering even if the reader is gone.
    }
    buffered -= text.length;
    if (dropped === 0 || buffered > MAX_BUFFERED / 2) return;
    write("warn")({ lines: dropped }, "output.dropped");
    dropped = 0;
  };
  const lines = perTurn(send);
  const write = (name: Level): Write => {
    const begin = `{"level":"${name}","time":"`;
    return (fields, message) => {
      if (buffered > MAX_BUFFERED) {
        dropped += 1;
        return;
      }
      const text = printableJson(JSON.stringify(fields).slice(1, -1));
      const end = `"message":${JSON.stringify(message)}}\n`;
      const line = `${begin}${new Date().toISOString()}",${text}${text === "" ? "" : ","}${end}`;
      buffered += line.length;
      lines.add(line);
    };
  };
  const least = level === "silent" ? LEVELS.length : LEVELS.indexOf(level as Level);
  const writers = LEVELS.map((name, index) => [name, index < least ? () => {} : write(name)]);
  return { logger: Object.fromEntries(writers), flush: () => within(FLUSH_MS, flush(), undefined) };

  async function flush(): Promise<void> {
    lines.flush();
    await sink.flush();
  }
}
