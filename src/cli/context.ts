/**
 * Shared by all commands: exit codes, errors that set one, and a connection that does not hang.
 */
import { type AttemptLog, createAttemptLog } from "../log/attempts.ts";
import { joinLogs } from "../log/joined-logs.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { nameShards, type Shard } from "../queue/shards.ts";
import { type Config, findMisspelled, loadConfig } from "../settings/config.ts";
import { codeOf } from "../valkey/refusals.ts";
import { isClusterUrl, placeOf } from "../valkey/url.ts";
import { createTerminal, type Streams, type Terminal } from "./terminal.ts";

type Env = Readonly<Record<string, string | undefined>>;

/** Exit codes. Those above 2 are from sysexits.h. */
export const EXIT = { ok: 0, failed: 1, usage: 2, unavailable: 69, settings: 78 } as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** An error that the person running the command can fix: printed without a stack trace. */
export class CommandError extends Error {
  override readonly name = "CommandError";
  constructor(
    readonly code: Exclude<keyof typeof EXIT, "ok">,
    message: string,
  ) {
    super(message);
  }
}

/** What a command is run with. */
export interface Context {
  readonly env: Env;
  /** The process's own by default. */
  readonly streams?: Streams | undefined;
  /** Set by the command that ran. */
  exitCode: ExitCode;
}

/** The option that all commands have. */
export interface JsonOption {
  readonly json?: boolean;
}

/** Adapt a command's function to commander, which passes arguments, then options, then the command. */
export function act<Options extends JsonOption, Arguments extends unknown[] = []>(
  context: Context,
  run: (terminal: Terminal, options: Options, ...args: Arguments) => Promise<ExitCode> | ExitCode,
) {
  return async (...given: unknown[]): Promise<void> => {
    const options = given.at(-2) as Options;
    const args = given.slice(0, -2) as Arguments;
    context.exitCode = await run(createTerminal(options, context.env, context.streams), options, ...args);
  };
}

/** A command's connections, one to each shard, and what it reads through them. */
export interface Session {
  readonly config: Config;
  /** In their order. Without those that are away, where a command goes on without them. */
  readonly shards: OpenShards;
  /** The users' logs in these shards, as one. */
  readonly log: Pick<AttemptLog, "list">;
  /** Shards that are away: none, unless a command goes on without them. */
  readonly away: readonly AwayShards[];
}

/** Shards that cannot be used for the same reason. */
export interface AwayShards {
  readonly shards: readonly Shard[];
  /** Which Valkey cannot be used and why: a sentence without its period. */
  readonly text: string;
}

/** Load the settings; warns about misspelled ones. Throws {@link CommandError} with every problem found. */
export function readConfig(env: Env, terminal: Terminal): Config {
  const loaded = loadConfig(env);
  if (!loaded.ok) throw new CommandError("settings", loaded.problems.join("\n"));
  for (const { hint } of findMisspelled(env)) terminal.warn(hint);
  return loaded.config;
}

/** Which shards a command opens, and whether it needs all of them. */
export interface Reach {
  /** All by default. */
  readonly shards?: readonly Shard[];
  /** Whether it goes on without those that are away, as long as one is there. */
  readonly mayMiss?: boolean;
}

/**
 * Connect to the shards' Valkeys, run `use`, disconnect.
 *
 * @throws  CommandError `unavailable` when a Valkey does not answer within 2 s or a connection is lost; `settings` when one does
 *          not have the database in VALKEY_URL
 */
export async function withValkey<T>(
  config: Config,
  use: (session: Session) => Promise<T>,
  { shards: meant = config.shards, mayMiss = false }: Reach = {},
): Promise<T> {
  // Imported lazily: they dominate the startup time, and help, completion and usage errors do not need them.
  const [{ openShard }, { reachValkey }] = await Promise.all([
    import("../queue/open-shard.ts"),
    import("../valkey/reach.ts"),
  ]);
  const open: OpenShard[] = [];
  const refused: { readonly shard: Shard; readonly reason: string; readonly isWrongSetting?: boolean }[] = [];
  const all = await Promise.all(meant.map(({ url, queue }) => reachValkey(url, "fluxhook:command", queue)));
  for (const [index, reached] of all.entries()) {
    const shard = meant[index] as Shard;
    if (reached.ok) open.push(openShard(shard, reached.valkey));
    else refused.push({ shard, ...reached });
  }
  try {
    const wrong = refused.find(({ isWrongSetting }) => isWrongSetting);
    if (wrong !== undefined) throw new CommandError("settings", wrong.reason);
    const away = groupAway(refused, config);
    if (away.length > 0 && !(mayMiss && open.length > 0)) {
      throw new CommandError("unavailable", tellAway(away));
    }
    const log = joinLogs(open.map(({ valkey, tag }) => createAttemptLog(valkey, { ...config, tag })));
    return await use({ config, shards: open as [OpenShard, ...OpenShard[]], log, away });
  } catch (error) {
    throw explainLost(error, open, config);
  } finally {
    for (const { valkey } of open) valkey.disconnect();
  }
}

/**
 * Like {@link withValkey}, for a command that reads: it goes on without the shards that are away, warns of each, and exits with 1
 * at best, since what it shows is not everything.
 */
export async function withReachable(
  config: Config,
  terminal: Terminal,
  use: (session: Session) => Promise<ExitCode>,
  shards?: readonly Shard[],
): Promise<ExitCode> {
  const run = async (session: Session): Promise<ExitCode> => {
    for (const { text } of session.away) terminal.warn(`cannot use ${text}. What is there is left out.`);
    const code = await use(session);
    return code === EXIT.ok && session.away.length > 0 ? EXIT.failed : code;
  };
  return await withValkey(config, run, { mayMiss: true, ...(shards && { shards }) });
}

/** What to say when these shards are needed. */
export const tellAway = (away: readonly AwayShards[]): string =>
  away.map(({ text }) => `cannot use ${text}. Check VALKEY_URL.`).join("\n");

/** Shards by where they are and why they are away. */
function groupAway(refused: readonly { readonly shard: Shard; readonly reason: string }[], config: Config) {
  const groups = new Map<string, { url: string; reason: string; shards: Shard[] }>(); // Node 20 has no Map.groupBy
  for (const { shard, reason } of refused) {
    const key = `${shard.url} ${reason}`;
    const group = groups.get(key) ?? { url: shard.url, reason, shards: [] };
    group.shards.push(shard);
    groups.set(key, group);
  }
  return [...groups.values()].map(({ url, reason, shards }): AwayShards => {
    return { shards, text: `${nameValkey(shards, config)} at ${placeOf(url)}: ${reason}` };
  });
}

/** `Valkey`, or `shards 1 and 4 of Valkey` when there are others. */
function nameValkey(shards: readonly Shard[], config: Config): string {
  return shards.length === config.shards.length ? "Valkey" : `${nameShards(shards)} of Valkey`;
}

/** The queue's name: without a number, when there are several shards. */
export function nameQueue({ shards, queue }: Config): string {
  return shards.length === 1 ? queue : queue.replace(/-\{0\}$/, "");
}

/** What a cluster's node answers when another has a shard, or will soon. A command's connections look for a node only once. */
const ELSEWHERE = new Set(["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "UNBLOCKED"]);

/** The error of a command, or what to say of it if a connection was lost or a shard's node is no longer its own. */
function explainLost(error: unknown, open: readonly OpenShard[], config: Config): unknown {
  if (error instanceof CommandError) return error;
  const lost = open.filter(({ valkey }) => valkey.status !== "ready");
  const rest = "the last operation may or may not have completed.";
  const [first] = lost;
  if (first !== undefined) {
    const place = `${nameValkey(lost, config)} at ${placeOf(first.url)}`;
    return new CommandError("unavailable", `lost the connection to ${place}: ${rest}`);
  }
  if (!(isClusterUrl(config.valkeyUrl) && error instanceof Error && ELSEWHERE.has(codeOf(error)))) return error;
  return new CommandError("unavailable", `a shard is moving to another node: ${rest} Run this again.`);
}
