/**
 * Reading what `fluxhook endpoints` is given: ids, settings, a secret, and the user's shard.
 */
import type { Command } from "commander";
import { ENDPOINT_ID, ENDPOINT_ID_FORM } from "../delivery/limits.ts";
import { secretProblem } from "../delivery/secret.ts";
import { openHome } from "../homes/homes.ts";
import type { OpenShard } from "../queue/open-shard.ts";
import { formerHomeAmong, homeAmong } from "../queue/shards.ts";
import { type EndpointSettings, parseChange } from "../registry/document.ts";
import { createRegistry, type Registry } from "../registry/registry.ts";
import { UsageError } from "../runtime/usage-error.ts";
import type { Config } from "../settings/config.ts";
import { CommandError, type Context, type Session, withValkey } from "./context.ts";
import { addSecretOptions, readEventTypes, readInput, readSecrets, readUser, type SecretOptions } from "./input.ts";

/** The options that are an endpoint's settings. */
export interface SettingsOptions {
  readonly url?: string;
  readonly events?: string;
  readonly description?: string;
  readonly header?: readonly string[];
  readonly headerFile?: string;
  readonly rate?: string;
  readonly burst?: string;
  readonly metadata?: readonly string[];
}

const collect = (value: string, before: string[] = []) => [...before, value];

/** Add the options that are an endpoint's settings. In a change, an empty description, header or metadata clears the setting. */
export function addSettingsOptions(command: Command): Command {
  return command
    .option("--url <url>", "its http or https URL")
    .option("--events <types>", "event types, separated by commas; file.* for all that begin so; all for all")
    .option("--description <text>", "a note, up to 256 characters; empty for none")
    .option(
      "--header <name: value>",
      "a header of each attempt; ends up in your shell history; may be repeated; empty for none",
      collect,
    )
    .option("--header-file <path>", "file with a header per line; - for stdin; an empty one removes all")
    .option("--rate <number>", "most attempts per second, 0.01 to 10000; none or empty for no limit")
    .option("--burst <number>", "with --rate: how many of them at once after a lull")
    .option("--metadata <name=value>", "a note of the backend's; may be repeated; empty for none", collect);
}

/** Add the options of a new secret. */
export function addNewSecretOptions(command: Command): Command {
  addSecretOptions(command);
  return command;
}

const OPTIONS: Readonly<Record<string, string>> = {
  ...{ url: "--url", description: "--description", events: "--events", headers: "--header", metadata: "--metadata" },
  ...{ rateLimit: "--rate", "rateLimit.perSecond": "--rate", "rateLimit.burst": "--burst" },
};

/** The settings that were given. @throws CommandError or UsageError for what the registry would refuse, by the names of the options */
export function readSettings(options: SettingsOptions, env: Context["env"]): Partial<EndpointSettings> {
  const settings = collectSettings(options);
  try {
    return parseChange(settings, readEventTypes(env));
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new UsageError(error.message.replace(SETTING_NAME, nameOption));
  }
}

/** The name of a setting at the beginning of a violation, as in `headers.Host: `. */
const SETTING_NAME = /(?<=^|; )(url|description|events|rateLimit|headers|metadata)(?:\.([^;]*?))?(?=: )/g;

function nameOption(path: string, setting: string, part = ""): string {
  if (setting === "events") return part === "" ? "--events" : `--events, type ${Number(part) + 1}`;
  const option = OPTIONS[path] ?? OPTIONS[setting] ?? path;
  return setting === "headers" || setting === "metadata" ? `${option} ${part}`.trim() : option;
}

function collectSettings(options: SettingsOptions): Partial<EndpointSettings> {
  const { url, events, description, metadata } = options;
  const headers = readHeaders(options);
  const rateLimit = readRate(options);
  return {
    ...(url !== undefined && { url }),
    ...(events !== undefined && { events: readEvents(events) }),
    ...(description !== undefined && { description }),
    ...(headers !== undefined && { headers }),
    ...(rateLimit !== undefined && { rateLimit }),
    ...(metadata !== undefined && {
      metadata: Object.fromEntries(metadata.filter(Boolean).map((text) => splitAt(text, "=", "--metadata"))),
    }),
  };
}

/** An empty text is nobody's wish: a shell variable that is not set would have an endpoint get everything. */
function readEvents(text: string): string[] | null {
  if (text.trim() === "")
    throw new CommandError("usage", "--events is empty: name event types, or all for all of them");
  return text === "all" ? null : text.split(",").map((type) => type.trim());
}

function readHeaders({ header, headerFile }: SettingsOptions): Record<string, string> | undefined {
  if (header === undefined && headerFile === undefined) return undefined;
  const text = headerFile === undefined ? "" : readInput(headerFile, "--header-file").toString("utf8");
  const lines = text
    .replace(/^\ufeff/, "")
    .split(/\r?\n/)
    .filter(Boolean);
  return Object.fromEntries([
    ...lines.map((line) => splitAt(line, ":", "--header-file")),
    ...(header ?? []).filter(Boolean).map((line) => splitAt(line, ":", "--header")),
  ]);
}

/** Never tells the value, which may be a secret. */
function splitAt(text: string, separator: ":" | "=", option: string): [name: string, value: string] {
  const at = text.indexOf(separator);
  if (at > 0) return [text.slice(0, at).trim(), text.slice(at + 1).trim()];
  const form = separator === ":" ? '"name: value"' : "name=value";
  throw new CommandError("usage", `expected ${option} to be ${form}, without a name there is nothing to set`);
}

function readRate({ rate, burst }: SettingsOptions): EndpointSettings["rateLimit"] {
  if (rate === undefined && burst !== undefined) throw new CommandError("usage", "--burst requires --rate");
  if (rate === undefined) return undefined;
  if (rate.trim() === "") throw new CommandError("usage", "--rate is empty: give a number, or none for no limit");
  if (rate === "none" && burst === undefined) return null;
  const perSecond = readNumber(rate, "--rate");
  return { perSecond, ...(burst !== undefined && { burst: readNumber(burst, "--burst") }) };
}

function readNumber(text: string, option: string): number {
  if (/^\d{1,5}(?:\.\d{1,6})?$/.test(text)) return Number(text);
  throw new CommandError("usage", `expected ${option} to be a number, as in 10 or 0.5, got "${text}"`);
}

/** The new secret, if one is given. */
export function readNewSecret(options: SecretOptions, env: Context["env"]): string | undefined {
  const secrets = readSecrets(options, env);
  const problem = secrets.length === 1 ? secretProblem(secrets[0]) : undefined;
  if (problem !== undefined) throw new CommandError("usage", `the secret: ${problem}`);
  if (secrets.length <= 1) return secrets[0];
  throw new CommandError("usage", `expected one secret, got ${secrets.length}: rotate adds another`);
}

/** Check a user's and an endpoint's id. */
export function readIds(user: string, id: string): { readonly userId: string; readonly id: string } {
  return { userId: readUser(user), id: readEndpointId(id, "the endpoint's id") };
}

/** Check an endpoint's id. */
export function readEndpointId(text: string, what: string): string {
  if (ENDPOINT_ID.test(text)) return text;
  throw new CommandError("usage", `expected ${what} to be ${ENDPOINT_ID_FORM}`);
}

/** Check a version. */
export function readVersion(text: string | undefined): string | undefined {
  if (text === undefined || /^[\w-]{1,64}$/.test(text)) return text;
  throw new CommandError("usage", "expected --if-version to be the version of an endpoint, as show prints it");
}

/** A user's shard, and the registry in it. */
export interface Home {
  readonly shard: OpenShard;
  readonly registry: Registry;
}

/** Open the registry of a shard as the settings say. */
export function openRegistry({ valkey, tag }: OpenShard, config: Config): Registry {
  const { events, secretKeys, allowPlain, maxEndpoints } = config;
  return createRegistry(valkey, { tag, eventTypes: events, secretKeys, allowPlain, maxEndpoints });
}

/** Connect to the user's shard only; after a change of the number of shards to all, since the endpoints may have to move there first. */
export async function withHome<T>(config: Config, userId: string, use: (home: Home) => Promise<T>): Promise<T> {
  const hasMoved = formerHomeAmong(config.shards, userId) !== undefined;
  const run = async ({ shards }: Session): Promise<T> => {
    const shard = hasMoved ? await openHome(shards, userId, { all: true }) : shards[0];
    return await use({ shard, registry: openRegistry(shard, config) });
  };
  return await withValkey(config, run, hasMoved ? {} : { shards: [homeAmong(config.shards, userId)] });
}

/** Refuse to store secrets in the clear, unless that is allowed. @throws CommandError `settings` */
export function requireKey({ secretKeys, allowPlain }: Config): void {
  if (secretKeys.length > 0 || allowPlain) return;
  throw new CommandError(
    "settings",
    "expected WEBHOOK_SECRET_KEYS to be set: endpoints' secrets are stored sealed. fluxhook key prints a key. " +
      "Only for a test, WEBHOOK_ALLOW_PLAIN=1 stores them unsealed",
  );
}
