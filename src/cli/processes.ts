/**
 * `fluxhook worker` and `fluxhook board`: run the package's processes, which need Bun, where the command itself runs on Node.
 */
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { CommandError, type Context, type ExitCode } from "./context.ts";

interface ProcessOptions {
  readonly check?: boolean;
  readonly settings?: boolean;
}

const SIGNALS = ["SIGTERM", "SIGINT", "SIGHUP"] as const;

export function addWorker(program: Command, context: Context): void {
  addProcess(program, context, "worker", "run a worker, which delivers events: one per core");
}

export function addBoard(program: Command, context: Context): void {
  addProcess(program, context, "board", "run the board, the operators' pages: one is enough");
}

function addProcess(program: Command, context: Context, name: "worker" | "board", description: string): void {
  program
    .command(name)
    .description(description)
    .option("--check", "print the settings, check Valkey and the permissions needed, and exit")
    .option("--settings", "list all settings, and exit")
    .addHelpText(
      "after",
      `
Needs Bun: install the package bun beside this one. Logs JSON. SIGTERM stops it gracefully; under a process manager, run
node_modules/.bin/fluxhook itself, since npx does not pass the signal on.

Examples:
  $ VALKEY_URL=redis://valkey:6379 fluxhook ${name}
  $ fluxhook ${name} --check`,
    )
    .action(async ({ check, settings }: ProcessOptions) => {
      const option = settings ? ["--help"] : check ? ["--check"] : [];
      context.exitCode = await run([findBun(), join(findRoot(), `src/${name}.ts`), ...option]);
    });
}

/** The folder of the package: two levels above this file's source, three above its build. */
function findRoot(): string {
  const here = dirname(fileURLToPath(import.meta.url));
  const source = join(here, "../..");
  return existsSync(join(source, "package.json")) ? source : join(here, "../../..");
}

/** The Bun that runs this, the one installed beside the package or in the current directory, or the one on PATH. */
function findBun(): string {
  if (process.versions.bun !== undefined) return process.execPath;
  for (const from of [import.meta.url, join(process.cwd(), "package.json")]) {
    try {
      const manifest = createRequire(from).resolve("bun/package.json");
      return join(dirname(manifest), JSON.parse(readFileSync(manifest, "utf8")).bin.bun);
    } catch {
      // not there: try the next
    }
  }
  return "bun";
}

/**
 * Run a program to its end, with our stdio, and pass signals on to it.
 *
 * @returns its exit code; 1 when a signal ended it
 * @throws  CommandError when it cannot be started
 */
function run([program = "", ...args]: readonly string[]): Promise<ExitCode> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: "inherit" });
    const passOn = (signal: NodeJS.Signals) => child.kill(signal);
    for (const signal of SIGNALS) process.on(signal, passOn);
    child.on("error", ({ message }) => {
      reject(new CommandError("failed", `cannot run Bun (${message}). Install it with "npm install bun".`));
    });
    child.on("exit", (code) => {
      for (const signal of SIGNALS) process.off(signal, passOn);
      resolve((code ?? 1) as ExitCode);
    });
  });
}
