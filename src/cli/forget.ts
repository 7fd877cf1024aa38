/**
 * `fluxhook forget`: erase what is kept of a user.
 */
import type { Command } from "commander";
import { countAll } from "../operations/cancel.ts";
import { countHoldings, ERASED, eraseUser, type Holdings } from "../operations/erase.ts";
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

const PATIENCE_MS = 2 * 1000; // 2 s beyond the deadline of an attempt that is under way

export function addForget(program: Command, context: Context): void {
  program
    .command("forget")
    .description("erase what is kept of a user: events in every state, and the log of attempts")
    .argument("<user>", "the user's id")
    .option("--dry-run", "count what is kept, and change nothing")
    .option("--yes", "do not ask; needed where nobody can be asked")
    .option("--json", "as a JSON document")
    .addHelpText(
      "after",
      `
Events that wait are not delivered any more. An event whose attempt runs is waited for, as long as an attempt may take; where that is
not enough, the command ends with 1, and is to be run again. What the backend enqueues for this user from then on is delivered and
kept as always: stop that first.

Examples:
  $ fluxhook forget usr_42 --dry-run
  $ fluxhook forget usr_42 --yes`,
    )
    .action(
      act<ForgetOptions, [string]>(context, async (terminal, options, text) => {
        const user = readUser(text);
        requireAnswer(options, "erases without asking, --dry-run counts what is kept");
        return await withValkey(readConfig(context.env, terminal), async (session) => {
          if (options.yes && !options.dryRun) return await erase(terminal, session, user);
          const holdings = await withBar(terminal, session, (onSeen) => countHoldings(session, user, onSeen));
          if (options.dryRun) return showHoldings(terminal, user, holdings);
          if (sum(holdings) > 0) {
            showKinds(terminal, holdings);
            if (!(await isWanted(terminal, options, `Erase all of it?`))) return EXIT.failed;
          }
          return await erase(terminal, session, user);
        });
      }),
    );
}

async function withBar<T>(terminal: Terminal, session: Session, run: (onSeen: (jobs: number) => void) => Promise<T>) {
  const bar = terminal.progress(await countAll(session, ERASED));
  try {
    return await run(bar.step);
  } finally {
    bar.done();
  }
}

/** Numbers by kind, as programs get them. */
function kindsOf({ lists, other, schedulers, attempts, backlog, tags, events }: Holdings) {
  const { wait = 0, paused = 0, prioritized = 0, delayed = 0, completed = 0, failed = 0 } = lists;
  const parents = lists["waiting-children"] ?? 0;
  return {
    jobs: { waiting: wait + paused, prioritized, delayed, waiting_children: parents, completed, failed, other },
    schedulers,
    attempts,
    backlog,
    tags,
    events,
  };
}

function sum(holdings: Holdings): number {
  const { jobs, ...rest } = kindsOf(holdings);
  return [...Object.values(jobs), ...Object.values(rest)].reduce((total, count) => total + count, holdings.active);
}

const MEANINGS: Readonly<Record<string, string>> = {
  other: "in none of the queue's lists, or moved meanwhile",
  schedulers: "job schedulers",
  attempts: "in the log",
  backlog: "entries in the line of those that wait",
  tags: "place in the order between users",
  events: "entries of the event stream",
  active: "their attempts run",
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
    sum(holdings) === 0 ? `Nothing is kept of ${user}.` : "All of it would be erased. Nothing was changed.",
  );
  tellUnreadable(terminal, unreadable);
  return EXIT.ok;
}

async function erase(terminal: Terminal, session: Session, user: string): Promise<ExitCode> {
  const patienceMs = session.config.timeoutMs + PATIENCE_MS;
  const erasure = await withBar(terminal, session, (onSeen) => eraseUser(session, user, patienceMs, onSeen));
  const { active, unreadable, isDone } = erasure;
  terminal.printJson({ dry_run: false, user, ...kindsOf(erasure), active, unreadable, done: isDone });
  showKinds(terminal, erasure);
  tellUnreadable(terminal, unreadable);
  if (active > 0) {
    terminal.print(
      `${active} active: a job cannot be removed while its attempt runs. Run this again, until it ends with 0.`,
    );
  } else if (!isDone) {
    terminal.print(`Events of ${user} are left, or keep coming: stop them in the backend, and run this again.`);
  } else {
    terminal.print(
      sum(erasure) === 0 ? `Nothing is kept of ${user}.` : "Erased. What is enqueued from now on is delivered.",
    );
  }
  return isDone ? EXIT.ok : EXIT.failed;
}

function tellUnreadable(terminal: Terminal, unreadable: number): void {
  if (unreadable > 0)
    terminal.print(`${unreadable} of anybody cannot be read: nobody knows whose they are. Look in Bull Board.`);
}
