/**
 * Shared by all commands: exit codes, errors that set one, and a connection that does not hang.
 */
import { type AttemptLog, createAttemptLog } from "../log/attempts.ts";
import type { Queue } from "../queue/worker.ts";
import { type Config, findMisspelled, loadConfig } from "../settings/config.ts";
import type { Valkey } from "../valkey/connection.ts";
import { placeOf } from "../valkey/url.ts";
import { createTerminal, type Terminal } from "./terminal.ts";

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
    context.exitCode = await run(createTerminal(options, context.env), options, ...args);
  };
}

/** A command's connection and what it reads through it. */
export interface Session {
  readonly config: Config;
  readonly valkey: Valkey;
  readonly queue: Queue;
  readonly log: AttemptLog;
  readonly keepFailed: number;
}

/** Load the settings; warns about misspelled ones. Throws {@link CommandError} with every problem found. */
export function readConfig(env: Env, terminal: Terminal): Config {
  const loaded = loadConfig(env);
  if (!loaded.ok) throw new CommandError("settings", loaded.problems.join("\n"));
  for (const { hint } of findMisspelled(env)) terminal.warn(hint);
  return loaded.config;
}

/**
 * Connect to Valkey, run `use`, disconnect.
 *
 * @throws  CommandError `unavailable` when Valkey does not answer within 2 s or the connection is lost; `settings` when it does
 *          not have the database in VALKEY_URL
 */
export async function withValkey<T>(config: Config, use: (session: Session) => Promise<T>): Promise<T> {
  // Imported lazily: they dominate the startup time, and help, completion and usage errors do not need them.
  const [{ openQueue }, { reachValkey }] = await Promise.all([
    import("../queue/worker.ts"),
    import("../valkey/reach.ts"),
  ]);
  const place = placeOf(config.valkeyUrl);
  const reached = await reachValkey(config.valkeyUrl, "fluxhook:command", config.queue);
  if (!reached.ok && reached.isWrongSetting) throw new CommandError("settings", reached.reason);
  if (!reached.ok) {
    throw new CommandError("unavailable", `cannot use Valkey at ${place}: ${reached.reason}. Check VALKEY_URL.`);
  }
  const { valkey } = reached;
  const queue = openQueue(config.queue, valkey);
  queue.on("error", () => {}); // the failing call reports it
  try {
    return await use({ config, valkey, queue, log: createAttemptLog(valkey, config), keepFailed: config.keepFailed });
  } catch (error) {
    if (error instanceof CommandError || valkey.status === "ready") throw error;
    throw new CommandError(
      "unavailable",
      `lost the connection to Valkey at ${place}: the last operation may or may not have completed.`,
    );
  } finally {
    valkey.disconnect();
  }
}
