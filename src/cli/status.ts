/**
 * `fluxhook status`: the state of the queue, its workers and Valkey.
 */
import type { Command } from "commander";
import { formatSpan } from "../operations/moments.ts";
import { type QueueProblem, THRESHOLDS } from "../operations/queue-problems.ts";
import { describePersistence, UNTOLD } from "../valkey/facts.ts";
import { act, type Context, EXIT, type JsonOption, readConfig, withReachable } from "./context.ts";
import { readStatus, type ShardStatus, type Status } from "./queue-status.ts";
import { printable, type Terminal } from "./terminal.ts";

const SHOWN_HOLDS = 5;
const MEBIBYTE = 1024 * 1024;

export function addStatus(program: Command, context: Context): void {
  program
    .command("status")
    .description("show the queue, its workers and Valkey; exits with 1 if there is a problem")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Problems are: no worker, a paused queue, stray jobs, a Valkey that is full or nearly full, refuses writes, may evict keys or is a
replica; an event that waits for a worker for more than a minute; most attempts or events of the last ${THRESHOLDS.minutes} minutes failed; a
backlog that grows; more than ${THRESHOLDS.openCircuits} hosts that do not respond; a shard that is away, or that nobody serves.

Examples:
  $ fluxhook status
  $ fluxhook status --json | jq .depth.waiting
  $ fluxhook status || alert "webhooks"`,
    )
    .action(
      act<JsonOption>(context, async (terminal) => {
        return await withReachable(readConfig(context.env, terminal), terminal, async (session) => {
          const status = await readStatus(session, Date.now());
          terminal.printJson(status);
          printStatus(terminal, status);
          return status.ok ? EXIT.ok : EXIT.failed;
        });
      }),
    );
}

function printStatus(terminal: Terminal, status: Status): void {
  const { depth, lately, workers, valkey, open_circuits: circuits, holds, problems } = status;
  const good = (isGood: boolean, text: string) => terminal.paint(text, isGood ? "green" : "red");
  const oldest = status.oldest_waiting_ms === null ? "" : `, the next one for ${formatSpan(status.oldest_waiting_ms)}`;
  const tally = ({ count, at_least }: typeof lately.failed) => `${count}${at_least ? " or more" : ""}`;
  terminal.printTable([
    ["queue", `${status.queue}${status.paused ? terminal.paint(" (paused)", "red") : ""}`],
    ["waiting", `${depth.waiting}${oldest}`],
    ["active", `${depth.active}`],
    ["delayed", `${depth.delayed}`],
    ["completed", `${depth.completed}`],
    ["failed", `${depth.failed}`],
    [`last ${lately.minutes} min`, `${tally(lately.completed)} completed, ${tally(lately.failed)} failed`],
    ["attempts", describeAttempts(lately)],
    ["workers", workers === null ? UNTOLD : good(workers > 0, String(workers))],
    ["open circuits", circuits.length === 0 ? "none" : terminal.paint(circuits.map(printable).join(", "), "yellow")],
    ...(holds.length === 0 ? [] : [["held", terminal.paint(describeHolds(holds), "yellow")]]),
    ["Valkey", `${printable(valkey.server)}, ${good(valkey.role === "primary", valkey.role)}`],
    ["eviction", good(valkey.eviction === "noeviction", printable(valkey.eviction))],
    ["persistence", describePersistence(valkey.append_only)],
    ["memory", describeMemory(valkey.used_memory_bytes, valkey.max_memory_bytes)],
  ]);
  if (status.shards) printShards(terminal, status.shards);
  if (problems.length > 0) terminal.print();
  for (const problem of problems) printProblem(terminal, problem);
}

function printShards(terminal: Terminal, shards: readonly ShardStatus[]): void {
  const heading = ["shard", "waiting", "active", "delayed", "failed", "workers", "node"];
  terminal.print();
  terminal.printTable([
    heading.map((name) => terminal.paint(name, "dim")),
    ...shards.map(({ shard, depth, workers, paused, node, is_away: isAway }) => {
      const { waiting = "-", active = "-", delayed = "-", failed = "-" } = depth ?? {};
      const name = `${shard}${paused ? terminal.paint(" (paused)", "red") : ""}`;
      const place = isAway ? terminal.paint("away", "red") : printable(node ?? "-");
      return [name, ...[waiting, active, delayed, failed, workers ?? "-"].map(String), place];
    }),
  ]);
}

function describeAttempts({ minutes, attempts: { made, failed } }: Status["lately"]): string {
  return `${made} in the last ${minutes} min, ${made - failed} answered with 2xx`;
}

function describeHolds(holds: Status["holds"]): string {
  const shown = holds.slice(0, SHOWN_HOLDS).map(({ kind, target }) => `${kind} ${printable(target)}`);
  return holds.length > shown.length
    ? `${shown.join(", ")}, and ${holds.length - shown.length} more`
    : shown.join(", ");
}

function describeMemory(usedBytes: number | null, maxBytes: number | null): string {
  if (usedBytes === null) return UNTOLD;
  const of = maxBytes === null || maxBytes === 0 ? "" : ` of ${Math.floor(maxBytes / MEBIBYTE)} MiB`;
  return `${Math.ceil(usedBytes / MEBIBYTE)} MiB${of}`;
}

function printProblem(terminal: Terminal, { severity, text, todo }: QueueProblem): void {
  terminal.print(`${terminal.paint(`${printable(text)}.`, severity === "critical" ? "red" : "yellow")} ${todo}.`);
}
