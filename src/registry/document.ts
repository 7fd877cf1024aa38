/**
 * Validates what a backend says about an endpoint, and makes the document that is stored. Errors name fields, never their values:
 * a URL may contain a token. Without clock, chance or network.
 */
import { z } from "zod";
import { describeEventTypes } from "../delivery/contract.ts";
import { isEndpointUrl } from "../delivery/endpoint-url.ts";
import { ENDPOINT_ID, ENDPOINT_ID_FORM, EVENT_TYPE, USER_ID, USER_ID_FORM } from "../delivery/limits.ts";
import { isSealed } from "../delivery/seal.ts";
import { UsageError } from "../runtime/usage-error.ts";
import type { EndpointDocument, RateLimit, StoredSecret } from "./endpoint.ts";
import { findHeaderProblems, MAX_HEADERS, type StoredHeaders } from "./headers.ts";
import { liveSecrets } from "./secrets.ts";

const MAX_BYTES = 16 * 1024; // 16 KiB, of a document
const MAX_FILTERS = 50;
const MAX_METADATA = 20;
const MAX_GRACE_SECONDS = 7 * 24 * 60 * 60; // 7 days
const MIN_PER_SECOND = 0.01; // one attempt in 100 s
const MAX_PER_SECOND = 10_000;
const MAX_BURST = 10_000;

/** What a backend says about an endpoint. In all settings but the URL, null is the default: in a change, it clears the setting. */
export interface EndpointSettings {
  /** http or https, without user name and password; at most 2,048 characters. */
  readonly url: string;
  /** At most 256 characters. */
  readonly description?: string | null | undefined;
  /** 1 to 50 event types, or `prefix.*` for all that begin with `prefix.`; null, the default, for all. */
  readonly events?: readonly string[] | null | undefined;
  /** The most attempts that it gets; null, the default, for no limit. */
  readonly rateLimit?: RateLimit | null | undefined;
  /**
   * At most 20 headers that each attempt carries, such as `Authorization`; values of at most 1,024 visible ASCII characters, 4 KiB in
   * all. A change replaces them all. Values are sealed like secrets, and may be given sealed.
   */
  readonly headers?: Readonly<Record<string, string>> | null | undefined;
  /** At most 20 of the backend's own notes: names of 1 to 64 characters, values of at most 512. A change replaces them all. */
  readonly metadata?: Readonly<Record<string, string>> | null | undefined;
}

/** Settings that were checked: what was cleared with null is empty. */
export type CheckedSettings = Omit<EndpointSettings, "description" | "headers" | "metadata"> & {
  readonly [name in "description" | "headers" | "metadata"]?: Exclude<EndpointSettings[name], null>;
};

/** The names of {@link EndpointSettings}. */
export const SETTINGS: readonly string[] = [
  "url",
  "description",
  "events",
  "rateLimit",
  "headers",
  "metadata",
] satisfies (keyof EndpointSettings)[];

/** Settings, with headers as they are stored. */
export type StorableSettings = Omit<CheckedSettings, "headers"> & { readonly headers?: StoredHeaders | undefined };

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

const limit = z.strictObject(
  {
    perSecond: z
      .number({ error: "expected a number" })
      .min(MIN_PER_SECOND, { error: `expected a number from ${MIN_PER_SECOND} to ${MAX_PER_SECOND}` })
      .max(MAX_PER_SECOND, { error: `expected a number from ${MIN_PER_SECOND} to ${MAX_PER_SECOND}` }),
    burst: z
      .int({ error: `expected a whole number from 1 to ${MAX_BURST}` })
      .min(1, { error: `expected a whole number from 1 to ${MAX_BURST}` })
      .max(MAX_BURST, { error: `expected a whole number from 1 to ${MAX_BURST}` })
      .optional(),
  },
  { error: "expected null for no limit, or an object with perSecond, and burst or not" },
);

const headers = z
  .record(z.string(), z.string({ error: "expected a string" }), `expected an object of at most ${MAX_HEADERS} strings`)
  .superRefine((given, context) => {
    for (const { name, message } of findHeaderProblems(given, isSealed)) {
      context.addIssue({ code: "custom", message, path: name === undefined ? [] : [name] });
    }
  });

/** A setting that may be missing, and that null makes empty. */
const clearable = <T>(schema: z.ZodType<T>, empty: T) =>
  schema
    .nullable()
    .transform((given) => given ?? empty)
    .optional();

function schemaOf(eventTypes: ReadonlySet<string>) {
  const few = `expected null for all events, or an array of 1 to ${MAX_FILTERS} event types`;
  const pairs = `expected an object of at most ${MAX_METADATA} strings`;
  return z.strictObject(
    {
      url: textOf(2048).refine(isEndpointUrl, {
        error: "expected an http or https URL without user name and password",
      }),
      description: clearable(textOf(256), ""),
      events: z.array(filterOf(eventTypes), few).min(1, few).max(MAX_FILTERS, few).nullable().optional(),
      rateLimit: limit.nullable().optional(),
      headers: clearable(headers, {}),
      metadata: clearable(
        z.record(textOf(64, 1), textOf(512), pairs).refine((given) => Object.keys(given).length <= MAX_METADATA, pairs),
        {},
      ),
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
export function parseSettings(given: unknown, eventTypes: ReadonlySet<string>): CheckedSettings {
  return parse<CheckedSettings>(schemaOf(eventTypes), given);
}

/** Check settings of which some may be missing. @throws UsageError, listing every violation */
export function parseChange(given: unknown, eventTypes: ReadonlySet<string>): Partial<CheckedSettings> {
  return parse<Partial<CheckedSettings>>(schemaOf(eventTypes).partial(), given);
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
  { url, description, events, rateLimit, headers = {}, metadata = {} }: StorableSettings,
  secrets: readonly StoredSecret[],
  createdAt: number,
  nowMs: number,
): EndpointDocument {
  return {
    url,
    ...(description ? { description } : {}),
    events: events ?? null,
    secrets: liveSecrets(secrets, nowMs),
    ...(rateLimit === undefined ? {} : { rateLimit }),
    ...(Object.keys(headers).length > 0 ? { headers } : {}),
    ...(Object.keys(metadata).length > 0 ? { metadata } : {}),
    createdAt,
    updatedAt: nowMs,
  };
}

/** An endpoint's settings with a change. A setting that the change leaves out, or has as undefined, stays. */
export function applyChange(settings: StorableSettings, change: Partial<StorableSettings>): StorableSettings {
  const {
    url = settings.url,
    description = settings.description,
    events = settings.events,
    rateLimit = settings.rateLimit,
    headers = settings.headers,
    metadata = settings.metadata,
  } = change;
  return { url, description, events, rateLimit, headers, metadata };
}

/** Whether two documents differ in time alone. Sealing is randomized: keep the sealed values of what stays the same. */
export function isSameDocument(one: EndpointDocument, other: EndpointDocument): boolean {
  const sorted = <T>(record: Readonly<Record<string, T>> = {}) =>
    Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1));
  const textOf = ({ url, description, events, secrets, rateLimit, headers, metadata }: EndpointDocument) =>
    JSON.stringify([
      url,
      description,
      events,
      secrets.map(({ secret, expiresAt }) => [secret, expiresAt]),
      rateLimit && [rateLimit.perSecond, rateLimit.burst ?? 1],
      sorted(headers).map(([name, { value }]) => [name, value]),
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
