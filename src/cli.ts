#!/usr/bin/env node
/**
 * The command: `bun src/cli.ts`, or `npx fluxhook`. Runs on Node too, as everything it loads does.
 */
import { readFileSync } from "node:fs";
import { EXIT } from "./cli/context.ts";
import { watchOutput } from "./cli/output.ts";
import { formatError, runCommand } from "./cli/program.ts";
import { loadConfigFile } from "./settings/config.ts";

loadConfigFile(process);
const output = watchOutput(process.stdout, ({ code, message }) => {
  if (code === "EPIPE") process.exit(EXIT.ok); // whoever reads our output has had enough of it, as `head` has
  const text = formatError(
    "failed",
    EXIT.failed,
    `cannot write the output: ${message}`,
    process.argv.includes("--json"),
  );
  process.exitCode = EXIT.failed;
  process.stderr.write(`${text}\n`, () => process.exit());
});

const code = await runCommand(process.argv.slice(2), process.env, readVersion());
await output.finish();
// Said to the end, and then gone: a connection that still closes is nothing to wait for.
process.stderr.write("", () => process.exit(process.exitCode ?? code));

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
