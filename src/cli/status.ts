/**
 * `fluxhook status`: the state of the queue, its workers and Valkey.
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

const SECOND_LOOK_MS = 1000; // 1 s: a job that returns for a retry is old but waits only a moment
const MAX_KEYS = 100_000; // counted here within a second; in larger databases use the workers' last count
const MEBIBYTE = 1024 * 1024;

export function addStatus(program: Command, context: Context): void {
  program
    .command("status")
    .description("show the queue, its workers and Valkey; exits with 1 if there is a problem")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Problems are: no worker, a paused queue, an event waiting for a worker for more than a minute, events in none of the queue's lists,
a Valkey that may evict keys or is a replica.

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
  const strays = (await valkey.dbsize()) <= MAX_KEYS ? await countStrays(queue, valkey) : (summary.strays ?? null);
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

/** Check again a second later: by then a worker has taken an old job that returned for a retry. */
async function isStillLate(queue: Queue): Promise<boolean> {
  await pause(SECOND_LOOK_MS);
  const [next] = await queue.getJobs(["waiting"], 0, 0, true);
  return next !== undefined && Date.now() - next.timestamp > LATE_MS;
}

/** `at_least`: the queue keeps only the newest jobs, so there may have been more. */
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
    ["delayed", `${depth.delayed}`],
    ["completed", `${depth.completed}`],
    ["failed", `${depth.failed}`],
    [`last ${lately.minutes} min`, `${tally(lately.delivered)} delivered, ${tally(lately.failed)} failed`],
    ["workers", workers === null ? UNTOLD : good(workers > 0, String(workers))],
    ["open circuits", circuits.length === 0 ? "none" : terminal.paint(circuits.map(printable).join(", "), "yellow")],
    ["Valkey", `${printable(valkey.server)}, ${good(valkey.role === "primary", valkey.role)}`],
    ["eviction", good(valkey.eviction === "noeviction", printable(valkey.eviction))],
    ["persistence", describePersistence(valkey.append_only)],
    ["memory", valkey.used_memory_bytes === null ? UNTOLD : `${Math.ceil(valkey.used_memory_bytes / MEBIBYTE)} MiB`],
  ]);
  if (problems.length > 0) terminal.print();
  for (const problem of problems) terminal.print(terminal.paint(printable(problem), "red"));
}
