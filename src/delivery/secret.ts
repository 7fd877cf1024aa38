/**
 * What may stand where a secret stands, plain or sealed, and what is wrong with what may not.
 *
 * An event is signed with exactly the text that was given. A blank, a quote or another spelling of a prefix therefore
 * never fails by itself: it makes a signature that no customer can verify. So whatever looks like such a slip is refused,
 * and what looks sealed but cannot be opened is never taken for a key.
 */
import { isSecret } from "./signature.ts";

/** What a sealed secret begins with. */
export const SEALED_PREFIX = "sealed:v1:";

/** The longest plain secret, in characters. */
export const MAX_SECRET = 1024;
/** The longest sealed one, in characters: see seal.ts. */
export const MAX_SEALED = 4_200;
const SEALED = /^sealed:v1:[\w+/-]{38,}={0,2}$/; // 38 digits: nonce and tag, around nothing

type Rule = readonly [slip: RegExp, reason: string];

const WHSEC = "expected whsec_ at its beginning and nowhere else, in just this spelling";

/** Every text that a rule below could fit, and some more: the contract is checked on each attempt, and most secrets end here. */
const SUSPECT = /[^ -~]|^[^a-z\d]|[ "'`]$|^v\d|^wh|^[bru]{1,2}["'`]|whsec|sealed/i;

/** Slips in the text as it stands. The first that fits is told, here and below. */
const CHARACTERS: readonly Rule[] = [
  [/^[^\S\ufeff]|[^\S\ufeff]$/, "expected no blank or line break at its ends: trim it"],
  [
    // Between other characters, U+200C and U+200D join and part letters, and emoji.
    /[\p{Cc}\p{Zl}\p{Zp}\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]|^[\u200c\u200d]|[\u200c\u200d]$/u,
    "expected no control or invisible character, a byte order mark for example: take it out",
  ],
  [/[\p{Cs}\ufffd]/u, "expected valid Unicode: it was decoded from bytes that are no text, or cut inside a character"],
];

/** Slips behind a prefix that is right. */
const PREFIXED: readonly Rule[] = [
  [/^whsec_.*whsec_/i, WHSEC],
  [/^whsec_(?=.*[-_])[\w-]+={0,2}$/, "expected base64 after whsec_, got base64url: write + for -, and / for _"],
  [/^whsec_[A-Za-z0-9+/]+$/, "expected base64 after whsec_, whole and with the = at its end"],
  [/^whsec_/, "expected base64 after whsec_"],
  [/^sealed:v1:[\w+/-]*={0,2}$/, "expected a sealed secret whole: this one is cut off"],
  [/^sealed:v1:/, "expected base64url after sealed:v1:, and nothing behind it"],
];

/** What is nearly a prefix, or stands around it. Full-width letters count as the plain ones. */
const NEARLY: readonly Rule[] = [
  [/^(?:\\+|[bru]{1,2})?["'`“”„‘’‚«»‹›].*["'`“”„‘’‚«»‹›]$/i, "expected no quotes around it: leave them out"],
  [/^[\W_]*v\d+a?[\W_]+wh[\W_]*sec/i, "expected whsec_ at its beginning: take away the v1, before it"],
  [/whsec_|^[\W_]*wh[\W_]*sec(?:[\W_]|$)/i, WHSEC],
  [
    /^[\W_]*sealed(?:\s*(?::|%3a)|[\W_]*v\d)|sealed\s*(?::|%3a)\s*v\d/i,
    "expected a sealed secret to be sealed:v1: and base64url, with nothing around it",
  ],
];

/** Whether a text is a sealed secret, in the one form that is known. Whether it opens, the key decides. */
export function isSealed(text: string): boolean {
  return SEALED.test(text);
}

/**
 * What is wrong with a secret, plain or sealed.
 *
 * @returns the first thing, and what to do about it: "expected no quotes around it: leave them out". Never shows the
 *          secret. Undefined when it may be used
 * @throws  never
 */
export function secretProblem(text: unknown): string | undefined {
  if (typeof text !== "string") return "expected a string";
  if (text === "") return "expected a non-empty string";
  const tooLong = `expected at most ${MAX_SECRET} characters`;
  if (isSealed(text))
    return text.length <= MAX_SEALED ? undefined : `expected at most ${MAX_SEALED} characters, sealed`;
  if (text.length > MAX_SEALED) return tooLong;
  return findSlip(text) ?? (text.length <= MAX_SECRET ? undefined : tooLong);
}

/** The same for one that is to be sealed, or was opened: sealed twice is a slip as well. */
export function plainSecretProblem(text: unknown): string | undefined {
  if (typeof text === "string" && isSealed(text)) return "expected a plain secret: this one is sealed already";
  return secretProblem(text);
}

function findSlip(text: string): string | undefined {
  if (!SUSPECT.test(text) || (text.startsWith("whsec_") && isSecret(text))) return undefined;
  const plain = /^[ -~]*$/.test(text) ? text : text.normalize("NFKC");
  return firstOf(CHARACTERS, text) ?? firstOf(PREFIXED, text) ?? firstOf(NEARLY, plain);
}

function firstOf(rules: readonly Rule[], text: string): string | undefined {
  return rules.find(([slip]) => slip.test(text))?.[1];
}

const AROUND = String.raw`(?:[\s\p{Cc}\u00ad\u200b-\u200f\u2060\ufeff"'\x60“”„‘’«»]|v1,)+`;
const LEADING = new RegExp(`^${AROUND}`, "u");
const TRAILING = new RegExp(`${AROUND}$`, "u");

/** A text without what slips in around a secret: blanks, invisible characters, quotes, `v1,`. To find out whether that was it. */
export function bareSecret(text: string): string {
  return text.replace(LEADING, "").replace(TRAILING, "");
}
