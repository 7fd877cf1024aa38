/**
 * `fluxhook cancel`: end events that wait, by user, host, endpoint or type.
 */
import type { Command } from "commander";
import { EVENT_TYPES } from "../delivery/contract.ts";
import { endpointName } from "../delivery/request.ts";
import {
  CANCELED,
  type Census,
  countActive,
  countAll,
  countJobs,
  type Ended,
  endMeant,
  type Held,
  readFailedRoom,
  WAITING,
} from "../operations/cancel.ts";
import { type JobFilter, parseHost, urlOf, userOf } from "../operations/job-filter.ts";
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
import { readUser } from "./input.ts";
import { isWanted, requireAnswer } from "./redeliver.ts";
import { printable, type Terminal } from "./terminal.ts";

interface CancelOptions extends JsonOption {
  readonly user?: string;
  readonly host?: string;
  readonly endpoint?: string;
  readonly event?: string;
  readonly remove?: boolean;
  readonly dryRun?: boolean;
  readonly yes?: boolean;
}

const SHOWN = 20; // events listed; all are counted

export function addCancel(program: Command, context: Context): void {
  program
    .command("cancel")
    .description("end events that wait: those that match all of what is given")
    .option("--user <id>", "of this user")
    .option("--host <host[:port]>", "to this host, as status names it: without a port, the scheme's own")
    .option("--endpoint <url>", "to this endpoint: whatever its query, unless one is given")
    .option("--event <type>", "of this type")
    .option("--remove", "remove them for good, in place of keeping them as failed")
    .option("--dry-run", "count them, list some, and change nothing")
    .option("--yes", "do not ask; needed where nobody can be asked")
    .option("--json", "as a JSON document")
    .addHelpText(
      "after",
      `
Waiting are those that were not tried yet, and those that wait for a retry, a delay or their turn; also while the queue is paused. An
attempt that runs goes on. What is canceled is kept as failed, "${CANCELED}", for 7 days: redeliver brings it back. As failed
10,000 events are kept; where more match than have room, nothing is done without --remove.

Examples:
  $ fluxhook cancel --user usr_42 --dry-run
  $ fluxhook cancel --host hooks.example.com --event file.created --yes
  $ fluxhook cancel --endpoint https://hooks.example.com/in --remove --yes`,
    )
    .action(
      act<CancelOptions>(context, async (terminal, options) => {
        const filter = readFilter(options);
        requireAnswer(options, "cancels without asking, --dry-run counts what would end");
        return await withValkey(readConfig(context.env, terminal), (session) => {
          return options.dryRun ? showCensus(terminal, session, filter) : cancel(terminal, session, filter, options);
        });
      }),
    );
}

function readFilter({ user, host, endpoint, event }: CancelOptions): JobFilter {
  if ((user ?? host ?? endpoint ?? event) === undefined) {
    throw new CommandError("usage", "expected at least one of --user, --host, --endpoint and --event");
  }
  if (event !== undefined && !(EVENT_TYPES as readonly string[]).includes(event)) {
    throw new CommandError("usage", `expected --event to be one of ${EVENT_TYPES.join(", ")}`);
  }
  const parsedHost = host === undefined ? undefined : parseHost(host);
  if (host !== undefined && parsedHost === undefined) {
    throw new CommandError(
      "usage",
      `expected --host to be a host, as in hooks.example.com or [2001:db8::1]:8080, got "${host}"`,
    );
  }
  if (endpoint !== undefined && !(URL.canParse(endpoint) && /^https?:$/.test(new URL(endpoint).protocol))) {
    throw new CommandError("usage", "expected --endpoint to be an http or https URL");
  }
  return {
    userId: user === undefined ? undefined : readUser(user),
    host: parsedHost,
    endpoint: endpoint === undefined ? undefined : new URL(endpoint),
    event,
  };
}

/** BullMQ's words, with those of older clients' `paused` list among the waiting. */
function statesOf({ lists }: Pick<Census, "lists">) {
  const { wait = 0, paused = 0, prioritized = 0, delayed = 0 } = lists;
  return { waiting: wait + paused, prioritized, delayed };
}

function describe(counts: Readonly<Record<string, number>>): string {
  const parts = Object.entries(counts).filter(([, count]) => count > 0);
  return parts.map(([name, count]) => `${count} ${name}`).join(", ");
}

/** Count, with a bar where it is seen. */
async function takeCensus(terminal: Terminal, held: Held, filter: JobFilter): Promise<Census> {
  const bar = terminal.progress(await countAll(held, WAITING));
  try {
    return await countJobs(held, filter, WAITING, SHOWN, bar.step);
  } finally {
    bar.done();
  }
}

async function showCensus(terminal: Terminal, held: Held, filter: JobFilter): Promise<ExitCode> {
  const census = await takeCensus(terminal, held, filter);
  const [active, room] = await Promise.all([countActive(held, filter), readFailedRoom(held)]);
  const { total: count, unreadable, some } = census;
  const jobs = some.map((job) => {
    const url = urlOf(job);
    return {
      job: job.id,
      state: job.list === "wait" || job.list === "paused" ? "waiting" : job.list,
      event: job.name,
      user: userOf(job) ?? null,
      endpoint: url === undefined ? null : endpointName(url),
    };
  });
  terminal.printJson({ dry_run: true, count, states: statesOf(census), active, unreadable, failed_room: room, jobs });
  if (jobs.length > 0) {
    terminal.printTable([
      Object.keys(jobs[0] as object).map((name) => terminal.paint(name, "dim")),
      ...jobs.map((job) => Object.values(job).map((text) => printable(text ?? "-"))),
    ]);
  }
  if (count > jobs.length) terminal.print(`and ${count - jobs.length} more`);
  terminal.print(
    `${count} would be canceled${count > 0 ? `: ${describe(statesOf(census))}` : ""}. Nothing was changed.`,
  );
  if (count > room) terminal.print(tellRoom(count, room));
  tellOthers(terminal, active, unreadable);
  return EXIT.ok;
}

const tellRoom = (count: number, room: number): string =>
  `${count} match, and as failed only ${room} more are kept: --remove cancels them for good, a narrower filter cancels fewer.`;

function tellOthers(terminal: Terminal, active: number, unreadable: number): void {
  if (active > 0) terminal.print(`${active} active: their attempts go on, and what fails is tried again.`);
  if (unreadable > 0)
    terminal.print(`${unreadable} cannot be read: nobody knows whose they are. They fail when they are taken.`);
}

async function cancel(terminal: Terminal, held: Held, filter: JobFilter, options: CancelOptions): Promise<ExitCode> {
  // To remove without asking, nobody has to know how many there are.
  const census = options.remove && options.yes ? undefined : await takeCensus(terminal, held, filter);
  if (census !== undefined && !options.remove) {
    const room = await readFailedRoom(held);
    if (census.total > room) throw new CommandError("failed", `${tellRoom(census.total, room)} Nothing was changed.`);
  }
  if (census !== undefined && census.total > 0) {
    const verb = options.remove ? "Remove" : "Cancel";
    const question = `${verb} ${census.total} ${census.total === 1 ? "event" : "events"} (${describe(statesOf(census))})?`;
    if (!(await isWanted(terminal, options, question))) return EXIT.failed;
  }
  const bar = terminal.progress(await countAll(held, WAITING));
  const reason = options.remove ? undefined : CANCELED;
  let ended: Ended;
  try {
    ended = await endMeant(held, { filter, lists: WAITING, reason, onSeen: bar.step });
  } finally {
    bar.done();
  }
  const active = await countActive(held, filter);
  return tellEnded(terminal, ended, active, reason !== undefined);
}

function tellEnded(terminal: Terminal, ended: Ended, active: number, isKept: boolean): ExitCode {
  const { total: count, left, unreadable, isDone } = ended;
  terminal.printJson({
    ...{ dry_run: false, count, states: statesOf(ended), kept: isKept, active, left, unreadable, done: isDone },
  });
  const how = isKept ? " Kept as failed: redeliver brings them back." : " Removed.";
  terminal.print(count > 0 ? `${count} canceled: ${describe(statesOf(ended))}.${how}` : "0 canceled.");
  tellOthers(terminal, active, unreadable);
  if (left.scheduled > 0)
    terminal.print(`${left.scheduled} left: a job scheduler makes them. Remove it in the backend.`);
  if (left.flow > 0) terminal.print(`${left.flow} left: they have a parent or children. Remove them in Bull Board.`);
  if (left.full > 0) terminal.print(`${left.full} left: as failed no more are kept. --remove cancels them for good.`);
  if (!isDone) terminal.print("More of them keep coming: stop them in the backend, and run this again.");
  return isDone && left.scheduled + left.flow + left.full === 0 ? EXIT.ok : EXIT.failed;
}
