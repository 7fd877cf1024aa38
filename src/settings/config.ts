/**
 * The configuration, read from environment variables.
 */
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { isLoopbackAddress, literalOf } from "../dns/address.ts";
import { type Shard, shardingProblem, shardsOf } from "../queue/shards.ts";
import { findUnknownSettings, type UnknownSetting } from "./misspelled.ts";
import { defaultOf, SETTINGS, type Setting } from "./table.ts";

type Parsed = { [K in keyof typeof SETTINGS]: (typeof SETTINGS)[K] extends Setting<infer T> ? T : never };

/** The parsed settings: durations in ms, sizes in bytes, lists as arrays. */
export type Config = Readonly<
  Omit<Parsed, "caFile" | "valkeyUrls" | "shardCount" | "shardsBefore" | "drainUrl" | "queue"> & {
    /** The parts of the queue, at least one; the last may be that of WEBHOOK_DRAIN_URL. */
    shards: readonly [Shard, ...Shard[]];
    /** The first shard's, for what there is once for all shards. */
    valkeyUrl: string;
    /** The first shard's queue. */
    queue: string;
    /** The certificates in WEBHOOK_CA_FILE, in PEM. */
    ca: string | undefined;
  }
>;

/**
 * Read and validate all settings. An empty variable counts as unset.
 *
 * @param env  usually `process.env`
 * @returns the configuration, or every problem found, one sentence each, without secrets
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
  if (problems.length === 0) problems.push(...listed(noticeProblem(parsed)));
  const { caFile, valkeyUrls, shardCount, shardsBefore, drainUrl, queue, ...rest } = parsed;
  const sharding = { queue, valkeyUrls, shards: shardCount, drainUrl, before: shardsBefore };
  if (problems.length === 0) problems.push(...listed(shardingProblem(sharding)));
  const { certificates: ca, problem } = caFile === undefined ? {} : readCertificates(caFile);
  if (problem !== undefined)
    problems.push(`expected WEBHOOK_CA_FILE to be ${SETTINGS.caFile.expected}, got ${problem}`);
  if (problems.length > 0) return { ok: false, problems };
  const shards = shardsOf(sharding);
  return { ok: true, config: { ...rest, ca, shards, valkeyUrl: shards[0].url, queue: shards[0].queue } };
}

/** One of a pair is of no use. */
function noticeProblem({ noticeUrl, noticeSecret }: Partial<Parsed>): string | undefined {
  if ((noticeUrl === undefined) === (noticeSecret === undefined)) return undefined;
  const [missing, given] = noticeUrl === undefined ? ["URL", "SECRET"] : ["SECRET", "URL"];
  return `expected WEBHOOK_NOTICE_${missing} to be set, since WEBHOOK_NOTICE_${given} is, got nothing`;
}

const listed = (problem: string | undefined): string[] => (problem === undefined ? [] : [problem]);

/**
 * Read the PEM certificates in a file, ignoring everything else, such as comments.
 *
 * @returns a problem when the file cannot be read, has no certificates, or has a damaged one
 */
function readCertificates(path: string): { certificates?: string; problem?: string } {
  const shown = JSON.stringify(path);
  try {
    const found =
      readFileSync(path, "latin1").match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
    if (found.length === 0) return { problem: `${shown}, which holds no certificate` };
    for (const certificate of found) new X509Certificate(certificate); // throws when it is invalid
    return { certificates: found.join("\n") };
  } catch (error) {
    const { syscall, code } = error as NodeJS.ErrnoException;
    const reason = syscall === undefined ? "in which a certificate is damaged" : `which cannot be read (${code})`;
    return { problem: `${shown}, ${reason}` };
  }
}

/** Read `.env` in the working directory, unless the runtime has already done so, as Bun does. */
export function loadConfigFile(process: { versions: { bun?: string }; loadEnvFile?: () => void }): void {
  if (process.versions.bun !== undefined) return;
  try {
    process.loadEnvFile?.(); // Node 20.12; existing variables win
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

/**
 * Settings whose value in `.env` was changed by the runtime: Bun expands `$name` even in quotes. One sentence each.
 */
export function findExpanded(env: Readonly<Record<string, string | undefined>>, text = readEnvFile()): string[] {
  const names = Object.values(SETTINGS).map(({ name }) => name);
  return [...text.matchAll(/^\s*(?:export\s+)?(\w+)\s*=\s*(["'`]?)(.*?)\2\s*$/gm)].flatMap(
    ([, name = "", , written = ""]) => {
      const before = /^(?:[^$\\]|\\.)*(?=\$)/.exec(written)?.[0];
      const value = env[name];
      if (!names.includes(name) || before === undefined || value === undefined || value === written) return [];
      // Only if the value comes from the file: the environment takes precedence.
      if (!value.startsWith(before.replaceAll("\\$", "$"))) return [];
      return [`${name} in .env has a $ that was expanded as a variable: write \\$ for a literal $`];
    },
  );
}

function readEnvFile(): string {
  try {
    return process.versions.bun === undefined ? "" : readFileSync(".env", "utf8");
  } catch {
    return ""; // no such file
  }
}

/** Variables that look like misspelled settings, for a warning. */
export function findMisspelled(env: Readonly<Record<string, string | undefined>>): UnknownSetting[] {
  return findUnknownSettings(
    env,
    Object.values(SETTINGS).map(({ name }) => name),
  );
}

/** Load the settings; on failure, print every problem to stderr and exit with 78 (EX_CONFIG of sysexits.h). */
export function loadConfigOrExit(env: Readonly<Record<string, string | undefined>>): Config {
  const loaded = loadConfig(env);
  if (loaded.ok) return loaded.config;
  const problems = [...loaded.problems, ...findMisspelled(env).map(({ hint }) => hint)];
  process.stderr.write(problems.map((problem) => `fluxhook: ${problem}\n`).join(""));
  process.exit(78);
}

/** Whether a host, as in `BOARD_HOST` or a URL, is a loopback address. */
export function isLoopback(host: string): boolean {
  const literal = literalOf(host);
  return host === "localhost" || (literal !== undefined && isLoopbackAddress(literal));
}
