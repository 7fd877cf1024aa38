/**
 * `fluxhook hold`, `fluxhook release` and `fluxhook holds`: keep the events of a host, an endpoint or a user from being attempted.
 */
import type { Command } from "commander";
import {
  type HoldKind,
  type HoldTarget,
  hold,
  holdPlacesOf,
  isUserKnown,
  kindOf,
  listHolds,
  MAX_HOLD_MS,
  MAX_HOLDS,
  MAX_REASON,
  type NamedTarget,
  parseTarget,
  release,
  type ShownHold,
  TooManyHolds,
} from "../operations/hold.ts";
import { formatAgo, formatExact, formatIn } from "../operations/moments.ts";
import type { OpenShards } from "../queue/open-shard.ts";
import { hasHolds } from "../queue/shards.ts";
import {
  act,
  CommandError,
  type Context,
  EXIT,
  type ExitCode,
  type JsonOption,
  readConfig,
  type Session,
  tellAway,
  withReachable,
  withValkey,
} from "./context.ts";
import { readDuration, readUser } from "./input.ts";
import { printable, type Terminal } from "./terminal.ts";

interface TargetOptions extends JsonOption {
  readonly host?: string;
  readonly url?: string;
  readonly user?: string;
}

interface HoldOptions extends TargetOptions {
  readonly for?: string;
  readonly reason?: string;
}

const KINDS = ["host", "url", "user"] as const satisfies readonly HoldKind[];

/** What a person calls a kind. */
const WORDS: Readonly<Record<HoldKind, string>> = { host: "host", url: "endpoint", user: "user" };

export function addHold(program: Command, context: Context): void {
  addTargetOptions(
    program
      .command("hold")
      .description("hold the events of a host, an endpoint or a user for a while")
      .argument("[target]", "a host as in hooks.example.com, a URL, or a user's id"),
  )
    .option("--for <duration>", "how long: 30m, 2h, up to 30d. Required")
    .option("--reason <text>", "shown wherever the hold is")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Held events wait, use no attempts and do not age, until the time is over or release ends it. Attempts in progress finish. Workers
know within 2 s. Holding what is held already changes its time and reason. A URL without a query holds all queries.

Examples:
  $ fluxhook hold hooks.example.com --for 2h --reason "they asked us to wait"
  $ fluxhook hold https://hooks.example.com/in --for 30m
  $ fluxhook hold --user usr_42 --for 1d`,
    )
    .action(
      act<HoldOptions, [string | undefined]>(context, async (terminal, options, text) => {
        const given = readTarget(options, text);
        const span = readSpan(options.for);
        const reason = readReason(options.reason);
        const by = context.env.USER ?? context.env.USERNAME;
        const run = async ({ shards, away }: Session): Promise<ExitCode> => {
          const [first, ...others] = holdPlacesOf(shards);
          if (first?.index !== 0) throw new CommandError("unavailable", tellAway(away));
          const target = await settleTarget(shards, given);
          const nowMs = Date.now();
          const details = { until: nowMs + span, reason, by };
          const { hold: held, wasHeld } = await hold([first, ...others], target, details, nowMs).catch(explain);
          terminal.printJson({ ...describe(held), was_held: wasHeld });
          const start = wasHeld ? "Already held, now" : "Held";
          terminal.print(`${start} until ${formatExact(held.until)}: ${WORDS[held.kind]} ${printable(held.name)}.`);
          return EXIT.ok;
        };
        const config = readConfig(context.env, terminal);
        // Only to know whether a text is a user's id, the users' logs are needed, too.
        return given.kind === undefined
          ? await withValkey(config, run)
          : await withReachable(config, terminal, run, config.shards.filter(hasHolds));
      }),
    );
}

export function addRelease(program: Command, context: Context): void {
  addTargetOptions(
    program
      .command("release")
      .description("release held events: they are delivered at once")
      .argument("[target]", "a host, a URL or a user's id that is held, or a hold's id, as shown by holds"),
  )
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ fluxhook release hooks.example.com
  $ fluxhook release --user usr_42`,
    )
    .action(
      act<TargetOptions, [string | undefined]>(context, async (terminal, options, text) => {
        const named = readTarget(options, text);
        return await withHolds(context, terminal, async (shards) => {
          return tellReleased(terminal, named.text, await release(shards, named, Date.now()));
        });
      }),
    );
}

export function addHolds(program: Command, context: Context): void {
  program
    .command("holds")
    .description("list what is held")
    .option("--json", "print JSON")
    .addHelpText("after", "\nExamples:\n  $ fluxhook holds")
    .action(
      act<JsonOption>(context, async (terminal) => {
        return await withHolds(context, terminal, async (shards) => {
          const nowMs = Date.now();
          const holds = await listHolds(shards, nowMs);
          terminal.printJson(holds.map(describe));
          if (holds.length === 0) terminal.print("Nothing is held.");
          else printHolds(terminal, holds, nowMs);
          return EXIT.ok;
        });
      }),
    );
}

/** Connect only to the shards that have holds, or to those of them that are there. */
async function withHolds(
  { env }: Context,
  terminal: Terminal,
  use: (shards: OpenShards) => Promise<ExitCode>,
): Promise<ExitCode> {
  const config = readConfig(env, terminal);
  return await withReachable(config, terminal, ({ shards }) => use(shards), config.shards.filter(hasHolds));
}

function addTargetOptions(command: Command): Command {
  return command
    .option("--host <host[:port]>", "this host, at its schemes' default ports unless given")
    .option("--url <url>", "this endpoint; with any query unless it has one")
    .option("--user <id>", "this user");
}

function readTarget(options: TargetOptions, text: string | undefined): NamedTarget {
  const given: NamedTarget[] = KINDS.flatMap((kind) => {
    const value = options[kind];
    return value === undefined ? [] : [{ kind, text: value }];
  });
  if (text !== undefined) given.push({ kind: undefined, text });
  const [target] = given;
  if (target !== undefined && given.length === 1) {
    readTargetOf(target.kind ?? kindOf(target.text), target.text);
    return target;
  }
  throw new CommandError("usage", "expected one target: a host, a URL or a user, or one of --host, --url and --user");
}

/** The target that is meant. A text that is both a host and the id of a known user could be either. */
async function settleTarget(shards: OpenShards, { kind, text }: NamedTarget): Promise<HoldTarget> {
  const meant = kind ?? kindOf(text);
  if (kind === undefined && meant === "host" && (await isUserKnown(shards, text))) {
    throw new CommandError("usage", `${text} could be a host or a user: use --host or --user`);
  }
  return readTargetOf(meant, text);
}

/** Parse a target of a known kind. */
function readTargetOf(kind: HoldKind, text: string): HoldTarget {
  const target = parseTarget(kind, kind === "user" ? readUser(text) : text);
  if (target !== undefined) return target;
  const form = kind === "host" ? "a host, as in hooks.example.com or [2001:db8::1]:8080" : "an http or https URL";
  throw new CommandError("usage", `expected ${form}, got "${text}"`);
}

function readSpan(text: string | undefined): number {
  if (text === undefined) throw new CommandError("usage", "expected --for, as in --for 2h");
  const span = readDuration(text, "--for");
  if (span > 0 && span <= MAX_HOLD_MS) return span;
  throw new CommandError("usage", `expected --for to be a duration of at most 30d, as in 30m or 2h, got "${text}"`);
}

function readReason(text: string | undefined): string | undefined {
  if (text === undefined || text.length <= MAX_REASON) return text;
  throw new CommandError("usage", `expected --reason to have at most ${MAX_REASON} characters`);
}

function explain(error: unknown): never {
  if (!(error instanceof TooManyHolds)) throw error;
  throw new CommandError(
    "failed",
    `expected at most ${MAX_HOLDS} holds, with ended ones that still count for the age of events. Use pause, or cancel.`,
  );
}

function tellReleased(terminal: Terminal, what: string, found: readonly ShownHold[]): ExitCode {
  if (found.length > 1) {
    const names = found.map(({ kind, name, id }) => `${WORDS[kind]} ${name} (${id})`).join(", ");
    throw new CommandError(
      "usage",
      `${what} names ${found.length} holds: ${names}. Use --host, --url, --user or an id`,
    );
  }
  terminal.printJson({ released: found.map(describe) });
  const [released] = found;
  if (released === undefined) {
    terminal.print(`${printable(what)} is not held. See fluxhook holds.`);
    return EXIT.failed;
  }
  terminal.print(`Released: ${WORDS[released.kind]} ${printable(released.name)}.`);
  return EXIT.ok;
}

/** A hold as JSON. */
function describe({ id, kind, name, from, until, reason, by }: ShownHold) {
  return {
    ...{ id, kind, target: name, from: new Date(from).toISOString(), until: new Date(until).toISOString() },
    ...{ reason: reason ?? null, by: by ?? null },
  };
}

function printHolds(terminal: Terminal, holds: readonly ShownHold[], nowMs: number): void {
  terminal.printTable([
    ["id", "kind", "target", "ends", "held", "by", "reason"].map((name) => terminal.paint(name, "dim")),
    ...holds.map(({ id, kind, name, from, until, reason, by }) => [
      ...[printable(id), WORDS[kind], printable(name), formatIn(until - nowMs), formatAgo(nowMs - from)],
      ...[printable(by ?? "-"), printable(reason ?? "-")],
    ]),
  ]);
}
