/**
 * `fluxhook status`: the queue, its workers and its Valkey at a glance.
 */
import type { Command } from "commander";
import { readCircuits } from "../circuits.ts";
import { formatSpan } from "../moments.ts";
import { valkeyProblems } from "../readiness.ts";
import { readFacts, type ValkeyFacts } from "../valkey.ts";
import { act, type Context, EXIT, type JsonOption, readConfig, type Session, withValkey } from "./context.ts";
import type { Terminal } from "./terminal.ts";

const STATES = ["waiting", "prioritized", "active", "delayed", "completed", "failed"] as const;
const LATELY_MS = 5 * 60 * 1000; // 5 min
const PATIENCE_MS = 60 * 1000; // 1 min: with workers enough, a job waits for milliseconds
const MEBIBYTE = 1024 * 1024;

export function addStatus(program: Command, context: Context): void {
  program
    .command("status")
    .description("show the queue, its workers and its Valkey; 1 when something is wrong")
    .option("--json", "as a JSON document")
    .addHelpText(
      "after",
      `
Wrong is: no worker, a paused queue, an event that has waited for a worker for more than a minute, a Valkey that may evict
keys or is a replica.

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

async function readStatus({ queue, valkey, config }: Session, nowMs: number) {
  const finished = (state: "completed" | "failed") => valkey.zcount(queue.toKey(state), nowMs - LATELY_MS, "+inf");
  const [facts, counts, [oldest], delivered, failed, workers, isPaused, circuits] = await Promise.all([
    readFacts(valkey),
    queue.getJobCounts(...STATES),
    queue.getJobs(["waiting"], 0, 0, true),
    finished("completed"),
    finished("failed"),
    queue.getWorkersCount(),
    queue.isPaused(),
    readCircuits(valkey, config.queue, nowMs),
  ]);
  const oldestMs = oldest === undefined ? null : Math.max(0, nowMs - oldest.timestamp);
  const problems = [
    ...valkeyProblems(facts),
    ...(workers === 0 ? ["No worker is connected: nothing is delivered"] : []),
    ...(isPaused ? ["The queue is paused: nothing is delivered"] : []),
    ...(oldestMs !== null && oldestMs > PATIENCE_MS
      ? [`Events wait for a worker, the oldest for ${formatSpan(oldestMs)}: start more workers`]
      : []),
  ];
  return {
    ok: problems.length === 0,
    problems,
    queue: config.queue,
    depth: Object.fromEntries(STATES.map((state) => [state, counts[state] ?? 0])),
    oldest_waiting_ms: oldestMs,
    lately: { minutes: LATELY_MS / 60_000, delivered, failed },
    workers,
    paused: isPaused,
    open_circuits: circuits,
    valkey: describeValkey(facts),
  };
}

function describeValkey({ server, evictionPolicy, appendOnly, isPrimary, usedMemoryBytes }: ValkeyFacts) {
  return {
    server,
    eviction: evictionPolicy,
    append_only: appendOnly,
    role: isPrimary ? "primary" : "replica",
    used_memory_bytes: usedMemoryBytes,
  };
}

function printStatus(terminal: Terminal, status: Status): void {
  const { depth, lately, workers, valkey, open_circuits: circuits, problems } = status;
  const good = (isGood: boolean, text: string) => terminal.paint(text, isGood ? "green" : "red");
  const oldest = status.oldest_waiting_ms === null ? "" : `, the oldest for ${formatSpan(status.oldest_waiting_ms)}`;
  const waiting = (depth.waiting ?? 0) + (depth.prioritized ?? 0);
  terminal.printTable([
    ["queue", `${status.queue}${status.paused ? terminal.paint(" (paused)", "red") : ""}`],
    ["waiting", `${waiting}${oldest}`],
    ["active", `${depth.active}`],
    ["delayed", `${depth.delayed}  for a retry, their endpoint's turn, or as asked`],
    ["kept", `${depth.completed} delivered, ${depth.failed} failed`],
    ["lately", `${lately.delivered} delivered, ${lately.failed} failed in the last ${lately.minutes} min`],
    ["workers", good(workers > 0, String(workers))],
    ["open circuits", circuits.length === 0 ? "none" : terminal.paint(circuits.join(", "), "yellow")],
    ["Valkey", `${valkey.server}, ${good(valkey.role === "primary", valkey.role)}`],
    ["eviction", good(valkey.eviction === "noeviction", valkey.eviction)],
    ["persistence", valkey.append_only ? "append-only file" : "no append-only file: a restart may lose what is queued"],
    ["memory", `${Math.ceil(valkey.used_memory_bytes / MEBIBYTE)} MiB`],
  ]);
  if (problems.length > 0) terminal.print();
  for (const problem of problems) terminal.print(terminal.paint(problem, "red"));
}
