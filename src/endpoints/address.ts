/**
 * Turns a registered endpoint into what an event is sent to.
 */
import { ContractError, openSecret } from "../delivery/contract.ts";
import { parseUrl } from "../delivery/endpoint-url.ts";
import type { WebhookEvent } from "../delivery/request.ts";
import { isSealed, openSealed } from "../delivery/seal.ts";
import type { StoredEndpoint, StoredSecret } from "../registry/endpoint.ts";
import { buildHeaderLines, findHeaderProblems, type StoredHeaders } from "../registry/headers.ts";

// Kept as long as the lookup keeps the endpoint.
const steady = new WeakMap<StoredEndpoint, WebhookEvent["endpoint"]>(); // of those whose secrets all sign until they are changed
const opened = new WeakMap<StoredSecret, string>();
const lines = new WeakMap<StoredHeaders, string>();

/**
 * Where an event of this endpoint goes, with the headers that it wants, and the secrets that sign it now, current first.
 *
 * @param keys   that open sealed secrets, current first
 * @param nowMs  epoch ms
 * @throws  ContractError when the endpoint is damaged, or a header or a secret that still signs cannot be opened; it never holds them
 */
export function addressOf(
  endpoint: StoredEndpoint,
  userId: string,
  keys: readonly Uint8Array[],
  nowMs: number,
): WebhookEvent["endpoint"] {
  const known = steady.get(endpoint);
  if (known !== undefined) return known;
  const address = buildAddress(endpoint, userId, keys, nowMs);
  if (endpoint.document.secrets.every(({ expiresAt }) => expiresAt === undefined)) steady.set(endpoint, address);
  return address;
}

function buildAddress(
  { id, document: { url, secrets, headers }, isDamaged }: StoredEndpoint,
  userId: string,
  keys: readonly Uint8Array[],
  nowMs: number,
): WebhookEvent["endpoint"] {
  if (isDamaged) fail(id, "what is stored of it is damaged: put it anew, or delete it");
  const live = secrets.filter(({ expiresAt }) => expiresAt === undefined || expiresAt > nowMs);
  if (live.length === 0) fail(id, "it has no secret that signs now: rotate it"); // nobody writes such a document
  const texts = live.map((secret, index) => {
    const known = opened.get(secret);
    if (known !== undefined) return known;
    const text = openSecret(secret.secret, keys, userId, `endpoint ${id}: secret ${index}`);
    opened.set(secret, text);
    return text;
  });
  const address = { id, url: parseUrl(url) as URL, secrets: texts as [string, ...string[]] };
  return headers === undefined ? address : { ...address, headers: linesOf(id, headers, userId, keys) };
}

function linesOf(id: string, headers: StoredHeaders, userId: string, keys: readonly Uint8Array[]): string {
  const known = lines.get(headers);
  if (known !== undefined) return known;
  const values = Object.fromEntries(
    Object.entries(headers).map(([name, { value }]) => {
      const text = isSealed(value) ? openSealed(value, keys, userId) : value;
      if (text === undefined) fail(id, `header ${name}: sealed with another key or for another user, or damaged`);
      return [name, text];
    }),
  );
  // Again: a value that came sealed was not seen before, and a line break would inject another header.
  const [problem] = findHeaderProblems(values, () => false);
  if (problem !== undefined) fail(id, `header ${problem.name ?? ""}: ${problem.message}`);
  const text = buildHeaderLines(values);
  lines.set(headers, text);
  return text;
}

function fail(id: string, message: string): never {
  throw new ContractError([], `endpoint ${id}: ${message}`);
}
