/**
 * Parses JSON without changing its numbers. JavaScript's doubles would turn 9007199254740993 into 9007199254740992, 1e400 into
 * null and 1.10 into 1.1. Such a number is kept as its source text.
 */

/** A number as its producer wrote it. `JSON.stringify` writes `rawJSON` without quotes; it has no other properties. */
export interface ExactNumber {
  readonly rawJSON: string;
}

/** ECMAScript's "JSON.parse source text access": Bun and Node 22 have it, Node 20 does not. */
const { rawJSON, isRawJSON } = JSON as {
  rawJSON?: (text: string) => ExactNumber;
  isRawJSON?: (value: unknown) => boolean;
};

const NOT_KEPT =
  "expected numbers as JavaScript writes them, since this runtime has no JSON.rawJSON (Node 22 has it); a string holds any";

/** Whether this runtime can represent numbers that are not exact doubles. */
export const keepsExactNumbers = rawJSON !== undefined;

/**
 * A number that JavaScript may write differently, in a position where a value can start: 16 or more characters, an exponent, a
 * trailing zero in the fraction, six leading ones, or -0. All other numbers round-trip: doubles hold 15 digits, and 1e-6 is the
 * smallest number written without an exponent.
 */
const SUSPECT = /(?:^|[[,:])\s*(?:-0(?!\.)|-?\d(?:[\d.]{15}|[\d.]*[eE]|\d*\.\d*0\s*(?:[,\]}]|$)|\.0{6}))/;
const NUMBERS = /(?:^|"\s*:|[[,])\s*(-?\d[\d.eE+-]*)(?=\s*(?:[,\]}]|$))/g;
const NUMBER = /-?\d[\d.eE+-]*/y;

/**
 * Whether a JSON text contains a number that JavaScript would write differently. Called for every job; takes about 1 ns per
 * character when there is none. May return true for text inside a string that looks like such a number.
 */
export function holdsInexactNumbers(text: string): boolean {
  if (!SUSPECT.test(text)) return false;
  for (const [, number] of text.matchAll(NUMBERS)) if (!isExact(number as string)) return true;
  return false;
}

/**
 * Like `JSON.parse`, except that numbers that JavaScript would write differently become {@link ExactNumber}s. Handles any depth of
 * nesting.
 *
 * @throws  SyntaxError like `JSON.parse`; RangeError for such a number if the runtime cannot represent it
 */
export function parseExact(text: string): unknown {
  const value: unknown = JSON.parse(text);
  return holdsInexactNumbers(text) ? read(text) : value;
}

/** Whether a value returned by {@link parseExact} is an {@link ExactNumber}. */
export function isExactNumber(value: unknown): value is ExactNumber {
  return isRawJSON?.(value) === true;
}

function isExact(number: string): boolean {
  return String(Number(number)) === number;
}

type Container = unknown[] | Record<string, unknown>;

/** Parse valid JSON. Not recursive, unlike `JSON.parse` with a reviver, which overflows the stack below 10,000 levels. */
function read(text: string): unknown {
  const root: unknown[] = [];
  const around: Container[] = [];
  let into: Container = root;
  let key: string | undefined; // of the object's next value
  for (let at = 0; at < text.length; ) {
    const start = at;
    let value: unknown;
    let opened: Container | undefined;
    at += 1;
    switch (text[start]) {
      case " ":
      case "\n":
      case "\r":
      case "\t":
      case ",":
      case ":":
        continue;
      case "}":
      case "]":
        into = around.pop() as Container;
        continue;
      case "{":
        opened = {};
        break;
      case "[":
        opened = [];
        break;
      case '"':
        at = endOfString(text, start);
        value = readString(text.slice(start, at));
        if (key !== undefined || Array.isArray(into)) break;
        key = value as string;
        continue;
      case "t":
      case "f":
        value = text[start] === "t";
        at = start + String(value).length;
        break;
      case "n":
        value = null;
        at = start + 4;
        break;
      default:
        NUMBER.lastIndex = start;
        NUMBER.test(text);
        at = NUMBER.lastIndex;
        value = readNumber(text.slice(start, at));
    }
    if (Array.isArray(into)) into.push(opened ?? value);
    else put(into, key as string, opened ?? value);
    key = undefined;
    if (opened === undefined) continue;
    around.push(into);
    into = opened;
  }
  return root[0];
}

/** The index after the closing quote, which is the first one preceded by an even number of backslashes. */
function endOfString(text: string, start: number): number {
  for (let at = text.indexOf('"', start + 1); ; at = text.indexOf('"', at + 1)) {
    let from = at;
    while (text[from - 1] === "\\") from -= 1;
    if ((at - from) % 2 === 0) return at + 1;
  }
}

function readString(token: string): string {
  return token.includes("\\") ? JSON.parse(token) : token.slice(1, -1);
}

function readNumber(token: string): number | ExactNumber {
  if (isExact(token)) return Number(token);
  if (rawJSON === undefined) throw new RangeError(NOT_KEPT);
  return rawJSON(token);
}

function put(into: Record<string, unknown>, key: string, value: unknown): void {
  if (key !== "__proto__") into[key] = value;
  else Object.defineProperty(into, key, { value, enumerable: true, configurable: true, writable: true }); // assignment would set the prototype
}
