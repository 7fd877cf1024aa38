/**
 * A reader who follows the README in a clone, on a machine with Node and npm but no Bun on PATH: saves snippets to files, pastes
 * commands into terminals, and pastes what a command tells them to.
 */
import { cpSync, existsSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { bounded } from "./stack.ts";

export interface Reader {
  /** Save a snippet in the clone, with what the reader was told to replace. */
  save(name: string, code: string): void;
  /** Replace this text in all that is saved or pasted from now on. */
  replace(text: string, by: string): void;
  /** Set a variable in every terminal from now on. */
  set(name: string, value: string): void;
  /** Paste a command and wait until it ends. */
  run(command: string): Promise<{ readonly code: number; readonly output: string }>;
  /** Paste a command that goes on, and wait until its output matches. */
  start(command: string, until: RegExp): Promise<Started>;
  stop(): Promise<void>;
}

export interface Started {
  /** All that it printed so far. */
  output(): string;
  /** Wait until the output matches. */
  shows(pattern: RegExp): Promise<RegExpMatchArray>;
  /** As Ctrl-C does. */
  stop(): Promise<void>;
}

const ROOT = join(import.meta.dir, "../..");
const LEFT_OUT = [".git", "node_modules", "dist", ".env"];
const COMMAND_MS = 60 * 1000; // 1 min, on a busy machine

/** Make the clone. Its dependencies are those that are installed here. */
export function startReader(): Reader {
  const clone = realpathSync(mkdtempSync(join(tmpdir(), "fluxhook-reader-")));
  cpSync(ROOT, clone, { recursive: true, filter: (path) => !LEFT_OUT.includes(basename(path)) });
  symlinkSync(join(ROOT, "node_modules"), join(clone, "node_modules"));
  const folders = (process.env.PATH ?? "").split(":").filter((folder) => !existsSync(join(folder, "bun")));
  const env: Record<string, string> = { PATH: folders.join(":"), HOME: process.env.HOME ?? clone, NO_COLOR: "1" };
  const replacements = new Map<string, string>();
  const started = new Set<Started>();
  const replaced = (text: string) => [...replacements].reduce((all, [from, to]) => all.replaceAll(from, to), text);
  const spawn = (command: string) =>
    Bun.spawn(["bash", "-c", replaced(command)], {
      cwd: clone,
      env,
      stdio: ["ignore", "pipe", "pipe"],
      detached: true, // a process group of its own, as in a terminal
    });

  return {
    save: (name, code) => writeFileSync(join(clone, name), replaced(code)),
    replace: (text, by) => void replacements.set(text, by),
    set(name, value) {
      env[name] = value;
    },
    async run(command) {
      const child = spawn(command);
      const timer = setTimeout(() => process.kill(-child.pid, "SIGKILL"), COMMAND_MS);
      const output = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
      const code = await child.exited;
      clearTimeout(timer);
      return { code, output: output.join("") };
    },
    async start(command, until) {
      const one = follow(spawn(command), () => started.delete(one));
      started.add(one);
      await one.shows(until);
      return one;
    },
    async stop() {
      await Promise.all([...started].map((one) => one.stop()));
      rmSync(clone, { recursive: true, force: true });
    },
  };
}

function follow(child: Bun.Subprocess<"ignore", "pipe", "pipe">, onStop: () => void): Started {
  let text = "";
  let look = (): void => {};
  const read = async (stream: ReadableStream<Uint8Array>): Promise<void> => {
    const decoder = new TextDecoder();
    for await (const chunk of stream) {
      text += decoder.decode(chunk, { stream: true });
      look();
    }
  };
  const ended = Promise.all([read(child.stdout), read(child.stderr), child.exited]);
  const killAtExit = () => process.kill(-child.pid, "SIGKILL");
  process.on("exit", killAtExit);
  ended.finally(() => process.off("exit", killAtExit));
  return {
    output: () => text,
    shows(pattern) {
      const found = Promise.withResolvers<RegExpMatchArray>();
      look = () => {
        const match = text.match(pattern);
        if (match !== null) found.resolve(match);
      };
      look();
      ended.then(() => found.reject(new Error(`expected ${pattern} in the output:\n${text}`)));
      return bounded(found.promise, () => `${pattern} in the output:\n${text}`, COMMAND_MS);
    },
    async stop() {
      onStop();
      if (child.exitCode === null) process.kill(-child.pid, "SIGINT");
      await ended;
    },
  };
}
