/**
 * What every command shares: exit codes, errors with one, and a connection that does not hang.
 */
import { type AttemptLog, createAttemptLog } from "../log/attempts.ts";
import type { Queue } from "../queue/worker.ts";
import { type Config, findMisspelt, loadConfig } from "../settings/config.ts";
import type { Valkey } from "../valkey/connection.ts";
import { placeOf } from "../valkey/url.ts";
import { createTerminal, type Terminal } from "./terminal.ts";

type Env = Readonly<Record<string, string | undefined>>;

/** How the command ends. The numbers above 2 are those of sysexits.h. */
export const EXIT = { ok: 0, failed: 1, usage: 2, unavailable: 69, settings: 78 } as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** Something that whoever typed the command can do something about: told in one line, without a stack trace. */
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
  /** Set by the command that ran. */
  exitCode: ExitCode;
}

/** The option that every command has. */
export interface JsonOption {
  readonly json?: boolean;
}

/** Make the action of a command: arguments first, then its options, as the parser hands them over. */
export function act<Options extends JsonOption, Arguments extends unknown[] = []>(
  context: Context,
  run: (terminal: Terminal, options: Options, ...args: Arguments) => Promise<ExitCode> | ExitCode,
) {
  return async (...given: unknown[]): Promise<void> => {
    const options = given.at(-2) as Options; // the last one is the command itself
    const args = given.slice(0, -2) as Arguments;
    context.exitCode = await run(createTerminal(options, context.env), options, ...args);
  };
}

/** Everything there is to ask and to tell Valkey. */
export interface Session {
  readonly config: Config;
  readonly valkey: Valkey;
  readonly queue: Queue;
  readonly log: AttemptLog;
}

/** The settings, with a warning for each that is misspelt. Throws {@link CommandError} with every problem there is. */
export function readConfig(env: Env, terminal: Terminal): Config {
  const loaded = loadConfig(env);
  if (!loaded.ok) throw new CommandError("settings", loaded.problems.join("\n"));
  for (const { hint } of findMisspelt(env)) terminal.warn(hint);
  return loaded.config;
}

/**
 * Do something with Valkey, and hang up.
 *
 * @throws  CommandError `unavailable` when Valkey is not there, within 2 s, or goes away meanwhile; `settings` when it does
 *          not have the database that VALKEY_URL names
 */
export async function withValkey<T>(config: Config, use: (session: Session) => Promise<T>): Promise<T> {
  // Loaded when needed: they take most of the start, and help, completion and usage errors come without.
  const [{ openQueue }, { reachValkey }] = await Promise.all([
    import("../queue/worker.ts"),
    import("../valkey/connection.ts"),
  ]);
  const place = placeOf(config.valkeyUrl);
  const reached = await reachValkey(config.valkeyUrl, "fluxhook:command");
  if (!reached.ok && reached.isWrongSetting) throw new CommandError("settings", reached.reason);
  if (!reached.ok) {
    throw new CommandError(
      "unavailable",
      `Valkey cannot be used at ${place}: ${reached.reason}. VALKEY_URL says where.`,
    );
  }
  const { valkey } = reached;
  const queue = openQueue(config.queue, valkey);
  queue.on("error", () => {}); // the command that fails says so
  try {
    return await use({ config, valkey, queue, log: createAttemptLog(valkey) });
  } catch (error) {
    if (error instanceof CommandError || valkey.status === "ready") throw error;
    throw new CommandError(
      "unavailable",
      `Valkey at ${place} went away: what was under way may or may not have happened.`,
    );
  } finally {
    valkey.disconnect();
  }
}
