/**
 * `fluxhook cancel`: cancel pending events by user, host, endpoint or type.
 */
import type { Command } from "commander";
import { ENDPOINT_ID } from "../delivery/limits.ts";
import { endpointName } from "../delivery/request.ts";
import {
  CANCELED,
  type Census,
  countActive,
  countJobs,
  type Ended,
  endMeant,
  readFailedRoom,
  WAITING,
} from "../operations/cancel.ts";
import { endpointIdOf, type JobFilter, nameRegistered, parseHost, urlOf, userOf } from "../operations/job-filter.ts";
import { countAll } from "../operations/job-pages.ts";
import {
  act,
  CommandError,
  type Context,
  EXIT,
  type ExitCode,
  type JsonOption,
  readConfig,
  type Session,
  withValkey,
} from "./context.ts";
import { checkEventType, readEventTypes, readUser } from "./input.ts";
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

const SHOWN = 20; // events listed; the count covers all

export function addCancel(program: Command, context: Context): void {
  program
    .command("cancel")
    .description("cancel pending events that match all given options")
    .option("--user <id>", "events of this user")
    .option("--host <host[:port]>", "to this host, as shown by status; the scheme's default port if omitted")
    .option(
      "--endpoint <url-or-id>",
      "to this URL, ignoring its query unless given; or to this registered endpoint of --user",
    )
    .option("--event <type>", "events of this type")
    .option("--remove", "remove them permanently instead of keeping them as failed")
    .option("--dry-run", "count them, list some, change nothing")
    .option("--yes", "skip confirmation; required without a terminal")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Pending events are waiting, prioritized or delayed; the queue may be paused. Attempts in progress are not stopped. Canceled events are
kept as failed for 7 days with the reason "${CANCELED}", and redeliver restores them. The queue keeps WEBHOOK_KEEP_FAILED failed
events; if more match than fit, nothing is canceled without --remove.

Examples:
  $ fluxhook cancel --user usr_42 --dry-run
  $ fluxhook cancel --host hooks.example.com --event file.created --yes
  $ fluxhook cancel --endpoint https://hooks.example.com/in --remove --yes`,
    )
    .action(
      act<CancelOptions>(context, async (terminal, options) => {
        const filter = readFilter(options, context.env);
        requireAnswer(terminal, options, "to cancel without confirmation, --dry-run to count");
        return await withValkey(readConfig(context.env, terminal), (session) => {
          return options.dryRun ? showCensus(terminal, session, filter) : cancel(terminal, session, filter, options);
        });
      }),
    );
}

function readFilter({ user, host, endpoint, event }: CancelOptions, env: Context["env"]): JobFilter {
  if ((user ?? host ?? endpoint ?? event) === undefined) {
    throw new CommandError("usage", "expected at least one of --user, --host, --endpoint and --event");
  }
  if (event !== undefined) checkEventType(event, readEventTypes(env), "--event");
  const parsedHost = host === undefined ? undefined : parseHost(host);
  if (host !== undefined && parsedHost === undefined) {
    throw new CommandError(
      "usage",
      `expected --host to be a host, as in hooks.example.com or [2001:db8::1]:8080, got "${host}"`,
    );
  }
  return {
    userId: user === undefined ? undefined : readUser(user),
    host: parsedHost,
    endpoint: endpoint === undefined ? undefined : readEndpoint(endpoint, user),
    event,
  };
}

/** A URL, or the id of one of a user's registered endpoints. */
function readEndpoint(text: string, user: string | undefined): URL | string {
  if (URL.canParse(text) && /^https?:$/.test(new URL(text).protocol)) return new URL(text);
  if (!ENDPOINT_ID.test(text)) {
    throw new CommandError(
      "usage",
      "expected --endpoint to be an http or https URL, or the id of a registered endpoint",
    );
  }
  if (user !== undefined) return text;
  throw new CommandError(
    "usage",
    "expected --user with the id of a registered endpoint, which other users may have too",
  );
}

/** Counts by BullMQ state. Jobs in the `paused` list of older clients count as waiting. */
function statesOf({ lists }: Pick<Census, "lists">) {
  const { wait = 0, paused = 0, prioritized = 0, delayed = 0 } = lists;
  return { waiting: wait + paused, prioritized, delayed };
}

function describe(counts: Readonly<Record<string, number>>): string {
  const parts = Object.entries(counts).filter(([, count]) => count > 0);
  return parts.map(([name, count]) => `${count} ${name}`).join(", ");
}

/** Count, with a progress bar on a terminal. */
async function takeCensus(terminal: Terminal, { shards }: Session, filter: JobFilter): Promise<Census> {
  const bar = terminal.progress(await countAll(shards, WAITING));
  try {
    return await countJobs(shards, filter, WAITING, SHOWN, bar.step);
  } finally {
    bar.done();
  }
}

async function showCensus(terminal: Terminal, session: Session, filter: JobFilter): Promise<ExitCode> {
  const census = await takeCensus(terminal, session, filter);
  const { shards, config } = session;
  const [active, rooms] = await Promise.all([countActive(shards, filter), readFailedRoom(shards, config.keepFailed)]);
  const { total: count, unreadable, some } = census;
  const room = rooms.reduce((total, one) => total + one, 0);
  const jobs = some.map((job) => {
    const [url, id] = [urlOf(job), endpointIdOf(job)];
    return {
      job: job.id,
      state: job.list === "wait" || job.list === "paused" ? "waiting" : job.list,
      event: job.name,
      user: userOf(job) ?? null,
      endpoint: url === undefined ? (id ?? null) : endpointName(url),
      ...(id !== undefined && { endpoint_id: id }),
    };
  });
  terminal.printJson({ dry_run: true, count, states: statesOf(census), active, unreadable, failed_room: room, jobs });
  if (jobs.length > 0) {
    terminal.printTable([
      ["job", "state", "event", "user", "endpoint"].map((name) => terminal.paint(name, "dim")),
      ...jobs.map(({ job, state, event, user, endpoint, endpoint_id: id }) =>
        [job, state, event, user, id === undefined ? endpoint : nameRegistered(id, endpoint)].map((text) =>
          printable(text ?? "-"),
        ),
      ),
    ]);
  }
  if (count > jobs.length) terminal.print(`and ${count - jobs.length} more`);
  terminal.print(
    `${count} would be canceled${count > 0 ? `: ${describe(statesOf(census))}` : ""}. Nothing was changed.`,
  );
  const fitting = countFitting(census, rooms);
  if (count > fitting) terminal.print(tellRoom(count, fitting));
  tellOthers(terminal, active, unreadable);
  return EXIT.ok;
}

/** How many of the events can be kept as failed: each in its own shard. */
const countFitting = ({ totals }: Census, rooms: readonly number[]): number =>
  totals.reduce((fitting, count, at) => fitting + Math.min(count, rooms[at] as number), 0);

const tellRoom = (count: number, room: number): string =>
  `${count} match, but only ${room} more failed events can be kept. Use --remove to remove them permanently, or a narrower filter.`;

function tellOthers(terminal: Terminal, active: number, unreadable: number): void {
  if (active > 0)
    terminal.print(`${active} active: attempts in progress are not stopped, and failed ones are retried.`);
  if (unreadable > 0)
    terminal.print(`${unreadable} cannot be read, so their user is unknown. They fail when a worker takes them.`);
}

async function cancel(terminal: Terminal, session: Session, filter: JobFilter, options: CancelOptions) {
  const { shards, config } = session;
  const { keepFailed } = config;
  // Removing without confirmation needs no count.
  const census = options.remove && options.yes ? undefined : await takeCensus(terminal, session, filter);
  if (census !== undefined && !options.remove) {
    const room = countFitting(census, await readFailedRoom(shards, keepFailed));
    if (census.total > room) throw new CommandError("failed", `${tellRoom(census.total, room)} Nothing was changed.`);
  }
  if (census !== undefined && census.total > 0) {
    const verb = options.remove ? "Remove" : "Cancel";
    const question = `${verb} ${census.total} ${census.total === 1 ? "event" : "events"} (${describe(statesOf(census))})?`;
    if (!(await isWanted(terminal, options, question))) return EXIT.failed;
  }
  const bar = terminal.progress(await countAll(shards, WAITING));
  const reason = options.remove ? undefined : CANCELED;
  let ended: Ended;
  try {
    ended = await endMeant(shards, { filter, lists: WAITING, reason, keepFailed, onSeen: bar.step });
  } finally {
    bar.done();
  }
  const active = await countActive(shards, filter);
  return tellEnded(terminal, ended, active, reason !== undefined);
}

function tellEnded(terminal: Terminal, ended: Ended, active: number, isKept: boolean): ExitCode {
  const { total: count, left, unreadable, isDone } = ended;
  terminal.printJson({
    ...{ dry_run: false, count, states: statesOf(ended), kept: isKept, active, left, unreadable, done: isDone },
  });
  const how = isKept ? " Kept as failed; redeliver restores them." : " Removed.";
  terminal.print(count > 0 ? `${count} canceled: ${describe(statesOf(ended))}.${how}` : "0 canceled.");
  tellOthers(terminal, active, unreadable);
  if (left.scheduled > 0)
    terminal.print(`${left.scheduled} not canceled: created by a job scheduler. Remove the scheduler in the backend.`);
  if (left.flow > 0)
    terminal.print(`${left.flow} not canceled: they have a parent or children. Remove them in Bull Board.`);
  if (left.full > 0)
    terminal.print(
      `${left.full} not canceled: no more failed events can be kept. Use --remove to remove them permanently.`,
    );
  if (!isDone) terminal.print("More keep arriving: stop them in the backend, then run this again.");
  return isDone && left.scheduled + left.flow + left.full === 0 ? EXIT.ok : EXIT.failed;
}
