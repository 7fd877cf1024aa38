/**
 * `bun src/worker.ts` as a child process.
 */
import { join } from "node:path";
import { bounded, type Line } from "./stack.ts";

export interface WorkerProcess {
  readonly pid: number;
  /** Where its health listens. Rejects like {@link WorkerProcess.line} while it has not said so. */
  url(path: string): Promise<string>;
  /** What it printed so far, a JSON object a line; `raw` for what is none. */
  readonly lines: readonly Line[];
  /** Everything it printed on stdout and stderr. */
  output(): string;
  /** What it printed on stderr. */
  errors(): string;
  /** The `count`-th line with this message, 1-based, as soon as there is one. */
  line(message: string, count?: number): Promise<Line>;
  /** Its exit code, or the signal's name. */
  readonly exited: Promise<number | string>;
  signal(name: "SIGTERM" | "SIGINT" | "SIGHUP"): void;
  /** End it if it still runs: SIGTERM, then SIGKILL. */
  stop(): Promise<number | string>;
}

const STOP_MS = 10 * 1000; // 10 s: then it is killed
const ROOT = join(import.meta.dir, "../..");

/**
 * Start a worker on a free port. Its environment is `env` and nothing of the test's.
 *
 * @param cwd  the root of the source that it runs, this one by default
 */
export function startWorkerProcess(env: Record<string, string>, cwd = ROOT): WorkerProcess {
  const child = Bun.spawn([process.execPath, "src/worker.ts"], {
    cwd,
    env: { PATH: process.env.PATH ?? "", WORKER_PORT: "0", WEBHOOK_ALLOW_NETWORKS: "127.0.0.0/8", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const killOnExit = (): void => child.kill("SIGKILL");
  process.once("exit", killOnExit);

  const lines: Line[] = [];
  const waiting = new Set<() => void>();
  let stdout = "";
  let stderr = "";
  let rest = "";
  const readOut = async (): Promise<void> => {
    const decoder = new TextDecoder();
    for await (const chunk of child.stdout) {
      const text = decoder.decode(chunk, { stream: true });
      stdout += text;
      const parts = (rest + text).split("\n");
      rest = parts.pop() as string;
      lines.push(...parts.map(parseLine));
      for (const check of [...waiting]) check();
    }
  };
  const readErrors = async (): Promise<void> => {
    const decoder = new TextDecoder();
    for await (const chunk of child.stderr) stderr += decoder.decode(chunk, { stream: true });
  };
  const exited = Promise.all([child.exited, readOut(), readErrors()]).then(() => {
    process.off("exit", killOnExit);
    return child.signalCode ?? (child.exitCode as number);
  });
  const line: WorkerProcess["line"] = (message, count = 1) => {
    const { promise, resolve, reject } = Promise.withResolvers<Line>();
    const check = () => {
      const found = lines.filter((candidate) => candidate.message === message)[count - 1];
      if (found === undefined) return;
      waiting.delete(check);
      resolve(found);
    };
    waiting.add(check);
    check();
    exited.then((code) =>
      reject(new Error(`expected a line ${message}, but the worker exited with ${code}: ${stderr}`)),
    );
    return bounded(promise, () => `${count} lines ${message}, got ${stdout}${stderr}`);
  };

  return {
    pid: child.pid,
    url: async (path) => `${(await line("worker.ready")).url}${path}`,
    lines,
    output: () => stdout + stderr,
    errors: () => stderr,
    line,
    exited,
    signal: (name) => child.kill(name),
    async stop() {
      child.kill("SIGTERM");
      const timer = setTimeout(killOnExit, STOP_MS);
      const code = await exited;
      clearTimeout(timer);
      return code;
    },
  };
}

function parseLine(text: string): Line {
  try {
    return JSON.parse(text);
  } catch {
    return { message: "raw", level: "none", text };
  }
}
