/**
 * Masking: takes secrets out of whatever Bull Board answers. Two lines of defence, since job data comes from anyone:
 * everything that is *named* a secret, and every other place where the *text* of one of those turns up.
 */
import { type ExactNumber, isExactNumber, parseExact } from "./exact-json.ts";

const MASK = "***";
const MAX_DEPTH = 100; // levels shown; JSON.stringify itself gives up at some ten thousand
const MAX_NESTED_TEXTS = 4; // JSON in a string in JSON in a string …
const MIN_SEARCHED = 4; // characters: a shorter text is found everywhere, and is no secret
const MAX_SEARCHED = 2_000; // texts: beyond, free text is not searched but withheld

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

/**
 * `secret: "…"`, `"secret":["…"]`, `\"secret\":\"…\"` and `secret=…` in the middle of a text, cut off or not. Prose such
 * as `data.endpoint.secret: expected a string` stays.
 */
const ASSIGNED = [
  /"(?:[^"\\]|\\.)*"?/, // to the quote that closes
  /(?<slashes>\\+)"[\s\S]*?(?:(?<!\\)\k<slashes>"|$)/, // the same, as a string within a string
  /'(?:[^'\\]|\\.)*'?/,
  /\[(?:[^\]"]|"(?:[^"\\]|\\.)*"?)*\]?/,
  /(?<==)[^\s"'[\\,;&]+/, // bare, only after =
];
const ASSIGNMENT = new RegExp(
  String.raw`(\bsecrets?\\*["']?\s*[:=]\s*)(?:${ASSIGNED.map((value) => value.source).join("|")})`,
  "gi",
);

/** User name and password of a URL in the middle of a text, its slashes escaped or not. */
const USERINFO = /([a-z][a-z\d+.-]*:(?:\\*\/){2})[^\s"'\\/?#]*@/gi;

/** What else to know about an answer. */
export interface MaskOptions {
  /** Secrets that are not in the answer itself, such as those of the job whose logs it has. */
  readonly secrets?: Iterable<string>;
  /** Names that stay, whatever secret they may contain: the queue's. */
  readonly names?: ReadonlySet<string>;
}

/**
 * Copy a JSON value without its secrets.
 *
 * Replaced are: the value of every property named `secret` or `secrets`, at any depth, also of JSON in a string; user
 * name and password of URLs; and the text of all these, and of `secrets`, wherever else it occurs. What is nested
 * deeper than 100 levels is replaced as a whole. An exact number becomes a text: whoever reads the answer would round it.
 *
 * @throws  never, for what JSON.parse and parseExact return
 */
export function maskSecrets(value: unknown, { secrets = [], names = new Set() }: MaskOptions = {}): unknown {
  const search = buildSearch(new Set([...collectSecrets(value), ...secrets]));
  return new Copy(search, names).of(value);
}

/** Every text in a JSON value that is named a secret, and the passwords in its URLs. */
export function collectSecrets(value: unknown): Set<string> {
  const found = new Set<string>();
  const pending = [{ value, key: "", isSecret: false, nestedTexts: 0 }];
  // Iterative: unlike the copy, this has to reach the bottom.
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { key, isSecret, nestedTexts } = next;
    if (isExactNumber(next.value)) next.value = next.value.rawJSON;
    if (typeof next.value === "object" && next.value !== null) {
      for (const [childKey, child] of Object.entries(next.value)) {
        const isUnnamed = Array.isArray(next.value);
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
    const userinfo = URL_KEY.test(key) ? splitUserinfo(next.value)?.userinfo : undefined;
    if (userinfo !== undefined) found.add(userinfo.slice(userinfo.indexOf(":") + 1)); // all of it without a colon: a token
    const parsed = nestedTexts < MAX_NESTED_TEXTS ? parseNested(next.value) : undefined;
    if (parsed !== undefined) pending.push({ value: parsed, key, isSecret, nestedTexts: nestedTexts + 1 });
  }
  return found;
}

type Search = (text: string) => string;

/** Replace known texts, also where they were escaped for JSON or a URL, or lost their `whsec_`. */
function buildSearch(secrets: ReadonlySet<string>): Search {
  const texts = new Set<string>();
  for (const secret of secrets) {
    for (const bare of [secret, secret.replace(/^whsec_/, "")]) {
      texts.add(bare).add(JSON.stringify(bare).slice(1, -1)).add(encodeUri(bare));
    }
    if (texts.size > MAX_SEARCHED) return () => MASK;
  }
  // Longest first: a secret that contains another one must not leave its rest behind.
  const ordered = [...texts].filter((text) => text.length >= MIN_SEARCHED).sort((a, b) => b.length - a.length);
  return (text) => ordered.reduce((rest, secret) => rest.replaceAll(secret, MASK), text);
}

/** One copy of one answer. Recursive, at most {@link MAX_DEPTH} deep. */
class Copy {
  /** How often something was replaced. */
  #masked = 0;

  constructor(
    private readonly search: Search,
    private readonly names: ReadonlySet<string>,
  ) {}

  of(value: unknown, key = "", isFree = false, depth = 0, nestedTexts = 0): unknown {
    if (typeof value === "string") {
      if (!isFree && (STRUCTURE_KEYS.has(key) || this.names.has(value))) return value;
      return this.#text(value, key, depth, nestedTexts);
    }
    if (typeof value !== "object" || value === null) return value;
    if (isExactNumber(value)) return this.#number(value, nestedTexts);
    if (depth >= MAX_DEPTH) return this.#mask();
    if (Array.isArray(value)) return value.map((item) => this.of(item, key, isFree, depth + 1, nestedTexts));
    const entries = Object.entries(value).map(([name, item]): [string, unknown] => {
      if (SECRET_KEY.test(name)) return [name, this.#mask()];
      return [
        isFree ? this.search(name) : name,
        this.of(item, name, isFree || FREE_KEYS.has(name), depth + 1, nestedTexts),
      ];
    });
    return Object.fromEntries(entries); // keeps a `__proto__`, which an assignment would not
  }

  #mask(): string {
    this.#masked++;
    return MASK;
  }

  /** Within a text that is JSON it can stay a number. */
  #number(number: ExactNumber, nestedTexts: number): unknown {
    const shown = this.search(number.rawJSON);
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
    let shown = text.replace(
      ASSIGNMENT,
      (_match, name: string, slashes = "") => `${name}${slashes}"${MASK}${slashes}"`,
    );
    const url = URL_KEY.test(key) ? splitUserinfo(shown) : undefined;
    shown = url === undefined ? shown.replace(USERINFO, `$1${MASK}@`) : `${url.before}${MASK}@${url.after}`;
    shown = this.search(shown);
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

/** What stands before the host: in a URL up to the first slash, in what is no URL as far as it may reach. */
function splitUserinfo(url: string): { before: string; userinfo: string; after: string } | undefined {
  const pattern = URL.canParse(url)
    ? /^([^:@\\/?#]*:[\\/\s]*)?([^\\/?#]*)@(.*)$/s
    : /^([^:@\\/?#]*:[\\/\s]*)?(.*)@(.*)$/s;
  const match = pattern.exec(url);
  return match === null ? undefined : { before: match[1] ?? "", userinfo: match[2] ?? "", after: match[3] ?? "" };
}

function encodeUri(text: string): string {
  return encodeURIComponent(text.toWellFormed()); // a lone surrogate would throw
}
