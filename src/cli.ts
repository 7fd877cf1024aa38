#!/usr/bin/env node
/**
 * The command: `bun src/cli.ts`, or `npx fluxhook`. Runs on Node too, as everything it loads does.
 */
import { readFileSync } from "node:fs";
import { runCommand } from "./cli/program.ts";
import { loadConfigFile } from "./config.ts";

loadConfigFile(process);
// Whoever reads our output may have had enough of it, as `head` has.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));

const code = await runCommand(process.argv.slice(2), process.env, readVersion());
// Said to the end, and then gone: a connection that still closes is nothing to wait for.
process.stdout.write("", () => process.stderr.write("", () => process.exit(code)));

/** From the package's own description: one level up from the source, one or two from what was built. */
function readVersion(): string {
  for (const path of ["../package.json", "../../package.json"]) {
    try {
      const { name, version } = JSON.parse(readFileSync(new URL(path, import.meta.url), "utf8"));
      if (name === "fluxhook") return version;
    } catch {
      // Not there: the next one.
    }
  }
  return "unknown";
}
