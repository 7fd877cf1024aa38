/**
 * Masks secrets inside text: values assigned to the word `secret`, and credentials and queries of URLs. The text is untrusted,
 * so everything here runs in linear time: no pattern may scan the rest of the text from each position. Pure.
 */

/** The replacement for secrets. */
export const MASK = "***";

const SECRET = /\bsecrets?/gi;
const SIGN = /\\*["']?\s*[:=]\s*/y; // between the word and its value
const SLASHES = /\\*/y;
const BARE = /[^\s"'[\\,;&]+/y; // an unquoted value

/**
 * Mask `secret: "…"`, `"secret":["…"]`, `\"secret\":\"…\"` and `secret=…`, even if truncated. Prose such as
 * `data.endpoint.secret: expected a string` stays.
 */
export function maskAssignments(text: string): string {
  let masked = "";
  let copied = 0;
  SECRET.lastIndex = 0;
  for (let word = SECRET.exec(text); word !== null; word = SECRET.exec(text)) {
    const from = endOf(SIGN, text, SECRET.lastIndex);
    const end = from === undefined ? undefined : endOfValue(text, from);
    if (from === undefined || end === undefined) continue;
    const slashes = text.slice(from, endOf(SLASHES, text, from));
    masked += `${text.slice(copied, from)}${slashes}"${MASK}${slashes}"`;
    copied = end;
    SECRET.lastIndex = end;
  }
  return masked + text.slice(copied);
}

/** The end of a pattern's match at a position; undefined if it does not match there. */
function endOf(pattern: RegExp, text: string, at: number): number | undefined {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : undefined;
}

/** The end of the value at a position; undefined if there is none. Unclosed values extend to the end of the text. */
function endOfValue(text: string, at: number): number | undefined {
  const first = text[at];
  if (first === '"' || first === "'") return endOfQuoted(text, at + 1, first);
  if (first === "[") return endOfList(text, at + 1);
  if (first === "\\") {
    const quote = endOf(SLASHES, text, at) as number;
    return text[quote] === '"' ? endOfEscaped(text, quote + 1, quote - at) : undefined;
  }
  return text[at - 1] === "=" ? endOf(BARE, text, at) : undefined;
}

function endOfQuoted(text: string, from: number, quote: string): number {
  for (let at = from; at < text.length; at++) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === quote) return at + 1;
  }
  return text.length;
}

function endOfList(text: string, from: number): number {
  for (let at = from; at < text.length; ) {
    if (text[at] === "]") return at + 1;
    at = text[at] === '"' ? endOfQuoted(text, at + 1, '"') : at + 1;
  }
  return text.length;
}

/** The end of a string within a string: after the next quote preceded by the same number of backslashes. */
function endOfEscaped(text: string, from: number, slashes: number): number {
  for (let quote = text.indexOf('"', from); quote >= 0; quote = text.indexOf('"', quote + 1)) {
    let begin = quote;
    while (begin > from && text[begin - 1] === "\\") begin -= 1;
    if (quote - begin === slashes) return quote + 1;
  }
  return text.length;
}

const SCHEME_END = /:\\*\/\\*\//g; // the slashes may be escaped
const SCHEME_CHARACTER = /[a-z\d+.-]/i;
const LETTER = /[a-z]/i;
const AUTHORITY = /[^\s"'\\/?#]*/y;
const BEFORE_QUERY = /[^\s"<>`?#]*/y;
const URL_REST = /[^\s"<>`]*/y;

/** Mask the user name, password, query and fragment of each URL in a text. */
export function maskUrls(text: string): string {
  let masked = "";
  let copied = 0;
  let plainUntil = 0; // no query starts before this position, as found for an earlier URL
  SCHEME_END.lastIndex = 0;
  for (let sign = SCHEME_END.exec(text); sign !== null; sign = SCHEME_END.exec(text)) {
    if (!hasScheme(text, sign.index, copied)) continue;
    const host = SCHEME_END.lastIndex;
    const userinfo = text.slice(host, endOf(AUTHORITY, text, host)).lastIndexOf("@");
    if (userinfo >= 0) {
      masked += text.slice(copied, host) + MASK;
      copied = host + userinfo;
    }
    if (host >= plainUntil) plainUntil = endOf(BEFORE_QUERY, text, host) as number;
    const query = text[plainUntil] === "?" || text[plainUntil] === "#" ? plainUntil + 1 : undefined;
    const end = query === undefined ? 0 : endOfUrl(text, query);
    if (query !== undefined && end > query) {
      masked += text.slice(copied, query) + MASK;
      copied = end;
    }
    SCHEME_END.lastIndex = Math.max(host, copied);
  }
  return masked + text.slice(copied);
}

/** Whether the scheme characters before the colon contain a letter. */
function hasScheme(text: string, colon: number, from: number): boolean {
  for (let at = colon - 1; at >= from && SCHEME_CHARACTER.test(text[at] as string); at--) {
    if (LETTER.test(text[at] as string)) return true;
  }
  return false;
}

/** The end of a URL, without backslashes that escape a following quote, as in JSON within a string. */
function endOfUrl(text: string, from: number): number {
  let end = endOf(URL_REST, text, from) as number;
  if (text[end] === '"') while (end > from && text[end - 1] === "\\") end -= 1;
  return end;
}

/** The secret parts of the value of a property named like a URL, whether valid or not. */
export interface UrlSecrets {
  /** The part before the host; in an invalid URL, up to the last `@`. */
  readonly userinfo: string | undefined;
  /** Without the `?` or `#` before it. */
  readonly query: string | undefined;
  /** The URL without them. */
  readonly masked: string;
}

/** Split off the secret parts of the value of a property named like a URL. */
export function splitUrl(url: string): UrlSecrets {
  const isUrl = URL.canParse(url);
  let start = 0; // of the userinfo
  let at = -1; // its end
  for (const from of [endOfScheme(url), 0]) {
    const rest = url.slice(from);
    const length = isUrl ? rest.search(/[\\/?#]|$/) : rest.length;
    at = rest.slice(0, length).lastIndexOf("@") + from;
    start = from;
    if (at >= from) break;
  }
  const hasUserinfo = at >= start;
  const rest = hasUserinfo ? url.slice(at) : url;
  const mark = rest.search(/[?#]/);
  const query = mark >= 0 ? rest.slice(mark + 1) : "";
  const shown = query === "" ? rest : rest.slice(0, mark + 1) + MASK;
  return {
    userinfo: hasUserinfo ? url.slice(start, at) : undefined,
    query: query === "" ? undefined : query,
    masked: hasUserinfo ? url.slice(0, start) + MASK + shown : shown,
  };
}

/** The position after the scheme, its colon and any slashes and spaces; 0 without a scheme. */
function endOfScheme(url: string): number {
  const colon = url.search(/[:@\\/?#]/);
  return url[colon] === ":" ? (endOf(/[\\/\s]*/y, url, colon + 1) as number) : 0;
}
