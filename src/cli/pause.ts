/**
 * `fluxhook pause` and `fluxhook resume`: stop and continue all deliveries of the queue.
 */
import type { Command } from "commander";
import { nameShards, shardName } from "../queue/shards.ts";
import {
  act,
  type Context,
  EXIT,
  type ExitCode,
  type JsonOption,
  nameQueue,
  readConfig,
  type Session,
  withValkey,
} from "./context.ts";
import { isWanted, requireAnswer } from "./redeliver.ts";
import type { Terminal } from "./terminal.ts";

interface PauseOptions extends JsonOption {
  readonly dryRun?: boolean;
  readonly yes?: boolean;
}

export function addPause(program: Command, context: Context): void {
  addSwitch(program, context, {
    name: "pause",
    description: "pause all deliveries of the queue",
    help: `
Attempts in progress finish, and no further ones start until resume. Events can still be enqueued. Unlike with hold, events age
meanwhile: when the queue is resumed, those older than WEBHOOK_MAX_AGE get one attempt.

Examples:
  $ fluxhook pause --dry-run
  $ fluxhook pause --yes`,
  });
}

export function addResume(program: Command, context: Context): void {
  addSwitch(program, context, {
    name: "resume",
    description: "resume the deliveries of a paused queue",
    help: `
Examples:
  $ fluxhook resume --dry-run
  $ fluxhook resume --yes`,
  });
}

interface Switch {
  readonly name: "pause" | "resume";
  readonly description: string;
  readonly help: string;
}

function addSwitch(program: Command, context: Context, { name, description, help }: Switch): void {
  program
    .command(name)
    .description(description)
    .option("--dry-run", "show what it would do, change nothing")
    .option("--yes", "skip confirmation; required without a terminal")
    .option("--json", "print JSON")
    .addHelpText("after", help)
    .action(
      act<PauseOptions>(context, async (terminal, options) => {
        requireAnswer(terminal, options, `to ${name} without confirmation, --dry-run to look`);
        return await withValkey(readConfig(context.env, terminal), (session) => turn(terminal, session, name, options));
      }),
    );
}

async function turn(
  terminal: Terminal,
  { config, shards }: Session,
  name: Switch["name"],
  options: PauseOptions,
): Promise<ExitCode> {
  const [states, figures] = await Promise.all([
    Promise.all(shards.map(({ client }) => client.isPaused())),
    countJobs(shards),
  ]);
  const shown = `${figures.waiting} waiting, ${figures.active} active, ${figures.delayed} delayed`;
  const isPausing = name === "pause";
  const queue = nameQueue(config);
  const rest = shards.filter((_, index) => states[index] !== isPausing);
  const tell = (isChanged: boolean, text: string): ExitCode => {
    const paused = isChanged ? shards.map(() => isPausing) : states;
    terminal.printJson({
      ...{ dry_run: options.dryRun === true, queue, paused: paused.every(Boolean), changed: isChanged, ...figures },
      ...(shards.length > 1 && {
        shards: shards.map((shard, at) => ({ shard: shardName(shard), paused: paused[at] })),
      }),
    });
    terminal.print(text);
    return EXIT.ok;
  };
  if (rest.length === 0) {
    return tell(false, `The queue ${queue} is ${isPausing ? "already paused" : "not paused"}: ${shown}.`);
  }
  const partly = rest.length < shards.length ? `, in ${nameShards(rest)} of ${shards.length}` : "";
  if (options.dryRun)
    return tell(false, `The queue ${queue} would be ${name}d${partly}: ${shown}. Nothing was changed.`);
  const question = `${isPausing ? "Pause" : "Resume"} all deliveries of the queue ${queue}${partly} (${shown})?`;
  if (!(await isWanted(terminal, options, question))) return EXIT.failed;
  for (const { client } of rest) await (isPausing ? client.pause() : client.resume());
  const end = isPausing ? "Attempts in progress finish. fluxhook resume continues." : "";
  return tell(true, `${isPausing ? "Paused" : "Resumed"} the queue ${queue}${partly}: ${shown}. ${end}`.trimEnd());
}

async function countJobs(shards: Session["shards"]) {
  const all = await Promise.all(
    shards.map(({ client }) => client.getJobCounts("waiting", "prioritized", "active", "delayed")),
  );
  const sum = (state: string) => all.reduce((total, counts) => total + (counts[state] ?? 0), 0);
  return { waiting: sum("waiting") + sum("prioritized"), active: sum("active"), delayed: sum("delayed") };
}
