/**
 * Runs many command lines in one process, one after the other: stdin is a JSON array of them, stdout becomes one of what each said
 * and how it ended. A command that does not end within 3 s counts as one that hangs.
 */
import { runCommand } from "../../src/cli/program.ts";

const HANG_MS = 3_000;
const stdout = process.stdout.write.bind(process.stdout);
const lines: string[][] = await Bun.stdin.json();
const said: unknown[] = [];
for (const args of lines) {
  const [out, err]: string[][] = [[], []];
  process.stdout.write = ((text: string) => out?.push(text)) as unknown as typeof process.stdout.write;
  process.stderr.write = ((text: string) => err?.push(text)) as unknown as typeof process.stderr.write;
  const ended = runCommand(args, process.env, "test").catch((error: Error) => `threw ${error.stack}`);
  const code = await Promise.race([ended, Bun.sleep(HANG_MS).then(() => "hangs")]);
  said.push({ args, out: out?.join(""), err: err?.join(""), code });
}
stdout(JSON.stringify(said), () => process.exit(0));
