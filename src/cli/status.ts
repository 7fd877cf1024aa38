/**
 * `fluxhook status`: the state of the queue, its workers and Valkey.
 */
import type { Command } from "commander";
import { listHolds } from "../operations/hold.ts";
import { formatSpan } from "../operations/moments.ts";
import { judgeQueue, type QueueProblem, THRESHOLDS } from "../operations/queue-problems.ts";
import type { Tally } from "../operations/summary.ts";
import type { ValkeyFacts } from "../valkey/connection.ts";
import { describePersistence, UNTOLD } from "../valkey/facts.ts";
import { act, type Context, EXIT, type JsonOption, readConfig, type Session, withValkey } from "./context.ts";
import { printable, type Terminal } from "./terminal.ts";

const MAX_KEYS = 100_000; // counted here within a second; in larger databases use the workers' last count
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
backlog that grows; more than ${THRESHOLDS.openCircuits} hosts that do not respond.

Examples:
  $ fluxhook status
  $ fluxhook status --json | jq .depth.waiting
  $ fluxhook status || alert "webhooks"`,
    )
    .action(
      act<JsonOption>(context, async (terminal) => {
        const status = await withValkey(readConfig(context.env, terminal), (session) =>
          readStatus(session, Date.now()),
        );
        terminal.printJson(status);
        printStatus(terminal, status);
        return status.ok ? EXIT.ok : EXIT.failed;
      }),
    );
}

type Status = Awaited<ReturnType<typeof readStatus>>;

async function readStatus({ config, queue, valkey }: Session, nowMs: number) {
  const [{ readFacts }, { readSummary, RECENT_MINUTES }, { findWriteRefusal }, { countStrays }] = await Promise.all([
    import("../valkey/connection.ts"),
    import("../operations/summary.ts"),
    import("../monitoring/readiness.ts"),
    import("../queue/stray-jobs.ts"),
  ]);
  const [facts, summary, refusal, holds] = await Promise.all([
    readFacts(valkey),
    readSummary(queue, valkey, nowMs, config),
    findWriteRefusal(valkey, queue.name),
    listHolds({ valkey, queue: queue.name }, nowMs),
  ]);
  const strays = (await valkey.dbsize()) <= MAX_KEYS ? await countStrays(queue, valkey) : summary.strays;
  const { counts, isPaused, workers, oldestWaitingMs, delivered, failed, attempts, circuits } = summary;
  const problems = judgeQueue({ ...summary, strays, refusal });
  return {
    ok: problems.length === 0,
    problems,
    queue: queue.name,
    depth: counts,
    strays: strays ?? null,
    oldest_waiting_ms: oldestWaitingMs ?? null,
    lately: {
      minutes: RECENT_MINUTES,
      delivered: describeTally(delivered),
      failed: describeTally(failed),
      attempts: { made: attempts.made, failed: attempts.failed },
    },
    workers: workers ?? null,
    paused: isPaused,
    open_circuits: circuits,
    holds: holds.map(({ id, kind, name, until }) => ({ id, kind, target: name, until: new Date(until).toISOString() })),
    valkey: describeValkey(facts),
  };
}

/** `at_least`: the queue keeps only the newest jobs, so there may have been more. */
function describeTally({ count, isLeast }: Tally) {
  return { count, at_least: isLeast };
}

function describeValkey(facts: ValkeyFacts) {
  const { server, evictionPolicy, appendOnly, isPrimary, usedMemoryBytes, maxMemoryBytes } = facts;
  return {
    server,
    eviction: evictionPolicy,
    append_only: appendOnly ?? null,
    role: isPrimary ? "primary" : "replica",
    used_memory_bytes: usedMemoryBytes ?? null,
    max_memory_bytes: maxMemoryBytes ?? null,
  };
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
    [`last ${lately.minutes} min`, `${tally(lately.delivered)} delivered, ${tally(lately.failed)} failed`],
    ["workers", workers === null ? UNTOLD : good(workers > 0, String(workers))],
    ["open circuits", circuits.length === 0 ? "none" : terminal.paint(circuits.map(printable).join(", "), "yellow")],
    ...(holds.length === 0 ? [] : [["held", terminal.paint(describeHolds(holds), "yellow")]]),
    ["Valkey", `${printable(valkey.server)}, ${good(valkey.role === "primary", valkey.role)}`],
    ["eviction", good(valkey.eviction === "noeviction", printable(valkey.eviction))],
    ["persistence", describePersistence(valkey.append_only)],
    ["memory", describeMemory(valkey.used_memory_bytes, valkey.max_memory_bytes)],
  ]);
  if (problems.length > 0) terminal.print();
  for (const problem of problems) printProblem(terminal, problem);
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
