/**
 * Secrets of registered endpoints: made, sealed for the registry, and rotated.
 */
import { randomBytes } from "node:crypto";
import { isSealed, openSealed, seal, sealText } from "../delivery/seal.ts";
import { secretProblem } from "../delivery/secret.ts";
import { UsageError } from "../runtime/usage-error.ts";
import type { StoredSecret } from "./endpoint.ts";
import { endOf, findHeaderProblems, type StoredHeader, type StoredHeaders } from "./headers.ts";
import { LimitError } from "./refusals.ts";

const SECRET_BYTES = 32;
/** The most secrets of an endpoint that sign at the same time. */
export const MAX_LIVE_SECRETS = 5;

/** How an installation keeps secrets. */
export interface SecretKeeping {
  /** Keys in base64 or raw, as in `WEBHOOK_SECRET_KEYS`: the first one seals. */
  readonly secretKeys: readonly (string | Uint8Array)[];
  /** Whether secrets may be stored unsealed when there is no key. */
  readonly allowPlain: boolean;
}

/** Make a random secret: `whsec_` and 32 bytes in base64. */
export function createSecret(): string {
  return `whsec_${randomBytes(SECRET_BYTES).toString("base64")}`;
}

/**
 * A secret as the registry stores it. One that is sealed already stays as it is.
 *
 * @throws  UsageError when it is no secret, or when there is no key to seal it with and plain ones are not allowed
 */
export function sealForStorage(secret: unknown, userId: string, { secretKeys, allowPlain }: SecretKeeping): string {
  const problem = secretProblem(secret);
  if (problem !== undefined) throw new UsageError(`secret: ${problem}`);
  const text = secret as string;
  const [key] = secretKeys;
  if (isSealed(text) || (key === undefined && allowPlain)) return text;
  return seal(text, key ?? refuseUnsealed("secret"), userId);
}

function refuseUnsealed(field: string): never {
  throw new UsageError(
    `${field}: expected a key to seal it with before it is stored: set WEBHOOK_SECRET_KEYS, or sealingKey in the package; ` +
      "to store it unsealed in a test, WEBHOOK_ALLOW_PLAIN=1, or allowPlainSecrets",
  );
}

/**
 * Headers as the registry stores them. Those that have their value already stay as they are: sealing is randomized. Values that are
 * sealed already are opened, if there is a key, to be checked.
 *
 * @throws  UsageError when there is no key to seal a value with and plain ones are not allowed, or when a sealed one holds no value
 */
export function sealHeaders(
  given: Readonly<Record<string, string>>,
  present: StoredHeaders | undefined,
  userId: string,
  { secretKeys, allowPlain }: SecretKeeping,
): StoredHeaders {
  const open = (text: string) => (isSealed(text) ? openSealed(text, secretKeys, userId) : text);
  const plain = Object.fromEntries(Object.entries(given).map(([name, value]) => [name, open(value) ?? value]));
  const [problem] = findHeaderProblems(plain, isSealed);
  if (problem !== undefined) {
    throw new UsageError(`headers${problem.name === undefined ? "" : `.${problem.name}`}: ${problem.message}`);
  }
  const [key] = secretKeys;
  const keep = (name: string, value: string): StoredHeader => {
    const known = present !== undefined && Object.hasOwn(present, name) ? present[name] : undefined;
    const text = plain[name] as string;
    if (known !== undefined && (known.value === value || (open(known.value) ?? known.value) === text)) return known;
    const isKept = isSealed(value) || (key === undefined && allowPlain);
    const stored = isKept ? value : sealText(text, key ?? refuseUnsealed(`headers.${name}`), userId);
    const end = isSealed(text) ? undefined : endOf(text);
    return end === undefined ? { value: stored } : { value: stored, end };
  };
  return Object.fromEntries(Object.entries(given).map(([name, value]) => [name, keep(name, value)]));
}

/** Whether a stored secret is this one, given plain or sealed. A sealed one that no key opens is compared as it is. */
export function isSameSecret(stored: string, given: string, userId: string, keeping: SecretKeeping): boolean {
  const open = (text: string) => (isSealed(text) ? openSealed(text, keeping.secretKeys, userId) : text) ?? text;
  return stored === given || open(stored) === open(given);
}

/** The secrets that sign now, current first. */
export function liveSecrets(secrets: readonly StoredSecret[], nowMs: number): StoredSecret[] {
  return secrets.filter(({ expiresAt }) => expiresAt === undefined || expiresAt > nowMs);
}

/**
 * Put a new secret first. The others sign for another `graceMs` at the most; those that no longer sign are dropped.
 *
 * @param sealed  as it is stored
 * @throws  LimitError when more than {@link MAX_LIVE_SECRETS} would sign
 */
export function rotateSecrets(
  secrets: readonly StoredSecret[],
  sealed: string,
  nowMs: number,
  graceMs: number,
): StoredSecret[] {
  const others = secrets.filter(({ secret }) => secret !== sealed);
  const ending = others.map((old) => ({ ...old, expiresAt: Math.min(old.expiresAt ?? Infinity, nowMs + graceMs) }));
  const rotated = [{ secret: sealed, createdAt: nowMs }, ...liveSecrets(ending, nowMs)];
  if (rotated.length <= MAX_LIVE_SECRETS) return rotated;
  throw new LimitError(
    `expected at most ${MAX_LIVE_SECRETS} secrets that still sign: wait until one has expired, or rotate with graceSeconds: 0`,
  );
}
