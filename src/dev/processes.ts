/**
 * Child processes that log one JSON object a line: started, listened to, and ended without leaving anything behind.
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
  /** Called when it ends without having been asked to, with what to tell the user. */
  readonly onDeath: (message: string) => void;
}

export interface Child {
  readonly pid: number;
  /** The address in its `<name>.ready` line. Stays pending when it dies before: `onDeath` tells. */
  readonly url: Promise<string>;
  /** SIGTERM, then SIGKILL `graceMs` later. Resolves when it is gone. */
  stop(graceMs: number): Promise<void>;
}

const KEPT_LINES = 15; // of its output, to show when it dies

/**
 * Start a child.
 *
 * Out of reach of the terminal's Ctrl-C, which would come on top of our SIGTERM and mean "hurry" to it. It does not
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
    await Promise.race([Promise.all(outputs), Bun.sleep(500)]); // its last words may still be in the pipe
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

/** A shell that waits for the end of its stdin, which comes with our death, and then ends the child. */
function startWatchdog(pid: number): Bun.Subprocess {
  const watchdog = Bun.spawn(["sh", "-c", 'read -r _; kill -9 "$1"', "sh", String(pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  watchdog.unref();
  return watchdog;
}

/** Call `take` with each line that is not empty. Never rejects: a stream that breaks has ended. */
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
    // the pipe broke: what came before it counts
  }
  takeAll([rest]);
}

function parseLine(line: string): LogLine | undefined {
  try {
    const entry: unknown = JSON.parse(line);
    return typeof entry === "object" && entry !== null ? (entry as LogLine) : undefined;
  } catch {
    return undefined; // a warning in plain words
  }
}

function indent(lines: readonly string[]): string {
  return lines.length === 0 ? "  (none)" : lines.map((line) => `  ${line}`).join("\n");
}

/** `port` if it is free on this host, else 0, which takes any. */
export function freePort(port: number, host: string): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", () => resolve(0));
    probe.listen(port, host, () => probe.close(() => resolve(port)));
  });
}
