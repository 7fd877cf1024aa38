/**
 * Sealed secrets: a producer puts an encrypted secret into the job, which only the worker can decrypt.
 *
 * Format: `sealed:v1:` + base64url of nonce (12 bytes), ciphertext, tag (16 bytes); AES-256-GCM. The user's id is authenticated
 * (AAD), so that a sealed secret copied into another user's job does not open.
 */
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { invariant } from "../runtime/invariant.ts";
import { UsageError } from "../runtime/usage-error.ts";
import { isSealed, MAX_SEALED, MAX_SECRET, SEALED_PREFIX as PREFIX, plainSecretProblem } from "./secret.ts";

export { isSealed };

const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const LARGEST_BYTES = NONCE_BYTES + 3 * MAX_SECRET + TAG_BYTES; // a UTF-16 code unit takes at most three bytes in UTF-8

invariant(PREFIX.length + (LARGEST_BYTES * 4) / 3 <= MAX_SEALED, "the longest secret to fit, sealed");

/** Create a random key in base64, for `WEBHOOK_SECRET_KEYS`. */
export function createKey(): string {
  return randomBytes(KEY_BYTES).toString("base64");
}

/**
 * Seal a secret for one user.
 *
 * @param key  32 bytes, raw or in base64: the first of `WEBHOOK_SECRET_KEYS`
 * @returns a string that differs each time
 * @throws  UsageError when the key is not 32 bytes, or when the worker would refuse the secret, with the reason
 */
export function seal(secret: string, key: string | Uint8Array, userId: string): string {
  const problem = plainSecretProblem(secret);
  if (problem !== undefined) throw new UsageError(`the secret to seal: ${problem}`);
  return sealText(secret, key, userId);
}

/** Seal any other text for one user. @throws UsageError when the key is not 32 bytes */
export function sealText(text: string, key: string | Uint8Array, userId: string): string {
  if (typeof userId !== "string") throw new UsageError("expected userId to be a string");
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv("aes-256-gcm", keyBytes(key), nonce);
  cipher.setAAD(boundTo(userId));
  return (
    PREFIX +
    Buffer.concat([nonce, cipher.update(text, "utf8"), cipher.final(), cipher.getAuthTag()]).toString("base64url")
  );
}

/**
 * Open a sealed secret with the first key that fits.
 *
 * @returns undefined when none does: sealed with another key or for another user, tampered with, or truncated
 * @throws  UsageError when a key is not 32 bytes
 */
export function openSealed(sealed: string, keys: readonly (string | Uint8Array)[], userId: string): string | undefined {
  const bytes = Buffer.from(sealed.slice(PREFIX.length), "base64url");
  if (!isSealed(sealed) || bytes.length < NONCE_BYTES + TAG_BYTES) return undefined;
  for (const key of keys) {
    const decipher = createDecipheriv("aes-256-gcm", keyBytes(key), bytes.subarray(0, NONCE_BYTES));
    decipher.setAAD(boundTo(userId));
    decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
    try {
      return decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES), undefined, "utf8") + decipher.final("utf8");
    } catch {
      // Authentication failed, the only possible error here: try the next key.
    }
  }
  return undefined;
}

function boundTo(userId: string): Buffer {
  return Buffer.from(`fluxhook:${PREFIX}${userId}`, "utf8");
}

function keyBytes(key: string | Uint8Array): Uint8Array {
  const bytes = typeof key === "string" ? Buffer.from(key, "base64") : key;
  if (bytes instanceof Uint8Array && bytes.length === KEY_BYTES) return bytes;
  throw new UsageError(`a sealing key must be ${KEY_BYTES} bytes, got ${bytes?.length ?? "none"}`);
}
