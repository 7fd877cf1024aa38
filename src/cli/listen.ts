/**
 * `fluxhook listen`: a local receiver that prints and verifies requests.
 */

import { accessSync, constants, mkdirSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { join } from "node:path";
import type { Command } from "commander";
import { MAX_BODY_BYTES } from "../delivery/limits.ts";
import { act, CommandError, type Context, EXIT, type JsonOption, readConfig, withValkey } from "./context.ts";
import type { Forwarding } from "./forward.ts";
import { addSecretOptions, readInteger, readSecrets, readUser, type SecretOptions } from "./input.ts";
import { checkRequest, type RequestReport } from "./request-check.ts";
import { type SavedRequest, writeRequest } from "./saved-request.ts";
import { printable, type Terminal } from "./terminal.ts";
import { printReport } from "./verify.ts";

const TOLERANCE_MS = 5 * 60 * 1000; // 5 min
const SHOWN_CHARACTERS = 2_000; // of a body; --json has all of it

interface ListenOptions extends JsonOption, SecretOptions {
  readonly host?: string;
  readonly port?: string;
  readonly status?: string;
  readonly retryAfter?: string;
  readonly count?: string;
  readonly save?: string;
  readonly forwardTo?: string;
  readonly user?: string;
}

export function addListen(program: Command, context: Context): void {
  const command = program
    .command("listen")
    .description("receive requests on this machine: print them, and verify them if given a secret")
    .option("--host <address>", "address to listen on; default: 127.0.0.1")
    .option("--port <number>", "0 for any free port; default: 8080");
  addSecretOptions(command);
  command
    .option("--status <code>", "respond with this status; default: 204, or 401 if verification fails")
    .option("--retry-after <value>", "send this Retry-After: seconds or an HTTP date")
    .option("--count <number>", "exit after this many requests; exits with 1 if verification failed for any")
    .option("--save <directory>", "save each request to a file for fluxhook verify")
    .option("--forward-to <url>", "instead of listening: post the events that are enqueued for --user to this URL")
    .option("--user <id>", "with --forward-to: whose events")
    .option("--json", "print one JSON document per line: the URL first, then each request")
    .addHelpText(
      "after",
      `
A worker reaches this machine only with WEBHOOK_ALLOW_NETWORKS=127.0.0.0/8.

With --forward-to no worker is involved: each event of the user is posted as soon as it is enqueued, once, signed with the given
secret, or else with its own. The queue and the real deliveries are not affected.

Examples:
  $ fluxhook listen --secret-env SECRET
  $ fluxhook listen --port 9000 --status 503 --retry-after 30
  $ fluxhook listen --count 1 --save requests --json
  $ fluxhook listen --forward-to http://localhost:3000/webhooks --user usr_42 --secret-env SECRET`,
    )
    .action(
      act<ListenOptions>(context, async (terminal, options) => {
        const secrets = readSecrets(options, context.env);
        const forwarding = readForwarding(options, secrets);
        if (forwarding !== undefined) {
          const { forward } = await import("./forward.ts");
          return await withValkey(readConfig(context.env, terminal), (session) =>
            forward(terminal, session, forwarding),
          );
        }
        checkRetryAfter(options.retryAfter);
        return await listen(terminal, options, secrets);
      }),
    );
}

interface Arrival extends SavedRequest {
  readonly method: string;
  readonly target: string;
  readonly rawHeaders: readonly string[];
}

async function listen(terminal: Terminal, options: ListenOptions, secrets: readonly string[]) {
  const { host = "127.0.0.1" } = options;
  const port = readInteger(options.port ?? "8080", "--port", 0, 65_535);
  const count = readCount(options.count);
  const status = options.status === undefined ? undefined : readInteger(options.status, "--status", 200, 599);
  if (options.save !== undefined) prepareFolder(options.save);
  let arrived = 0;
  let isAllVerified = true;

  const onRequest = async (incoming: IncomingMessage, response: ServerResponse): Promise<void> => {
    const arrival = await read(incoming);
    if (arrival === "aborted") return;
    if (arrival === "too large") return void response.writeHead(413, { Connection: "close" }).end();
    arrived += 1;
    const report =
      secrets.length === 0
        ? undefined
        : checkRequest(arrival, secrets, { nowMs: Date.now(), toleranceMs: TOLERANCE_MS });
    if (report?.ok === false) isAllVerified = false;
    const answer = status ?? (report?.ok === false ? 401 : 204);
    const saved = options.save === undefined ? undefined : save(options.save, arrived, arrival);
    show(terminal, arrival, { number: arrived, report, answer, saved });
    response.writeHead(answer, options.retryAfter === undefined ? {} : { "Retry-After": options.retryAfter }).end();
    if (arrived >= count) response.once("close", () => stop.resolve());
  };

  const server = createServer({ requestTimeout: 30_000 }, (incoming, response) => {
    onRequest(incoming, response).catch((error) => stop.reject(error));
  });
  const stop = createStop();
  server.once("error", ({ code, message }: NodeJS.ErrnoException) => {
    const reason = code === "EADDRINUSE" ? "another process listens there" : message;
    stop.reject(
      new CommandError("failed", `cannot listen on ${host}:${port}: ${reason}. Use --port 0 for any free port.`),
    );
  });
  server.listen(port, host, () => {
    const { address, port: taken, family } = server.address() as { address: string; port: number; family: string };
    const url = `http://${family === "IPv6" ? `[${address}]` : address}:${taken}/`;
    terminal.printJson({ url });
    terminal.print(`Listening on ${url}${secrets.length === 0 ? ", without verification: no secret given" : ""}`);
  });
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.resolve());
  try {
    await stop.promise;
  } finally {
    server.close();
    server.closeAllConnections();
  }
  return isAllVerified ? EXIT.ok : EXIT.failed;
}

function readCount(text: string | undefined): number {
  return text === undefined ? Number.POSITIVE_INFINITY : readInteger(text, "--count", 1, 1e9);
}

/** What to forward, and where to; undefined without `--forward-to`. */
function readForwarding(options: ListenOptions, secrets: readonly string[]): Forwarding | undefined {
  const { forwardTo, user, count } = options;
  if (forwardTo === undefined && user === undefined) return undefined;
  if (forwardTo === undefined || user === undefined) {
    throw new CommandError("usage", "expected --forward-to and --user together");
  }
  const others = (["host", "port", "status", "retryAfter", "save"] as const).filter(
    (name) => options[name] !== undefined,
  );
  if (others.length > 0) {
    const flags = others.map((name) => (name === "retryAfter" ? "--retry-after" : `--${name}`)).join(", ");
    throw new CommandError("usage", `--forward-to listens on no port: leave out ${flags}`);
  }
  if (!URL.canParse(forwardTo) || !/^https?:$/.test(new URL(forwardTo).protocol)) {
    throw new CommandError("usage", "expected --forward-to to be an http or https URL");
  }
  return { url: new URL(forwardTo), user: readUser(user), secrets, count: readCount(count) };
}

/** Check the header now: an invalid one would fail at the first request. */
function checkRetryAfter(value: string | undefined): void {
  if (value === undefined || /^\d{1,10}$/.test(value)) return;
  if (/^[A-Z][\w ,:+-]{1,50}$/.test(value) && !Number.isNaN(Date.parse(value))) return;
  throw new CommandError(
    "usage",
    `expected --retry-after to be seconds, or an HTTP date, as in Tue, 24 Nov 2026 08:00:00 GMT, got ${JSON.stringify(value)}`,
  );
}

/** Create the directory if missing, and fail now if it is not writable. */
function prepareFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
    accessSync(path, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new CommandError("usage", `--save: cannot write to ${path}: ${(error as Error).message}`);
  }
}

/** A promise to settle from elsewhere; Node 20 has no Promise.withResolvers. */
function createStop() {
  let resolve!: () => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<void>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

/** Read a request, unless its body is larger than any of ours or the client disconnects. */
async function read(incoming: IncomingMessage): Promise<Arrival | "too large" | "aborted"> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of incoming as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > MAX_BODY_BYTES) return "too large";
      chunks.push(chunk);
    }
  } catch {
    return "aborted";
  }
  const headers = Object.fromEntries(
    Object.entries(incoming.headers).map(([name, value]) => [name, String([value].flat()[0])]),
  );
  const { method = "", url = "", rawHeaders } = incoming;
  return { method, target: url, rawHeaders, headers, body: Buffer.concat(chunks) };
}

/** @returns the file's name: `1-file.created.http` */
function save(directory: string, number: number, { target, rawHeaders, headers, body }: Arrival): string {
  const event = (headers["x-fluxdrop-event"] ?? "request").replace(/[^\w.-]/g, "_").slice(0, 50);
  const path = join(directory, `${number}-${event}.http`);
  try {
    writeFileSync(path, writeRequest(target, rawHeaders, body), { mode: 0o600 });
    return path;
  } catch (error) {
    throw new CommandError("failed", `--save: cannot write ${path}: ${(error as Error).message}`);
  }
}

interface Seen {
  readonly number: number;
  readonly report: RequestReport | undefined;
  readonly answer: number;
  readonly saved: string | undefined;
}

function show(terminal: Terminal, arrival: Arrival, { number, report, answer, saved }: Seen): void {
  const { method, target, headers, body } = arrival;
  const text = body.toString("utf8");
  terminal.printJson({ number, method, target, headers, body: text, answer, ...report, ...(saved && { saved }) });
  const event = printable(headers["x-fluxdrop-event"] ?? "");
  terminal.print(
    `${terminal.paint(`#${number} ${method} ${printable(target)}`, "bold")}  ${event}  answered ${answer}`,
  );
  const rest = text.length - SHOWN_CHARACTERS;
  terminal.print(`  ${printable(text.slice(0, SHOWN_CHARACTERS))}${rest > 0 ? ` … and ${rest} more characters` : ""}`);
  if (report !== undefined) printReport(terminal, report);
  if (saved !== undefined) terminal.print(`  saved as ${printable(saved)}`);
}
