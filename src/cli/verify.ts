/**
 * `fluxhook verify`: check a saved request and report which check failed.
 */
import type { Command } from "commander";
import { act, CommandError, type Context, EXIT, type JsonOption } from "./context.ts";
import { addSecretOptions, readDuration, readInput, requireSecrets, type SecretOptions } from "./input.ts";
import { checkRequest, type RequestReport } from "./request-check.ts";
import { parseHeaders, parseRequest, type SavedRequest } from "./saved-request.ts";
import { printable, type Terminal } from "./terminal.ts";

interface VerifyOptions extends JsonOption, SecretOptions {
  readonly headers?: string;
  readonly body?: string;
  readonly tolerance: string;
}

export function addVerify(program: Command, context: Context): void {
  const command = program
    .command("verify")
    .description("check the signatures of a saved request; exits with 1 if it should be rejected")
    .argument("[request]", "file with a raw request: headers, an empty line, the body; - for stdin")
    .option("--headers <path>", "instead: a file with the headers, one per line or as a JSON object")
    .option("--body <path>", "and a file with the exact body");
  addSecretOptions(command);
  command
    .option("--tolerance <duration>", "maximum age, or distance into the future; off skips the check", "5m")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ fluxhook verify request.http --secret-env SECRET --tolerance off
  $ fluxhook verify --headers headers.txt --body body.json --secret-file secret.txt
  $ fluxhook listen --save . --count 1 && fluxhook verify 1-file.created.http --secret-env SECRET`,
    )
    .action(
      act<VerifyOptions, [string | undefined]>(context, (terminal, options, path) => {
        const secrets = requireSecrets(options, context.env);
        const toleranceMs =
          options.tolerance === "off" ? Number.POSITIVE_INFINITY : readDuration(options.tolerance, "--tolerance");
        const report = checkRequest(readRequest(path, options), secrets, { nowMs: Date.now(), toleranceMs });
        terminal.printJson(report);
        printReport(terminal, report);
        return report.ok ? EXIT.ok : EXIT.failed;
      }),
    );
}

function readRequest(path: string | undefined, options: VerifyOptions): SavedRequest {
  const isSplit = options.headers !== undefined && options.body !== undefined;
  if (isSplit === (path !== undefined) || (options.headers === undefined) !== (options.body === undefined)) {
    throw new CommandError("usage", "expected either a file with a raw request, or both --headers and --body");
  }
  if (path !== undefined) {
    const request = parseRequest(readInput(path, "request"));
    if (request !== undefined) return request;
    throw new CommandError("usage", "expected a raw request: one header per line, an empty line, the body");
  }
  const headers = parseHeaders(readInput(options.headers as string, "--headers").toString("latin1"));
  if (headers === undefined)
    throw new CommandError("usage", "--headers: expected one Name: value per line, or a JSON object");
  return { headers, body: readInput(options.body as string, "--body") };
}

/** Print one line per check, the verdict, and a hint if there is one. */
export function printReport(terminal: Terminal, { ok, checks, hint }: RequestReport): void {
  const marks = new Map([
    [true, terminal.paint("passed", "green")],
    [false, terminal.paint("failed", "red")],
    [null, terminal.paint("-", "dim")],
  ]);
  terminal.printTable(
    checks.map((check) => [`  ${check.check}`, marks.get(check.ok) as string, printable(check.detail)]),
  );
  terminal.print(ok ? terminal.paint("Verified.", "green") : terminal.paint("Not verified.", "red"));
  if (hint !== null) terminal.print(hint);
}
