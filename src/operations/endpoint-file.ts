/**
 * Files of endpoints: one a line, as JSON, with all that it takes to register it again.
 *
 * Fields: `user`, `id`, `url`, `description`, `events`, `rate_limit` (`per_second`, `burst`), `headers` (sealed values), `metadata`, `state`
 * (`kind`, `reason`), `secrets` (each `secret`, sealed, `created_at`, `expires_at`; current first), `created_at`, `updated_at`. Times are
 * ISO 8601. In a file written by hand all may be left out but `user`, `id` and `url`; `state` may be its kind alone, and a single
 * `secret` may stand for `secrets`.
 */

import { isSealed } from "../delivery/seal.ts";
import { secretProblem } from "../delivery/secret.ts";
import { type CheckedSettings, checkEndpointId, checkUserId, parseSettings } from "../registry/document.ts";
import type { DisabledReason, EndpointState, RateLimit, StoredEndpoint, StoredSecret } from "../registry/endpoint.ts";
import { UsageError } from "../runtime/usage-error.ts";

/** A secret in a file. Times are epoch ms. */
export interface FiledSecret {
  readonly secret: string;
  readonly createdAt?: number | undefined;
  readonly expiresAt?: number | undefined;
}

/** An endpoint in a file. What is undefined is left as it is. */
export interface FiledEndpoint {
  readonly userId: string;
  readonly id: string;
  readonly settings: CheckedSettings;
  readonly state?: { readonly kind: EndpointState["kind"]; readonly reason?: DisabledReason | undefined } | undefined;
  /** Current first. */
  readonly secrets?: readonly FiledSecret[] | undefined;
  /** Epoch ms. */
  readonly createdAt?: number | undefined;
}

/** The endpoints of a file, and what is wrong with the others: sentences without secrets, beginning with the line's number. */
export interface ParsedFile {
  readonly endpoints: readonly FiledEndpoint[];
  readonly problems: readonly string[];
}

const MAX_SECRETS = 5;
const FIELDS: ReadonlySet<string> = new Set([
  ...["user", "id", "url", "description", "events", "rate_limit", "headers", "metadata"],
  ...["state", "secret", "secrets", "created_at", "updated_at"],
]);
const KINDS = ["enabled", "paused", "disabled"];
const REASONS = ["manual", "gone", "failing"];

/** Parse a file. Empty lines are skipped. Never throws. */
export function parseEndpointFile(text: string, eventTypes: ReadonlySet<string>): ParsedFile {
  const endpoints: FiledEndpoint[] = [];
  const problems: string[] = [];
  const seen = new Map<string, number>();
  for (const [index, line] of text
    .replace(/^\ufeff/, "")
    .split(/\r?\n/)
    .entries()) {
    if (line.trim() === "") continue;
    try {
      const endpoint = parseLine(line, eventTypes);
      const name = `${endpoint.userId} ${endpoint.id}`;
      const before = seen.get(name);
      if (before !== undefined) throw new UsageError(`the same endpoint as in line ${before}`);
      seen.set(name, index + 1);
      endpoints.push(endpoint);
    } catch (error) {
      const { message } = error as Error;
      problems.push(...message.split("; ").map((problem) => `line ${index + 1}: ${problem}`));
    }
  }
  return { endpoints, problems };
}

type Fields = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** @throws UsageError with all that is wrong */
function parseLine(line: string, eventTypes: ReadonlySet<string>): FiledEndpoint {
  const fields = parseFields(line);
  const problems: string[] = [];
  const attempt = <T>(run: () => T): T | undefined => {
    try {
      return run();
    } catch (error) {
      problems.push((error as Error).message);
      return undefined;
    }
  };
  const unknown = Object.keys(fields).filter((name) => !FIELDS.has(name));
  if (unknown.length > 0) problems.push(`${unknown.join(", ")}: expected only ${[...FIELDS].join(", ")}`);
  const { user, id } = fields;
  attempt(() => checkUserId(user));
  attempt(() => checkEndpointId(id));
  const settings = attempt(() => parseSettings(settingsOf(fields), eventTypes));
  const state = attempt(() => parseState(fields.state));
  const secrets = attempt(() => parseSecrets(fields));
  const createdAt = attempt(() => parseTime(fields.created_at, "created_at"));
  if (problems.length > 0 || settings === undefined) throw new UsageError(problems.join("; "));
  return { userId: user as string, id: id as string, settings, state, secrets, createdAt };
}

function parseFields(line: string): Fields {
  try {
    const fields: unknown = JSON.parse(line);
    if (isObject(fields)) return fields;
  } catch {
    // a parser's message may quote a secret
  }
  throw new UsageError("expected a JSON object");
}

function settingsOf({ url, description, events, rate_limit: limit, headers, metadata }: Fields): unknown {
  const rateLimit = isObject(limit)
    ? Object.fromEntries(
        Object.entries(limit).map(([name, value]) => [name === "per_second" ? "perSecond" : name, value]),
      )
    : limit;
  return { url, description, events, rateLimit, headers, metadata };
}

function parseState(state: unknown): FiledEndpoint["state"] {
  if (state === undefined) return undefined;
  const { kind, reason } = isObject(state) ? state : { kind: state, reason: undefined };
  if (!KINDS.includes(kind as string)) throw new UsageError(`state: expected one of ${KINDS.join(", ")}`);
  if ((reason ?? null) !== null && !REASONS.includes(reason as string)) {
    throw new UsageError(`state.reason: expected one of ${REASONS.join(", ")}`);
  }
  return { kind: kind as "paused", reason: (reason as DisabledReason | null) ?? undefined };
}

function parseSecrets({ secret, secrets }: Fields): FiledSecret[] | undefined {
  if (secret !== undefined && secrets !== undefined) throw new UsageError("expected secret or secrets, not both");
  if (secret !== undefined) return [{ secret: checkSecret(secret, "secret") }];
  if (secrets === undefined || (Array.isArray(secrets) && secrets.length === 0)) return undefined;
  if (!Array.isArray(secrets) || secrets.length > MAX_SECRETS) {
    throw new UsageError(`secrets: expected an array of at most ${MAX_SECRETS}`);
  }
  return secrets.map((one: unknown, index) => {
    const { secret, created_at, expires_at } = isObject(one) ? one : { secret: one };
    const name = `secrets.${index}`;
    return {
      secret: checkSecret(secret, name),
      createdAt: parseTime(created_at, `${name}.created_at`),
      expiresAt: parseTime(expires_at, `${name}.expires_at`),
    };
  });
}

function checkSecret(secret: unknown, name: string): string {
  const problem = secretProblem(secret);
  if (problem !== undefined) throw new UsageError(`${name}: ${problem}`);
  return secret as string;
}

function parseTime(value: unknown, name: string): number | undefined {
  if ((value ?? null) === null) return undefined;
  const time = typeof value === "string" && /^\d{4}-\d\d-\d\dT/.test(value) ? Date.parse(value) : Number.NaN;
  if (Number.isNaN(time) || time < 0) throw new UsageError(`${name}: expected a time in ISO 8601`);
  return time;
}

/** An endpoint's line, and how many of its secrets were left out of it. */
export interface FormattedEndpoint {
  readonly line: object;
  readonly omitted: number;
}

/** Write an endpoint's line. @param withPlain  with secrets and headers that are stored unsealed; they are left out otherwise */
export function formatEndpoint(
  userId: string,
  { id, document, state }: StoredEndpoint,
  withPlain: boolean,
): FormattedEndpoint {
  const isKept = (text: string) => withPlain || isSealed(text);
  const { url, description = "", events, rateLimit, metadata = {} } = document;
  const headers = Object.entries(document.headers ?? {}).map(([name, { value }]) => [name, value] as const);
  const keptHeaders = headers.filter(([, value]) => isKept(value));
  const secrets = document.secrets.filter(({ secret }) => isKept(secret));
  const line = {
    ...{ user: userId, id, url, description, events, rate_limit: limitOf(rateLimit ?? null) },
    ...{ headers: Object.fromEntries(keptHeaders), metadata, state: stateOf(state), secrets: secrets.map(secretOf) },
    ...{ created_at: isoOf(document.createdAt), updated_at: isoOf(document.updatedAt) },
  };
  return { line, omitted: headers.length - keptHeaders.length + document.secrets.length - secrets.length };
}

const isoOf = (ms: number): string => new Date(ms).toISOString();

const limitOf = (limit: RateLimit | null) =>
  limit && { per_second: limit.perSecond, ...(limit.burst !== undefined && { burst: limit.burst }) };

const stateOf = (state: EndpointState) => ({
  kind: state.kind,
  ...(state.kind === "disabled" && { reason: state.reason }),
});

const secretOf = ({ secret, createdAt, expiresAt }: StoredSecret) => ({
  ...{ secret, created_at: isoOf(createdAt) },
  ...(expiresAt !== undefined && { expires_at: isoOf(expiresAt) }),
});
