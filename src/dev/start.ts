/**
 * `npm start`: the whole system on this machine, with a demo. Wiring only.
 */
import { join } from "node:path";
import { within } from "../runtime/deadline.ts";
import type { Config } from "../settings/config.ts";
import { maskValkeyUrl, placeOf } from "../valkey/url.ts";
import { DemoError, prepareEnvironment } from "./environment.ts";
import { type Child, freePort, type LogLine, startChild } from "./processes.ts";
import { type Receiver, startReceiver } from "./receiver.ts";
import { createPaint, formatAttempt, formatAttemptHead, formatLog, formatPairs } from "./report.ts";
import { DEMO_ENDPOINT, DEMO_USER } from "./samples.ts";
import { createTour, enqueueSamples, RETRIED, readLog } from "./tour.ts";
import { startValkey } from "./valkey.ts";

const USAGE = `usage: npm start [-- OPTION]

Starts Fluxhook on this machine, with a throwaway Valkey and a receiver, sends one event of each type and shows what
happens. Stays up until Ctrl-C. Valkey listens on port 6379, or on a free one if that is taken.

  --once  exit when all events are delivered; exit code 1 if one is not within 30 s
  --help  print this

With VALKEY_URL it uses your Valkey instead. All other settings of the worker and the board apply as well.`;

const DELIVERED_MS = 30 * 1000; // 30 s for ten events, one of them with a retry after 1 s
const BEYOND_SHUTDOWN_MS = 5 * 1000; // 5 s after the worker's own shutdown timeout it is killed
const ONE_KEYSTROKE_MS = 400; // npm forwards the Ctrl-C that the terminal has already sent: count them once
const FLUSH_MS = 1000; // 1 s for a slow reader of our output
const QUIET = new Set<unknown>(["trace", "debug", "info"]);
// What the README's commands and snippets use, so that they work as pasted.
const VALKEY_PORT = 6379;
const VALKEY_URL = `redis://127.0.0.1:${VALKEY_PORT}`;
const RECEIVER_PORT = Number(new URL(DEMO_ENDPOINT).port);

const options = process.argv.slice(2);
const unknown = options.filter((option) => !["--once", "--help", "-h"].includes(option));
if (unknown.length > 0) {
  console.error(`npm start: unknown option ${unknown.join(" ")}\n\n${USAGE}`);
  process.exit(2);
}
if (options.includes("--help") || options.includes("-h")) {
  console.log(USAGE);
  process.exit(0);
}

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
  code = await Promise.race([run(options.includes("--once")), died.promise, interrupted.promise]);
} catch (error) {
  console.error(`\n${paint("red", error instanceof DemoError ? error.message : String((error as Error).stack))}`);
}
isStopping = true;
await Promise.all(children.map((child) => child.stop(shutdownTimeoutMs + BEYOND_SHUTDOWN_MS)));
for (const end of endings.reverse()) await within(BEYOND_SHUTDOWN_MS, end(), undefined);
await within(FLUSH_MS, new Promise((resolve) => process.stdout.write("", resolve)), undefined);
process.exit(code);

async function run(once: boolean): Promise<number> {
  const ownValkey = process.env.VALKEY_URL || undefined;
  const [valkeyUrl, receiver] = await Promise.all([ownValkey ?? startThrowaway(), startDemoReceiver()]);
  endings.push(() => receiver.stop());
  const { env, config, queue } = await prepareEnvironment(process.env, valkeyUrl, ownValkey !== undefined);
  endings.push(() => queue.close());
  shutdownTimeoutMs = config.shutdownTimeoutMs;

  const tour = createTour(receiver, DELIVERED_MS, (row) => say(formatAttempt(row, paint)));
  const [worker, board] = await Promise.all([
    startPart("worker", env, tour.onWorkerLine),
    startPart("board", env, () => {}),
  ]);
  const endpoint = receiver.url("/webhooks");
  const login = config.boardPassword === undefined ? undefined : `user ${config.boardUser}, your BOARD_PASSWORD`;
  title("Fluxhook is up");
  say(
    formatPairs(
      [
        ["Valkey", placeOf(valkeyUrl), ownValkey ? "yours" : "temporary, removed on exit"],
        ["Worker", worker, `processes the queue "${queue.name}"`],
        ["Board", board, login],
        ["Receiver", endpoint, "acts as a customer's endpoint"],
      ],
      paint,
    ),
  );

  title("One event of each type, enqueued with a plain BullMQ client");
  say(formatAttemptHead(paint));
  await enqueueSamples(queue, endpoint);
  const isComplete = await within(DELIVERED_MS, tour.settled, false);
  if (isComplete) {
    say(`\n  All ten delivered, every signature verified. The receiver rejected ${RETRIED} once, to show a retry.`);
  } else {
    const missing = tour.missing().map((line) => `\n  ${line}`);
    const message = `Not delivered and verified in time (${DELIVERED_MS / 1000} s):${missing.join("")}`;
    if (once) throw new DemoError(message);
    say(`\n${paint("red", message)}`);
  }

  const logUrl = `${board}/users/${DEMO_USER}/attempts`;
  title("The customer's log: the last 10 attempts, from the board's API");
  say(formatLog(await readLog(logUrl, authorize(config), tour.lastDelivery()), paint));

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
  if (once) return 0;

  showCommands(valkeyUrl, queue.name, endpoint, ownValkey !== undefined);
  return await interrupted.promise;
}

/** What to type next, and what to paste first if the ports that the README uses were taken. */
function showCommands(valkeyUrl: string, queue: string, endpoint: string, isOwnValkey: boolean): void {
  title("Try it, from a second terminal in this directory");
  const lines = [
    ...exportSettings(valkeyUrl, queue),
    endpoint === DEMO_ENDPOINT ? "npm run send" : `npm run send -- file.created ${endpoint}`,
    `npx fluxhook attempts ${DEMO_USER}`,
  ];
  for (const line of lines) say(`  ${paint("cyan", line)}`);
  if (!isOwnValkey && valkeyUrl !== VALKEY_URL) {
    say(`\n  Port ${VALKEY_PORT} is taken. Paste the first line into every terminal that runs the README's commands.`);
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

async function startDemoReceiver(): Promise<Receiver> {
  return startReceiver({ port: await freePort(RECEIVER_PORT, "127.0.0.1") });
}

/** Start `src/<name>.ts` as in production, and print its warnings and errors. */
function startPart(
  name: "worker" | "board",
  env: Readonly<Record<string, string | undefined>>,
  onLine: (line: LogLine) => void,
): Promise<string> {
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
function exportSettings(valkeyUrl: string, queue: string): string[] {
  const isShown = valkeyUrl !== VALKEY_URL && maskValkeyUrl(valkeyUrl) === valkeyUrl;
  const settings = [
    ...(isShown ? [`VALKEY_URL=${valkeyUrl}`] : []),
    ...(queue === "webhooks" ? [] : [`WEBHOOK_QUEUE=${queue}`]),
  ];
  return settings.length === 0 ? [] : [`export ${settings.join(" ")}`];
}
