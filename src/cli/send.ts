/**
 * `fluxhook send`: enqueue an event, and optionally wait for its delivery.
 */
import { setTimeout as pause } from "node:timers/promises";
import type { Command } from "commander";
import {
  type ContractOptions,
  describeEventTypes,
  type InlineEndpoint,
  type JobData,
  parseJob,
} from "../delivery/contract.ts";
import { parseExact } from "../delivery/exact-json.ts";
import { isSealed } from "../delivery/seal.ts";
import type { Attempt } from "../log/attempts.ts";
import { formatDuration } from "../operations/moments.ts";
import type { OpenShard } from "../queue/open-shard.ts";
import { formerHomeAmong, homeAmong } from "../queue/shards.ts";
import type { Job } from "../queue/worker.ts";
import type { Config } from "../settings/config.ts";
import { SETTINGS } from "../settings/table.ts";
import { describeError, describeStatus } from "./attempts.ts";
import {
  act,
  CommandError,
  type Context,
  EXIT,
  type ExitCode,
  type JsonOption,
  readConfig,
  type Session,
  withValkey,
} from "./context.ts";
import { readEndpointId } from "./endpoints-input.ts";
import {
  addSecretOptions,
  readDuration,
  readEventTypes,
  readInput,
  requireOptions,
  requireSecrets,
  type SecretOptions,
  suggestEventType,
} from "./input.ts";
import { printable, type Terminal } from "./terminal.ts";

const DEFAULT_WAIT = "30s";
const POLL_MS = 200;
const ANY_ID = "00000000-0000-4000-8000-000000000000"; // placeholder for checking the body size

/** The options of `send` and `trigger`. */
export interface SendOptions extends JsonOption, SecretOptions {
  readonly url?: string;
  readonly endpoint?: string;
  readonly user: string;
  readonly data?: string;
  readonly id?: string;
  readonly delay?: string;
  readonly wait?: string | true;
}

export function addSend(program: Command, context: Context): void {
  const command = program
    .command("send")
    .description("enqueue an event")
    .option("--event <type>", describeEventTypes(readEventTypes(context.env)));
  addSendOptions(command, "the event's data: a JSON object, @file, or - for stdin; {} by default")
    .addHelpText(
      "after",
      `
Validates the event as the worker does before enqueueing it. With WEBHOOK_REGISTRY=1 and without --url and --endpoint, the event
goes to all of the user's registered endpoints that want it.

Examples:
  $ fluxhook send --event file.created --url https://example.com/webhooks --user usr_42 --secret-env SECRET
  $ fluxhook send --event org.updated --url http://127.0.0.1:8080 --user usr_42 --secret-file secret.txt \\
      --data '{"plan":"team"}' --wait
  $ fluxhook send --event file.created --endpoint main --user usr_42 --wait
  $ fluxhook send --event file.created --url "$URL" --user usr_42 --secret-env SECRET --data @event.json --delay 5m`,
    )
    .action(
      act<SendOptions & { readonly event: string }>(context, async (terminal, { event, ...options }) => {
        requireTarget(options, context.env, { "--event": event });
        return await sendEvent(terminal, context.env, event, options, {});
      }),
    );
}

/** Add the options that `send` and `trigger` share. */
export function addSendOptions(command: Command, data: string): Command {
  command
    .option("--url <url>", "the endpoint's http or https URL; requires a secret")
    .option("--endpoint <id>", "instead: a registered endpoint of the user")
    .option("--user <id>", "the user whose log gets its attempts");
  addSecretOptions(command);
  return command
    .option("--data <json>", data)
    .option("--id <uuid>", "the event's id; the same id again is not delivered twice while its job is kept")
    .option("--delay <duration>", "deliver it this much later, as in 5m")
    .option("--wait [duration]", `wait for the outcome, by default ${DEFAULT_WAIT}; exits with 1 if not delivered`)
    .option("--json", "print JSON");
}

/**
 * Require a user, and an endpoint: a URL with a secret, the id of a registered one, or none where events may go to all of them.
 *
 * @param others  what else is required
 */
export function requireTarget(
  options: SendOptions,
  env: Context["env"],
  others: Readonly<Record<string, unknown>> = {},
) {
  const { url, endpoint, user } = options;
  const isToAll = env[SETTINGS.registry.name] === "1" && url === undefined && endpoint === undefined;
  requireOptions({ ...others, ...(endpoint === undefined && !isToAll && { "--url": url }), "--user": user });
  if (endpoint !== undefined && url !== undefined) {
    throw new CommandError("usage", "expected --url or --endpoint, not both");
  }
  if (url === undefined && (options.secret ?? options.secretEnv ?? options.secretFile) !== undefined) {
    throw new CommandError("usage", "a secret goes with --url: registered endpoints have their own");
  }
}

/**
 * Check an event as the worker does, enqueue it, and wait for its outcome if asked to.
 *
 * @param sample  the event's data without `--data`
 * @throws  CommandError for wrong usage; ContractError when the event breaks the contract
 */
export async function sendEvent(
  terminal: Terminal,
  env: Context["env"],
  event: string,
  options: SendOptions,
  sample: object,
): Promise<ExitCode> {
  const data = buildJobData(options, env, sample);
  const delay = options.delay === undefined ? 0 : readDuration(options.delay, "--delay");
  const wait = options.wait === true ? DEFAULT_WAIT : options.wait;
  const waitMs = wait === undefined ? undefined : readDuration(wait, "--wait");
  const config = readConfig(env, terminal);
  checkContract(event, data, config);
  const send = async (session: Session): Promise<ExitCode> => {
    const [shard] = session.shards;
    await checkRegistered(shard, data, config);
    const { job, status } = await enqueue(shard, event, data, delay);
    const name = `${shard.label}${job.id}`;
    const when = delay > 0 ? `, in ${options.delay}` : "";
    const instead = status === "failed" ? ", replacing one that failed" : "";
    terminal.print(
      status === "known"
        ? `An event with this id already exists as job ${name}: nothing was queued.`
        : `Queued ${event} for ${data.userId} as job ${name}${when}${instead}.`,
    );
    const queued = { job: name, event, user: data.userId, status };
    if (waitMs === undefined) {
      terminal.printJson({ ...queued, state: await job.getState() });
      return EXIT.ok;
    }
    const { state, attempts } = await watch(session, job, data.userId, waitMs, terminal);
    terminal.printJson({ ...queued, state, attempts });
    return state === "delivered" || state === "fanned_out" ? EXIT.ok : EXIT.failed;
  };
  return await withValkey(config, send, { shards: [homeAmong(config.shards, data.userId)] });
}

/** Refuse an endpoint that the user does not have. After a change of the number of shards, that is left to the worker. */
async function checkRegistered({ valkey, tag }: OpenShard, { userId, endpoint }: JobData, { shards }: Config) {
  if (endpoint === undefined || !("id" in endpoint) || formerHomeAmong(shards, userId) !== undefined) return;
  const { createRegistry } = await import("../registry/registry.ts");
  await createRegistry(valkey, { tag }).get(userId, endpoint.id);
}

async function enqueue({ client: queue, valkey }: OpenShard, name: string, data: JobData, delay: number) {
  const { id } = data;
  if (id === undefined) return { job: await queue.add(name, data, { delay }), status: "new" };
  const { addJobs } = await import("../queue/enqueue.ts");
  const opts = { delay, jobId: id.toLowerCase(), timestamp: Date.now() };
  const [status] = await addJobs(queue, valkey, [{ name, data, opts }], false);
  return { job: (await queue.getJob(opts.jobId)) as Job, status };
}

function buildJobData(options: SendOptions, env: Context["env"], sample: object): JobData {
  const endpoint = buildEndpoint(options, env);
  return {
    userId: options.user,
    ...(endpoint !== undefined && { endpoint }),
    data: options.data === undefined ? sample : (readData(options.data) as JobData["data"]),
    ...(options.id !== undefined && { id: options.id }),
  };
}

function buildEndpoint(options: SendOptions, env: Context["env"]): JobData["endpoint"] {
  const { url, endpoint } = options;
  if (endpoint !== undefined) return { id: readEndpointId(endpoint, "--endpoint") };
  if (url === undefined) return undefined;
  const secrets = requireSecrets(options, env);
  return { url, secret: secrets.length === 1 ? (secrets[0] as string) : secrets };
}

function readData(text: string): unknown {
  const isFile = text.startsWith("@") || text === "-";
  const json = isFile ? readInput(text.replace(/^@/, ""), "--data").toString("utf8") : text;
  try {
    return parseExact(json);
  } catch (error) {
    const { message } = error as Error;
    throw new CommandError("usage", `--data: ${error instanceof SyntaxError ? "expected JSON: " : ""}${message}`);
  }
}

/** Validate as the worker does, except for sealed secrets when there is no key to open them. */
function checkContract(
  event: string,
  { endpoint, ...data }: JobData,
  { maxBodyBytes, secretKeys, events, registry }: ContractOptions,
): void {
  suggestEventType(event, events);
  const openable = (text: string) => (isSealed(text) && secretKeys.length === 0 ? "left to the worker" : text);
  const open = ({ url, secret }: InlineEndpoint) => ({
    ...{ url, secret: Array.isArray(secret) ? secret.map(openable) : openable(secret) },
  });
  const checked = { id: ANY_ID, ...data, ...(endpoint && { endpoint: "url" in endpoint ? open(endpoint) : endpoint }) };
  parseJob(
    { name: event, data: checked, timestamp: Date.now(), queueName: "" },
    { maxBodyBytes, secretKeys, events, registry },
  );
}

/** Print each attempt of a job as it ends, until the job is finished or the time is up. */
async function watch({ shards, log, config }: Session, job: Job, userId: string, waitMs: number, terminal: Terminal) {
  const [{ client: queue, label }] = shards;
  const giveUpAt = Date.now() + waitMs;
  const printed = new Set<string>();
  for (;;) {
    const state = await job.getState();
    const attempts = (await log.list(userId, Date.now()))
      .filter((attempt) => attempt.job === `${label}${job.id}`)
      .reverse();
    for (const attempt of attempts.filter(({ delivery }) => !printed.has(delivery))) {
      printed.add(attempt.delivery);
      terminal.print(describeAttempt(terminal, attempt, config.timeoutMs));
    }
    const last = attempts.at(-1);
    // A finished job may already be removed; then the log has the outcome.
    const isOver = state === "completed" || state === "failed" || state === "unknown";
    if (isOver) {
      const ended = state === "unknown" ? undefined : await queue.getJob(job.id as string);
      const result = state === "completed" ? String(ended?.returnvalue ?? "") : "";
      const isToSeveral = /^(?:again )?to \d/.test(result);
      const isDelivered = state === "completed" ? /^(?:HTTP 2|$)/.test(result) : state === "unknown" && last?.success;
      if (isToSeveral) terminal.print(`Queued ${printable(result)}: fluxhook attempts ${userId}`);
      else if (isDelivered) terminal.print("Delivered.");
      else terminal.print(`Failed: ${printable(ended?.failedReason || result || "the job is gone")}`);
      return { state: isToSeveral ? "fanned_out" : isDelivered ? "delivered" : "failed", attempts };
    }
    if (Date.now() >= giveUpAt) {
      terminal.print(`Not delivered within ${formatDuration(waitMs)}: the job is ${state}.`);
      return { state, attempts };
    }
    await pause(POLL_MS);
  }
}

function describeAttempt(terminal: Terminal, attempt: Attempt, timeoutMs: number): string {
  const outcome = attempt.error === null ? "" : `  ${describeError(attempt, timeoutMs)}`;
  const { attempt: number, duration_ms: durationMs } = attempt;
  return `attempt ${printable(number)}  ${describeStatus(terminal, attempt)}  ${printable(durationMs)} ms${outcome}`;
}
