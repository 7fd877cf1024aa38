/**
 * Removes secrets from Bull Board's responses. Two lines of defense, since job data is untrusted: values *named* as secrets, and
 * every other occurrence of those values' *text*.
 */
import { type ExactNumber, isExactNumber, parseExact } from "../delivery/exact-json.ts";
import { withoutBidi } from "../runtime/printable.ts";
import { MASK, maskAssignments, maskUrls, splitUrl } from "./mask-text.ts";

const WITHHELD = `${MASK} (withheld: too much for one page)`;
const MAX_DEPTH = 100; // levels shown; JSON.stringify itself fails at around ten thousand
const MAX_NESTED_TEXTS = 4; // JSON in a string in JSON in a string …
const MIN_SEARCHED = 4; // characters: shorter texts occur everywhere, and are not secrets
const MAX_SEARCHED = 2_000; // secrets: with more, free text is withheld instead of searched
const MIN_PARAMETER = 8; // characters of a query parameter: shorter ones are page numbers or flags, not tokens

/**
 * Cost limits for one response, so that no job can block the board, which also answers health probes. In units of characters of
 * text, 100 per µs. Beyond the limit, values are withheld, never shown unmasked.
 */
const VALUE_COST = 32; // per value
const SEARCH_COST = 1 / 100; // per character and secret searched for
const MAX_READ = 32 * 1024 * 1024; // collecting secrets: a million values
const MAX_SHOWN = 16 * 1024 * 1024; // masking: half a million values, or 64 events of the largest size

const SECRET_KEY = /^\s*secrets?\s*$/i;
const URL_KEY = /url$/i;

/** Parts of a job that others fill in: their keys are searched too, and none is Bull Board's own. */
const FREE_KEYS = new Set(["data", "returnValue", "progress", "opts", "template"]);

/**
 * Properties outside those parts that Bull Board needs to work. They are not searched, so that a secret such as "failed" does
 * not break the page.
 */
const STRUCTURE_KEYS = new Set([
  "id",
  "nodeId",
  "queueName",
  "state",
  "status",
  "statuses",
  "type",
  "delimiter",
  "key",
]);

/** Context for masking a response. */
export interface MaskOptions {
  /** Other values whose secrets may occur in the response, such as the data of the job whose logs it shows. */
  readonly about?: unknown;
  /** Names to keep even if they contain a secret: the queue's. */
  readonly names?: ReadonlySet<string>;
  /** Leave bidirectional controls as they are: the caller escapes them. */
  readonly keepsBidi?: boolean;
}

/**
 * Copy a JSON value without its secrets.
 *
 * Replaces the value of every property named `secret` or `secrets` at any depth, also inside JSON strings; user name, password,
 * query and fragment of URLs; and any other occurrence of their text. Values nested deeper than 100 levels and those beyond
 * about 16 MB are replaced as a whole. Exact numbers become strings, since browsers would round them. Bidirectional controls
 * are escaped.
 *
 * @throws  never, for what JSON.parse and parseExact return
 */
export function maskSecrets(value: unknown, options: MaskOptions = {}): unknown {
  const { about, names = new Set(), keepsBidi = false } = options;
  const secrets = collectSecrets([value, about]);
  return new Copy(secrets && listSearched(secrets), names, keepsBidi).of(value);
}

/**
 * All secrets in a JSON value, including the passwords and queries of its URLs. Undefined when the value is too large to search.
 */
function collectSecrets(value: unknown): Set<string> | undefined {
  const found = new Set<string>();
  let left = MAX_READ;
  const pending = [{ value, key: "", isSecret: false, nestedTexts: 0 }];
  // Iterative, since unlike the copy it has to reach every depth.
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { key, isSecret, nestedTexts } = next;
    left -= VALUE_COST + (typeof next.value === "string" ? next.value.length : 0);
    if (left < 0) return undefined;
    if (isExactNumber(next.value)) next.value = next.value.rawJSON;
    if (typeof next.value === "object" && next.value !== null) {
      const isUnnamed = Array.isArray(next.value);
      if (Array.isArray(next.value) && next.value.length > left / VALUE_COST) return undefined;
      for (const [childKey, child] of Object.entries(next.value)) {
        pending.push({
          value: child,
          key: isUnnamed ? key : childKey,
          isSecret: isSecret || (!isUnnamed && SECRET_KEY.test(childKey)),
          nestedTexts,
        });
      }
      continue;
    }
    if (isSecret && next.value !== null) found.add(String(next.value));
    if (typeof next.value !== "string") continue;
    if (URL_KEY.test(key)) for (const secret of urlSecrets(next.value)) found.add(secret);
    const parsed = nestedTexts < MAX_NESTED_TEXTS ? parseNested(next.value) : undefined;
    if (parsed !== undefined) pending.push({ value: parsed, key, isSecret, nestedTexts: nestedTexts + 1 });
  }
  return found;
}

/** A URL's password (or its whole userinfo without a colon: a token), its query, and query parameters that may be tokens. */
function urlSecrets(url: string): string[] {
  const { userinfo, query = "" } = splitUrl(url);
  const parameters = query.split("&").map((parameter) => parameter.slice(parameter.indexOf("=") + 1));
  return [
    ...(userinfo === undefined ? [] : [userinfo.slice(userinfo.indexOf(":") + 1)]),
    ...[query, ...parameters].filter((text) => text.length >= MIN_PARAMETER),
  ];
}

/**
 * The texts to search for: secrets as they are, escaped for JSON or URLs, and without `whsec_`. Undefined when there are too many.
 */
function listSearched(secrets: ReadonlySet<string>): string[] | undefined {
  const texts = new Set<string>();
  for (const secret of secrets) {
    for (const bare of [secret, secret.replace(/^whsec_/, "")]) {
      texts.add(bare).add(JSON.stringify(bare).slice(1, -1)).add(encodeUri(bare));
    }
    if (texts.size > MAX_SEARCHED) return undefined;
  }
  // Longest first, so that a secret containing another is replaced as a whole.
  return [...texts].filter((text) => text.length >= MIN_SEARCHED).sort((a, b) => b.length - a.length);
}

/** A masked copy of one response. Recursive, at most {@link MAX_DEPTH} deep. */
class Copy {
  /** Number of replacements. */
  #masked = 0;
  #left = MAX_SHOWN;
  readonly #keys = new Map<string, string>();

  /** @param searched  secrets to search for, longest first; undefined withholds all free text */
  constructor(
    private readonly searched: readonly string[] | undefined,
    private readonly names: ReadonlySet<string>,
    private readonly keepsBidi: boolean,
  ) {}

  of(value: unknown, key = "", isFree = false, depth = 0, nestedTexts = 0): unknown {
    this.#left -= VALUE_COST;
    if (typeof value === "string") {
      if (!isFree && (STRUCTURE_KEYS.has(key) || this.names.has(value))) return value;
      return this.#text(value, key, depth, nestedTexts);
    }
    if (typeof value !== "object" || value === null) return value;
    if (isExactNumber(value)) return this.#number(value, nestedTexts);
    if (depth >= MAX_DEPTH) return this.#mask();
    if (isFree && this.#left < 0) return this.#mask(WITHHELD);
    if (Array.isArray(value)) return value.map((item) => this.of(item, key, isFree, depth + 1, nestedTexts));
    const entries = Object.entries(value).map(([name, item]): [string, unknown] => {
      if (SECRET_KEY.test(name)) return [name, this.#mask()];
      return [
        isFree ? this.#key(name) : name,
        this.of(item, name, isFree || FREE_KEYS.has(name), depth + 1, nestedTexts),
      ];
    });
    return Object.fromEntries(entries); // keeps a `__proto__`, which an assignment would not
  }

  #mask(shown = MASK): string {
    this.#masked++;
    return shown;
  }

  /** Text without known secrets. */
  #search(text: string): string {
    if (this.searched === undefined) return MASK;
    this.#left -= this.searched.length * (VALUE_COST + text.length) * SEARCH_COST;
    if (this.#left < 0) return WITHHELD;
    return this.searched.reduce((rest, secret) => rest.replaceAll(secret, MASK), text);
  }

  /** A property name without secrets, cached since names repeat. */
  #key(name: string): string {
    const known = this.#keys.get(name) ?? this.#free(name);
    this.#keys.set(name, known);
    return known;
  }

  /** Text without secrets, known or recognizable. */
  #free(text: string): string {
    this.#left -= text.length;
    if (this.#left < 0) return WITHHELD;
    const shown = this.#search(maskUrls(maskAssignments(text)));
    return this.keepsBidi ? shown : withoutBidi(shown);
  }

  /** Inside a JSON string it can stay a number. */
  #number(number: ExactNumber, nestedTexts: number): unknown {
    const shown = this.#search(number.rawJSON);
    if (shown !== number.rawJSON) this.#masked++;
    return nestedTexts > 0 && shown === number.rawJSON ? number : shown;
  }

  #text(text: string, key: string, depth: number, nestedTexts: number): string {
    const parsed = parseNested(text);
    if (parsed !== undefined) {
      if (nestedTexts >= MAX_NESTED_TEXTS) return this.#mask();
      const before = this.#masked;
      const copy = this.of(parsed, key, true, depth + 1, nestedTexts + 1);
      if (this.#masked > before) return JSON.stringify(copy);
    }
    const shown = this.#free(URL_KEY.test(key) ? splitUrl(text).masked : text);
    if (shown !== text) this.#masked++;
    return shown;
  }
}

/** Parse a text that is a JSON object, array or string; undefined for any other text. */
function parseNested(text: string): unknown {
  if (!/^\s*[[{"]/.test(text)) return undefined;
  try {
    return parseExact(text);
  } catch {
    return undefined;
  }
}

function encodeUri(text: string): string {
  return encodeURIComponent(text.toWellFormed()); // a lone surrogate would throw
}
