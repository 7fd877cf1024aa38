/**
 * Builds the jobs of a backend's events.
 */
import { randomUUID } from "node:crypto";
import { ContractError, type ContractIssue, checkEvent, type JobData, writeBody } from "../delivery/contract.ts";
import { parseExact } from "../delivery/exact-json.ts";
import { DEFAULT_BODY_BYTES } from "../delivery/limits.ts";
import { isSealed, seal } from "../delivery/seal.ts";
import type { NewJob } from "../queue/enqueue.ts";
import { UsageError } from "../runtime/usage-error.ts";
import { findUnknown, isRecord } from "./options.ts";

const MAX_LISTED = 20; // invalid events in an error's message; its `issues` has all
const EVENT_FIELDS = ["event", "userId", "endpoint", "data", "id", "expiresAt"];
const ENDPOINT_FIELDS = ["url", "secret", "id"];
const NO_EVENT = "expected an object with event, userId, endpoint and data";

/** How to enqueue events. */
export interface EnqueueOptions {
  /** Delay before the first attempt, ms. */
  readonly delayMs?: number | undefined;
  /** Total number of attempts, instead of the worker's schedule; 1 to 100. */
  readonly attempts?: number | undefined;
  /** Delay between attempts, instead of the worker's schedule: ms, or a BullMQ backoff with a jitter of 0 to 1. */
  readonly backoff?:
    | number
    | { readonly type: "fixed" | "exponential"; readonly delay: number; readonly jitter?: number | undefined }
    | undefined;
}

/** How a backend's events are checked and sealed. */
export interface BuildOptions {
  readonly eventTypes: ReadonlySet<string>;
  readonly maxBodyBytes?: number | undefined;
  readonly sealingKey?: string | Uint8Array | undefined;
  /** Whether events may name no endpoint. */
  readonly registry?: boolean | undefined;
}

/** Build an event's job. @throws ContractError with the names of the event's fields */
export function buildJob(given: unknown, options: BuildOptions, how: EnqueueOptions, nowMs: number): NewJob {
  const stored = asStored(given);
  if (!isRecord(stored)) throw new ContractError([{ path: "", message: NO_EVENT }]);
  const { maxBodyBytes = DEFAULT_BODY_BYTES, sealingKey, eventTypes, registry = false } = options;
  const { event, ...fields } = stored;
  const data: Record<string, unknown> = Object.fromEntries(
    Object.entries(fields).filter(([name]) => EVENT_FIELDS.includes(name)),
  );
  const { id = randomUUID() } = data;
  // A field that is there, but undefined, is a mistake: the event must not go to all endpoints on account of it.
  const mayNameNone = registry && !Object.hasOwn(given as object, "endpoint");
  const unknown = findUnknownFields(stored);
  try {
    const checked = checkEvent(event, { ...data, id }, nowMs, eventTypes, mayNameNone);
    if (unknown.length > 0) throw new ContractError([]);
    writeBody(id as string, checked.type, nowMs, checked.data.data, maxBodyBytes);
    const sealed = sealingKey === undefined ? checked.data : sealSecrets(checked.data, sealingKey);
    const { delayMs: delay, attempts, backoff } = how;
    const jobId = (id as string).toLowerCase(); // one event, however its id is spelled
    return { name: checked.type, data: sealed, opts: { jobId, timestamp: nowMs, delay, attempts, backoff } };
  } catch (error) {
    if (!(error instanceof ContractError)) throw error;
    throw new ContractError([...unknown, ...error.issues.map(named)]);
  }
}

/** Rename an issue's path from the job's fields to the event's. */
function named({ path, message }: ContractIssue): ContractIssue {
  return { path: path === "name" ? "event" : path.replace(/^data\.?/, ""), message };
}

/** Unknown fields are typos here. The worker ignores them, since a newer backend may add fields. */
function findUnknownFields(event: Readonly<Record<string, unknown>>): ContractIssue[] {
  const { endpoint } = event;
  return [
    ...findUnknown(event, EVENT_FIELDS, "a field of an event").map(({ name, message }) => ({ path: name, message })),
    ...(isRecord(endpoint) ? findUnknownInEndpoint(endpoint) : []),
  ];
}

function findUnknownInEndpoint(endpoint: Readonly<Record<string, unknown>>): ContractIssue[] {
  const unknown = findUnknown(endpoint, ENDPOINT_FIELDS, "a field of an endpoint");
  const isBoth = "id" in endpoint && ("url" in endpoint || "secret" in endpoint);
  return [
    ...(isBoth ? [{ path: "endpoint", message: "expected url and secret, or id, not both" }] : []),
    ...unknown.map(({ name, message }) => ({ path: `endpoint.${name}`, message })),
  ];
}

/** Build the jobs of many events. @throws ContractError with the issues of all */
export function buildJobs(events: unknown, options: BuildOptions, how: EnqueueOptions, nowMs: number): NewJob[] {
  if (!Array.isArray(events)) throw new UsageError("expected events to be an array");
  const invalid: ContractError[] = [];
  const jobs = Array.from(events, (event, index) => {
    try {
      return buildJob(event, options, how, nowMs);
    } catch (error) {
      if (!(error instanceof ContractError)) throw error;
      const at = (path: string) => `events[${index}]${path === "" ? "" : `.${path}`}`;
      invalid.push(new ContractError(error.issues.map(({ path, message }) => ({ path: at(path), message }))));
      return undefined;
    }
  }).filter((job) => job !== undefined);
  if (invalid.length === 0) return jobs;
  const listed = invalid.slice(0, MAX_LISTED).map(({ message }) => message);
  if (invalid.length > MAX_LISTED) listed.push(`and ${invalid.length - MAX_LISTED} more events`);
  throw new ContractError(
    invalid.flatMap(({ issues }) => issues),
    listed.join("\n"),
  );
}

/** The event as stored JSON: a Date becomes a string, `undefined` is dropped, and JSON.rawJSON numbers keep their digits. */
function asStored(event: unknown): unknown {
  try {
    return event === undefined ? undefined : parseExact(JSON.stringify(event));
  } catch {
    const message =
      "expected a value that can be written as JSON: no BigInt, no circular references, not nested too deeply";
    throw new ContractError([{ path: "data", message }]);
  }
}

function sealSecrets(data: JobData, key: string | Uint8Array): JobData {
  const sealOne = (secret: string) => (isSealed(secret) ? secret : seal(secret, key, data.userId));
  const { endpoint } = data;
  if (endpoint === undefined || "id" in endpoint) return data; // the secrets are in the registry
  const { secret } = endpoint;
  return {
    ...data,
    endpoint: { ...endpoint, secret: typeof secret === "string" ? sealOne(secret) : secret.map(sealOne) },
  };
}
