/**
 * `--help` and `--check` of the worker and the board.
 */

import { checkProxy } from "../http/proxy-check.ts";
import type { Program as RightsProgram } from "../monitoring/rights.ts";
import { shardingProblem, shardsOf } from "../queue/shards.ts";
import { NoDatabaseError, type Valkey, type ValkeyFacts } from "../valkey/connection.ts";
import { describePersistence } from "../valkey/facts.ts";
import { maskValkeyUrl } from "../valkey/url.ts";
import { type Config, findExpanded, findMisspelled, loadConfig, loadConfigOrExit } from "./config.ts";
import { nearest } from "./misspelled.ts";
import { defaultOf, SETTINGS, type Setting } from "./table.ts";
import { checkValkeys } from "./valkey-check.ts";

type Env = Readonly<Record<string, string | undefined>>;

/** A program configured only by settings. */
export interface Program {
  /** Its file is `src/<name>.ts`. */
  readonly name: RightsProgram;
  /** One sentence for `--help`. */
  readonly purpose: string;
}

const OK = 0;
const FAILED = 1;
const USAGE = 2;
const UNAVAILABLE = 69; // EX_UNAVAILABLE of sysexits.h
const BAD_SETTINGS = 78; // EX_CONFIG
const OPTIONS = ["--help", "--check"];
const NAME_WIDTH = Math.max(...Object.values(SETTINGS).map(({ name }) => name.length)) + 2;

/**
 * Load the settings, or handle `--help` or `--check` and exit.
 *
 * Exits with 2 on any other argument, and with 78 when a setting is invalid.
 *
 * @param args  arguments after the program's name
 */
export async function loadConfigOrAnswer(env: Env, args: readonly string[], program: Program) {
  const unknown = args.find((arg) => !OPTIONS.includes(arg) && arg !== "-h");
  if (unknown !== undefined) {
    const meant = nearest(unknown, OPTIONS);
    end(USAGE, `fluxhook: ${unknown} is not an option${meant ? `; did you mean ${meant}?` : "."} Try --help.\n`);
  }
  if (args.includes("--help") || args.includes("-h")) {
    process.stdout.write(describeProgram(program));
    process.exit(OK);
  }
  if (args.includes("--check")) {
    const { code, text } = await checkSettings(env, program.name);
    process.stdout.write(text);
    process.exit(code);
  }
  return loadConfigOrExit(env);
}

/**
 * Exit with 78 if Valkey does not have VALKEY_URL's database on the first successful login. Later, a missing database is
 * treated as an outage, since it existed before.
 */
export function exitWithoutDatabase(valkey: Valkey): void {
  const exit = (error: Error): void => {
    if (error instanceof NoDatabaseError) end(BAD_SETTINGS, `fluxhook: ${error.problem}\n`);
  };
  valkey.on("error", exit).once("ready", () => valkey.off("error", exit));
}

function end(code: number, reason: string): never {
  process.stderr.write(reason);
  process.exit(code);
}

/** The text of `--help`, with every setting in the table. */
function describeProgram({ name, purpose }: Program): string {
  const settings = Object.values(SETTINGS).map(
    ({ name, default: value, meaning, expected }) =>
      `  ${name.padEnd(NAME_WIDTH)}${value || "(unset)"}\n      ${meaning}\n      expected: ${expected}`,
  );
  return `Usage: bun src/${name}.ts [--check | --help]

${purpose}

  --check  print the parsed settings, check Valkey and the permissions needed, and exit: 0 no problems, 1 Valkey is
           unsuitable for a queue or lacks permissions, 69 Valkey or the proxy cannot be used, 78 a setting is
           invalid or misspelled
  --help   print this

Settings are environment variables; Bun also reads them from .env. With their defaults:

${settings.join("\n\n")}
`;
}

/** The text of `--check` and its exit code: every problem found, and no secrets. */
async function checkSettings(
  env: Env,
  program: RightsProgram,
): Promise<{ readonly code: number; readonly text: string }> {
  const loaded = loadConfig(env);
  const misspelled = findMisspelled(env);
  const given = readSharding(env);
  const found = given === undefined ? undefined : await checkValkeys(given.shards, given.queue, program);
  const proxy =
    loaded.ok && loaded.config.proxy ? await checkProxy({ ...loaded.config, proxy: loaded.config.proxy }) : undefined;

  const settingProblems = [
    ...(loaded.ok ? [] : loaded.problems),
    ...(found?.settingProblems ?? []),
    ...misspelled.map(({ hint }) => hint),
  ];
  const reachProblems = [
    ...(found?.reachProblems ?? []),
    ...(proxy?.problem === undefined ? [] : [`The proxy at ${proxy.place} ${proxy.problem}`]),
  ];
  const factProblems = found?.factProblems ?? [];
  const problems = [...settingProblems, ...reachProblems, ...factProblems];

  const codes = [
    settingProblems.length && BAD_SETTINGS,
    reachProblems.length && UNAVAILABLE,
    factProblems.length && FAILED,
  ];
  const notes = [...findExpanded(env), ...(found?.notes ?? [])];
  const sections = [
    `Settings\n${Object.entries(SETTINGS)
      .map(([key, setting]) => describeSetting(key, setting, env))
      .join("")}`,
    ...(found?.nodes ?? []).map(({ title, facts }) => `${title}\n${describeFacts(facts)}`),
    notes.length > 0 ? `Notes\n${indent(notes)}` : "",
    proxy?.rows.length ? `Proxy at ${proxy.place}\n${describeRows(proxy.rows)}` : "",
    problems.length > 0 ? `Problems\n${indent(problems)}` : "No problems found.\n",
  ];
  return { code: codes.find((code) => code !== 0) ?? OK, text: sections.filter(Boolean).join("\n") };
}

/**
 * The shards as far as their settings are understood, so that Valkey is looked at even if other settings are wrong.
 *
 * @returns undefined without a valid URL; `queue` is undefined when its name is not understood
 */
function readSharding(env: Env): { readonly shards: Config["shards"]; readonly queue: string | undefined } | undefined {
  const read = <T>(setting: Setting<T>) => setting.schema.safeParse(env[setting.name] || setting.default || undefined);
  const valkeyUrls = read(SETTINGS.valkeyUrls).data;
  const queue = read(SETTINGS.queue).data;
  if (valkeyUrls === undefined) return undefined;
  const sharding = {
    valkeyUrls,
    queue: queue ?? SETTINGS.queue.default,
    shards: read(SETTINGS.shardCount).data ?? 1,
    drainUrl: read(SETTINGS.drainUrl).data,
    before: read(SETTINGS.shardsBefore).data,
  };
  const asManyAsUrls = { ...sharding, shards: valkeyUrls.length, drainUrl: undefined, before: undefined };
  return { queue, shards: shardsOf(shardingProblem(sharding) === undefined ? sharding : asManyAsUrls) };
}

const indent = (lines: readonly string[]): string => lines.map((line) => `  ${line}\n`).join("");

function describeSetting(key: string, setting: Setting<unknown>, env: Env) {
  const { name, schema, isSecret } = setting;
  const given = env[name] || undefined;
  const value = given ?? defaultOf(setting, env);
  let shown = JSON.stringify(value).slice(1, -1) || "(unset)";
  if (key === "valkeyUrls" || (key === "drainUrl" && value !== ""))
    shown = value.split(/\s+/).map(maskValkeyUrl).join(" ");
  else if (isSecret && value !== "") shown = "***";
  const isDefault = given === undefined && shown !== "(unset)";
  const isUnderstood = given === undefined || schema.safeParse(given).success;
  return `  ${name.padEnd(NAME_WIDTH)}${shown}${isDefault ? "  (default)" : ""}${isUnderstood ? "" : "  (not understood)"}\n`;
}

function describeFacts({ server, evictionPolicy, appendOnly, isPrimary }: ValkeyFacts): string {
  const rows = [
    ["version", server],
    ["eviction", evictionPolicy],
    ["persistence", describePersistence(appendOnly)],
    ["role", isPrimary ? "primary" : "replica"],
  ] as const;
  return describeRows(rows);
}

function describeRows(rows: readonly (readonly [string, string])[]): string {
  return rows.map(([name, value]) => `  ${name.padEnd(NAME_WIDTH)}${value}\n`).join("");
}
