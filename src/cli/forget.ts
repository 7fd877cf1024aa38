/**
 * `fluxhook forget`: erase a user's data.
 */
import type { Command } from "commander";
import { countHoldings, ERASED, eraseUser, type Holdings } from "../operations/erase.ts";
import { countAll } from "../operations/job-pages.ts";
import {
  act,
  type Context,
  EXIT,
  type ExitCode,
  type JsonOption,
  readConfig,
  type Session,
  withValkey,
} from "./context.ts";
import { readUser } from "./input.ts";
import { isWanted, requireAnswer } from "./redeliver.ts";
import type { Terminal } from "./terminal.ts";

interface ForgetOptions extends JsonOption {
  readonly dryRun?: boolean;
  readonly yes?: boolean;
}

const PATIENCE_MS = 2 * 1000; // 2 s beyond the deadline of an attempt in progress

export function addForget(program: Command, context: Context): void {
  program
    .command("forget")
    .description("erase a user's data: events in every state, the log of attempts, and registered endpoints")
    .argument("<user>", "the user's id")
    .option("--dry-run", "count what is stored, change nothing")
    .option("--yes", "skip confirmation; required without a terminal")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Pending events are no longer delivered. The command waits for active events as long as an attempt may take; if they are still active
then, it exits with 1: run it again. Events enqueued for this user later are delivered and kept as usual, so stop the backend first.

Examples:
  $ fluxhook forget usr_42 --dry-run
  $ fluxhook forget usr_42 --yes`,
    )
    .action(
      act<ForgetOptions, [string]>(context, async (terminal, options, text) => {
        const user = readUser(text);
        requireAnswer(terminal, options, "to erase without confirmation, --dry-run to count");
        return await withValkey(readConfig(context.env, terminal), async (session) => {
          if (options.yes && !options.dryRun) return await erase(terminal, session, user);
          const holdings = await withBar(terminal, session, (onSeen) => countHoldings(session.shards, user, onSeen));
          if (options.dryRun) return showHoldings(terminal, user, holdings);
          if (sum(holdings) > 0) {
            showKinds(terminal, holdings);
            if (!(await isWanted(terminal, options, "Erase all of it?"))) return EXIT.failed;
          }
          return await erase(terminal, session, user);
        });
      }),
    );
}

async function withBar<T>(terminal: Terminal, session: Session, run: (onSeen: (jobs: number) => void) => Promise<T>) {
  const bar = terminal.progress(await countAll(session.shards, ERASED));
  try {
    return await run(bar.step);
  } finally {
    bar.done();
  }
}

/** Counts by kind, as in the JSON output. */
function kindsOf({ lists, other, schedulers, attempts, backlog, tags, events, holds, ...ofEndpoints }: Holdings) {
  const { endpoints, missed, endpointAttempts: endpoint_attempts, notices } = ofEndpoints;
  const { wait = 0, paused = 0, prioritized = 0, delayed = 0, completed = 0, failed = 0 } = lists;
  const parents = lists["waiting-children"] ?? 0;
  return {
    jobs: { waiting: wait + paused, prioritized, delayed, waiting_children: parents, completed, failed, other },
    schedulers,
    attempts,
    backlog,
    tags,
    events,
    holds,
    ...{ endpoints, missed, endpoint_attempts, notices },
  };
}

function sum(holdings: Holdings): number {
  const { jobs, ...rest } = kindsOf(holdings);
  return [...Object.values(jobs), ...Object.values(rest)].reduce((total, count) => total + count, holdings.active);
}

const MEANINGS: Readonly<Record<string, string>> = {
  other: "in none of the queue's lists, or moved during the search",
  schedulers: "job schedulers",
  attempts: "in the log",
  backlog: "entries in the user's backlog",
  tags: "entry in the order between users",
  events: "entries in the event stream",
  holds: "of the user, current or ended",
  endpoints: "registered, or deleted in the last 30 days",
  missed: "events that endpoints missed",
  endpoint_attempts: "in the endpoints' logs",
  notices: "about endpoints",
  active: "attempts in progress",
};

function showKinds(terminal: Terminal, holdings: Holdings): void {
  const { jobs, ...rest } = kindsOf(holdings);
  const counts = Object.entries({ ...jobs, ...rest, active: holdings.active }).filter(([, count]) => count > 0);
  terminal.printTable(counts.map(([kind, count]) => [kind.replace("_", "-"), `${count}`, MEANINGS[kind] ?? "events"]));
}

function showHoldings(terminal: Terminal, user: string, holdings: Holdings): ExitCode {
  const { active, unreadable } = holdings;
  terminal.printJson({ dry_run: true, user, ...kindsOf(holdings), active, unreadable });
  showKinds(terminal, holdings);
  terminal.print(
    sum(holdings) === 0 ? `Nothing is stored for ${user}.` : "All of it would be erased. Nothing was changed.",
  );
  tellUnreadable(terminal, unreadable);
  return EXIT.ok;
}

async function erase(terminal: Terminal, session: Session, user: string): Promise<ExitCode> {
  const patienceMs = session.config.timeoutMs + PATIENCE_MS;
  const erasure = await withBar(terminal, session, (onSeen) => eraseUser(session.shards, user, patienceMs, onSeen));
  const { active, unreadable, isDone } = erasure;
  terminal.printJson({ dry_run: false, user, ...kindsOf(erasure), active, unreadable, done: isDone });
  showKinds(terminal, erasure);
  tellUnreadable(terminal, unreadable);
  if (active > 0) {
    terminal.print(
      `${active} active: a job cannot be removed during an attempt. Run this again until it exits with 0.`,
    );
  } else if (!isDone) {
    terminal.print(`Events of ${user} remain or keep arriving: stop them in the backend, then run this again.`);
  } else {
    terminal.print(
      sum(erasure) === 0 ? `Nothing is stored for ${user}.` : "Erased. Events enqueued from now on will be delivered.",
    );
  }
  return isDone ? EXIT.ok : EXIT.failed;
}

function tellUnreadable(terminal: Terminal, unreadable: number): void {
  if (unreadable > 0)
    terminal.print(`${unreadable} cannot be read, so their user is unknown. Check them in Bull Board.`);
}
