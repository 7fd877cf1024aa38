/**
 * Validates secrets, plain or sealed, and explains what is wrong with an invalid one.
 *
 * An event is signed with exactly the string that was given. A stray space, a quote or a misspelled prefix therefore causes no
 * error, but a signature that no customer can verify. So anything that looks like such a mistake is rejected, and a string that
 * looks sealed but cannot be opened is never used as a key.
 */
import { isSecret } from "./signature.ts";

/** The prefix of a sealed secret. */
export const SEALED_PREFIX = "sealed:v1:";

/** The maximum length of a plain secret, in characters. */
export const MAX_SECRET = 1024;
/** The maximum length of a sealed secret, in characters; seal.ts asserts that it is enough. */
export const MAX_SEALED = 4_200;
const SEALED = /^sealed:v1:[\w+/-]{38,}={0,2}$/; // 38 digits: nonce and tag of an empty secret

type Rule = readonly [mistake: RegExp, reason: string];

const WHSEC = "expected whsec_ at its beginning and nowhere else, in just this spelling";

/** A fast first check that matches whatever a rule below could match: secrets are checked on each attempt, and most are fine. */
const SUSPECT = /[^ -~]|^[^a-z\d]|[ "'`]$|^v\d|^wh|^[bru]{1,2}["'`]|whsec|sealed/i;

/** Mistakes in the characters of the secret. Here and below, the first matching rule is reported. */
const CHARACTERS: readonly Rule[] = [
  [/^[^\S\ufeff]|[^\S\ufeff]$/, "expected no blank or line break at its ends: trim it"],
  [
    // U+200C and U+200D are allowed between other characters: they control how letters and emoji join.
    /[\p{Cc}\p{Zl}\p{Zp}\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]|^[\u200c\u200d]|[\u200c\u200d]$/u,
    "expected no control or invisible character, a byte order mark for example: take it out",
  ],
  [/[\p{Cs}\ufffd]/u, "expected valid Unicode: it was decoded from bytes that are no text, or cut inside a character"],
];

/** Mistakes after a correct prefix. */
const PREFIXED: readonly Rule[] = [
  [/^whsec_.*whsec_/i, WHSEC],
  [/^whsec_(?=.*[-_])[\w-]+={0,2}$/, "expected base64 after whsec_, got base64url: write + for -, and / for _"],
  [/^whsec_[A-Za-z0-9+/]+$/, "expected base64 after whsec_, whole and with the = at its end"],
  [/^whsec_/, "expected base64 after whsec_"],
  [/^sealed:v1:[\w+/-]*={0,2}$/, "expected a sealed secret whole: this one is cut off"],
  [/^sealed:v1:/, "expected base64url after sealed:v1:, and nothing behind it"],
];

/** Mistakes in or around the prefix. Full-width letters count as plain ones. */
const NEARLY: readonly Rule[] = [
  [/^(?:\\+|[bru]{1,2})?["'`“”„‘’‚«»‹›].*["'`“”„‘’‚«»‹›]$/i, "expected no quotes around it: leave them out"],
  [/^[\W_]*v\d+a?[\W_]+wh[\W_]*sec/i, "expected whsec_ at its beginning: take away the v1, before it"],
  [/whsec_|^[\W_]*wh[\W_]*sec(?:[\W_]|$)/i, WHSEC],
  [
    /^[\W_]*sealed(?:\s*(?::|%3a)|[\W_]*v\d)|sealed\s*(?::|%3a)\s*v\d/i,
    "expected a sealed secret to be sealed:v1: and base64url, with nothing around it",
  ],
];

/** Whether a string has the format of a sealed secret. It may still not open. */
export function isSealed(text: string): boolean {
  return SEALED.test(text);
}

/**
 * Explain what is wrong with a secret, plain or sealed.
 *
 * @returns the first problem and how to fix it: "expected no quotes around it: leave them out". Never includes the secret.
 *          Undefined when it is valid
 * @throws  never
 */
export function secretProblem(text: unknown): string | undefined {
  if (typeof text !== "string") return "expected a string";
  if (text === "") return "expected a non-empty string";
  const tooLong = `expected at most ${MAX_SECRET} characters`;
  if (isSealed(text))
    return text.length <= MAX_SEALED ? undefined : `expected at most ${MAX_SEALED} characters, sealed`;
  if (text.length > MAX_SEALED) return tooLong;
  return findMistake(text) ?? (text.length <= MAX_SECRET ? undefined : tooLong);
}

/** The same for a secret before sealing, or after opening: it must not be sealed itself. */
export function plainSecretProblem(text: unknown): string | undefined {
  if (typeof text === "string" && isSealed(text)) return "expected a plain secret: this one is sealed already";
  return secretProblem(text);
}

function findMistake(text: string): string | undefined {
  if (!SUSPECT.test(text) || (text.startsWith("whsec_") && isSecret(text))) return undefined;
  const plain = /^[ -~]*$/.test(text) ? text : text.normalize("NFKC");
  return firstOf(CHARACTERS, text) ?? firstOf(PREFIXED, text) ?? firstOf(NEARLY, plain);
}

function firstOf(rules: readonly Rule[], text: string): string | undefined {
  return rules.find(([mistake]) => mistake.test(text))?.[1];
}

const AROUND = String.raw`(?:[\s\p{Cc}\u00ad\u200b-\u200f\u2060\ufeff"'\x60“”„‘’«»]|v1,)+`;
const LEADING = new RegExp(`^${AROUND}`, "u");
const TRAILING = new RegExp(`${AROUND}$`, "u");

/** Strip what is pasted along with a secret by mistake: whitespace, invisible characters, quotes, `v1,`. For diagnosis only. */
export function bareSecret(text: string): string {
  return text.replace(LEADING, "").replace(TRAILING, "");
}
