/**
 * Validates what a backend says about an endpoint, and makes the document that is stored. Errors name fields, never their values:
 * a URL may contain a token. Without clock, chance or network.
 */
import { z } from "zod";
import { describeEventTypes } from "../delivery/contract.ts";
import { isEndpointUrl } from "../delivery/endpoint-url.ts";
import { ENDPOINT_ID, ENDPOINT_ID_FORM, EVENT_TYPE, USER_ID, USER_ID_FORM } from "../delivery/limits.ts";
import { UsageError } from "../runtime/usage-error.ts";
import type { EndpointDocument, StoredSecret } from "./endpoint.ts";
import { liveSecrets } from "./secrets.ts";

const MAX_BYTES = 16 * 1024; // 16 KiB, of a document
const MAX_FILTERS = 50;
const MAX_METADATA = 20;
const MAX_GRACE_SECONDS = 7 * 24 * 60 * 60; // 7 days

/** What a backend says about an endpoint. */
export interface EndpointSettings {
  /** http or https, without user name and password; at most 2,048 characters. */
  readonly url: string;
  /** At most 256 characters. */
  readonly description?: string | undefined;
  /** 1 to 50 event types, or `prefix.*` for all that begin with `prefix.`; null, the default, for all. */
  readonly events?: readonly string[] | null | undefined;
  /** At most 20 of the backend's own notes: names of 1 to 64 characters, values of at most 512. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

const SETTINGS: readonly string[] = ["url", "description", "events", "metadata"] satisfies (keyof EndpointSettings)[];

const textOf = (max: number, min = 0) =>
  z
    .string({ error: "expected a string" })
    .min(min, { error: "expected a non-empty string" })
    .max(max, { error: `expected at most ${max} characters` });

function filterOf(eventTypes: ReadonlySet<string>) {
  const isKnown = (filter: string): boolean => {
    if (!filter.endsWith(".*")) return eventTypes.has(filter);
    const prefix = filter.slice(0, -1);
    return EVENT_TYPE.test(prefix) && [...eventTypes].some((type) => type.startsWith(prefix));
  };
  return z
    .string({ error: "expected a string" })
    .refine(isKnown, { error: `expected ${describeEventTypes(eventTypes)}, or a prefix of some as in file.*` });
}

function schemaOf(eventTypes: ReadonlySet<string>) {
  const few = `expected null for all events, or an array of 1 to ${MAX_FILTERS} event types`;
  const pairs = `expected an object of at most ${MAX_METADATA} strings`;
  return z.strictObject(
    {
      url: textOf(2048).refine(isEndpointUrl, {
        error: "expected an http or https URL without user name and password",
      }),
      description: textOf(256).optional(),
      events: z.array(filterOf(eventTypes), few).min(1, few).max(MAX_FILTERS, few).nullable().optional(),
      metadata: z
        .record(textOf(64, 1), textOf(512), pairs)
        .refine((given) => Object.keys(given).length <= MAX_METADATA, pairs)
        .optional(),
    },
    {
      error: (issue) =>
        issue.code === "unrecognized_keys"
          ? `${issue.keys?.join(", ")}: not a field of an endpoint; expected one of ${SETTINGS.join(", ")}`
          : 'expected an object, as in { url: "https://example.com/webhooks" }',
    },
  );
}

function parse<T>(schema: z.ZodType<T>, given: unknown): T {
  const parsed = schema.safeParse(given);
  if (parsed.success) return parsed.data;
  const describe = ({ path, message }: z.core.$ZodIssue) =>
    path.length === 0 ? message : `${path.join(".")}: ${message}`;
  throw new UsageError(parsed.error.issues.map(describe).join("; "));
}

/** Check the settings of a whole endpoint. @throws UsageError, listing every violation */
export function parseSettings(given: unknown, eventTypes: ReadonlySet<string>): EndpointSettings {
  return parse<EndpointSettings>(schemaOf(eventTypes), given);
}

/** Check settings of which some may be missing. @throws UsageError, listing every violation */
export function parseChange(given: unknown, eventTypes: ReadonlySet<string>): Partial<EndpointSettings> {
  return parse<Partial<EndpointSettings>>(schemaOf(eventTypes).partial(), given);
}

/** Check a user's id. @throws UsageError */
export function checkUserId(userId: unknown): asserts userId is string {
  if (typeof userId !== "string" || !USER_ID.test(userId))
    throw new UsageError(`expected userId to be ${USER_ID_FORM}`);
}

/** Check an endpoint's id. @throws UsageError */
export function checkEndpointId(id: unknown): asserts id is string {
  if (typeof id !== "string" || !ENDPOINT_ID.test(id)) {
    throw new UsageError(`expected the endpoint's id to be ${ENDPOINT_ID_FORM}`);
  }
}

/** Check the version that a change is meant for. @throws UsageError */
export function checkVersion(version: unknown): void {
  if (version === undefined || (typeof version === "string" && /^[\w-]{1,64}$/.test(version))) return;
  throw new UsageError("expected ifVersion to be the version of an endpoint");
}

/** Check how long rotated secrets still sign, in seconds. @throws UsageError */
export function checkGrace(graceSeconds: unknown): void {
  if (
    Number.isSafeInteger(graceSeconds) &&
    (graceSeconds as number) >= 0 &&
    (graceSeconds as number) <= MAX_GRACE_SECONDS
  )
    return;
  throw new UsageError(`expected graceSeconds to be a whole number from 0 to ${MAX_GRACE_SECONDS}`);
}

/**
 * The document of an endpoint with these settings and secrets. Secrets that have expired are dropped.
 *
 * @param createdAt  epoch ms
 */
export function buildDocument(
  { url, description, events, metadata }: EndpointSettings,
  secrets: readonly StoredSecret[],
  createdAt: number,
  nowMs: number,
): EndpointDocument {
  return {
    url,
    ...(description ? { description } : {}),
    events: events ?? null,
    secrets: liveSecrets(secrets, nowMs),
    ...(metadata !== undefined && Object.keys(metadata).length > 0 ? { metadata } : {}),
    createdAt,
    updatedAt: nowMs,
  };
}

/** An endpoint's settings with a change. A setting that the change leaves out, or has as undefined, stays. */
export function applyChange(settings: EndpointSettings, change: Partial<EndpointSettings>): EndpointSettings {
  const {
    url = settings.url,
    description = settings.description,
    events = settings.events,
    metadata = settings.metadata,
  } = change;
  return { url, description, events, metadata };
}

/** Whether two documents differ in time alone. */
export function isSameDocument(one: EndpointDocument, other: EndpointDocument): boolean {
  const sorted = (record = {}) => Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1));
  const textOf = ({ url, description, events, secrets, metadata }: EndpointDocument) =>
    JSON.stringify([
      url,
      description,
      events,
      secrets.map(({ secret, expiresAt }) => [secret, expiresAt]),
      sorted(metadata),
    ]);
  return textOf(one) === textOf(other);
}

/** A document as it is stored. @throws UsageError when it is too long */
export function encodeDocument(document: EndpointDocument): string {
  const text = JSON.stringify(document);
  const bytes = Buffer.byteLength(text);
  if (bytes <= MAX_BYTES) return text;
  throw new UsageError(`expected an endpoint of at most ${MAX_BYTES} bytes with its secrets, got ${bytes}`);
}
