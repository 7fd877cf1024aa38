/**
 * Makes text from jobs, receivers and requests safe to show in terminals, logs and pages. Pure.
 */

/**
 * Invisible characters: controls (C0, DEL, C1), formats (bidirectional overrides and isolates, zero-width characters, tags),
 * line and paragraph separators, lone surrogates.
 */
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]+/gu;

/** The same without C0, which JSON already escapes. In JSON they occur only inside strings. */
const INVISIBLE_IN_JSON = /[\u007f-\u009f\p{Cf}\p{Zl}\p{Zp}]+/gu;

/** Bidirectional controls reorder the text around them: a file name ending in `exe` can be made to look like `txt`. */
const BIDI = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]+/g;

/** Escape all invisible characters as JSON does, so that text cannot move the cursor, hide anything or fake a line. */
export function printable(text: unknown): string {
  return String(text).replace(INVISIBLE, escapeAll);
}

/** The same for text of several lines: line breaks and tabs stay. */
export function printableLines(text: string): string {
  return text
    .split(/\r?\n/)
    .map((line) => line.split("\t").map(printable).join("\t"))
    .join("\n");
}

/** Escape invisible characters in JSON text, without changing its meaning. */
export function printableJson(json: string): string {
  return json.replace(INVISIBLE_IN_JSON, escapeAll);
}

/** Escape only bidirectional controls; line breaks and joined emoji stay. */
export function withoutBidi(text: string): string {
  return text.replace(BIDI, escapeAll);
}

/** For text that begins a sentence. */
export const capitalize = (text: string): string => text.replace(/^./, (letter) => letter.toUpperCase());

/** `\u202e` for each UTF-16 code unit. */
function escapeAll(characters: string): string {
  let escaped = "";
  for (let at = 0; at < characters.length; at++) {
    escaped += `\\u${characters.charCodeAt(at).toString(16).padStart(4, "0")}`;
  }
  return escaped;
}
