/**
 * `fluxhook status`: the queue, its workers and its Valkey at a glance.
 */
import { setTimeout as pause } from "node:timers/promises";
import type { Command } from "commander";
import { formatSpan } from "../operations/moments.ts";
import { judgeQueue, LATE_MS } from "../operations/queue-problems.ts";
import type { Tally } from "../operations/summary.ts";
import type { Queue } from "../queue/worker.ts";
import type { ValkeyFacts } from "../valkey/connection.ts";
import { describePersistence, UNTOLD } from "../valkey/facts.ts";
import { act, type Context, EXIT, type JsonOption, readConfig, type Session, withValkey } from "./context.ts";
import { printable, type Terminal } from "./terminal.ts";

const SECOND_LOOK_MS = 1000; // 1 s: a job that comes back for a retry is old, but waits for a moment only
const FEW_KEYS = 100_000; // counted here and now, within a second; in more than that the workers count now and then
const MEBIBYTE = 1024 * 1024;

export function addStatus(program: Command, context: Context): void {
  program
    .command("status")
    .description("show the queue, its workers and its Valkey; 1 when something is wrong")
    .option("--json", "as a JSON document")
    .addHelpText(
      "after",
      `
Wrong is: no worker, a paused queue, an event that has waited for a worker for more than a minute, events that are in none of the
queue's lists, a Valkey that may evict keys or is a replica.

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

async function readStatus({ queue, valkey }: Session, nowMs: number) {
  const [{ readFacts }, { readSummary, RECENT_MINUTES }, { valkeyProblems }, { countStrays }] = await Promise.all([
    import("../valkey/connection.ts"),
    import("../operations/summary.ts"),
    import("../monitoring/readiness.ts"),
    import("../queue/stray-jobs.ts"),
  ]);
  const [facts, summary] = await Promise.all([readFacts(valkey), readSummary(queue, valkey, nowMs)]);
  const strays = (await valkey.dbsize()) <= FEW_KEYS ? await countStrays(queue, valkey) : (summary.strays ?? null);
  const { counts, isPaused, workers, oldestWaitingMs, delivered, failed, circuits } = summary;
  const found = judgeQueue({ ...summary, strays: strays ?? 0 });
  const isLate = found.some(({ kind }) => kind === "late") && (await isStillLate(queue));
  const problems = [
    ...valkeyProblems(facts),
    ...found.filter(({ kind }) => kind !== "late" || isLate).map(({ text }) => text),
  ];
  return {
    ok: problems.length === 0,
    problems,
    queue: queue.name,
    depth: counts,
    strays,
    oldest_waiting_ms: oldestWaitingMs ?? null,
    lately: { minutes: RECENT_MINUTES, delivered: describeTally(delivered), failed: describeTally(failed) },
    workers: workers ?? null,
    paused: isPaused,
    open_circuits: circuits,
    valkey: describeValkey(facts),
  };
}

/** Looks again a second later: an old job that came back for a retry would have been taken by then. */
async function isStillLate(queue: Queue): Promise<boolean> {
  await pause(SECOND_LOOK_MS);
  const [next] = await queue.getJobs(["waiting"], 0, 0, true);
  return next !== undefined && Date.now() - next.timestamp > LATE_MS;
}

/** `at_least`: the queue keeps the newest only, so there may have been more. */
function describeTally({ count, isLeast }: Tally) {
  return { count, at_least: isLeast };
}

function describeValkey({ server, evictionPolicy, appendOnly, isPrimary, usedMemoryBytes }: ValkeyFacts) {
  return {
    server,
    eviction: evictionPolicy,
    append_only: appendOnly ?? null,
    role: isPrimary ? "primary" : "replica",
    used_memory_bytes: usedMemoryBytes ?? null,
  };
}

function printStatus(terminal: Terminal, status: Status): void {
  const { depth, lately, workers, valkey, open_circuits: circuits, problems } = status;
  const good = (isGood: boolean, text: string) => terminal.paint(text, isGood ? "green" : "red");
  const oldest = status.oldest_waiting_ms === null ? "" : `, the next one for ${formatSpan(status.oldest_waiting_ms)}`;
  const tally = ({ count, at_least }: typeof lately.failed) => `${count}${at_least ? " or more" : ""}`;
  terminal.printTable([
    ["queue", `${status.queue}${status.paused ? terminal.paint(" (paused)", "red") : ""}`],
    ["waiting", `${depth.waiting}${oldest}`],
    ["active", `${depth.active}`],
    ["delayed", `${depth.delayed}  for a retry, their endpoint's turn, or as asked`],
    ["kept", `${depth.completed} delivered, ${depth.failed} failed`],
    [
      "lately",
      `${tally(lately.delivered)} delivered, ${tally(lately.failed)} failed in the last ${lately.minutes} min`,
    ],
    ["workers", workers === null ? "unknown: this Valkey does not tell" : good(workers > 0, String(workers))],
    ["open circuits", circuits.length === 0 ? "none" : terminal.paint(circuits.map(printable).join(", "), "yellow")],
    ["Valkey", `${printable(valkey.server)}, ${good(valkey.role === "primary", valkey.role)}`],
    ["eviction", good(valkey.eviction === "noeviction", printable(valkey.eviction))],
    ["persistence", describePersistence(valkey.append_only)],
    ["memory", valkey.used_memory_bytes === null ? UNTOLD : `${Math.ceil(valkey.used_memory_bytes / MEBIBYTE)} MiB`],
  ]);
  if (problems.length > 0) terminal.print();
  for (const problem of problems) terminal.print(terminal.paint(printable(problem), "red"));
}
