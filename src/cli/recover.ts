/**
 * `fluxhook recover`: restore events whose job is in none of the queue's lists.
 */
import type { Command } from "commander";
import { type OpenShards, shardOfJob } from "../queue/open-shard.ts";
import { findStrays, putBackStrays } from "../queue/stray-jobs.ts";
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
        requireAnswer(terminal, options, "to restore them without confirmation, --dry-run to list them");
        return await withValkey(readConfig(context.env, terminal), async ({ shards }) => {
          const ids = shards.map(() => [] as string[]);
          for (const [at, { client, valkey }] of shards.entries()) {
            for await (const id of findStrays(client, valkey)) ids[at]?.push(id); // Node 20 has no Array.fromAsync
          }
          const jobs = shards.flatMap(({ label }, at) => (ids[at] ?? []).map((id) => label + id));
          await show(terminal, shards, jobs);
          if (options.dryRun || jobs.length === 0) {
            terminal.printJson({ dry_run: options.dryRun === true, count: jobs.length, jobs });
            return EXIT.ok;
          }
          if (!(await isWanted(terminal, options, `Restore ${jobs.length} to the queue?`))) return EXIT.failed;
          let count = 0;
          for (const [at, { client, valkey }] of shards.entries()) {
            count += await putBackStrays(client, valkey, ids[at] ?? []);
          }
          terminal.printJson({ dry_run: false, count, jobs });
          terminal.print(`${count} restored.`);
          return EXIT.ok;
        });
      }),
    );
}

async function show(terminal: Terminal, shards: OpenShards, names: readonly string[]): Promise<void> {
  if (names.length === 0) return terminal.print("Every job is in one of the queue's lists.");
  if (terminal.isJson) return;
  const jobs = await Promise.all(
    names.slice(0, SHOWN).map(async (name) => {
      const { shard, id } = shardOfJob(shards, name) ?? { shard: shards[0], id: name };
      const job = await shard.client.getJob(id);
      return job && describeJob(job, "stray", shard.label);
    }),
  );
  const row = ({ job, event, user, endpoint }: Candidate) =>
    [job, event, user, endpoint].map((text) => printable(text ?? "-"));
  terminal.printTable([
    ["job", "event", "user", "endpoint"].map((name) => terminal.paint(name, "dim")),
    ...jobs.flatMap((job) => (job === undefined ? [] : [row(job)])),
  ]);
  if (names.length > SHOWN) terminal.print(`and ${names.length - SHOWN} more`);
  terminal.print(`${names.length} ${names.length === 1 ? "event is" : "events are"} in none of the queue's lists.`);
}
