#!/usr/bin/env node
// `npx fluxhook`: the build where the package is installed; in the repository the source, by Bun, since there a build may be
// missing or old.
import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const isRepository = existsSync(join(root, "src/dev")); // which the package leaves out
if (isRepository) await runSource();
else await import(new URL("../dist/src/cli.js", import.meta.url).href);

async function runSource() {
  const setup = [join(root, "scripts/setup.mjs"), "--no-valkey"];
  const { status } = spawnSync(process.execPath, setup, { stdio: ["ignore", 2, 2] }); // stdout is the command's alone
  if (status !== 0) process.exit(1);
  const command = [join(root, "src/cli.ts"), ...process.argv.slice(2)];
  const child = spawn(join(root, "node_modules/.bin/bun"), command, { stdio: "inherit" });
  for (const signal of /** @type {const} */ (["SIGTERM", "SIGINT", "SIGHUP"])) {
    process.on(signal, () => child.kill(signal));
  }
  process.exitCode = await new Promise((resolve) => child.on("close", (code) => resolve(code ?? 1)));
}
