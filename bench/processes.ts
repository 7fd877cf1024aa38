/**
 * The processes of a bench and a directory for what they write; both end with the bench, however that ends.
 *
 * The output of each process goes to a file, as if a log shipper took it from there: reading it is another's work. Nothing
 * of the caller's environment and no `.env` reaches a process.
 */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Child {
  readonly pid: number;
  /** What it printed so far. */
  output(): string;
  /** Ended, by itself or by us. */
  hasEnded(): boolean;
  stop(): Promise<void>;
}

export interface Processes {
  /** Removed at the end. */
  readonly directory: string;
  /** Start `bun [...flags] <script> [...args]`; the script's path begins at the root of this repository. */
  start(script: string, args?: readonly string[], env?: Record<string, string>, flags?: readonly string[]): Child;
  /** Called by {@link Processes.stop}, after the processes have ended. */
  onStop(ending: () => Promise<void>): void;
  stop(): Promise<void>;
}

const ROOT = new URL("..", import.meta.url).pathname;
const READY_MS = 20 * 1000; // 20 s
const STOP_MS = 3 * 1000; // 3 s: then it is killed
const POLL_MS = 10;
const running = new Set<() => Promise<void>>(); // what ends them
let isInterrupted = false;

export function createProcesses(): Processes {
  const directory = mkdtempSync(join(tmpdir(), "fluxhook-bench-"));
  const removeDirectory = () => rmSync(directory, { recursive: true, force: true });
  process.once("exit", removeDirectory);
  const children: Child[] = [];
  const endings: (() => Promise<void>)[] = [];
  const end = async (): Promise<void> => {
    running.delete(end);
    await Promise.all(children.map((child) => child.stop()));
    if (isInterrupted) return; // what is left ends with us, in silence
    for (const ending of endings) await ending();
    removeDirectory();
    process.off("exit", removeDirectory);
  };
  running.add(end);
  return {
    directory,
    start(script, args = [], env = {}, flags = []) {
      const command = [process.execPath, ...flags, join(ROOT, script), ...args];
      const child = startChild(command, join(directory, `${children.length}.log`), env);
      children.push(child);
      return child;
    },
    onStop: (ending) => void endings.push(ending),
    // After Ctrl-C the bench goes no further: that its processes have gone is no failure of theirs.
    stop: () => (isInterrupted ? new Promise(() => {}) : end()),
  };
}

const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const; // 128 and the signal's number, as shells count
for (const [signal, code] of Object.entries(EXIT_CODES)) {
  process.on(signal, async () => {
    if (isInterrupted) return;
    isInterrupted = true;
    await Promise.all([...running].map((end) => end()));
    process.exit(code);
  });
}

/** Wait until a process has printed something; resolves with all that it printed. */
export async function untilPrinted(child: Child, text: string, withinMs = READY_MS): Promise<string> {
  const until = performance.now() + withinMs;
  for (;;) {
    const output = child.output();
    if (output.includes(text)) return output;
    if (child.hasEnded()) throw new Error(`a process ended: ${output.slice(-1000)}`);
    if (performance.now() > until) throw new Error(`no ${JSON.stringify(text)} within ${withinMs} ms: ${output}`);
    await Bun.sleep(POLL_MS);
  }
}

function startChild(command: string[], file: string, env: Record<string, string>): Child {
  const output = openSync(file, "a");
  const child = Bun.spawn(command, {
    cwd: join(file, ".."), // no .env here
    env: { PATH: process.env.PATH, ...env },
    stdio: ["ignore", output, output],
    detached: true, // out of reach of the terminal's Ctrl-C: we end them, one after the other
  });
  closeSync(output);
  // When we are killed the shell's stdin closes, and it kills in turn.
  const watchdog = Bun.spawn(["sh", "-c", 'read -r _; kill -9 "$1"', "sh", String(child.pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  watchdog.unref();
  const hasEnded = () => child.exitCode !== null || child.signalCode !== null;
  return {
    pid: child.pid,
    output: () => readFileSync(file, "utf8"),
    hasEnded,
    async stop() {
      watchdog.kill("SIGKILL"); // first: a pid may become someone else's
      await watchdog.exited;
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
      await child.exited;
      clearTimeout(timer);
    },
  };
}
