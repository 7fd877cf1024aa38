/**
 * Child processes that log one JSON object per line, and never outlive this process.
 */
import { createServer } from "node:net";

/** One line of a child's log. */
export type LogLine = Readonly<Record<string, unknown>> & { readonly message?: unknown; readonly level?: unknown };

export interface ChildOptions {
  readonly name: string;
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Called for each line of JSON on its stdout. */
  readonly onLine: (line: LogLine) => void;
  /** Called when it ends unexpectedly, with a message for the user. */
  readonly onDeath: (message: string) => void;
}

export interface Child {
  readonly pid: number;
  /** The URL in its `<name>.ready` line. Never settles if the child dies first; `onDeath` reports that. */
  readonly url: Promise<string>;
  /** SIGTERM, then SIGKILL `graceMs` later. Resolves when it is gone. */
  stop(graceMs: number): Promise<void>;
}

const KEPT_LINES = 15; // of output, shown when the child dies

/**
 * Start a child.
 *
 * Detached from the terminal, whose Ctrl-C would add to our SIGTERM and make it skip its graceful shutdown. It does not
 * outlive this process, however that ends.
 */
export function startChild({ name, command, env, onLine, onDeath }: ChildOptions): Child {
  const ready = Promise.withResolvers<string>();
  const lastLines: string[] = [];
  let isStopping = false;

  const child = Bun.spawn([...command], { env, stdio: ["ignore", "pipe", "pipe"], detached: true });
  const watchdog = startWatchdog(child.pid);
  const killAtExit = () => child.kill("SIGKILL");
  process.on("exit", killAtExit);

  const keep = (line: string): void => {
    lastLines.push(line);
    if (lastLines.length > KEPT_LINES) lastLines.shift();
  };
  const outputs = [
    eachLine(child.stdout, (line) => {
      keep(line);
      const entry = parseLine(line);
      if (entry === undefined) return;
      if (entry.message === `${name}.ready`) ready.resolve(String(entry.url));
      onLine(entry);
    }),
    eachLine(child.stderr, keep),
  ];
  child.exited.then(async (code) => {
    watchdog.kill("SIGKILL"); // before the pid can become someone else's
    process.off("exit", killAtExit);
    if (isStopping) return;
    await Promise.race([Promise.all(outputs), Bun.sleep(500)]); // its last output may still be in the pipe
    const how = child.signalCode ?? `exit code ${code}`;
    onDeath(`The ${name} ended unexpectedly (${how}). Its last output:\n${indent(lastLines)}`);
  });

  return {
    pid: child.pid,
    url: ready.promise,
    async stop(graceMs) {
      isStopping = true;
      child.kill("SIGTERM");
      const timer = setTimeout(killAtExit, graceMs);
      await child.exited;
      clearTimeout(timer);
    },
  };
}

/** A shell that kills the child when its stdin closes, which happens when this process dies. */
function startWatchdog(pid: number): Bun.Subprocess {
  const watchdog = Bun.spawn(["sh", "-c", 'read -r _; kill -9 "$1"', "sh", String(pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  watchdog.unref();
  return watchdog;
}

/** Call `take` with each non-empty line. Never rejects: a broken stream counts as ended. */
async function eachLine(stream: ReadableStream<Uint8Array>, take: (line: string) => void): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  const takeAll = (lines: string[]) => lines.filter((line) => line.trim() !== "").forEach(take);
  try {
    for await (const chunk of stream) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop() as string;
      takeAll(lines);
    }
  } catch {
    // the pipe broke: keep what was read
  }
  takeAll([rest]);
}

function parseLine(line: string): LogLine | undefined {
  try {
    const entry: unknown = JSON.parse(line);
    return typeof entry === "object" && entry !== null ? (entry as LogLine) : undefined;
  } catch {
    return undefined; // plain text, such as a warning
  }
}

function indent(lines: readonly string[]): string {
  return lines.length === 0 ? "  (none)" : lines.map((line) => `  ${line}`).join("\n");
}

/** `port` if it is free on this host, otherwise 0 for any. */
export function freePort(port: number, host: string): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", () => resolve(0));
    probe.listen(port, host, () => probe.close(() => resolve(port)));
  });
}
