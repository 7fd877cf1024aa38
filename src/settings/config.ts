/**
 * The configuration: the only reader of the environment.
 */
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { isLoopbackAddress, literalOf } from "../dns/address.ts";
import { findUnknownSettings, type UnknownSetting } from "./misspelt.ts";
import { defaultOf, SETTINGS, type Setting } from "./table.ts";

type Parsed = { [K in keyof typeof SETTINGS]: (typeof SETTINGS)[K] extends Setting<infer T> ? T : never };

/** The settings as the program uses them: durations in ms, sizes in bytes, lists as arrays. */
export type Config = Readonly<
  Omit<Parsed, "caFile"> & {
    /** The certificates in WEBHOOK_CA_FILE, in PEM. */
    ca: string | undefined;
  }
>;

/**
 * Read and check all settings. An empty variable counts as unset.
 *
 * @param env  usually `process.env`
 * @returns either the configuration, or every problem there is, one sentence each, no secret in any
 * @throws  never
 */
export function loadConfig(
  env: Readonly<Record<string, string | undefined>>,
): { ok: true; config: Config } | { ok: false; problems: string[] } {
  const problems: string[] = [];
  const values: Record<string, unknown> = {};
  for (const [key, setting] of Object.entries(SETTINGS)) {
    const { name, schema, expected, isSecret } = setting;
    const given = env[name] || defaultOf(setting, env) || undefined;
    const parsed = schema.safeParse(given ?? (schema.safeParse(undefined).success ? undefined : ""));
    if (parsed.success) values[key] = parsed.data;
    else
      problems.push(`expected ${name} to be ${expected}, got ${isSecret ? "something else" : JSON.stringify(given)}`);
  }
  const parsed = values as Parsed;
  const { concurrency, endpointConcurrency } = parsed;
  if (endpointConcurrency > concurrency) {
    problems.push(
      `expected WEBHOOK_ENDPOINT_CONCURRENCY to be at most WEBHOOK_CONCURRENCY (${concurrency}), got "${endpointConcurrency}"`,
    );
  }
  if (parsed.boardHost !== undefined && !isLoopback(parsed.boardHost) && !parsed.boardPassword) {
    problems.push(
      `expected BOARD_PASSWORD to be set, since BOARD_HOST ("${parsed.boardHost}") is not a loopback address, got nothing`,
    );
  }
  const { caFile, ...rest } = parsed;
  const { certificates: ca, problem } = caFile === undefined ? {} : readCertificates(caFile);
  if (problem !== undefined)
    problems.push(`expected WEBHOOK_CA_FILE to be ${SETTINGS.caFile.expected}, got ${problem}`);
  return problems.length > 0 ? { ok: false, problems } : { ok: true, config: { ...rest, ca } };
}

/**
 * The certificates in a file, in PEM; whatever else stands there, such as comments, is left out.
 *
 * @returns a problem when the file cannot be read, holds no certificate, or one that is damaged
 */
function readCertificates(path: string): { certificates?: string; problem?: string } {
  const shown = JSON.stringify(path);
  try {
    const found =
      readFileSync(path, "latin1").match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
    if (found.length === 0) return { problem: `${shown}, which holds no certificate` };
    for (const certificate of found) new X509Certificate(certificate); // throws when it is none
    return { certificates: found.join("\n") };
  } catch (error) {
    const { syscall, code } = error as NodeJS.ErrnoException;
    const reason = syscall === undefined ? "in which a certificate is damaged" : `which cannot be read (${code})`;
    return { problem: `${shown}, ${reason}` };
  }
}

/** Read `.env` in the directory in which the process was started, where the runtime has not done so, as Bun has. */
export function loadConfigFile(process: { versions: { bun?: string }; loadEnvFile?: () => void }): void {
  if (process.versions.bun !== undefined) return;
  try {
    process.loadEnvFile?.(); // Node 20.12; what is set already stays
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

/**
 * Settings whose value in `.env` the runtime has changed: Bun takes what stands behind a `$` for the name of a variable, in
 * quotes too. One sentence for each.
 */
export function findExpanded(env: Readonly<Record<string, string | undefined>>, text = readEnvFile()): string[] {
  const names = Object.values(SETTINGS).map(({ name }) => name);
  return [...text.matchAll(/^\s*(?:export\s+)?(\w+)\s*=\s*(["'`]?)(.*?)\2\s*$/gm)].flatMap(
    ([, name = "", , written = ""]) => {
      const before = /^(?:[^$\\]|\\.)*(?=\$)/.exec(written)?.[0];
      const value = env[name];
      if (!names.includes(name) || before === undefined || value === undefined || value === written) return [];
      // Does it come from there at all? What the environment has goes before the file.
      if (!value.startsWith(before.replaceAll("\\$", "$"))) return [];
      return [`${name} in .env has a $, and what stands behind it was replaced: write \\$ for a $ that is meant`];
    },
  );
}

function readEnvFile(): string {
  try {
    return process.versions.bun === undefined ? "" : readFileSync(".env", "utf8");
  } catch {
    return ""; // there is none
  }
}

/** Variables that look like settings and are none: for a warning. */
export function findMisspelt(env: Readonly<Record<string, string | undefined>>): UnknownSetting[] {
  return findUnknownSettings(
    env,
    Object.values(SETTINGS).map(({ name }) => name),
  );
}

/** Read the settings, or list every problem on stderr and end the process with 78 (EX_CONFIG of sysexits.h). */
export function loadConfigOrExit(env: Readonly<Record<string, string | undefined>>): Config {
  const loaded = loadConfig(env);
  if (loaded.ok) return loaded.config;
  const problems = [...loaded.problems, ...findMisspelt(env).map(({ hint }) => hint)];
  process.stderr.write(problems.map((problem) => `fluxhook: ${problem}\n`).join(""));
  process.exit(78);
}

/** Whether a host, as in `BOARD_HOST` or a URL, is this machine alone. */
export function isLoopback(host: string): boolean {
  const literal = literalOf(host);
  return host === "localhost" || (literal !== undefined && isLoopbackAddress(literal));
}
