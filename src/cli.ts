#!/usr/bin/env node
/**
 * The command: `bun src/cli.ts` or `npx fluxhook`. Everything it imports also runs on Node.
 */
import { readFileSync } from "node:fs";
import { EXIT } from "./cli/context.ts";
import { watchOutput } from "./cli/output.ts";
import { formatError, runCommand } from "./cli/program.ts";
import { loadConfigFile } from "./settings/config.ts";

loadConfigFile(process);
const output = watchOutput(process.stdout, ({ code, message }) => {
  if (code === "EPIPE") process.exit(EXIT.ok); // the reader has exited, as `head` does
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
// Exit once stderr is flushed, without waiting for connections that are still closing.
process.stderr.write("", () => process.exit(process.exitCode ?? code));

/** The version in our package.json: one level above the source, one or two above the build. */
function readVersion(): string {
  for (const path of ["../package.json", "../../package.json"]) {
    try {
      const { name, version } = JSON.parse(readFileSync(new URL(path, import.meta.url), "utf8"));
      if (name === "fluxhook") return version;
    } catch {
      // not there: try the next
    }
  }
  return "unknown";
}
