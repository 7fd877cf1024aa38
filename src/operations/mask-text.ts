/**
 * Secrets in the middle of a text: what is assigned to the word `secret`, user name and password of URLs, and their queries.
 * Everything here takes time that grows with the length of the text, whatever is in it: the text is anybody's. So there is no
 * pattern that may look through the rest of a text from each place of it. Pure.
 */

/** What stands in place of a secret. */
export const MASK = "***";

const SECRET = /\bsecrets?/gi;
const SIGN = /\\*["']?\s*[:=]\s*/y; // between the word and its value
const SLASHES = /\\*/y;
const BARE = /[^\s"'[\\,;&]+/y; // a value without quotes

/**
 * Mask `secret: "…"`, `"secret":["…"]`, `\"secret\":\"…\"` and `secret=…`, cut off or not. Prose such as
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

/** Behind what a pattern matches at a place; undefined where it does not match. */
function endOf(pattern: RegExp, text: string, at: number): number | undefined {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : undefined;
}

/** Behind a value; undefined where none begins. What is not closed reaches to the end. */
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

/** Of a string within a string: behind the next quote that has as many backslashes before it. */
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

/** Mask user name, password, query and fragment of each URL in the middle of a text. */
export function maskUrls(text: string): string {
  let masked = "";
  let copied = 0;
  let plainUntil = 0; // no query begins before it: known from a URL in front, not to be looked for again
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

/** Whether a letter stands among the characters of a scheme before its colon. */
function hasScheme(text: string, colon: number, from: number): boolean {
  for (let at = colon - 1; at >= from && SCHEME_CHARACTER.test(text[at] as string); at--) {
    if (LETTER.test(text[at] as string)) return true;
  }
  return false;
}

/** Backslashes before a quote are its own: the text is JSON within a string. */
function endOfUrl(text: string, from: number): number {
  let end = endOf(URL_REST, text, from) as number;
  if (text[end] === '"') while (end > from && text[end - 1] === "\\") end -= 1;
  return end;
}

/** What is secret in the value of something that is named a URL, whether it is one or not. */
export interface UrlSecrets {
  /** What stands before the host: in a URL up to the first slash, in what is no URL as far as it may reach. */
  readonly userinfo: string | undefined;
  /** Without the `?` or `#` before it. */
  readonly query: string | undefined;
  /** The URL without them. */
  readonly masked: string;
}

/** Take the secrets out of the value of something that is named a URL. */
export function splitUrl(url: string): UrlSecrets {
  const isUrl = URL.canParse(url);
  let start = 0; // of what may be the userinfo
  let at = -1; // where it ends
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

/** Behind the scheme, its colon and what slashes and blanks follow; 0 without a scheme. */
function endOfScheme(url: string): number {
  const colon = url.search(/[:@\\/?#]/);
  return url[colon] === ":" ? (endOf(/[\\/\s]*/y, url, colon + 1) as number) : 0;
}
