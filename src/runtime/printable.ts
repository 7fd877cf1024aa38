/**
 * Texts from jobs, receivers and requests, made safe to show: in a terminal, in a log and on a page. Pure.
 */

/**
 * What is not seen, and changes what is: controls (C0, DEL, C1), formats (bidirectional overrides and isolates, zero-width
 * characters, tags), line and paragraph separators, halves of surrogate pairs.
 */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]+/gu;

/** The same without C0, which JSON escapes by itself. In JSON they stand within strings only. */
const UNSEEN_IN_JSON = /[\u007f-\u009f\p{Cf}\p{Zl}\p{Zp}]+/gu;

/** Reorder what stands around them: a file name that ends in `exe` can so be read as one that ends in `txt`. */
const BIDI = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]+/g;

/** A text in which everything unseen is written as JSON would escape it: it moves no cursor, hides nothing and fakes no line. */
export function printable(text: unknown): string {
  return String(text).replace(UNSEEN, escapeAll);
}

/** A JSON text with the same meaning that may be printed and pasted: what is unseen in its strings is escaped. */
export function printableJson(json: string): string {
  return json.replace(UNSEEN_IN_JSON, escapeAll);
}

/** A text that reads in the order in which it is stored. All else stays: line breaks, joined emoji. */
export function withoutBidi(text: string): string {
  return text.replace(BIDI, escapeAll);
}

/** `\u202e` for each; two of them for what lies beyond the first plane. */
function escapeAll(characters: string): string {
  let escaped = "";
  for (let at = 0; at < characters.length; at++) {
    escaped += `\\u${characters.charCodeAt(at).toString(16).padStart(4, "0")}`;
  }
  return escaped;
}
