/**
 * `fluxhook recover`: restore events whose job is in none of the queue's lists.
 */
import type { Command } from "commander";
import { findStrays, putBackStrays } from "../queue/stray-jobs.ts";
import type { Queue } from "../queue/worker.ts";
import { act, type Context, EXIT, type JsonOption, readConfig, withValkey } from "./context.ts";
import { type Candidate, describeJob, isWanted, requireAnswer } from "./redeliver.ts";
import { printable, type Terminal } from "./terminal.ts";

interface RecoverOptions extends JsonOption {
  readonly dryRun?: boolean;
  readonly yes?: boolean;
}

const SHOWN = 20; // jobs listed; the count covers all

export function addRecover(program: Command, context: Context): void {
  program
    .command("recover")
    .description("restore events that are in none of the queue's lists")
    .option("--dry-run", "list them, change nothing")
    .option("--yes", "skip confirmation; required without a terminal")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
A BullMQ 4 or 5 client that pauses or resumes the queue while no worker runs can leave events behind: stored, but in no list, so
they are never delivered. After such a client's obliterate, they include jobs that it should have removed: check the list first.

Examples:
  $ fluxhook recover --dry-run
  $ fluxhook recover --yes`,
    )
    .action(
      act<RecoverOptions>(context, async (terminal, options) => {
        requireAnswer(options, "to restore them without confirmation, --dry-run to list them");
        return await withValkey(readConfig(context.env, terminal), async ({ queue, valkey }) => {
          const ids: string[] = [];
          for await (const id of findStrays(queue, valkey)) ids.push(id); // Node 20 has no Array.fromAsync
          await show(terminal, queue, ids);
          if (options.dryRun || ids.length === 0) {
            terminal.printJson({ dry_run: options.dryRun === true, count: ids.length, jobs: ids });
            return EXIT.ok;
          }
          if (!(await isWanted(terminal, options, `Restore ${ids.length} to the queue?`))) return EXIT.failed;
          const recovered = await putBackStrays(queue, valkey, ids);
          terminal.printJson({ dry_run: false, count: recovered, jobs: ids });
          terminal.print(`${recovered} restored.`);
          return EXIT.ok;
        });
      }),
    );
}

async function show(terminal: Terminal, queue: Queue, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return terminal.print("Every job is in one of the queue's lists.");
  if (terminal.isJson) return;
  const jobs = await Promise.all(ids.slice(0, SHOWN).map((id) => queue.getJob(id)));
  const row = ({ job, event, user, endpoint }: Candidate) =>
    [job, event, user, endpoint].map((text) => printable(text ?? "-"));
  terminal.printTable([
    ["job", "event", "user", "endpoint"].map((name) => terminal.paint(name, "dim")),
    ...jobs.flatMap((job) => (job === undefined ? [] : [row(describeJob(job, "stray"))])),
  ]);
  if (ids.length > SHOWN) terminal.print(`and ${ids.length - SHOWN} more`);
  terminal.print(`${ids.length} ${ids.length === 1 ? "event is" : "events are"} in none of the queue's lists.`);
}
