/**
 * The command: its parser, its subcommands and its exit codes.
 */
import { Command, CommanderError, type OutputConfiguration } from "commander";
import { ContractError } from "../delivery/contract.ts";
import { printable, printableJson } from "../runtime/printable.ts";
import { UsageError } from "../runtime/usage-error.ts";
import { addAttempts } from "./attempts.ts";
import { addCancel } from "./cancel.ts";
import { CommandError, type Context, EXIT, type ExitCode } from "./context.ts";
import { addEndpoints } from "./endpoints.ts";
import { addFind } from "./find.ts";
import { addForget } from "./forget.ts";
import { addHold, addHolds, addRelease } from "./hold.ts";
import { addKey, addSeal } from "./key.ts";
import { addListen } from "./listen.ts";
import { addPause, addResume } from "./pause.ts";
import { addBoard, addWorker } from "./processes.ts";
import { addRecover } from "./recover.ts";
import { addRedeliver } from "./redeliver.ts";
import { addSend } from "./send.ts";
import { addCompletion } from "./shell-completion.ts";
import { addStatus } from "./status.ts";
import type { Streams } from "./terminal.ts";
import { addTrigger } from "./trigger.ts";
import { addVerify } from "./verify.ts";

const EXIT_CODES = `
Exit codes:
  0  success   1  failure   2  usage error   69  Valkey unavailable   78  invalid settings

Settings are environment variables: VALKEY_URL, WEBHOOK_QUEUE, WEBHOOK_SECRET_KEYS and the rest of the worker's.
`;

/** Build the parser with all commands. Its error messages go to `complain`. */
export function buildProgram(context: Context, version: string, complain: (text: string) => void): Command {
  const program = new Command("fluxhook")
    .description("Send events, inspect their delivery, and redeliver them.")
    .version(version)
    .addHelpText("after", EXIT_CODES)
    .exitOverride()
    .configureOutput({ ...describeOutput(context.streams), outputError: complain })
    .configureHelp({ styleTitle: (title) => `\x1b[1m${title}\x1b[0m` });
  for (const add of [
    addSend,
    addTrigger,
    addAttempts,
    addFind,
    addStatus,
    addRedeliver,
    addRecover,
    addCancel,
    addPause,
    addResume,
    addHold,
    addRelease,
    addHolds,
    addEndpoints,
    addForget,
    addVerify,
    addListen,
    addSeal,
    addKey,
    addWorker,
    addBoard,
    addCompletion,
  ]) {
    add(program, context);
  }
  return program;
}

/** Where commander writes, apart from errors. It knows its own process's streams, and would color for them. */
function describeOutput({ stdout, stderr }: Streams = process): OutputConfiguration {
  if (stdout === process.stdout) return {};
  return {
    writeOut: (text) => void stdout.write(text),
    writeErr: (text) => void stderr.write(text),
    getOutHelpWidth: () => stdout.columns as number, // undefined: 80
    getErrHelpWidth: () => stderr.columns as number,
    getOutHasColors: () => false,
    getErrHasColors: () => false,
  };
}

/**
 * Run the command.
 *
 * @param args     arguments after the command's name
 * @param streams  where it reads and writes
 * @returns the exit code
 * @throws  never
 */
export async function runCommand(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  version: string,
  streams: Streams = process,
): Promise<ExitCode> {
  const context: Context = { env, streams, exitCode: EXIT.ok };
  const isJson = args.includes("--json");
  const report = (code: string, exit: ExitCode, message: string): ExitCode => {
    streams.stderr.write(`${formatError(code, exit, message, isJson)}\n`);
    return exit;
  };
  const complain = (text: string) => {
    const message = text
      .trim()
      .replace(/^error: /, "")
      .replaceAll("\n", " ");
    report("usage", EXIT.usage, isJson ? message : `${message}\nTry fluxhook ${commandOf(program, args)}--help.`);
  };
  const program = buildProgram(context, version, complain);
  try {
    await program.parseAsync(args, { from: "user" });
    return context.exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    if (error instanceof CommandError) return report(error.code, EXIT[error.code], error.message);
    if (error instanceof UsageError) return report("usage", EXIT.usage, error.message.replaceAll("; ", "\n"));
    if (error instanceof ContractError) return report("contract", EXIT.usage, error.message.replaceAll("; ", "\n"));
    return report("failed", EXIT.failed, error instanceof Error ? error.message : String(error));
  }
}

/** Format an error: plain lines, or a JSON document. */
export function formatError(code: string, exit: ExitCode, message: string, isJson: boolean): string {
  if (isJson) return printableJson(JSON.stringify({ error: { code, message, exit_code: exit } }));
  const lines = message.split("\n");
  return lines.map((line) => `fluxhook: ${printable(line)}`).join("\n");
}

/** The names of the command and the subcommand that were meant, each with a blank behind it. */
function commandOf(program: Command, [first, ...rest]: readonly string[]): string {
  const command = program.commands.find((one) => one.name() === first);
  return command === undefined ? "" : `${first} ${commandOf(command, rest)}`;
}
