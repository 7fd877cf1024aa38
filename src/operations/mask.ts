/**
 * Masking: takes secrets out of whatever Bull Board answers. Two lines of defence, since job data comes from anyone:
 * everything that is *named* a secret, and every other place where the *text* of one of those turns up.
 */
import { type ExactNumber, isExactNumber, parseExact } from "../delivery/exact-json.ts";
import { withoutBidi } from "../runtime/printable.ts";
import { MASK, maskAssignments, maskUrls, splitUrl } from "./mask-text.ts";

const WITHHELD = `${MASK} (withheld: too much for one page)`;
const MAX_DEPTH = 100; // levels shown; JSON.stringify itself gives up at some ten thousand
const MAX_NESTED_TEXTS = 4; // JSON in a string in JSON in a string …
const MIN_SEARCHED = 4; // characters: a shorter text is found everywhere, and is no secret
const MAX_SEARCHED = 2_000; // texts: beyond, free text is not searched but withheld
const MIN_PARAMETER = 8; // characters of a value in a URL's query: a shorter one is a page number or a flag, and no token

/**
 * What one answer may cost, so that no job can hold up the board: it answers probes too. Measured as the characters of a text
 * that take as long, 1 µs for 100. Beyond it, nothing leaves unmasked: it is withheld.
 */
const VALUE_COST = 32; // one value, however small
const SEARCH_COST = 1 / 100; // a text searched for in one character
const MAX_READ = 32 * 1024 * 1024; // looking for secrets: a million values
const MAX_SHOWN = 16 * 1024 * 1024; // masking: half a million values, or 64 events as large as may be

const SECRET_KEY = /^\s*secrets?\s*$/i;
const URL_KEY = /url$/i;

/** Parts of a job that others fill in: there, keys are searched too, and no key is Bull Board's own. */
const FREE_KEYS = new Set(["data", "returnValue", "progress", "opts", "template"]);

/**
 * Values that Bull Board needs to work, outside of those parts. They are not searched: whoever chooses "failed" as a
 * secret must not break the page.
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

/** What else to know about an answer. */
export interface MaskOptions {
  /** Something else whose secrets may be in the answer, such as the data of the job whose logs it has. */
  readonly about?: unknown;
  /** Names that stay, whatever secret they may contain: the queue's. */
  readonly names?: ReadonlySet<string>;
}

/**
 * Copy a JSON value without its secrets.
 *
 * Replaced are: the value of every property named `secret` or `secrets`, at any depth, also of JSON in a string; user
 * name, password, query and fragment of URLs; and the text of all these, and of `secrets`, wherever else it occurs. What is
 * nested deeper than 100 levels is replaced as a whole, and so is what would take too long: more than some 16 MB. An exact
 * number becomes a text: whoever reads the answer would round it. Characters that reorder a line are written as escapes.
 *
 * @throws  never, for what JSON.parse and parseExact return
 */
export function maskSecrets(value: unknown, { about, names = new Set() }: MaskOptions = {}): unknown {
  const secrets = collectSecrets([value, about]);
  return new Copy(secrets && listSearched(secrets), names).of(value);
}

/**
 * Every text in a JSON value that is named a secret, and the passwords and queries of its URLs. Undefined when the value is too
 * large to be looked through.
 */
function collectSecrets(value: unknown): Set<string> | undefined {
  const found = new Set<string>();
  let left = MAX_READ;
  const pending = [{ value, key: "", isSecret: false, nestedTexts: 0 }];
  // Iterative: unlike the copy, this has to reach the bottom.
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

/** The password of a URL, or all before its host that has no colon: a token. Its query, and what in it may be a token. */
function urlSecrets(url: string): string[] {
  const { userinfo, query = "" } = splitUrl(url);
  const parameters = query.split("&").map((parameter) => parameter.slice(parameter.indexOf("=") + 1));
  return [
    ...(userinfo === undefined ? [] : [userinfo.slice(userinfo.indexOf(":") + 1)]),
    ...[query, ...parameters].filter((text) => text.length >= MIN_PARAMETER),
  ];
}

/**
 * Which texts to search for: secrets, also where they were escaped for JSON or a URL, or lost their `whsec_`. Undefined when
 * they are too many.
 */
function listSearched(secrets: ReadonlySet<string>): string[] | undefined {
  const texts = new Set<string>();
  for (const secret of secrets) {
    for (const bare of [secret, secret.replace(/^whsec_/, "")]) {
      texts.add(bare).add(JSON.stringify(bare).slice(1, -1)).add(encodeUri(bare));
    }
    if (texts.size > MAX_SEARCHED) return undefined;
  }
  // Longest first: a secret that contains another one must not leave its rest behind.
  return [...texts].filter((text) => text.length >= MIN_SEARCHED).sort((a, b) => b.length - a.length);
}

/** One copy of one answer. Recursive, at most {@link MAX_DEPTH} deep. */
class Copy {
  /** How often something was replaced. */
  #masked = 0;
  #left = MAX_SHOWN;
  readonly #keys = new Map<string, string>();

  /** @param searched  secrets to search for, longest first; undefined withholds all free text */
  constructor(
    private readonly searched: readonly string[] | undefined,
    private readonly names: ReadonlySet<string>,
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

  /** Without known secrets. */
  #search(text: string): string {
    if (this.searched === undefined) return MASK;
    this.#left -= this.searched.length * (VALUE_COST + text.length) * SEARCH_COST;
    if (this.#left < 0) return WITHHELD;
    return this.searched.reduce((rest, secret) => rest.replaceAll(secret, MASK), text);
  }

  /** A name without secrets: mostly the same ones again. */
  #key(name: string): string {
    const known = this.#keys.get(name) ?? this.#free(name);
    this.#keys.set(name, known);
    return known;
  }

  /** Without secrets, known or not. */
  #free(text: string): string {
    this.#left -= text.length;
    if (this.#left < 0) return WITHHELD;
    return withoutBidi(this.#search(maskUrls(maskAssignments(text))));
  }

  /** Within a text that is JSON it can stay a number. */
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

/** The value of a text that is JSON and not merely a number or a word; undefined for any other text. */
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
