/**
 * The command as a user runs it: its output, its exit code; as a process of its own, or within the test's, which is quicker.
 */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runCommand } from "../../src/cli/program.ts";
import { bounded } from "./stack.ts";
import { captureStreams } from "./streams.ts";

const ROOT = join(import.meta.dir, "../..");
const CLI = join(ROOT, "src/cli.ts");
const WAIT_MS = 30 * 1000; // 30 s: it is a process that starts, on a machine that may be busy

/** What a command said, and how it ended. */
export interface Said {
  readonly out: string;
  readonly err: string;
  readonly code: number;
}

export interface CommandOptions {
  readonly env?: Record<string, string>;
  /** What it reads. */
  readonly input?: string;
}

/** A folder without an `.env`, where commands run. */
export const commandFolder = mkdtempSync(join(tmpdir(), "fluxhook-command-"));

/**
 * Make a function that runs the command within this process, in an environment of this and nothing else. With input, it is a process
 * of its own: it reads its descriptor.
 */
export function createCommand(base: Record<string, string>) {
  const start = createCommandProcess(base);
  return async (args: readonly string[], options: CommandOptions = {}): Promise<Said> => {
    if (options.input !== undefined) return await start(args, options);
    const { streams, written } = captureStreams();
    const ended = runCommand(args, { ...base, ...options.env }, "test", streams);
    const code = await bounded(ended, () => `fluxhook ${args.join(" ")} to end`, WAIT_MS);
    return { ...written, code };
  };
}

/** Make a function that runs the command as a process, in an environment of this and nothing else. */
export function createCommandProcess(base: Record<string, string>) {
  return async (args: readonly string[], { env = {}, input = "" }: CommandOptions = {}): Promise<Said> => {
    const child = Bun.spawn([process.execPath, CLI, ...args], {
      cwd: commandFolder,
      env: { PATH: process.env.PATH ?? "", ...base, ...env },
      stdio: [new Blob([input]), "pipe", "pipe"],
    });
    const said = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text(), child.exited]);
    try {
      const [out, err, code] = await bounded(said, () => `fluxhook ${args.join(" ")} to end`, WAIT_MS);
      return { out, err, code };
    } finally {
      child.kill("SIGKILL");
    }
  };
}

export interface RunningCommand {
  /** Everything on stdout, and for a terminal on stderr too, so far. */
  output(): string;
  /** The output, as soon as it has this in it. */
  until(text: string): Promise<string>;
  type(text: string): void;
  signal(name: "SIGTERM" | "SIGINT"): void;
  readonly exited: Promise<number>;
}

/** Start the command and let it run; on a terminal of its own, if asked. */
export function startCommand(
  args: readonly string[],
  env: Record<string, string>,
  { isTerminal = false } = {},
): RunningCommand {
  let output = "";
  const waiting = new Set<() => void>();
  const heard = (data: Uint8Array) => {
    output += new TextDecoder().decode(data);
    for (const look of [...waiting]) look();
  };
  const command = [process.execPath, CLI, ...args];
  const shared = { cwd: commandFolder, env: { PATH: process.env.PATH ?? "", TERM: "xterm", ...env } };
  const child = isTerminal
    ? Bun.spawn(command, { ...shared, terminal: { cols: 120, rows: 40, data: (_terminal, data) => heard(data) } })
    : Bun.spawn(command, { ...shared, stdio: ["ignore", "pipe", "inherit"] });
  if (child.stdout instanceof ReadableStream) {
    (async (stdout: ReadableStream<Uint8Array>) => {
      for await (const chunk of stdout) heard(chunk);
    })(child.stdout);
  }
  const killOnExit = () => child.kill("SIGKILL");
  process.once("exit", killOnExit);
  return {
    output: () => output,
    until(text) {
      const { promise, resolve } = Promise.withResolvers<string>();
      const look = () => {
        if (!output.includes(text)) return;
        waiting.delete(look);
        resolve(output);
      };
      waiting.add(look);
      look();
      return bounded(promise, () => `${JSON.stringify(text)} in ${JSON.stringify(output)}`, WAIT_MS);
    },
    type: (text) => child.terminal?.write(text),
    signal: (name) => child.kill(name),
    exited: child.exited.finally(() => process.off("exit", killOnExit)),
  };
}
