/**
 * `fluxhook endpoints create`, `update`, `rotate`, `pause`, `resume`, `disable` and `delete`.
 */
import type { Command } from "commander";
import type { Endpoint, WithSecret } from "../registry/registry.ts";
import { act, CommandError, type Context, EXIT, type ExitCode, type JsonOption, readConfig } from "./context.ts";
import {
  addSettingsOptions,
  readEndpointId,
  readIds,
  readNewSecret,
  readSettings,
  readVersion,
  requireKey,
  type SettingsOptions,
  withHome,
} from "./endpoints-input.ts";
import { describeEndpoint, printEndpoint } from "./endpoints-output.ts";
import { addSecretOptions, readDuration, readUser, requireOptions, type SecretOptions } from "./input.ts";
import { isWanted, requireAnswer } from "./redeliver.ts";
import type { Terminal } from "./terminal.ts";

const MAX_GRACE_MS = 7 * 24 * 60 * 60 * 1000; // 7 days

interface VersionOption extends JsonOption {
  readonly ifVersion?: string;
}

/** Make a subcommand about one endpoint, that may be meant for one version of it. */
function addChange(endpoints: Command, name: string, description: string): Command {
  return endpoints
    .command(name)
    .description(description)
    .argument("<user>", "the user's id")
    .argument("<id>", "the endpoint's id")
    .option("--if-version <version>", "change nothing unless it has this version, as show prints it")
    .option("--json", "print JSON");
}

interface CreateOptions extends JsonOption, SettingsOptions, SecretOptions {
  readonly id?: string;
}

export function addCreate(endpoints: Command, context: Context): void {
  const command = endpoints
    .command("create")
    .description("register an endpoint; prints its secret, this once, unless one is given")
    .argument("<user>", "the user's id")
    .option("--id <id>", "its id; one is made by default");
  addSettingsOptions(command);
  addSecretOptions(command);
  command.option("--json", "print JSON").action(
    act<CreateOptions, [string]>(context, async (terminal, options, user) => {
      const userId = readUser(user);
      requireOptions({ "--url": options.url });
      const id = options.id === undefined ? undefined : readEndpointId(options.id, "--id");
      const settings = readSettings(options, context.env);
      const secret = readNewSecret(options, context.env);
      const config = readConfig(context.env, terminal);
      requireKey(config);
      return await withHome(config, userId, async ({ registry }) => {
        const created = await registry.create(userId, { ...settings, url: options.url as string, id, secret });
        return printWithSecret(terminal, userId, created, secret === undefined);
      });
    }),
  );
}

/** Print an endpoint, and its secret if it was made now: a given one is known. */
function printWithSecret(
  terminal: Terminal,
  userId: string,
  { endpoint, secret }: WithSecret,
  isMade: boolean,
): ExitCode {
  terminal.printJson({ ...describeEndpoint(userId, endpoint), ...(isMade && { secret }) });
  printEndpoint(terminal, userId, endpoint, Date.now());
  if (isMade) {
    terminal.print();
    terminal.print(`Its secret, which is not shown again: ${secret}`);
  }
  return EXIT.ok;
}

export function addUpdate(endpoints: Command, context: Context): void {
  const command = addChange(endpoints, "update", "change some of an endpoint's settings; the others stay");
  addSettingsOptions(command).action(
    act<VersionOption & SettingsOptions, [string, string]>(context, async (terminal, options, user, name) => {
      const { userId, id } = readIds(user, name);
      const ifVersion = readVersion(options.ifVersion);
      const settings = readSettings(options, context.env);
      if (Object.keys(settings).length === 0) {
        throw new CommandError("usage", "expected something to change: --url, --events, --description, --header, …");
      }
      return await withHome(readConfig(context.env, terminal), userId, async ({ registry }) => {
        return print(terminal, userId, await registry.update(userId, id, settings, { ifVersion }));
      });
    }),
  );
}

function print(terminal: Terminal, userId: string, endpoint: Endpoint): ExitCode {
  terminal.printJson(describeEndpoint(userId, endpoint));
  printEndpoint(terminal, userId, endpoint, Date.now());
  return EXIT.ok;
}

interface RotateOptions extends VersionOption, SecretOptions {
  readonly grace?: string;
}

export function addRotate(endpoints: Command, context: Context): void {
  const command = addChange(endpoints, "rotate", "sign with a new secret; prints it, this once, unless one is given");
  command.option(
    "--grace <duration>",
    "how long the present secret still signs, up to 7d: 1d by default; 0s after a leak",
  );
  addSecretOptions(command);
  command.action(
    act<RotateOptions, [string, string]>(context, async (terminal, options, user, name) => {
      const { userId, id } = readIds(user, name);
      const ifVersion = readVersion(options.ifVersion);
      const graceSeconds = readGrace(options.grace);
      const secret = readNewSecret(options, context.env);
      const config = readConfig(context.env, terminal);
      requireKey(config);
      return await withHome(config, userId, async ({ registry }) => {
        const rotated = await registry.rotate(userId, id, { ifVersion, graceSeconds, secret });
        return printWithSecret(terminal, userId, rotated, secret === undefined);
      });
    }),
  );
}

function readGrace(text = "1d"): number {
  const ms = readDuration(text, "--grace");
  if (ms <= MAX_GRACE_MS && ms % 1000 === 0) return ms / 1000;
  throw new CommandError("usage", `expected --grace to be whole seconds, up to 7d, as in 1d or 0s, got "${text}"`);
}

const DONE = {
  pause: "pause an endpoint: its events wait, and do not age",
  resume: "end an endpoint's pause",
  disable: "attempt nothing more to an endpoint: its events are kept as missed",
} as const;

/** Add `pause`, `resume` and `disable`. Repeating one changes nothing. */
export function addStates(endpoints: Command, context: Context): void {
  for (const action of ["pause", "resume", "disable"] as const) {
    addChange(endpoints, action, DONE[action]).action(
      act<VersionOption, [string, string]>(context, async (terminal, options, user, name) => {
        const { userId, id } = readIds(user, name);
        const ifVersion = readVersion(options.ifVersion);
        return await withHome(readConfig(context.env, terminal), userId, async ({ registry }) => {
          return print(terminal, userId, await registry[action](userId, id, { ifVersion }));
        });
      }),
    );
  }
}

interface DeleteOptions extends VersionOption {
  readonly yes?: boolean;
}

export function addDelete(endpoints: Command, context: Context): void {
  addChange(endpoints, "delete", "delete an endpoint, with what it missed and its log")
    .option("--yes", "skip confirmation; required without a terminal")
    .action(
      act<DeleteOptions, [string, string]>(context, async (terminal, options, user, name) => {
        const { userId, id } = readIds(user, name);
        const ifVersion = readVersion(options.ifVersion);
        requireAnswer(terminal, options, "to delete without confirmation");
        return await withHome(readConfig(context.env, terminal), userId, async ({ registry }) => {
          const question = `Delete endpoint ${id} of ${userId}, with what it missed?`;
          if (!(await isWanted(terminal, options, question))) return EXIT.failed;
          await registry.delete(userId, id, { ifVersion });
          terminal.printJson({ user: userId, id, deleted: true });
          terminal.print(`Deleted endpoint ${id} of ${userId}. Events that wait for it complete undelivered.`);
          return EXIT.ok;
        });
      }),
    );
}
