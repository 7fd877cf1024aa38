/**
 * Environments that are right but for one thing, or right: either a configuration, or a list of what is wrong, and never a stack trace.
 * Each run has a seed, shown when it fails: FUZZ_SEED repeats it.
 */
import { expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadConfig } from "../src/settings/config.ts";
import { SETTINGS } from "../src/settings/table.ts";
import { type Chance, createChance } from "./support/chance.ts";
import { bounded } from "./support/stack.ts";

const SEED = Number(process.env.FUZZ_SEED ?? Math.floor(Math.random() * 2 ** 31));
const ENVIRONMENTS = 2_000;
const PROCESSES = 24; // of them are tried with real ones
const ROOT = join(import.meta.dir, "..");
const PASSWORD = "leak-password-0815";
const KEY = Buffer.alloc(32, 7).toString("base64");
const AWAY = `redis://:${PASSWORD}@127.0.0.1:1`; // nothing listens there, so that no process stays
const CERTIFICATES = join(ROOT, "test/support/ca.pem");

/** Values of every setting that are right together with any of the others. */
const RIGHT: Readonly<Record<string, readonly string[]>> = {
  VALKEY_URL: [
    AWAY,
    `${AWAY}/15`,
    `rediss://u:${PASSWORD}@h.example:1/`,
    `redis+sentinel://:${PASSWORD}@127.0.0.1:1/m`,
  ],
  WEBHOOK_QUEUE: ["webhooks", "a.b-c_d", "{shard}"],
  WEBHOOK_EVENTS: ["file.created", "invoice.paid,invoice.voided, org_1.user-Added"],
  WEBHOOK_CONCURRENCY: ["64", "256", "10000"],
  WEBHOOK_ENDPOINT_CONCURRENCY: ["1", "64"],
  WEBHOOK_TIMEOUT: ["100ms", "10s", "1m"],
  WEBHOOK_RETRY_DELAYS: ["5s", "1ms,24h", "5s, 1m, 2h"],
  WEBHOOK_MAX_AGE: ["1m", "30d"],
  WEBHOOK_MAX_BACKLOG: ["100", "1000000"],
  WEBHOOK_MISSED_MAX: ["0", "100000"],
  WEBHOOK_REGISTRY: ["0", "1"],
  WEBHOOK_MAX_ENDPOINTS: ["1", "1000"],
  WEBHOOK_ALLOW_PLAIN: ["0", "1"],
  WEBHOOK_DISABLE_AFTER: ["0", "5d", "365d"],
  WEBHOOK_NOTICES: ["0", "1"],
  WEBHOOK_MAX_BODY: ["1kb", "256kb", "16mb"],
  WEBHOOK_LOG_SIZE: ["1", "10", "1000"],
  WEBHOOK_LOG_AGE: ["1m", "7d", "365d"],
  WEBHOOK_KEEP_RESPONSE: ["0", "1kb", "16kb"],
  WEBHOOK_SHOW_RESPONSE: ["0", "1"],
  WEBHOOK_KEEP_COMPLETED: ["100", "1000"],
  WEBHOOK_KEEP_FAILED: ["100", "10000"],
  WEBHOOK_ALLOW_NETWORKS: ["10.0.0.0/8", "10.0.0.0/8,fd00::/8", "127.0.0.1/32"],
  WEBHOOK_DENY_NETWORKS: ["198.51.100.0/24", "2001:db8::/32"],
  WEBHOOK_ALLOW_PORTS: ["443", "80,443,8000-8999"],
  WEBHOOK_REQUIRE_HTTPS: ["0", "1"],
  WEBHOOK_CA_FILE: [CERTIFICATES],
  WEBHOOK_DNS_SERVERS: ["10.0.0.2", "10.0.0.3:5353,[fd00::2]:53"],
  WEBHOOK_SECRET_KEYS: [KEY, `${KEY},${KEY}`],
  WORKER_HOST: ["127.0.0.1", "::1", "[::1]", "0.0.0.0", "localhost", "worker-1.example"],
  WORKER_PORT: ["0", "9464", "65535"],
  BOARD_HOST: ["127.0.0.1", "localhost", "::1"],
  BOARD_PORT: ["0", "3000"],
  BOARD_USER: ["admin", "operator@example.com"],
  BOARD_PASSWORD: [PASSWORD],
  BOARD_ENVIRONMENT: ["staging", "größe"],
  BOARD_READONLY: ["0", "1"],
  BOARD_TRUST_PROXY: ["127.0.0.1", "10.0.0.0/8"],
  WEBHOOK_TRACING: ["0", "1", "0.01"],
  SHUTDOWN_TIMEOUT: ["0s", "20s", "10m"],
  LOG_LEVEL: ["info", "silent"],
};
/** These are right with each other alone. */
const SHARDINGS = [
  {
    ...{ VALKEY_URL: `redis+cluster://:${PASSWORD}@127.0.0.1:1`, WEBHOOK_SHARDS: "6" },
    ...{ WEBHOOK_QUEUE: "webhooks", WEBHOOK_DRAIN_URL: AWAY },
  },
  { VALKEY_URL: `${AWAY} redis://127.0.0.1:2`, WEBHOOK_SHARDS: "2", WEBHOOK_QUEUE: "webhooks" },
  {
    VALKEY_URL: `${AWAY} redis://127.0.0.1:2`,
    ...{ WEBHOOK_SHARDS: "1", WEBHOOK_SHARDS_BEFORE: "2", WEBHOOK_QUEUE: "webhooks" },
  },
];
const PROXIES = [
  { WEBHOOK_PROXY: `http://u:${PASSWORD}@127.0.0.1:3128` },
  { WEBHOOK_PROXY: "http://proxy.example:3128", WEBHOOK_PROXY_RESOLVES: "1" },
];
const NOTICES = [{ WEBHOOK_NOTICE_URL: `https://ops.example/${PASSWORD}`, WEBHOOK_NOTICE_SECRET: PASSWORD }];

const NONSENSE = [
  " ",
  "-1",
  "0",
  "1e9",
  "1e308",
  "NaN",
  "null",
  "undefined",
  "[object Object]",
  "💥",
  "\ud800",
  "a\nb",
];
const MORE = [
  "\0",
  "x".repeat(10_000),
  "9".repeat(400),
  ",",
  ",,",
  "0.0.0.0/33",
  "::/129",
  "5",
  "soon",
  "TRUE",
  "$(id)",
];

/** A value with one slip in it. */
function slip(value: string, { pick, between }: Chance): string {
  const at = Math.floor(between(0, value.length + 1));
  return pick([
    () => pick([...NONSENSE, ...MORE]),
    () => value.slice(0, at),
    () => value.slice(at),
    () => value.slice(0, at) + pick([" ", ":", "/", "@", "%", ",", "-", ".", "0", "x", "\n", "١"]) + value.slice(at),
    () => ` ${value}`,
    () => `${value}\n`,
    () => `"${value}"`,
    () => `${value},${value}`,
    () => value.toUpperCase(),
    () => `-${value}`,
    () => value.repeat(60),
  ])();
}

interface Sample {
  readonly env: Readonly<Record<string, string>>;
  /** The setting that was changed. */
  readonly changed: string | undefined;
}

function createSample(chance: Chance): Sample {
  const { pick } = chance;
  const env: Record<string, string> = { VALKEY_URL: pick(RIGHT.VALKEY_URL as string[]) };
  for (const [name, values] of Object.entries(RIGHT)) if (pick([true, false, false])) env[name] = pick(values);
  if (pick([true, false, false, false])) Object.assign(env, pick(PROXIES));
  if (pick([true, false, false, false])) Object.assign(env, pick(SHARDINGS));
  if (pick([true, false, false, false])) Object.assign(env, pick(NOTICES));
  if (pick([true, false])) return { env, changed: undefined };
  const changed = pick(Object.keys(env));
  env[changed] = slip(env[changed] as string, chance);
  return { env, changed };
}

/** What is wrong with what came of a sample; undefined when nothing is. */
function judge({ env, changed }: Sample): string | undefined {
  const loaded = loadConfig(env);
  if (loaded.ok) {
    const replaced = ["caFile", "valkeyUrls", "shardCount", "shardsBefore", "drainUrl"]; // by what they lead to
    const missing = Object.keys(SETTINGS).filter((key) => !(key in loaded.config) && !replaced.includes(key));
    const numbers = Object.entries(loaded.config).filter(([, value]) => typeof value === "number");
    const odd = numbers.filter(([, value]) => !Number.isFinite(value) || (value as number) < 0);
    return missing.length + odd.length === 0 ? undefined : `gives ${missing} ${JSON.stringify(odd)}`;
  }
  const { problems } = loaded;
  if (changed === undefined) return `is right, and refused: ${problems}`;
  if (problems.length === 0) return "is refused for nothing";
  const isTold = problems.every((problem) => /^expected [A-Z_]+ to be \S/.test(problem) || problem.includes(changed));
  if (!isTold || !problems.some((problem) => problem.includes(changed))) return `is told as ${problems}`;
  return problems.join().includes(PASSWORD) ? "shows a secret" : undefined;
}

test("every setting has values that are right", () => {
  const names = [RIGHT, ...PROXIES, ...SHARDINGS, ...NOTICES].flatMap((settings) => Object.keys(settings));
  expect([...new Set(names)].sort()).toEqual(
    Object.values(SETTINGS)
      .map(({ name }) => name)
      .sort(),
  );
});

const show = ({ env, changed }: Sample) => `${changed}=${JSON.stringify(env[changed ?? ""])}`.slice(0, 200);

test(`${ENVIRONMENTS} environments give a configuration or a list of problems (FUZZ_SEED=${SEED})`, () => {
  const chance = createChance(SEED);
  const wrong: string[] = [];
  let refused = 0;
  for (let i = 0; i < ENVIRONMENTS; i++) {
    const sample = createSample(chance);
    const problem = judge(sample);
    if (problem !== undefined) wrong.push(`${show(sample)} ${problem}`);
    if (!loadConfig(sample.env).ok) refused += 1;
  }
  const seed = `repeat with FUZZ_SEED=${SEED}`;
  expect({ seed, wrong: wrong.slice(0, 5), count: wrong.length }).toEqual({ seed, wrong: [], count: 0 });
  expect(refused).toBeGreaterThan(ENVIRONMENTS / 5); // or it says nothing
});

test.each(["WORKER_HOST", "BOARD_HOST"])("%s is a host name or an address", (name) => {
  for (const host of [" ", "💥", "x\ny", "http://x", "localhost:1", "a b", "x".repeat(300)]) {
    const loaded = loadConfig({ [name]: host, BOARD_PASSWORD: PASSWORD });
    const expected = `expected ${name} to be a host name or address, got ${JSON.stringify(host)}`;
    expect([host, loaded.ok ? [] : loaded.problems]).toEqual([host, [expected]]);
  }
});

const folder = mkdtempSync(join(tmpdir(), "fluxhook-fuzz-")); // without an .env

async function start(name: string, args: readonly string[], env: Record<string, string>) {
  const child = Bun.spawn([process.execPath, join(ROOT, `src/${name}.ts`), ...args], {
    cwd: folder,
    env: { PATH: process.env.PATH ?? "", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const said = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text(), child.exited]);
  try {
    const [out, err, code] = await bounded(said, () => `${name} to end with ${JSON.stringify(env)}`, 30_000);
    return { out, err, code };
  } finally {
    child.kill("SIGKILL");
  }
}

test(`worker and board end with 78 and every problem, and --check says the same (FUZZ_SEED=${SEED})`, async () => {
  const chance = createChance(SEED);
  const seed = `repeat with FUZZ_SEED=${SEED}`;
  const samples: Sample[] = [];
  while (samples.length < PROCESSES) {
    const sample = createSample(chance);
    const isPossible = !Object.values(sample.env).some((value) => /[\0\ud800]/.test(value)); // in an environment
    if (isPossible) samples.push(sample);
  }
  const tries = samples.map((sample) => {
    const loaded = loadConfig(sample.env);
    const name = chance.pick(["worker", "board"]);
    const args = loaded.ok || chance.pick([true, false]) ? ["--check"] : [];
    return async () => {
      const { out, err, code } = await start(name, args, sample.env);
      const told = `${out}${err}`;
      const where = `${name} ${args} ${show(sample)}; ${seed}`;
      const found = { where, isTrace: /\n\s+at .*:\d+/.test(told), isLeak: told.includes(PASSWORD), code };
      // Nothing listens at the Valkey of any of them: what is right by itself cannot be used.
      expect(found).toEqual({ where, isTrace: false, isLeak: false, code: loaded.ok ? 69 : 78 });
      if (loaded.ok) return;
      for (const problem of loaded.problems) expect(told).toContain(problem);
      if (args.length === 0) expect(err).toMatch(/^(fluxhook: .*\n)+/);
    };
  });
  const rest = tries[Symbol.iterator]();
  const lane = async () => {
    for (const attempt of rest) await attempt();
  };
  await Promise.all([lane(), lane()]);
}, 120_000);
