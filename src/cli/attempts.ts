/**
 * `fluxhook attempts`: a user's last attempts.
 */
import type { Command } from "commander";
import { nameError } from "../delivery/outcome.ts";
import type { Attempt } from "../log/attempts.ts";
import { type Advice, adviceFor } from "../operations/advice.ts";
import { describeRetention, formatAgo } from "../operations/moments.ts";
import { printableLines } from "../runtime/printable.ts";
import { act, type Context, EXIT, type JsonOption, readConfig, withReachable } from "./context.ts";
import { readUser } from "./input.ts";
import { printable, type Terminal } from "./terminal.ts";

interface AttemptsOptions extends JsonOption {
  readonly responses?: boolean;
}

export function addAttempts(program: Command, context: Context): void {
  program
    .command("attempts")
    .description("list a user's attempts in the log, newest first: WEBHOOK_LOG_SIZE of WEBHOOK_LOG_AGE")
    .argument("<user>", "the event's userId")
    .option("--responses", "with what is kept of the responses to failed attempts")
    .option("--json", "print the array that the board's API returns")
    .addHelpText(
      "after",
      `
Examples:
  $ fluxhook attempts usr_42
  $ fluxhook attempts usr_42 --responses
  $ fluxhook attempts usr_42 --json | jq '.[] | select(.success | not) | .job'`,
    )
    .action(
      act<AttemptsOptions, [string]>(context, async (terminal, { responses: withResponses = false }, user) => {
        const userId = readUser(user);
        const config = readConfig(context.env, terminal);
        return await withReachable(config, terminal, async ({ log }) => {
          const attempts = await log.list(userId, Date.now(), { withResponses, limit: config.logSize });
          terminal.printJson(attempts);
          if (attempts.length === 0)
            terminal.print(`No attempts for ${userId} in the last ${describeRetention(config.logAgeMs)}.`);
          else printAttempts(terminal, attempts, config.timeoutMs, Date.now());
          if (withResponses) for (const attempt of attempts) printResponse(terminal, attempt);
          return EXIT.ok;
        });
      }),
    );
}

/** A table of attempts, then advice for each error in it. */
export function printAttempts(
  terminal: Terminal,
  attempts: readonly Attempt[],
  timeoutMs: number,
  nowMs: number,
): void {
  const heading = ["status", "attempt", "ms", "age", "event", "job", "endpoint", "error"];
  terminal.printTable([
    heading.map((name) => terminal.paint(name, "dim")),
    ...attempts.map((attempt) => [
      describeStatus(terminal, attempt),
      printable(attempt.attempt),
      printable(attempt.duration_ms),
      formatAgo(nowMs - Date.parse(attempt.timestamp)),
      printable(attempt.event),
      printable(attempt.job ?? "-"),
      printable(attempt.endpoint),
      describeError(attempt, timeoutMs),
    ]),
  ]);
  const errors = new Map<string, Advice>();
  for (const { error, cause } of attempts) {
    if (error !== null) errors.set(printable(nameError(error, cause)), adviceFor(error, timeoutMs, cause));
  }
  if (errors.size > 0) terminal.print();
  for (const [error, { todo }] of errors) terminal.print(`${error}: ${todo}`);
}

function printResponse(terminal: Terminal, { delivery, response }: Attempt): void {
  if (typeof response?.status_line !== "string") return;
  const { status_line, headers, body, is_truncated, omitted } = response;
  const lines = [
    printable(status_line),
    ...Object.entries(headers ?? {}).map(([name, value]) => printable(`${name}: ${value}`)),
    ...(body === "" ? [] : ["", ...printableLines(String(body ?? "")).split("\n")]),
    ...(omitted === undefined ? [] : ["", `(the body was ${printable(omitted)}: not kept)`]),
    ...(is_truncated ? ["", "(truncated)"] : []),
  ];
  terminal.print();
  terminal.print(`The response to delivery ${printable(delivery)}:`);
  for (const line of lines) terminal.print(line === "" ? "" : `  ${line}`);
}

/** The status, or a dash without a response; green when delivered, red otherwise. */
export function describeStatus(terminal: Terminal, { status_code, success }: Attempt): string {
  return terminal.paint(printable(status_code ?? "-"), success ? "green" : "red");
}

/** An attempt's error code, its cause and what it means; empty when delivered. */
export function describeError({ error, cause }: Attempt, timeoutMs: number): string {
  return error === null ? "" : `${printable(nameError(error, cause))}: ${adviceFor(error, timeoutMs, cause).what}`;
}
