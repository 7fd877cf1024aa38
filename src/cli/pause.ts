/**
 * `fluxhook pause` and `fluxhook resume`: stop and continue all deliveries of the queue.
 */
import type { Command } from "commander";
import type { Queue } from "../queue/worker.ts";
import { act, type Context, EXIT, type ExitCode, type JsonOption, readConfig, withValkey } from "./context.ts";
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
        requireAnswer(options, `to ${name} without confirmation, --dry-run to look`);
        return await withValkey(readConfig(context.env, terminal), ({ queue }) => turn(terminal, queue, name, options));
      }),
    );
}

async function turn(terminal: Terminal, queue: Queue, name: Switch["name"], options: PauseOptions): Promise<ExitCode> {
  const [wasPaused, counts] = await Promise.all([
    queue.isPaused(),
    queue.getJobCounts("waiting", "prioritized", "active", "delayed"),
  ]);
  const { waiting = 0, prioritized = 0, active = 0, delayed = 0 } = counts;
  const figures = { waiting: waiting + prioritized, active, delayed };
  const shown = `${figures.waiting} waiting, ${active} active, ${delayed} delayed`;
  const isPausing = name === "pause";
  const tell = (isPaused: boolean, isChanged: boolean, text: string): ExitCode => {
    terminal.printJson({
      ...{ dry_run: options.dryRun === true, queue: queue.name, paused: isPaused, changed: isChanged, ...figures },
    });
    terminal.print(text);
    return EXIT.ok;
  };
  if (wasPaused === isPausing) {
    return tell(
      wasPaused,
      false,
      `The queue ${queue.name} is ${isPausing ? "already paused" : "not paused"}: ${shown}.`,
    );
  }
  if (options.dryRun) {
    return tell(wasPaused, false, `The queue ${queue.name} would be ${name}d: ${shown}. Nothing was changed.`);
  }
  const question = `${isPausing ? "Pause" : "Resume"} all deliveries of the queue ${queue.name} (${shown})?`;
  if (!(await isWanted(terminal, options, question))) return EXIT.failed;
  if (isPausing) await queue.pause();
  else await queue.resume();
  const rest = isPausing ? "Attempts in progress finish. fluxhook resume continues." : "";
  return tell(
    isPausing,
    true,
    `${isPausing ? "Paused" : "Resumed"} the queue ${queue.name}: ${shown}. ${rest}`.trimEnd(),
  );
}
