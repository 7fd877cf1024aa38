/**
 * `fluxhook endpoints export`, `apply` and `reindex`: a backup, its way back, and the operators' index.
 */
import type { Command } from "commander";
import {
  type ApplyPlan,
  type ApplyStep,
  applyStep,
  planEndpoints,
  readStoredEndpoints,
} from "../operations/endpoint-apply.ts";
import { formatEndpoint, parseEndpointFile } from "../operations/endpoint-file.ts";
import type { OpenShards } from "../queue/open-shard.ts";
import { countIndex, type Reindexed, reindexEndpoints } from "../registry/endpoint-index.ts";
import {
  act,
  CommandError,
  type Context,
  EXIT,
  type ExitCode,
  type JsonOption,
  readConfig,
  withValkey,
} from "./context.ts";
import { readInput, readUser } from "./input.ts";
import { isWanted, requireAnswer } from "./redeliver.ts";
import { printable, type Terminal } from "./terminal.ts";

interface ExportOptions extends JsonOption {
  readonly user?: string;
  readonly withPlain?: boolean;
}

const MAX_PROBLEMS = 50; // printed

export function addExport(endpoints: Command, context: Context): void {
  endpoints
    .command("export")
    .description("print all endpoints with their sealed secrets, one a line as JSON, for apply")
    .option("--user <id>", "only this user's")
    .option("--with-plain", "with secrets and headers that are stored unsealed, too")
    .option("--json", "the same: the output is JSON")
    .action(
      act<ExportOptions>(context, async (terminal, { user, withPlain = false }) => {
        const userId = user === undefined ? undefined : readUser(user);
        return await withValkey(readConfig(context.env, terminal), async ({ shards }) => {
          return await exportEndpoints(terminal, shards, userId, withPlain);
        });
      }),
    );
}

async function exportEndpoints(
  terminal: Terminal,
  shards: OpenShards,
  userId: string | undefined,
  withPlain: boolean,
): Promise<ExitCode> {
  let [omitted, damaged, hasPlain] = [0, 0, false];
  for await (const { userId: user, endpoint } of readStoredEndpoints(shards, userId)) {
    if (endpoint.isDamaged) {
      damaged += 1;
      terminal.warn(`endpoint ${endpoint.id} of ${user} is damaged and was left out`);
      continue;
    }
    const sealed = formatEndpoint(user, endpoint, false);
    hasPlain ||= sealed.omitted > 0;
    const { line, omitted: more } = withPlain ? formatEndpoint(user, endpoint, true) : sealed;
    omitted += more;
    terminal.writeJson(line);
  }
  if (withPlain && hasPlain) terminal.warn("the output has secrets in the clear: keep it as safe as they are");
  if (omitted > 0) {
    terminal.warn(`${omitted} secrets and headers are stored unsealed and were left out: --with-plain includes them`);
  }
  return omitted + damaged > 0 ? EXIT.failed : EXIT.ok;
}

interface ApplyOptions extends JsonOption {
  readonly dryRun?: boolean;
  readonly deleteOthers?: boolean;
  readonly yes?: boolean;
}

export function addApply(endpoints: Command, context: Context): void {
  endpoints
    .command("apply")
    .description("make endpoints as a file of export says: create, update or leave each")
    .argument("<file>", "a file as export prints it; - for stdin")
    .option("--delete-others", "delete endpoints that are not in the file, of the users who are")
    .option("--dry-run", "print what would be done, change nothing")
    .option("--yes", "with --delete-others: skip confirmation; required without a terminal")
    .option("--json", "print JSON")
    .action(
      act<ApplyOptions, [string]>(context, async (terminal, options, path) => {
        const { deleteOthers = false, dryRun = false } = options;
        if (deleteOthers) requireAnswer(terminal, options, "to delete without confirmation, --dry-run to see what");
        const text = readInput(path, "the file").toString("utf8");
        const config = readConfig(context.env, terminal);
        const { endpoints: filed, problems } = parseEndpointFile(text, config.events);
        refuse(problems);
        return await withValkey(config, async ({ shards }) => {
          const plan = await planEndpoints(shards, filed, deleteOthers, config);
          refuse(plan.problems);
          if (dryRun) return showPlan(terminal, plan);
          const deleted = plan.steps.filter(({ action }) => action === "delete").length;
          if (deleted > 0 && !(await isWanted(terminal, options, `Delete ${deleted} endpoints?`))) return EXIT.failed;
          return await applyAll(terminal, plan, (step) => applyStep(shards, step, config));
        });
      }),
    );
}

/** Nothing has been changed yet. */
function refuse(problems: readonly string[]): void {
  if (problems.length === 0) return;
  const more = problems.length - MAX_PROBLEMS;
  const shown = [...problems.slice(0, MAX_PROBLEMS), ...(more > 0 ? [`and ${more} more problems`] : [])];
  throw new CommandError("usage", [...shown, "nothing was changed"].join("\n"));
}

function countSteps(steps: readonly ApplyStep[]) {
  const count = (action: ApplyStep["action"]) => steps.filter((step) => step.action === action).length;
  return { created: count("create"), updated: count("update"), left: count("leave"), deleted: count("delete") };
}

function showPlan(terminal: Terminal, { steps }: ApplyPlan): ExitCode {
  const counts = countSteps(steps);
  const shown = steps.map(({ userId, id, action }) => ({ action, user: userId, id }));
  terminal.printJson({ dry_run: true, ...counts, endpoints: shown });
  const changes = shown.filter(({ action }) => action !== "leave");
  terminal.printTable(changes.map(({ action, user, id }) => [action, printable(user), printable(id)]));
  const { created, updated, deleted, left } = counts;
  terminal.print(
    `${created} would be created, ${updated} updated, ${deleted} deleted, ${left} left as they are. Nothing was changed.`,
  );
  return EXIT.ok;
}

/** Secrets that had to be made are printed, this once. */
async function applyAll(
  terminal: Terminal,
  { steps }: ApplyPlan,
  apply: (step: ApplyStep) => Promise<string | undefined>,
): Promise<ExitCode> {
  const bar = terminal.progress(steps.length);
  const done: ApplyStep[] = [];
  const secrets: { user: string; id: string; secret: string }[] = [];
  const tell = () => {
    bar.done();
    terminal.printJson({ dry_run: false, ...countSteps(done), secrets });
    for (const { user, id, secret } of secrets) {
      terminal.print(`The secret of ${user} ${id}, which is not shown again: ${secret}`);
    }
    const { created, updated, deleted, left } = countSteps(done);
    terminal.print(`${created} created, ${updated} updated, ${deleted} deleted, ${left} left as they are.`);
  };
  for (const step of steps) {
    try {
      const secret = await apply(step);
      if (secret !== undefined) secrets.push({ user: step.userId, id: step.id, secret });
    } catch (error) {
      tell();
      terminal.warn(
        `stopped at ${step.userId} ${step.id}, after ${done.length} of ${steps.length}: run it again to go on`,
      );
      throw error;
    }
    done.push(step);
    bar.step();
  }
  tell();
  return EXIT.ok;
}

export function addReindex(endpoints: Command, context: Context): void {
  endpoints
    .command("reindex")
    .description("repair the index that the lists of all users come from; can be interrupted and run again")
    .option("--json", "print JSON")
    .action(
      act<JsonOption>(context, async (terminal) => {
        return await withValkey(readConfig(context.env, terminal), async ({ shards }) => {
          const done = { users: 0, endpoints: 0, repaired: 0, removed: 0 };
          for (const { valkey, tag } of shards) {
            const bar = terminal.progress(await countIndex(valkey, tag, "all"));
            let seen = 0;
            const step = ({ endpoints: count }: Reindexed) => {
              bar.step(count - seen);
              seen = count;
            };
            const found = await reindexEndpoints(valkey, tag, step).finally(() => bar.done());
            for (const name of ["users", "endpoints", "repaired", "removed"] as const) done[name] += found[name];
          }
          terminal.printJson(done);
          const { users, endpoints: count, repaired, removed } = done;
          terminal.print(`${count} endpoints of ${users} users: ${repaired} entries repaired, ${removed} removed.`);
          return EXIT.ok;
        });
      }),
    );
}
