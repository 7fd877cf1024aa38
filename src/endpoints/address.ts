/**
 * Turns a registered endpoint into what an event is sent to.
 */
import { openSecret } from "../delivery/contract.ts";
import { parseUrl } from "../delivery/endpoint-url.ts";
import type { WebhookEvent } from "../delivery/request.ts";
import type { StoredEndpoint, StoredSecret } from "./endpoint.ts";

const opened = new WeakMap<StoredSecret, string>(); // kept as long as the lookup keeps the endpoint

/**
 * Where an event of this endpoint goes, and the secrets that sign it now, current first.
 *
 * @param keys   that open sealed secrets, current first
 * @param nowMs  epoch ms
 * @throws  ContractError when a secret that still signs cannot be opened; it never holds the secret
 */
export function addressOf(
  { id, document: { url, secrets } }: StoredEndpoint,
  userId: string,
  keys: readonly Uint8Array[],
  nowMs: number,
): WebhookEvent["endpoint"] {
  const live = secrets.filter(({ expiresAt }) => expiresAt === undefined || expiresAt > nowMs);
  const texts = live.map((secret, index) => {
    const known = opened.get(secret);
    if (known !== undefined) return known;
    const text = openSecret(secret.secret, keys, userId, `endpoint ${id}: secret ${index}`);
    opened.set(secret, text);
    return text;
  });
  return { id, url: parseUrl(url) as URL, secrets: texts as [string, ...string[]] };
}
