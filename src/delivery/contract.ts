/**
 * The contract with the backend: what a job on the queue must look like.
 */
import { z } from "zod";
import { EVENT_TYPES, type EventType } from "../events.ts";
import { ContractError, type ContractIssue } from "./contract-error.ts";
import { isEndpointUrl, parseUrl } from "./endpoint-url.ts";
import { isExactNumber } from "./exact-json.ts";
import { ENDPOINT_ID, ENDPOINT_ID_FORM, USER_ID, USER_ID_FORM } from "./limits.ts";
import {
  buildBody,
  eventIdOf,
  type UnaddressedEvent,
  UnreadData,
  type UserEvent,
  type WebhookEvent,
} from "./request.ts";
import { isSealed, openSealed } from "./seal.ts";
import { MAX_SEALED, plainSecretProblem, secretProblem } from "./secret.ts";

export { ContractError, type ContractIssue, EVENT_TYPES, type EventType };

/** Any version and variant, including nil: SQL Server and .NET use variants of their own. */
const UUID = /^[\da-fA-F]{8}(?:-[\da-fA-F]{4}){3}-[\da-fA-F]{12}$/; // no flags: JSON Schema has none
const MAX_SECRETS = 10;
const MAX_LEVELS = 2_000; // of nesting; from about 30,000, serializing a body blocks the process for more than a second
const MAX_TIMESTAMP_MS = 8_640_000_000_000_000; // the latest time a Date can hold (ECMA-262)

const MAX_LISTED = 20; // event types in a reason, which is stored with each failed job

/** The event types of an installation that does not set `WEBHOOK_EVENTS`. */
export const DEFAULT_EVENTS: ReadonlySet<string> = new Set(EVENT_TYPES);

const secretsExpected = `expected a secret, or an array of 1 to ${MAX_SECRETS} of them`;
const secret = z
  .string({ error: "expected a string" })
  .refine((text) => secretProblem(text) === undefined, { error: ({ input }) => secretProblem(input) });

const EITHER_FORM = "expected an object with url and secret, or with the id of a registered endpoint";

/** An endpoint that the producer names in full. */
const inlineEndpoint = z.object(
  {
    url: z
      .string({ error: "expected a string" })
      .max(2048, { error: "expected at most 2048 characters" })
      .refine(isEndpointUrl, { error: "expected an http or https URL without user name and password" }),
    secret: z.union(
      [secret, z.array(secret, secretsExpected).min(1, secretsExpected).max(MAX_SECRETS, secretsExpected)],
      {
        error: secretsExpected,
      },
    ),
  },
  { error: "expected an object with url and secret" },
);

/** An endpoint of the user's, by the id under which it is registered. Strict, so that no wrong URL or secret is overlooked. */
const registeredEndpoint = z.strictObject(
  { id: z.string({ error: "expected a string" }).regex(ENDPOINT_ID, { error: `expected ${ENDPOINT_ID_FORM}` }) },
  {
    error: ({ code }) =>
      code === "unrecognized_keys" ? "expected no other field beside id" : "expected an object with id",
  },
);

const NO_OBJECT = { error: "expected an object with userId, endpoint and data" };

/** The schema of a job's data. {@link parseEvent} applies it at every attempt. */
export const jobData = z.object(
  {
    userId: z.string({ error: "expected a string" }).regex(USER_ID, { error: `expected ${USER_ID_FORM}` }),
    endpoint: z.union([inlineEndpoint, registeredEndpoint], { error: EITHER_FORM }).optional(),
    // Passed through as is: copying it key by key would lose a `__proto__` key, and cost time on every attempt.
    data: z.custom<object>(isJsonObject, { error: "expected a JSON object" }),
    id: z.string({ error: "expected a UUID" }).regex(UUID, { error: "expected a UUID" }).optional(),
    expiresAt: z.iso
      .datetime({ offset: true, error: "expected an ISO 8601 time with its zone, as in 2026-12-31T23:00:00Z" })
      .optional(),
  },
  NO_OBJECT,
);

/** The data that a backend puts into a job; see {@link jobData}. */
export type JobData = z.input<typeof jobData>;

/** An endpoint that a job names in full. */
export type InlineEndpoint = z.input<typeof inlineEndpoint>;

/** The fields that the data of a job without an endpoint may have. */
export const USER_EVENT_FIELDS: readonly string[] = Object.keys(jobData.shape).filter((name) => name !== "endpoint");

/** The data of a job that names its endpoint in full. */
export type InlineJobData = Omit<JobData, "endpoint"> & { endpoint: InlineEndpoint };

/** The parts of a BullMQ job that make an event. */
export interface StoredJob {
  readonly id?: string | undefined;
  readonly name: string;
  readonly data: unknown;
  /** Epoch ms at which the producer enqueued it. */
  readonly timestamp: number;
  readonly queueName: string;
}

const broken = (path: string, message: string) => new ContractError([{ path, message }]);

/**
 * Check a job's name, data and timestamp against the contract.
 *
 * @param timestampMs  epoch ms
 * @param events       the event types
 * @param mayNameNone  whether it may name no endpoint, and then goes to all of the user's that want it
 * @throws  ContractError, listing every violation
 */
export function checkEvent(
  name: unknown,
  data: unknown,
  timestampMs: number,
  events: ReadonlySet<string>,
  mayNameNone: boolean,
): { type: string; data: JobData } {
  const isType = events.has(name as string);
  const parsed = schemaFor(data, mayNameNone).safeParse(data);
  const isDated = Math.abs(timestampMs) <= MAX_TIMESTAMP_MS;
  if (isType && parsed.success && isDated) return { type: name as string, data: parsed.data };
  throw new ContractError([
    ...(isType ? [] : [{ path: "name", message: `expected ${describeEventTypes(events)}` }]),
    ...(data instanceof UnreadData ? [describeUnread(data)] : listIssues("data", parsed.error)),
    ...(isDated ? [] : [{ path: "timestamp", message: "expected epoch milliseconds" }]),
  ]);
}

const inlineData = z.object({ ...jobData.shape, endpoint: inlineEndpoint });
const registeredData = z.object({ ...jobData.shape, endpoint: registeredEndpoint });
const formlessData = z.object({ ...jobData.shape, endpoint: z.never({ error: EITHER_FORM }) }, NO_OBJECT);
/** Strict: a misspelled `endpoint` must not send the event to all of the user's endpoints. */
const userData = z.strictObject(jobData.omit({ endpoint: true }).shape, {
  error: ({ code, keys }) => (code === "unrecognized_keys" ? describeUnknown(keys as readonly string[]) : undefined),
});

const MAX_NAMED = 5; // unknown fields in a reason, and so many characters of each
const MAX_NAME = 40;

function describeUnknown(names: readonly string[]): string {
  const some = names.slice(0, MAX_NAMED).map((name) => name.slice(0, MAX_NAME));
  return `expected endpoint, or no other field than ${USER_EVENT_FIELDS.join(", ")}, got ${some.join(", ")}`;
}

/** The schema for the form of endpoint that is meant: quicker than {@link jobData}, and its issues are about that form alone. */
function schemaFor(data: unknown, mayNameNone: boolean): z.ZodType<JobData> {
  const { endpoint } = (data ?? {}) as { endpoint?: unknown };
  if (endpoint === undefined) return mayNameNone && isJsonObject(data) ? userData : formlessData;
  if (!isJsonObject(endpoint)) return jobData;
  if ("url" in endpoint || "secret" in endpoint) return inlineData;
  return "id" in endpoint ? registeredData : formlessData;
}

/** "one of a, b, c"; of many event types, the first 20. */
export function describeEventTypes(events: ReadonlySet<string>): string {
  const rest = events.size - MAX_LISTED;
  const listed = [...events].slice(0, MAX_LISTED).join(", ");
  return `one of ${listed}${rest > 0 ? ` and ${rest} more in WEBHOOK_EVENTS` : ""}`;
}

const ESCAPED = 6; // characters that JSON may use for a single one: \u0041
const MAX_AROUND = 128 + 2_048 + MAX_SECRETS * (MAX_SEALED + 100) + 1_000; // user, URL, secrets of which each may be sealed, names and id

/**
 * The maximum length of a job's data, in characters of JSON: room for the largest body with every character escaped. Longer data is
 * rejected without parsing it, which could exhaust the worker's memory.
 */
export function maxDataLength(maxBodyBytes: number): number {
  return ESCAPED * (maxBodyBytes + MAX_AROUND);
}

function describeUnread({ length, maxLength }: UnreadData): ContractIssue {
  return { path: "data", message: `expected at most ${maxLength} characters of JSON, got ${length}` };
}

/** The settings that {@link parseEvent} needs. */
export interface ContractOptions {
  /** The event types. */
  readonly events: ReadonlySet<string>;
  /** Largest body, in bytes. */
  readonly maxBodyBytes: number;
  /** Keys that open sealed secrets, current first. */
  readonly secretKeys: readonly Uint8Array[];
  /** Whether events may name no endpoint, and then go to all of the user's that want them. Not by default. */
  readonly registry?: boolean | undefined;
}

/**
 * Parse a job into an event whose endpoint it names in full.
 *
 * @throws  ContractError when it violates the contract, or names its endpoint by its id
 */
export function parseEvent(job: StoredJob, options: ContractOptions): WebhookEvent {
  const event = parseJob(job, options);
  if (isAddressed(event)) return event;
  throw broken("data.endpoint", "expected an object with url and secret");
}

/** Whether an event's endpoint is known, and need not be looked up. */
export function isAddressed(event: WebhookEvent | UnaddressedEvent | UserEvent): event is WebhookEvent {
  return (event as WebhookEvent).endpoint?.url !== undefined;
}

/**
 * Parse a job into an event.
 *
 * @throws  ContractError when it violates the contract
 */
export function parseJob(
  job: StoredJob,
  { maxBodyBytes, secretKeys, events, registry = false }: ContractOptions,
): WebhookEvent | UnaddressedEvent | UserEvent {
  const { type, data: parsed } = checkEvent(job.name, job.data, job.timestamp, events, registry);
  const { userId, endpoint, data, expiresAt } = parsed;
  const id = eventIdOf(job, parsed.id);
  return {
    id,
    type,
    timestampMs: job.timestamp,
    expiresAtMs: expiresAt === undefined ? undefined : Date.parse(expiresAt),
    userId,
    endpoint: endpoint && ("id" in endpoint ? endpoint : openEndpoint(endpoint, secretKeys, userId)),
    body: writeBody(id, type, job.timestamp, data, maxBodyBytes),
  } as WebhookEvent | UnaddressedEvent | UserEvent;
}

function openEndpoint(
  { url, secret }: InlineEndpoint,
  secretKeys: readonly Uint8Array[],
  userId: string,
): WebhookEvent["endpoint"] {
  const secrets = Array.isArray(secret)
    ? secret.map((text, index) => openSecret(text, secretKeys, userId, `data.endpoint.secret.${index}`))
    : [openSecret(secret, secretKeys, userId, "data.endpoint.secret")];
  return { url: parseUrl(url) as URL, secrets: secrets as [string, ...string[]] };
}

/**
 * Open a secret if it is sealed.
 *
 * @param field  its path, for the message
 * @throws  ContractError when it cannot be opened, or what was sealed is no secret
 */
export function openSecret(text: string, keys: readonly Uint8Array[], userId: string, field: string): string {
  if (!isSealed(text)) return text;
  if (keys.length === 0) throw broken(field, "sealed, but WEBHOOK_SECRET_KEYS is not set");
  const secret = openSealed(text, keys, userId);
  if (secret === undefined) {
    throw broken(field, "sealed with another key or for another user, or damaged");
  }
  const problem = plainSecretProblem(secret);
  if (problem === undefined) return secret;
  throw broken(field, `once opened, ${problem}`);
}

/** Serialize an event's body, and check its depth and size against the contract. */
export function writeBody(id: string, type: string, timestampMs: number, data: object, maxBytes: number): Buffer {
  if (isDeeper(data, MAX_LEVELS)) throw broken("data.data", `expected at most ${MAX_LEVELS} levels of nesting`);
  const body = buildBody(id, type, timestampMs, data);
  if (body.length <= maxBytes) return body;
  throw broken("data.data", `expected a body of at most ${maxBytes} bytes, got ${body.length}`);
}

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== "object" || value === null || isExactNumber(value)) return false;
  return levels === 0 || Object.values(value).some((child) => isDeeper(child, levels - 1));
}

function listIssues(root: string, error: Pick<z.ZodError, "issues"> | undefined): ContractIssue[] {
  return (error?.issues ?? []).flatMap((issue) => {
    const path = [root, ...issue.path].join(".");
    // For a union of string and array, report the issues of the array if they are about its items.
    const meant = issue.code === "invalid_union" && issue.errors.find((issues) => issues.some(isInside));
    return meant ? listIssues(path, { issues: meant }) : [{ path, message: issue.message }];
  });
}

function isInside({ path }: z.core.$ZodIssue): boolean {
  return path.length > 0;
}

function isJsonObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !isExactNumber(value);
}
