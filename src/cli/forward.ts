/**
 * `fluxhook listen --forward-to`: posts a user's events to a local server as they are enqueued, for development.
 *
 * It follows the queue's stream of job events, and reads the job of each new one. It writes nothing, so workers and the real
 * deliveries are not affected.
 */
import { randomUUID } from "node:crypto";
import { ContractError, parseEvent } from "../delivery/contract.ts";
import { buildRequest, endpointName, type WebhookEvent } from "../delivery/request.ts";
import { keysOf } from "../queue/layout.ts";
import type { OpenShard } from "../queue/open-shard.ts";
import type { Job } from "../queue/worker.ts";
import type { Valkey } from "../valkey/connection.ts";
import { EXIT, type ExitCode, nameQueue, type Session } from "./context.ts";
import { printable, type Terminal } from "./terminal.ts";

const BLOCK_MS = 1000; // 1 s, below the 2 s after which a silent Valkey counts as away
const PIECE = 100; // stream entries read at once
/** Headers that depend on the connection. */
const OWN_HEADERS = ["host", "content-length", "accept-encoding"];

const NO_SECRET = "not sent: its endpoint is registered, and so is the secret: give one with --secret-env";

/** What to forward, and where to. */
export interface Forwarding {
  readonly url: URL;
  readonly user: string;
  /** Sign with these, current first. Empty: with each event's own, which {@link Session}'s keys open if it is sealed. */
  readonly secrets: readonly string[];
  /** End after this many events. */
  readonly count: number;
}

/** The result of one post. */
interface Posted {
  readonly status: number | null;
  /** Why there is no status. */
  readonly error: string | null;
  readonly durationMs: number;
}

/** Forward until a signal or the count ends it. Exits with 1 if an event was not accepted with 2xx. */
export async function forward(terminal: Terminal, session: Session, forwarding: Forwarding): Promise<ExitCode> {
  const { config, shards } = session;
  const { url, user, secrets, count } = forwarding;
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
  const newest = await Promise.all(shards.map(readNewest));
  const signedWith = secrets.length > 0 ? "given" : "own";
  terminal.printJson({ forward_to: endpointName(url), user, queue: nameQueue(config), signed_with: signedWith });
  const signature = secrets.length > 0 ? "the given secret" : "each event's own secret";
  terminal.print(`Forwarding events of ${user} to ${printable(endpointName(url))}, signed with ${signature}.`);

  let [number, isAllAccepted] = [0, true];
  const forwarded = new Set<string>(); // jobs
  const sources = shards.map((shard, index) => readNewJobs(shard, newest[index] as string, stop.signal));
  for await (const { shard, job } of merge(sources)) {
    if ((job.data as { userId?: unknown } | null)?.userId !== user) continue;
    if (forwarded.has(shard.label + eventJobOf(job))) continue; // one of the deliveries of an event that names no endpoint
    forwarded.add(shard.label + job.id);
    number += 1;
    const { event, ...posted } = await handOver(job, shard, session, forwarding, stop.signal);
    if (stop.signal.aborted) break;
    show(terminal, `${shard.label}${job.id}`, job.name, number, event, posted);
    if (posted.status === null || posted.status < 200 || posted.status > 299) isAllAccepted = false;
    if (number >= count) break;
  }
  return isAllAccepted ? EXIT.ok : EXIT.failed;
}

/** The id of the job whose event goes to several endpoints, of which this job is one delivery; empty if it is none. */
function eventJobOf({ id = "", data }: Job): string {
  const { id: endpointId } = (data as { endpoint?: { id?: unknown } | null }).endpoint ?? {};
  return typeof endpointId === "string" && id.endsWith(`.${endpointId}`) ? id.slice(0, -endpointId.length - 1) : "";
}

/** The newest entry of a shard's stream of job events. */
async function readNewest({ client, valkey }: OpenShard): Promise<string> {
  const [[newest] = ["0-0"]] = await valkey.xrevrange(keysOf(client).events, "+", "-", "COUNT", 1);
  return newest;
}

/**
 * Everything that several generators yield, as it comes. A generator goes on only once what it yielded has been dealt with.
 */
async function* merge<T>(sources: readonly AsyncGenerator<T>[]): AsyncGenerator<T> {
  const advance = (source: AsyncGenerator<T>) => {
    const advanced = source.next().then((result) => ({ source, result }));
    advanced.catch(() => {}); // nobody may be waiting any more when its connection is closed
    return advanced;
  };
  const pending = new Map(sources.map((source) => [source, advance(source)]));
  while (pending.size > 0) {
    const { source, result } = await Promise.race(pending.values());
    pending.delete(source);
    if (result.done) continue;
    yield result.value;
    pending.set(source, advance(source));
  }
}

/**
 * A shard's jobs that are enqueued from now on, or again because somebody redelivers them.
 *
 * @param from  the stream's entry to start after
 */
async function* readNewJobs(
  shard: OpenShard,
  from: string,
  signal: AbortSignal,
): AsyncGenerator<{ readonly shard: OpenShard; readonly job: Job }> {
  for await (const id of readNewIds(shard.valkey, keysOf(shard.client).events, from, signal)) {
    const job = await shard.client.getJob(id);
    if (job !== undefined) yield { shard, job };
  }
}

async function* readNewIds(valkey: Valkey, stream: string, from: string, signal: AbortSignal): AsyncGenerator<string> {
  const { promise: stopped, resolve } = createStop();
  signal.addEventListener("abort", () => resolve(null));
  for (let last = from; !signal.aborted; ) {
    const reading = valkey.xread("COUNT", PIECE, "BLOCK", BLOCK_MS, "STREAMS", stream, last);
    reading.catch(() => {}); // the connection may be closed before it is answered
    const [[, entries] = ["", []]] = (await Promise.race([reading, stopped])) ?? [];
    for (const [entry, fields] of entries) {
      last = entry;
      const { event, jobId, prev } = toRecord(fields);
      const isNew = event === "added" || (event === "waiting" && (prev === "failed" || prev === "completed"));
      if (isNew && jobId !== undefined && !signal.aborted) yield jobId;
    }
  }
}

/** Field names and values in turn, as a record. */
function toRecord(fields: readonly string[]): Partial<Record<string, string>> {
  return Object.fromEntries(
    fields.flatMap((name, index) => (index % 2 === 0 ? [[name, fields[index + 1] as string]] : [])),
  );
}

/** A promise to resolve from elsewhere; Node 20 has no Promise.withResolvers. */
function createStop() {
  let resolve!: (nothing: null) => void;
  const promise = new Promise<null>((onResolve) => {
    resolve = onResolve;
  });
  return { promise, resolve };
}

/** Sign an event and post it once. Whatever goes wrong is part of the result. */
async function handOver(
  job: Job,
  { queue: queueName }: OpenShard,
  { config }: Session,
  { url, secrets }: Forwarding,
  signal: AbortSignal,
): Promise<Posted & { readonly event: WebhookEvent | undefined }> {
  let event: WebhookEvent | undefined;
  const startedAt = performance.now();
  const result = (status: number | null, error: string | null) => {
    return { event, status, error, durationMs: Math.round(performance.now() - startedAt) };
  };
  if (secrets.length === 0 && isRegistered(job.data)) return result(null, NO_SECRET);
  try {
    const { id, name, timestamp } = job;
    event = parseEvent({ id, name, timestamp, data: withSecrets(job.data, secrets), queueName }, config);
    const { endpoint } = event;
    const { head, body } = buildRequest({ ...event, endpoint: { ...endpoint, url } }, randomUUID(), Date.now());
    const response = await fetch(url, {
      ...{ method: "POST", headers: readHeaders(head), body: new Uint8Array(body), redirect: "manual" },
      signal: AbortSignal.any([signal, AbortSignal.timeout(config.timeoutMs)]),
    });
    await response.body?.cancel();
    return result(response.status, null);
  } catch (error) {
    return result(null, explain(error as Error, config.timeoutMs));
  }
}

/**
 * A job's data with other secrets, so that it does not matter whether its own can be opened, nor what is registered: the request
 * goes elsewhere anyway.
 */
function withSecrets(data: unknown, secrets: readonly string[]): unknown {
  if (secrets.length === 0) return data;
  const { endpoint, ...rest } = data as { endpoint?: object };
  return {
    ...rest,
    endpoint: { ...(isRegistered(data) ? { url: "http://localhost/" } : endpoint), secret: secrets },
  };
}

/** Whether a job's data leaves its endpoint's URL and secret, or which endpoints there are, to the registry. */
function isRegistered(data: unknown): boolean {
  const { endpoint } = data as { endpoint?: object | null };
  return endpoint === undefined || (endpoint !== null && "id" in endpoint && !("url" in endpoint));
}

function readHeaders(head: string): Record<string, string> {
  const lines = head.split("\r\n").filter((line) => line !== "");
  const headers = lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)] as const);
  return Object.fromEntries(headers.filter(([name]) => !OWN_HEADERS.includes(name.toLowerCase())));
}

/** Node and Bun name the same errors differently. */
function explain(error: Error, timeoutMs: number): string {
  if (error instanceof ContractError) return `not sent: ${error.message}`;
  if (error.name === "TimeoutError") return `no answer within ${timeoutMs / 1000} s`;
  const { code, message } = (error.cause ?? error) as NodeJS.ErrnoException;
  if (/refused/i.test(`${code} ${message}`)) return "connection refused: is the server running?";
  return `${code ?? message}`;
}

function show(
  terminal: Terminal,
  name: string,
  type: string,
  number: number,
  event: WebhookEvent | undefined,
  posted: Posted,
): void {
  const { status, error, durationMs } = posted;
  const names = { number, event: type, id: event?.id ?? null, job: name };
  terminal.printJson({ ...names, status, error, duration_ms: durationMs });
  const isAccepted = status !== null && status >= 200 && status <= 299;
  const outcome = status === null ? printable(error ?? "") : `${status}  ${durationMs} ms`;
  terminal.print(
    `${terminal.paint(`#${number} ${printable(type)}`, "bold")}  ${event?.id ?? `job ${printable(name)}`}  ${terminal.paint(outcome, isAccepted ? "green" : "red")}`,
  );
}
