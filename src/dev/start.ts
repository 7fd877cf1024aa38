/**
 * `npm start`: the whole system on this machine, with a demo. Wiring only.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { MAX_SHARDS } from "../queue/shards.ts";
import { within } from "../runtime/deadline.ts";
import type { Config } from "../settings/config.ts";
import { maskValkeyUrl, placeOf } from "../valkey/url.ts";
import { startCluster } from "./cluster.ts";
import { DemoError, type Environment, prepareEnvironment } from "./environment.ts";
import { type Child, type LogLine, startChild } from "./processes.ts";
import { type Receiver, startReceiver } from "./receiver.ts";
import { createPaint, formatAttempt, formatAttemptHead, formatLog, formatPairs } from "./report.ts";
import { DEMO_ENDPOINT, DEMO_USER, demoUsers } from "./samples.ts";
import { createTour, enqueueSamples, RETRIED, readLog } from "./tour.ts";
import { startValkey } from "./valkey.ts";

const USAGE = `usage: npm start [-- OPTION]

Starts Fluxhook on this machine, with a throwaway Valkey and a receiver, sends one event of each type and shows what
happens. Stays up until Ctrl-C. Valkey listens on port 6379, or on a free one if that is taken.

  --once       exit when all events are delivered; exit code 1 if one is not within 30 s
  --shards N   split the queue into N shards, from 1 to ${MAX_SHARDS}, over a throwaway cluster of three primaries with a
               replica each
  --help       print this

With VALKEY_URL it uses your Valkey, or your cluster, instead. All other settings of the worker and the board apply as well.`;

const DELIVERED_MS = 30 * 1000; // 30 s for ten events, one of them with a retry after 1 s
const BEYOND_SHUTDOWN_MS = 5 * 1000; // 5 s after the worker's own shutdown timeout it is killed
const ONE_KEYSTROKE_MS = 400; // npm forwards the Ctrl-C that the terminal has already sent: count them once
const FLUSH_MS = 1000; // 1 s for a slow reader of our output
const QUIET = new Set<unknown>(["trace", "debug", "info"]);
// What the README's commands and snippets use, so that they work as pasted.
const VALKEY_PORT = 6379;
const VALKEY_URL = `redis://127.0.0.1:${VALKEY_PORT}`;
const RECEIVER_PORT = Number(new URL(DEMO_ENDPOINT).port);

type Env = Environment["env"];

const options = readOptions(process.argv.slice(2));

const paint = createPaint(process.stdout.isTTY === true && !process.env.NO_COLOR);
const say = (text: string) => void process.stdout.write(`${text}\n`);
const title = (text: string) => say(`\n${paint("bold", text)}`);
const children: Child[] = [];
const endings: (() => Promise<unknown>)[] = []; // run in reverse order
let shutdownTimeoutMs = 0;
let isStopping = false;

const died = Promise.withResolvers<never>();
const interrupted = Promise.withResolvers<number>();
let interruptedAt = 0;
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    if (interruptedAt === 0) {
      interruptedAt = performance.now();
      isStopping = true;
      say("\nStopping.");
      interrupted.resolve(0);
    } else if (performance.now() - interruptedAt > ONE_KEYSTROKE_MS) {
      process.exit(130); // second signal: exit handlers end the rest
    }
  });
}
process.stdout.on("error", () => interrupted.resolve(1)); // the reader exited, as in `npm start | head`

let code = 1;
try {
  code = await Promise.race([run(options), died.promise, interrupted.promise]);
} catch (error) {
  console.error(`\n${paint("red", error instanceof DemoError ? error.message : String((error as Error).stack))}`);
}
isStopping = true;
await Promise.all(children.map((child) => child.stop(shutdownTimeoutMs + BEYOND_SHUTDOWN_MS)));
for (const end of endings.reverse()) await within(BEYOND_SHUTDOWN_MS, end(), undefined);
await within(FLUSH_MS, new Promise((resolve) => process.stdout.write("", resolve)), undefined);
process.exit(code);

interface Options {
  readonly once: boolean;
  /** Undefined unless given. */
  readonly shards: number | undefined;
}

/** Parse the command line. Prints the usage and exits when it is asked for, or an option is not understood. */
function readOptions(args: string[]): Options {
  const end = (problem: string): never => {
    console.error(`npm start: ${problem}\n\n${USAGE}`);
    process.exit(2);
  };
  const known = {
    once: { type: "boolean" },
    shards: { type: "string" },
    help: { type: "boolean", short: "h" },
  } as const;
  const { values, positionals } = parseArgs({ args, options: known, strict: false, allowPositionals: true });
  const names = Object.keys(values).filter((name) => !(name in known));
  const unknown = [...names.map((name) => (name.length === 1 ? `-${name}` : `--${name}`)), ...positionals];
  if (unknown.length > 0) end(`unknown option ${unknown.join(" ")}`);
  if (values.help === true) {
    console.log(USAGE);
    process.exit(0);
  }
  const { shards } = values;
  const isNumber = /^[1-9]\d{0,2}$/.test(String(shards)) && Number(shards) <= MAX_SHARDS;
  if (shards !== undefined && !isNumber) {
    end(`expected --shards to be a whole number from 1 to ${MAX_SHARDS}, got "${shards === true ? "" : shards}"`);
  }
  return { once: values.once === true, shards: shards === undefined ? undefined : Number(shards) };
}

async function run({ once, shards }: Options): Promise<number> {
  const ownValkey = process.env.VALKEY_URL || undefined;
  const startOwn = shards === undefined ? startThrowaway : startThrowawayCluster;
  const [valkeyUrl, receiver] = await Promise.all([ownValkey ?? startOwn(), startDemoReceiver()]);
  endings.push(() => receiver.stop());
  const given = { VALKEY_URL: valkeyUrl, ...(shards === undefined ? {} : { WEBHOOK_SHARDS: String(shards) }) };
  const { env, config, queue } = await prepareEnvironment({ ...process.env, ...given }, ownValkey !== undefined);
  endings.push(() => queue.close());
  shutdownTimeoutMs = config.shutdownTimeoutMs;

  const tour = createTour(receiver, DELIVERED_MS, (row) => say(formatAttempt(row, paint)));
  const [worker, board] = await Promise.all([
    startPart("worker", env, tour.onWorkerLine),
    startPart("board", env, () => {}),
  ]);
  const endpoint = receiver.url("/webhooks");
  const login = describeLogin(config);
  title("Fluxhook is up");
  const shardCount = config.shards.length;
  const what = shardCount === 1 ? "" : `, ${shardCount} shards`;
  const remark = shards === undefined ? "temporary, removed on exit" : "a temporary cluster, removed on exit";
  say(
    formatPairs(
      [
        ["Valkey", placeOf(config.valkeyUrl), ownValkey ? "yours" : remark],
        ["Worker", worker, `processes the queue "${queue.name}"${what}`],
        ["Board", board, login],
        ["Receiver", endpoint, "acts as a customer's endpoint"],
      ],
      paint,
    ),
  );

  title("One event of each type, enqueued with a plain BullMQ client");
  say(formatAttemptHead(paint, shardCount > 1));
  const users = demoUsers(config.shards);
  await enqueueSamples(queue, endpoint, users);
  const isComplete = await within(DELIVERED_MS, tour.settled, false);
  if (isComplete) {
    say(`\n  All ten delivered, every signature verified. The receiver rejected ${RETRIED} once, to show a retry.`);
  } else {
    const missing = tour.missing().map((line) => `\n  ${line}`);
    const message = `Not delivered and verified in time (${DELIVERED_MS / 1000} s):${missing.join("")}`;
    if (once) throw new DemoError(message);
    say(`\n${paint("red", message)}`);
  }

  await showPages(board, worker, config, tour.lastDelivery(), users.length > 1);
  if (once) return 0;

  showCommands(env, endpoint, ownValkey !== undefined);
  return await interrupted.promise;
}

/** The log of the demo's user, and where to look around. */
async function showPages(
  board: string,
  worker: string,
  config: Config,
  lastDelivery: string | undefined,
  isOneOfSeveral: boolean,
): Promise<void> {
  const login = describeLogin(config);
  const logUrl = `${board}/users/${DEMO_USER}/attempts`;
  const whose = isOneOfSeveral ? `The log of one customer, ${DEMO_USER}` : "The customer's log";
  title(`${whose}: the last 10 attempts, from the board's API`);
  say(formatLog(await readLog(logUrl, authorize(config), lastDelivery), paint));

  title("Look around");
  say(
    formatPairs(
      [
        ["Customer's page", `${board}/users/${DEMO_USER}`, login],
        ["Overview", board, login],
        ["Bull Board", `${board}/board`, login],
        ["Customer's log", logUrl, login],
        ["Worker's metrics", `${worker}/metrics`],
      ],
      paint,
    ),
  );
}

function describeLogin({ boardUser, boardPassword }: Config): string | undefined {
  return boardPassword === undefined ? undefined : `user ${boardUser}, your BOARD_PASSWORD`;
}

/** What to type next, and what to paste first if the ports that the README uses were taken. */
function showCommands(env: Env, endpoint: string, isOwnValkey: boolean): void {
  title("Try it, from a second terminal in this directory");
  const lines = [
    ...exportSettings(env),
    endpoint === DEMO_ENDPOINT ? "npm run send" : `npm run send -- file.created ${endpoint}`,
    `npx fluxhook attempts ${DEMO_USER}`,
  ];
  for (const line of lines) say(`  ${paint("cyan", line)}`);
  if (!isOwnValkey && env.VALKEY_URL !== VALKEY_URL) {
    const why = options.shards === undefined ? `Port ${VALKEY_PORT} is taken. ` : "";
    say(`\n  ${why}Paste the first line into every terminal that runs the README's commands.`);
  }
  if (endpoint !== DEMO_ENDPOINT) {
    say(`\n  Port ${RECEIVER_PORT} is taken. In the README's snippets, use the endpoint ${endpoint}.`);
  }
  say(`\n${paint("dim", "Attempts show up here. Press Ctrl-C to stop everything.")}\n`);
}

async function startThrowaway(): Promise<string> {
  const starting = startValkey({ port: VALKEY_PORT }).catch(() => startValkey()); // taken, most likely
  // Stopped last, and registered before it is up, since Ctrl-C may come before that.
  endings.unshift(() => starting.then((valkey) => valkey.stop()));
  return (await starting).url;
}

async function startThrowawayCluster(): Promise<string> {
  const starting = startCluster();
  endings.unshift(() => starting.then((cluster) => cluster.stop()));
  return (await starting).url;
}

async function startDemoReceiver(): Promise<Receiver> {
  return startReceiver({ port: RECEIVER_PORT }).catch(() => startReceiver()); // taken, most likely
}

/** Start `src/<name>.ts` as in production, and print its warnings and errors. */
function startPart(name: "worker" | "board", env: Env, onLine: (line: LogLine) => void): Promise<string> {
  const child = startChild({
    name,
    command: [process.execPath, join(import.meta.dir, "..", `${name}.ts`)],
    env,
    onLine(line) {
      onLine(line);
      if (isStopping || QUIET.has(line.level)) return;
      say(paint("red", `  The ${name} says ${line.message}: ${line.reason ?? "no reason given"}`));
    },
    onDeath: (message) => died.reject(new DemoError(message)),
  });
  children.push(child);
  return child.url;
}

function authorize({ boardUser, boardPassword }: Config): Record<string, string> {
  if (boardPassword === undefined) return {};
  return { authorization: `Basic ${Buffer.from(`${boardUser}:${boardPassword}`).toString("base64")}` };
}

/** The lines that make a shell's commands use our queue. A URL with a password is left out: it is in the user's environment. */
function exportSettings({ VALKEY_URL: url = "", WEBHOOK_QUEUE: queue, WEBHOOK_SHARDS: shards }: Env): string[] {
  const urls = url.split(/\s+/);
  const isShown = url !== VALKEY_URL && urls.every((one) => maskValkeyUrl(one) === one);
  const settings = [
    ...(isShown ? [`VALKEY_URL=${urls.length === 1 ? url : `"${url}"`}`] : []),
    ...((shards || "1") === "1" ? [] : [`WEBHOOK_SHARDS=${shards}`]),
    ...(queue === "webhooks" ? [] : [`WEBHOOK_QUEUE=${queue}`]),
  ];
  return settings.length === 0 ? [] : [`export ${settings.join(" ")}`];
}
