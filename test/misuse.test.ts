/** What a backend can do wrong with the package: each mistake is an error of its own, and none of them reaches the process. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { startValkey, type ThrowawayValkey } from "../src/dev/valkey.ts";
import { ContractError, createFluxhook, type NewEvent } from "../src/index.ts";
import { type Listener, listen } from "./support/listener.ts";
import { bounded } from "./support/stack.ts";

const ROOT = join(import.meta.dir, "..");
const WAIT_MS = 60_000; // a process with a hundred mistakes, on a machine that may be busy
const folder = mkdtempSync(join(tmpdir(), "fluxhook-misuse-"));
const started: ThrowawayValkey[] = [];
let silent: Listener;
let url: string;

beforeAll(async () => {
  silent = await listen(() => {}, { onConnection() {} });
  url = await startLocked();
  symlinkSync(join(ROOT, "node_modules"), join(folder, "node_modules"));
  const entrypoints = [join(ROOT, "test/support/misuse-program.ts"), join(ROOT, "src/index.ts")];
  await Bun.build({ entrypoints, target: "node", packages: "external", outdir: folder, naming: "[name].mjs" });
});
afterAll(async () => {
  await silent.stop();
  for (const valkey of started) await valkey.stop();
  rmSync(folder, { recursive: true });
});

/** A Valkey with a password, and with a user who may do nothing; its URL. Programs that cut everybody's connections have one each. */
async function startLocked(): Promise<string> {
  const valkey = await startValkey();
  started.push(valkey);
  const admin = new Redis(valkey.url);
  await admin.acl("SETUSER", "limited", "on", ">s3cret", "~*", "&*", "-@all");
  await admin.config("SET", "requirepass", "right");
  admin.disconnect();
  return valkey.url.replace("redis://", "redis://:right@");
}

async function run(command: string[], env: Record<string, string>) {
  const child = Bun.spawn(command, {
    cwd: folder,
    env: { PATH: process.env.PATH ?? "", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const said = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text(), child.exited]);
  try {
    const [out, err, code] = await bounded(said, () => `${command.join(" ")} to end`, WAIT_MS);
    return { out, err, code };
  } finally {
    child.kill("SIGKILL");
  }
}

const RUNTIMES = [
  ["Node", "node"],
  ["Bun", process.execPath],
] as const;

const PLACE = /(?<=at )127\.0\.0\.1:\d+/g;
const away = "VALKEY_AWAY: Valkey at PLACE: no answer within 1000 ms";
const unusable = (what: string, refusal: string, other: { readAttempts?: string } = {}) => ({
  [`${what}: enqueue`]: refusal,
  [`${what}: enqueueMany`]: refusal,
  [`${what}: readAttempts`]: other.readAttempts ?? refusal,
  [`${what}: close`]: "fine",
  [`${what}: close again`]: "fine",
});
const INVALID = "INVALID_ARGUMENT: ";
const BROKEN = "INVALID_EVENT: ";
const URL_FORMS =
  "a redis://, rediss://, redis+sentinel:// or redis+cluster:// URL, as in redis://user:password@host:6379/0, or several separated by blanks";
const TYPES = /expected one of file\.created.*?(?=;|$)/;
const EXPECTED: Record<string, string> = {
  "createFluxhook: text": `${INVALID}expected the options to be an object, as in { valkeyUrl: "redis://127.0.0.1:6379" }`,
  "createFluxhook: null": `${INVALID}expected the options to be an object, as in { valkeyUrl: "redis://127.0.0.1:6379" }`,
  "createFluxhook: list": `${INVALID}expected the options to be an object, as in { valkeyUrl: "redis://127.0.0.1:6379" }`,
  "createFluxhook: {url}": `${INVALID}url is not an option; did you mean valkeyUrl?`,
  "createFluxhook: {VALKEY_URL}": `${INVALID}VALKEY_URL is not an option; did you mean valkeyUrl?`,
  "createFluxhook: {timeout}": `${INVALID}timeout is not an option; did you mean timeoutMs?`,
  "createFluxhook: no URL": `${INVALID}expected valkeyUrl to be ${URL_FORMS}`,
  "createFluxhook: URL of http": `${INVALID}expected valkeyUrl to be ${URL_FORMS}`,
  "createFluxhook: queue a b": `${INVALID}expected queue to be 1 to 100 letters, digits or . _ - { }`,
  "createFluxhook: queue a:b": `${INVALID}expected queue to be 1 to 100 letters, digits or . _ - { }`,
  "createFluxhook: queue 7": `${INVALID}expected queue to be 1 to 100 letters, digits or . _ - { }`,
  "createFluxhook: timeoutMs as text": `${INVALID}expected timeoutMs to be a number of ms, 1 or more`,
  "createFluxhook: timeoutMs 0": `${INVALID}expected timeoutMs to be a number of ms, 1 or more`,
  "createFluxhook: maxBodyBytes -1": `${INVALID}expected maxBodyBytes to be a whole number from 1 to 16777216`,
  "createFluxhook: short sealingKey": `${INVALID}expected sealingKey to be 32 bytes, or the same in base64`,
  "createFluxhook: sealingKey 7": `${INVALID}expected sealingKey to be 32 bytes, or the same in base64`,
  "enqueue: nothing": `${BROKEN}expected an object with event, userId, endpoint and data`,
  "enqueue: null": `${BROKEN}expected an object with event, userId, endpoint and data`,
  "enqueue: text": `${BROKEN}expected an object with event, userId, endpoint and data`,
  "enqueue: list": `${BROKEN}expected an object with event, userId, endpoint and data`,
  "enqueue: an empty object": `${BROKEN}event: TYPES; userId: expected a string; endpoint: expected an object with url and secret, or with the id of a registered endpoint; data: expected a JSON object`,
  "enqueue: unknown fields": `${BROKEN}user: not a field of an event; did you mean userId?; endpoint.uri: not a field of an endpoint; did you mean url?`,
  "enqueue: a job": `${BROKEN}name: not a field of an event; expected one of event, userId, endpoint, data, id, expiresAt; event: TYPES; userId: expected a string; endpoint: expected an object with url and secret, or with the id of a registered endpoint`,
  "enqueue: a circle": `${BROKEN}data: expected a value that can be written as JSON: no BigInt, no circular references, not nested too deeply`,
  "enqueue: a BigInt": `${BROKEN}data: expected a value that can be written as JSON: no BigInt, no circular references, not nested too deeply`,
  "enqueue: a getter that throws": `${BROKEN}data: expected a value that can be written as JSON: no BigInt, no circular references, not nested too deeply`,
  "enqueue: what becomes nothing": `${BROKEN}expected an object with event, userId, endpoint and data`,
  "enqueue: an id that is none": `${BROKEN}id: expected a UUID`,
  "enqueue: {delay}": `${INVALID}delay is not an option; did you mean delayMs?`,
  "enqueue: {signal}": `${INVALID}signal is not an option; expected one of delayMs, attempts, backoff`,
  "enqueue: options null": `${INVALID}expected the options to be an object, as in { delayMs: 5000 }`,
  "enqueue: options 5": `${INVALID}expected the options to be an object, as in { delayMs: 5000 }`,
  "enqueue: delayMs as text": `${INVALID}expected delayMs to be a whole number of ms, from 0 to 10 years`,
  "enqueue: delayMs 1e300": `${INVALID}expected delayMs to be a whole number of ms, from 0 to 10 years`,
  "enqueue: attempts 0": `${INVALID}expected attempts to be a whole number from 1 to 100`,
  "enqueue: backoff null": `${INVALID}expected backoff to be ms above 0, or { type: "fixed", delay: 5000 } or { type: "exponential", delay: 5000 }`,
  "enqueue: backoff of no type": `${INVALID}expected backoff.type to be fixed or exponential`,
  "enqueue: backoff without delay": `${INVALID}expected backoff.delay to be ms above 0`,
  "enqueue: jitter 7": `${INVALID}expected backoff.jitter to be a number from 0 to 1`,
  "enqueue: jitter beside": `${INVALID}jitter is not an option; expected one of delayMs, attempts, backoff`,
  "enqueueMany: nothing": `${INVALID}expected events to be an array`,
  "enqueueMany: one event": `${INVALID}expected events to be an array`,
  "enqueueMany: a hole": `${BROKEN}events[0]: expected an object with event, userId, endpoint and data`,
  "enqueueMany: one that is broken": `${BROKEN}events[1].userId: expected 1 to 128 visible ASCII characters`,
  "enqueueMany: {delay}": `${INVALID}delay is not an option; did you mean delayMs?`,
  "readAttempts: nothing": `${INVALID}expected userId to be a string`,
  ...unusable("away", `${away} (ECONNREFUSED)`),
  ...unusable("silent", away),
  ...unusable("no such host", "VALKEY_AWAY: Valkey at nowhere.invalid:6379: no answer within 1000 ms (WHY)"),
  ...unusable(
    "wrong password",
    "VALKEY_LOGIN: Valkey at PLACE refuses: WRONGPASS invalid username-password pair or user is disabled.",
  ),
  ...unusable("no password", "VALKEY_LOGIN: Valkey at PLACE refuses: NOAUTH Authentication required."),
  ...unusable("no rights", "VALKEY_REFUSED: Valkey at PLACE refuses: NOPERM"),
  ...unusable("no rights to its database", "VALKEY_REFUSED: Valkey at PLACE refuses: NOPERM"),
  ...unusable("no database", "VALKEY_NO_DATABASE: Valkey at PLACE has no database 99"),
  "closed at once": "fine",
  "disposed of": "fine",
  "enqueue while closing": "fine",
  "enqueue after close": "CLOSED",
  "readAttempts after close": "CLOSED: this Fluxhook was closed: create another",
  "enqueue while the connection is cut again and again": "fine",
};

test.concurrent.each(RUNTIMES)(
  "on %s, each mistake of a backend has its own code, at once, and nothing reaches its process",
  async (_, runtime) => {
    const env = { VALKEY_URL: await startLocked(), SILENT_PORT: String(silent.port) };
    const { out, err, code } = await run([runtime, "misuse-program.mjs"], env);
    expect([err, code]).toEqual(["", 0]);
    const { results, reached } = JSON.parse(out) as { results: Record<string, string>; reached: string[] };
    const told = Object.entries(results).map(([what, result]) => [
      what,
      result
        .replaceAll(PLACE, "PLACE")
        .replace(/(refuses: NOPERM).*/, "$1")
        .replace(TYPES, "TYPES")
        .replace(/\((ENOTFOUND|EAI_AGAIN|DNS_\w+)\)/, "(WHY)")
        .replace(/(PLACE: no answer within 1000 ms) \((ETIMEDOUT|Socket timeout.*)\)/, "$1"),
    ]);
    expect(Object.fromEntries(told)).toEqual(EXPECTED);
    expect(reached).toEqual([]);
  },
  WAIT_MS,
);

describe("a script that forgets close()", () => {
  const EVENT =
    '{ event: "file.created", userId: "u", endpoint: { url: "http://127.0.0.1:1/", secret: "s" }, data: {} }';
  const SCRIPTS: Record<string, string> = {
    "after an event": `console.log((await fluxhook.enqueue(${EVENT})).status);`,
    "after nothing": "console.log('new');",
    "after Valkey was away": `await fluxhook.enqueue(${EVENT}).catch(({ code }) => console.log(code));`,
  };
  const cases = RUNTIMES.flatMap(([name, runtime]) =>
    Object.keys(SCRIPTS).map((when) => [name, when, runtime] as const),
  );

  test.concurrent.each(cases)(
    "on %s, %s, ends by itself",
    async (_, when, runtime) => {
      const script = join(folder, `${crypto.randomUUID()}.mjs`);
      const isAway = when === "after Valkey was away";
      const options = isAway ? { valkeyUrl: "redis://127.0.0.1:1", timeoutMs: 1000 } : { valkeyUrl: url };
      writeFileSync(
        script,
        `import { createFluxhook } from "./index.mjs";
const fluxhook = createFluxhook(${JSON.stringify(options)});
${SCRIPTS[when]}`,
      );
      const answer = isAway ? "VALKEY_AWAY\n" : "new\n";
      expect(await run([runtime, script], {})).toEqual({ out: answer, err: "", code: 0 });
    },
    WAIT_MS,
  );
});

test("the issues of a ContractError are listed by the names that the caller wrote", async () => {
  await using fluxhook = createFluxhook({ valkeyUrl: url });
  const event = { event: "file.created", userId: "", endpoint: { url: "x", secret: ["s", 7] }, data: [] } as unknown;
  const error = await fluxhook.enqueue(event as NewEvent).catch((reason: Error) => reason);
  expect(error).toBeInstanceOf(ContractError);
  expect((error as ContractError).issues).toEqual([
    { path: "userId", message: "expected 1 to 128 visible ASCII characters" },
    { path: "endpoint.url", message: "expected an http or https URL without user name and password" },
    { path: "endpoint.secret.1", message: "expected a string" },
    { path: "data", message: "expected a JSON object" },
  ]);
  const many = await fluxhook.enqueueMany([event as NewEvent]).catch((reason: Error) => reason);
  expect((many as ContractError).issues.map(({ path }) => path)).toEqual([
    "events[0].userId",
    "events[0].endpoint.url",
    "events[0].endpoint.secret.1",
    "events[0].data",
  ]);
});
