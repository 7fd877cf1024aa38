import { spawn } from "node:child_process";
import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";

/**
 * Find a program on PATH, without a shell.
 *
 * @param {string} name
 * @param {string} [path] the PATH to search; this process's own by default
 * @returns {string | undefined} its full name, or undefined when no executable file has that name
 */
export function findOnPath(name, path = process.env.PATH ?? "") {
  for (const directory of path.split(delimiter)) {
    if (directory === "") continue;
    const file = join(directory, name);
    try {
      accessSync(file, constants.X_OK);
      if (statSync(file).isFile()) return file;
    } catch {
      // Not here: the next directory.
    }
  }
  return undefined;
}

/**
 * Run a program to its end, keep what it prints, and never throw.
 *
 * stdin is closed, so that an installer which asks a question fails instead of waiting for an answer. While it runs,
 * Ctrl-C and SIGTERM end the program and not us: the caller's `finally` blocks still run.
 *
 * @param {string[]} command program and arguments
 * @param {{ env?: NodeJS.ProcessEnv, cwd?: string, timeoutMs?: number }} [options]
 * @returns {Promise<{ ok: boolean, output: string, interrupted: boolean }>} `output` is stdout and stderr, in order
 */
export function run(command, { env = process.env, cwd, timeoutMs = 60_000 } = {}) {
  const [program = "", ...args] = command;
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    let interrupted = false;
    // Not spawn's own `timeout`: after a program that is not there, its timer keeps this process waiting.
    const timer = setTimeout(() => child.kill("SIGTERM"), timeoutMs);
    const interrupt = () => {
      interrupted = true;
      child.kill("SIGTERM");
    };
    const finish = (/** @type {boolean} */ ok) => {
      clearTimeout(timer);
      process.off("SIGINT", interrupt).off("SIGTERM", interrupt);
      resolve({ ok: ok && !interrupted, output: output.trim(), interrupted });
    };
    process.on("SIGINT", interrupt).on("SIGTERM", interrupt);
    child.stdout.on("data", (chunk) => (output += chunk));
    child.stderr.on("data", (chunk) => (output += chunk));
    child.on("error", (error) => {
      output += `${program}: ${error.message}`;
      finish(false);
    });
    child.on("close", (code, signal) => {
      if (signal && !interrupted) output += `\n${program} was ended by ${signal} (limit: ${timeoutMs / 1000} s)`;
      finish(code === 0);
    });
  });
}
