/**
 * Finds secrets that a receiver echoed in its response, as error pages do with the request. Pure.
 *
 * Texts are latin1: a character per byte, as they were received.
 */

const MIN_SECRET = 4; // characters: shorter texts occur everywhere
const MIN_PARAMETER = 8; // characters of a query parameter: shorter ones are page numbers or flags, not tokens

/** What an attempt used that must not be shown. */
export interface Confidential {
  readonly url: URL;
  readonly secrets: readonly string[];
  /** Lines of the endpoint's own headers, each with its CRLF. */
  readonly headers?: string | undefined;
}

const NAMES: Readonly<Record<string, string>> = {
  "&": "amp",
  "<": "lt",
  ">": "gt",
  '"': "quot",
  "'": "apos",
  "+": "plus",
  "/": "sol",
  "=": "equals",
};

const hexOf = (code: number, digits: number) =>
  code
    .toString(16)
    .padStart(digits, "0")
    .replace(/[a-f]/g, (digit) => `[${digit}${digit.toUpperCase()}]`);

/** A pattern for a character as it is, and as JSON, URLs and HTML write it. */
function formsOf(character: string): string {
  if (/[A-Za-z0-9_-]/.test(character)) return character;
  const bytes = Buffer.from(character);
  const code = character.codePointAt(0) as number;
  const name = NAMES[character];
  return `(?:${[
    `\\\\{0,3}${bytes.toString("latin1").replace(/[^A-Za-z0-9]/g, "\\$&")}`,
    [...bytes].map((byte) => `%${hexOf(byte, 2)}`).join(""),
    `&#(?:0*${code}|[xX]0*${hexOf(code, 1)});`,
    `\\\\{1,3}u${hexOf(code & 0xffff, 4)}`,
    ...(name === undefined ? [] : [`&${name};`]),
    ...(character === " " ? ["\\+"] : []),
  ].join("|")})`;
}

const patternOf = (text: string) => [...text].map(formsOf).join("");

const DIGIT64 = `(?:[A-Za-z0-9]|${formsOf("+")}|${formsOf("/")})`;
const PADDING = formsOf("=");
const ANY_ESCAPE = "%[0-9A-Fa-f]{2}|&#?\\w{1,8};|\\\\{1,3}(?:u[0-9A-Fa-f]{4}|[bfnrt])";

/** What a signature is part of, in whatever form: seldom in a text, and cheap to find. */
const LONG = /[A-Za-z0-9+/=%&#;\\]{43,}/g;

/** The whole of each word of base64; an escape of any other character separates words. */
const WORD = new RegExp(`((?:${DIGIT64})+)((?:${PADDING})*)|${ANY_ESCAPE}`, "g");
const ONE_DIGIT64 = new RegExp(DIGIT64, "g");
const HEX_MAC = /^[0-9A-Fa-f]{64}$/;
/** What 32 random bytes in base64 have, and paths such as `/api/v1/users` do not. */
const IS_MIXED = /^(?=.*\d)(?=.*[a-z])(?=.*[A-Z])/;

/** Secrets that show by their form: ours, whosever they are. */
const PREFIXED = new RegExp(
  `(?:whsec_|sealed${formsOf(":")}v1${formsOf(":")})(?:[\\w-]|${formsOf("+")}|${formsOf("/")}|${PADDING})*`,
  "g",
);

type Range = readonly [start: number, end: number];

/** A text to mask wherever a response has it. */
export interface Echo {
  /** Its longest part that is written alike everywhere: a cheap first check. */
  readonly longest: string;
  readonly text: string;
}

/** The values of header lines and, of one such as `Bearer …`, the words. */
function valuesOf(headers: string): string[] {
  const values = headers.split("\r\n").map((line) => line.slice(line.indexOf(":") + 1).trim());
  return values.flatMap((value) => [value, ...value.split(" ").filter(({ length }) => length >= MIN_PARAMETER)]);
}

/** List the texts to look for: the endpoint's secrets, the values of its own headers, and the query of its URL. */
export function listEchoes({ url, secrets, headers = "" }: Confidential): Echo[] {
  const query = url.search.slice(1);
  const values = query.split("&").map((parameter) => parameter.slice(parameter.indexOf("=") + 1));
  const decoded = query === "" ? [] : [...url.searchParams.values()];
  const texts = [
    ...secrets.flatMap((secret) => [secret, secret.replace(/^whsec_/, "")]),
    ...valuesOf(headers),
    ...[query, ...values, ...decoded].filter((text) => text.length >= MIN_PARAMETER),
  ];
  return [...new Set(texts)]
    .filter((text) => text.length >= MIN_SECRET)
    .map((text) => {
      const runs = text.match(/[A-Za-z0-9_-]+/g) ?? [];
      return { text, longest: runs.reduce((most, run) => (run.length > most.length ? run : most), "") };
    });
}

/**
 * Find the endpoint's secrets, its headers' values, its URL's query, and whatever has the form of a secret or of a signature: 32 bytes in base64 or
 * hexadecimal. So the signature that a receiver expected is found as well.
 *
 * Takes time linear in the text, unless it contains most of a secret.
 *
 * @returns in order, without overlaps
 */
export function findEchoed(text: string, echoes: readonly Echo[]): Range[] {
  const ranges = findMacs(text);
  if (text.includes("whsec_") || text.includes("sealed")) ranges.push(...findAll(text, PREFIXED));
  for (const { longest, text: secret } of echoes) {
    if (text.includes(longest)) ranges.push(...findAll(text, new RegExp(patternOf(secret), "g")));
  }
  return ranges.length > 1 ? merge(ranges) : ranges;
}

function findAll(text: string, pattern: RegExp): Range[] {
  return [...text.matchAll(pattern)].map((match) => [match.index, match.index + match[0].length]);
}

function findMacs(text: string): Range[] {
  const ranges: Range[] = [];
  for (const { 0: long, index: from } of text.matchAll(LONG)) {
    for (const { 0: whole, 1: digits = "", 2: padding = "", index } of long.matchAll(WORD)) {
      const count = digits.length < 43 ? 0 : (digits.match(ONE_DIGIT64)?.length ?? 0);
      const isMac = HEX_MAC.test(digits) || (count === 43 && IS_MIXED.test(digits));
      if (isMac) ranges.push([from + index, from + index + (padding === "" ? digits : whole).length]);
    }
  }
  return ranges;
}

function merge(ranges: Range[]): Range[] {
  const merged: Range[] = [];
  for (const [start, end] of ranges.sort(([a], [b]) => a - b)) {
    const last = merged.at(-1);
    if (last === undefined || start > last[1]) merged.push([start, end]);
    else merged[merged.length - 1] = [last[0], Math.max(last[1], end)];
  }
  return merged;
}
