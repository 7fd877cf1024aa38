/**
 * `fluxhook endpoints rehome`: move users' endpoints to the shards that serve them, after a change of the number of shards.
 */
import type { Command } from "commander";
import { describePast } from "../homes/past-homes.ts";
import type { Rehomed } from "../homes/rehome.ts";
import { MAX_SHARDS } from "../queue/shards.ts";
import { act, CommandError, type Context, EXIT, type JsonOption, readConfig, withValkey } from "./context.ts";
import type { Terminal } from "./terminal.ts";

interface RehomeOptions extends JsonOption {
  readonly dryRun?: boolean;
  readonly from?: string;
}

export function addRehome(endpoints: Command, context: Context): void {
  endpoints
    .command("rehome")
    .description("move endpoints to the shards that serve their users, after a change of WEBHOOK_SHARDS")
    .option("--dry-run", "count them, change nothing")
    .option("--from <count>", "how many shards there were before; otherwise WEBHOOK_SHARDS_BEFORE")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Run it once workers, board and backends have the new number of shards, and run it again when it was interrupted. Events keep being
delivered meanwhile. When it finds nothing more to move, WEBHOOK_SHARDS_BEFORE can be unset.

Examples:
  $ fluxhook endpoints rehome --dry-run
  $ fluxhook endpoints rehome`,
    )
    .action(
      act<RehomeOptions>(context, async (terminal, { dryRun = false, from }) => {
        const env = from === undefined ? context.env : { ...context.env, WEBHOOK_SHARDS_BEFORE: readCount(from) };
        return await withValkey(readConfig(env, terminal), async ({ shards }) => {
          const { rehome } = await import("../homes/rehome.ts");
          const done = await rehome(shards, { dryRun });
          show(terminal, dryRun, done);
          return done.unmoved > 0 || done.unknown.length > 0 ? EXIT.failed : EXIT.ok;
        });
      }),
    );
}

function readCount(text: string): string {
  if (/^\d{1,3}$/.test(text) && Number(text) >= 1 && Number(text) <= MAX_SHARDS) return text;
  throw new CommandError("usage", `expected --from to be a number of shards, as in 2, got "${text}"`);
}

function show(terminal: Terminal, dryRun: boolean, done: Rehomed): void {
  terminal.printJson({ dry_run: dryRun, ...done });
  const { users, endpoints, missed, attempts, present, unmoved, unknown } = done;
  const count = (number: number, noun: string) => `${number} ${noun}${number === 1 ? "" : "s"}`;
  const what = `${count(endpoints, "endpoint")} of ${count(users, "user")}`;
  terminal.print(
    dryRun
      ? `${what} to move.`
      : `Moved ${what}, with ${count(missed, "missed event")} and ${count(attempts, "attempt")} in their logs.`,
  );
  if (present > 0) {
    terminal.print(
      `${count(present, "endpoint")} left out: their users have endpoints of the same ids where they are served.`,
    );
  }
  if (unmoved > 0) {
    terminal.print(
      `${count(unmoved, "user")} not moved: their endpoints are in a shard that these settings do not name.`,
    );
  }
  for (const before of unknown) terminal.print(`Not all: ${describePast(before)}.`);
}
