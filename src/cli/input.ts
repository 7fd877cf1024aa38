/**
 * Reading command input: secrets that stay out of the shell history, durations, files, stdin.
 */

import { readFileSync } from "node:fs";
import { DEFAULT_EVENTS, describeEventTypes } from "../delivery/contract.ts";
import { USER_ID, USER_ID_FORM } from "../delivery/limits.ts";
import { nearest } from "../settings/misspelled.ts";
import { SETTINGS } from "../settings/table.ts";
import { parseDuration } from "../settings/values.ts";
import { CommandError } from "./context.ts";

/** The options that name a secret's source. */
export interface SecretOptions {
  readonly secret?: readonly string[];
  readonly secretEnv?: readonly string[];
  readonly secretFile?: readonly string[];
}

/** The part of commander's `Command` needed to add options. */
interface Optionable {
  option(flags: string, description: string, collect: (value: string, before?: string[]) => string[]): unknown;
}

const collect = (value: string, before: string[] = []) => [...before, value];

/** Add `--secret-env`, `--secret-file` and `--secret`. */
export function addSecretOptions(command: Optionable): void {
  command.option("--secret-env <name>", "environment variable with a secret; repeat while rotating", collect);
  command.option("--secret-file <path>", "file with one secret per line, current first; - for stdin", collect);
  command.option("--secret <text>", "the secret itself; ends up in your shell history", collect);
}

/**
 * The given secrets, current first; empty when there are none. In files, line endings, empty lines and a byte order mark
 * are dropped; everything else is kept.
 *
 * @throws  CommandError when a variable or a file has no secret
 */
export function readSecrets(options: SecretOptions, env: Readonly<Record<string, string | undefined>>): string[] {
  const { secret = [], secretEnv = [], secretFile = [] } = options;
  const fromEnv = secretEnv.map((name) => {
    const value = env[name];
    if (!value) throw new CommandError("usage", `--secret-env: the variable ${name} is not set`);
    return value;
  });
  const fromFiles = secretFile.flatMap((path) => {
    const text = readInput(path, "--secret-file")
      .toString("utf8")
      .replace(/^\ufeff/, "");
    const lines = text.split(/\r?\n/).filter(Boolean);
    if (lines.length === 0) throw new CommandError("usage", `--secret-file: no secret in ${path}`);
    return lines;
  });
  return [...fromEnv, ...fromFiles, ...secret];
}

/** Like {@link readSecrets}, for commands that require a secret. */
export function requireSecrets(options: SecretOptions, env: Readonly<Record<string, string | undefined>>): string[] {
  const secrets = readSecrets(options, env);
  if (secrets.length > 0) return secrets;
  throw new CommandError("usage", "expected a secret: --secret-env NAME, --secret-file PATH, or --secret TEXT");
}

/** A file's bytes, or those of stdin when the path is `-`. */
export function readInput(path: string, option: string): Buffer {
  try {
    return readFileSync(path === "-" ? 0 : path);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const reason = code === "ENOENT" ? "no such file" : message;
    throw new CommandError("usage", `${option}: cannot read ${path === "-" ? "stdin" : path}: ${reason}`);
  }
}

/** Report all missing options at once. Commander's own check would run before unknown options are reported. */
export function requireOptions(given: Readonly<Record<string, unknown>>): void {
  const missing = Object.keys(given).filter((name) => given[name] === undefined);
  if (missing.length > 0) throw new CommandError("usage", `expected ${missing.join(", ")}`);
}

const MAX_DURATION_MS = 3650 * 24 * 60 * 60 * 1000; // 3,650 days: anything longer is a typo, and BullMQ's scores end in 2039

/** A duration in ms, at most 3,650 days. */
export function readDuration(text: string, option: string): number {
  const ms = parseDuration(text);
  if (ms !== undefined && ms <= MAX_DURATION_MS) return ms;
  const most = ms === undefined ? "" : " of at most 3650d";
  throw new CommandError("usage", `expected ${option} to be a duration${most}, as in 30s, 5m or 2h, got "${text}"`);
}

const ISO = /^(\d{4})-(\d\d)-(\d\d)(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?$/;

/** Whether a text is a valid ISO date, with or without a time. `Date.parse` reads February 30 as March 2. */
function isMoment(text: string): boolean {
  const [year, month, day] = (ISO.exec(text) ?? []).slice(1).map(Number);
  return day !== undefined && new Date(Date.UTC(year as number, (month as number) - 1, day)).getUTCDate() === day;
}

/** A time as epoch ms, from a duration before now or ISO 8601. */
export function readMoment(text: string, option: string, nowMs: number): number {
  const ago = parseDuration(text);
  if (ago !== undefined) return nowMs - ago;
  const moment = isMoment(text) ? Date.parse(text.replace(" ", "T")) : Number.NaN;
  if (!Number.isNaN(moment)) return moment;
  throw new CommandError(
    "usage",
    `expected ${option} to be a duration, as in 2h, or a time, as in 2026-11-24T08:00:00Z, got "${text}"`,
  );
}

/** A whole number in a range. */
export function readInteger(text: string, option: string, min: number, max: number): number {
  const value = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  throw new CommandError("usage", `expected ${option} to be a whole number from ${min} to ${max}, got "${text}"`);
}

/** The event types. An invalid `WEBHOOK_EVENTS` counts as unset: commands that read the settings report it. */
export function readEventTypes(env: Readonly<Record<string, string | undefined>>): ReadonlySet<string> {
  return SETTINGS.events.schema.safeParse(env[SETTINGS.events.name]).data ?? DEFAULT_EVENTS;
}

/** Check an event type. @throws  CommandError with the closest one, or else all of them */
export function checkEventType(event: string, events: ReadonlySet<string>, option: string): void {
  if (events.has(event)) return;
  suggestEventType(event, events);
  throw new CommandError("usage", `expected ${option} to be ${describeEventTypes(events)}`);
}

/** @throws  CommandError when a word is not an event type, but one is close to it */
export function suggestEventType(event: string, events: ReadonlySet<string>): void {
  const meant = events.has(event) ? undefined : nearest(event, [...events]);
  if (meant !== undefined) throw new CommandError("usage", `${event} is not an event type; did you mean ${meant}?`);
}

/** A user's id, checked as in the contract. */
export function readUser(text: string): string {
  if (USER_ID.test(text)) return text;
  throw new CommandError("usage", `expected the user to be ${USER_ID_FORM}`);
}
