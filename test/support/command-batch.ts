/**
 * Runs many command lines in one process, one after the other: stdin is a JSON array of them, stdout becomes one of what each said
 * and how it ended. A command that does not end within 3 s counts as one that hangs.
 */
import { runCommand } from "../../src/cli/program.ts";
import { captureStreams } from "./streams.ts";

const HANG_MS = 3_000;
const lines: string[][] = await Bun.stdin.json();
const said: unknown[] = [];
for (const args of lines) {
  const { streams, written } = captureStreams();
  const ended = runCommand(args, process.env, "test", streams).catch((error: Error) => `threw ${error.stack}`);
  const code = await Promise.race([ended, Bun.sleep(HANG_MS).then(() => "hangs")]);
  said.push({ args, ...written, code });
}
process.stdout.write(JSON.stringify(said), () => process.exit(0));
