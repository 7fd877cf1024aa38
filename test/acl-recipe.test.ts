/** The least rights of docs/operations.md: enough for worker, board, producer and command, and no more than they use. */

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import * as scripts from "bullmq/dist/esm/scripts/index.js";
import { Redis } from "ioredis";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { startValkey, type ThrowawayValkey } from "../src/dev/valkey.ts";
import { createFluxhook } from "../src/index.ts";
import { findLacks } from "../src/monitoring/rights.ts";
import { connectValkey, type Valkey } from "../src/valkey/connection.ts";
import { applyRecipe, readRefusals, recipe, urlFor } from "./support/acl.ts";
import { createCommand } from "./support/command.ts";
import { startWorkerProcess } from "./support/process.ts";
import { becomesReady } from "./support/refusing-valkey.ts";
import { eventually, jobData } from "./support/stack.ts";

setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");
const rulesOf = (user: string) => recipe.find(([name]) => name === user)?.slice(1) ?? [];

let valkey: ThrowawayValkey;
let admin: Redis;
let receiver: Receiver;
beforeAll(async () => {
  [valkey, receiver] = await Promise.all([startValkey({ appendonly: false }), startReceiver()]);
  receiver.answer(({ path }) => (path === "/dead" ? { status: 503 } : {}));
  admin = new Redis(valkey.url);
  await applyRecipe(admin);
});
afterAll(async () => {
  admin.disconnect();
  await valkey.stop();
  await receiver.stop();
});

const urlOf = (name: string) => urlFor(valkey.url, name);
const env = (name: string) => ({ PATH: process.env.PATH ?? "", VALKEY_URL: urlOf(name) });

test("each of the four has its line", () => {
  expect(recipe.map(([user]) => user)).toEqual(
    ["worker", "board", "producer", "command"].map((name) => `fluxhook-${name}`),
  );
});

test("under exactly these rights all is delivered, shown, redelivered and told, and Valkey refuses nothing", async () => {
  const worker = startWorkerProcess({ VALKEY_URL: urlOf("worker"), WEBHOOK_RETRY_DELAYS: "100ms,100ms" });
  const board = Bun.spawn([process.execPath, join(ROOT, "src/board.ts")], {
    env: { ...env("board"), BOARD_PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const fluxhook = createFluxhook({ valkeyUrl: urlOf("producer") });
  try {
    await worker.line("worker.ready");
    const event = (url: string) => ({ event: "file.created" as const, ...jobData(url) });
    const delivered = event(receiver.url());
    const { id } = await fluxhook.enqueue(delivered);
    await fluxhook.enqueueMany([event(receiver.url()), event(receiver.url())]);
    await fluxhook.enqueue(event(receiver.url()), { delayMs: 200 });
    const { id: later } = await fluxhook.enqueue(event(receiver.url()), { delayMs: 3_600_000 });
    const failing = event(receiver.url("/dead"));
    const { id: failed } = await fluxhook.enqueue(failing);
    await eventually(
      () => worker.lines.filter(({ message }) => message === "delivery.attempted").length,
      (count) => count >= 7,
    );
    await eventually(
      () => fluxhook.readAttempts(delivered.userId),
      (attempts) => attempts.length === 1,
    );
    const again = await eventually(
      () => fluxhook.enqueue({ ...failing, id: failed }),
      ({ status }) => status === "failed", // in its place
    );
    expect(again.id).toBe(failed);
    await becomesReady(await worker.url("/readyz"));
    expect((await fetch(await worker.url("/metrics"))).status).toBe(200);

    const url = await readyUrl(board);
    const api = `${url}/board/api/queues/webhooks`;
    for (const path of [
      "/readyz",
      "/metrics",
      "/",
      `/users/${delivered.userId}`,
      `/users/${delivered.userId}/attempts`,
    ]) {
      expect([path, (await fetch(url + path, { headers: { accept: "text/html" } })).status]).toEqual([path, 200]);
    }
    const looks = [
      ...["/metrics", "/default-job-options", "/workers", "/rate-limit", "/job-data-schema"],
      ...["", "/logs", "/flow"].map((part) => `/${id}${part}`),
    ].map((path) => `/board/api/queues/webhooks${path}`);
    for (const path of ["/board", "/board/api/redis/stats", "/board/api/job-schedulers", ...looks]) {
      await fetch(url + path); // what they answer is another test's; here it matters what they ask of Valkey
    }
    for (const status of ["latest", "failed", "completed", "delayed", "waiting", "active"]) {
      const path = `/board/api/queues?activeQueue=webhooks&status=${status}&page=1&jobsPerPage=10`;
      expect([status, (await fetch(url + path)).status]).toEqual([status, 200]);
    }
    await eventually(
      () => admin.zscore("bull:webhooks:failed", failed),
      (score) => score !== null,
    );
    const put = async (path: string) => {
      const response = await fetch(`${api}${path}`, { method: "PUT", headers: { "content-type": "application/json" } });
      return [path, response.ok];
    };
    for (const path of [
      "/pause",
      "/resume",
      `/${later}/promote`,
      `/${failed}/retry`,
      "/retry/failed",
      `/${id}/clean`,
    ]) {
      expect(await put(path)).toEqual([path, true]);
    }

    const run = createCommand({ VALKEY_URL: urlOf("command") });
    for (const args of [
      ["status"],
      ["attempts", delivered.userId],
      ["redeliver", later],
      ["redeliver", "--failed", "--yes"],
      ["recover", "--dry-run"],
      ["recover", "--yes"],
      ["cancel", "--user", "nobody", "--yes"],
      ["cancel", "--user", failing.userId, "--remove", "--yes"],
      ["forget", delivered.userId, "--yes"],
      ["send", "--event", "file.created", "--url", receiver.url(), "--user", "u", "--secret", "s3cret-of-the-test"],
      ["cancel", "--host", "127.0.0.1", "--dry-run"],
      ["cancel", "--user", "u", "--yes"],
      ["cancel", "--user", delivered.userId, "--remove", "--yes"],
      ["forget", failing.userId, "--dry-run"],
      ["forget", failing.userId, "--yes"],
    ]) {
      const { code, err } = await run(args);
      expect([args[0], code, err]).toEqual([args[0], 0, expect.any(String)]);
    }
  } catch (error) {
    const log = await readRefusals(admin);
    throw new Error(`${(error as Error).message}\nRefused: ${log.join("\n")}\n${worker.output()}`);
  } finally {
    await fluxhook.close();
    board.kill();
    await Promise.all([worker.stop(), board.exited]);
  }
  expect(await readRefusals(admin)).toEqual([]);
});

async function readyUrl(board: { readonly stdout: ReadableStream<Uint8Array> }): Promise<string> {
  let text = "";
  for await (const chunk of board.stdout) {
    text += new TextDecoder().decode(chunk);
    const line = text.split("\n").find((one) => one.includes("board.ready"));
    if (line !== undefined) return JSON.parse(line).url;
  }
  throw new Error(`expected board.ready, got ${text}`);
}

describe.each(["worker", "board"] as const)("the rights of the %s", (program) => {
  const user = `fluxhook-${program}`;
  const quiet = { info() {}, warn() {} };
  let connection: Valkey;
  beforeAll(() => {
    connection = connectValkey(urlOf(program), "test:rights", quiet, { isProbe: true });
  });
  afterAll(() => connection.disconnect());

  test("are all that is needed, and each that is taken away is named", async () => {
    expect(await findLacks(connection, "webhooks", program)).toEqual([]);
    const optional = ["+info", "+hello", "+select", "+client|setname", "+client|setinfo", "+client|list"];
    const commands = rulesOf(user).filter((rule) => rule.startsWith("+") && !optional.includes(rule));
    const lackOf = async (rule: string): Promise<string> => {
      const name = `fluxhook-${program}-without-${rule}`; // has its own user, so that all can be tried at once
      await admin.acl("SETUSER", name, ...rulesOf(user));
      const own = connectValkey(urlOf(program).replace(user, name), "test:rights", quiet, { isProbe: true });
      await own.exists("bull:webhooks:meta");
      await admin.acl("SETUSER", name, rule.replace("+", "-"));
      const lacks = await findLacks(own, "webhooks", program);
      own.disconnect();
      return lacks.join("\n");
    };
    const lacks = await Promise.all(commands.map(async (rule) => [rule, await lackOf(rule)] as const));
    const isNamed = (rule: string, lack: string) =>
      lack.split("\n").some((line) => ` ${line.split(": grant ")[1]} `.includes(` ${rule} `));
    expect(lacks.filter(([rule, lack]) => !isNamed(rule, lack))).toEqual([]);
    await eventually(
      () => admin.keys("bull:webhooks:trial:*"),
      (keys) => keys.length === 0,
      2_000,
    );
  });
});

test.each(["worker", "board", "producer", "command"] as const)(
  "the rights of the %s have every command of the scripts that it runs, BullMQ's and ours",
  async (name) => {
    const isTheirs = (file: string) => name === "worker" || !/attempt(s|-scripts)\.ts$|\/isolation\//.test(file); // what workers alone run
    const files = [...modulesOf(ENTRIES[name])].filter(isTheirs);
    const ours = files.flatMap((file) => commandsIn(readFileSync(file, "utf8")));
    const known = new Set((await admin.call("COMMAND", "LIST")) as string[]);
    const sent = name === "worker" ? files.flatMap((file) => sentIn(readFileSync(file, "utf8"))) : []; // others load more than they use
    const used = new Set([
      ...SCRIPTS[name].flatMap(commandsOf),
      ...ours,
      ...sent.filter((command) => known.has(command)),
    ]);
    used.delete("config"); // of --check in a cluster alone, which says what it may not see
    const rules = rulesOf(`fluxhook-${name}`);
    expect([...used].filter((command) => !rules.includes(`+${command}`))).toEqual([]);
  },
);

const ENTRIES = {
  worker: "src/worker/process.ts",
  board: "src/board.ts",
  producer: "src/index.ts",
  command: "src/cli.ts",
};

/** All files of ours that a program loads, sooner or later. */
function modulesOf(entry: string, found = new Set<string>()): Set<string> {
  const file = join(ROOT, entry);
  if (found.has(file)) return found;
  found.add(file);
  const transpiler = new Bun.Transpiler({ loader: file.endsWith("x") ? "tsx" : "ts" });
  const text = readFileSync(file, "utf8").replace(/^#!.*/, ""); // Bun's transpiler takes no such line
  for (const { path } of transpiler.scanImports(text)) {
    if (/^\.{1,2}\/.*\.tsx?$/.test(path)) modulesOf(relative(ROOT, join(dirname(file), path)), found);
  }
  return found;
}

const ADDING = ["addStandardJob", "addDelayedJob", "addPrioritizedJob"];
const LOOKING = [
  ...["getCounts", "getCountsPerPriority", "getRanges", "getState", "getStateV2", "isFinished", "isJobInList"],
  ...["isMaxed", "paginate", "getRateLimitTtl", "getMetrics", "getDependencyCounts"],
];
const CHANGING = ["pause", "promote", "reprocessJob", "moveJobsToWait", "removeJob", "cleanJobsInSet"];

/** BullMQ's scripts by who runs them. */
const SCRIPTS = {
  worker: [
    ...["moveToActive", "moveToFinished", "moveToDelayed", "retryJob", "moveStalledJobsToWait", "saveStacktrace"],
    ...["extendLock", "extendLocks", "releaseLock", "updateData", "updateJobScheduler", "addJobScheduler"],
    ...["getRateLimitTtl", "getCounts", "getRanges", "isMaxed"],
  ],
  board: [...LOOKING, ...CHANGING, ...ADDING],
  producer: ADDING,
  command: [...LOOKING, ...CHANGING, ...ADDING, "removeJobScheduler"],
};

function commandsOf(name: string): string[] {
  const script = Object.values(scripts as Record<string, { name: string; content: string }>).find(
    (one) => one.name === name,
  );
  if (script === undefined) throw new Error(`expected BullMQ to have a script ${name}`);
  return commandsIn(script.content);
}

const commandsIn = (text: string): string[] =>
  [...text.matchAll(/(?:rcall|redis\.p?call)\(\s*["'](\w+)/g)].map(([, command]) => (command as string).toLowerCase());

/** What a file of ours sends by itself, as far as its text shows. */
const sentIn = (text: string): string[] =>
  [...text.matchAll(/\b(?:valkey|pipeline)\.(?!client\()(\w+)\(/g)].map(([, method]) =>
    (method as string).toLowerCase(),
  );
