/**
 * The fenced blocks of a Markdown page: what tests run of the guides is what stands there, and is found by where it stands.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface Snippet {
  /** What follows the opening fence, such as `js`; empty when nothing does. */
  readonly language: string;
  /** The headings it stands under, outermost first. */
  readonly headings: readonly string[];
  readonly code: string;
}

export interface SnippetPlace {
  /** Part of any heading above it. */
  readonly heading?: string;
  /** Part of its code. */
  readonly marker?: string;
}

const ROOT = join(import.meta.dir, "../..");
const FENCE = /^(`{3,}|~{3,})\s*([\w-]*)/;

/** All blocks of a page, in their order. @param page  from the root of the repository */
export function readSnippets(page: string): Snippet[] {
  return parseSnippets(readFileSync(join(ROOT, page), "utf8"));
}

/**
 * The first block of this language at this place.
 *
 * @throws  Error that names page, language and place, when there is none: the guide has lost what a test is about
 */
export function findSnippet(page: string, language: string, { heading = "", marker = "" }: SnippetPlace = {}): string {
  const found = readSnippets(page).find(
    (snippet) =>
      snippet.language === language &&
      snippet.code.includes(marker) &&
      (heading === "" || snippet.headings.some((text) => text.includes(heading))),
  );
  if (found === undefined) {
    throw new Error(`expected ${page} to have a ${language} block under "${heading}" with "${marker}" in it`);
  }
  return found.code;
}

/** As {@link readSnippets}, of a text. A `#` inside a block is no heading. */
export function parseSnippets(markdown: string): Snippet[] {
  const snippets: Snippet[] = [];
  const headings: string[] = [];
  let open: { fence: string; language: string; lines: string[] } | undefined;
  for (const line of markdown.split("\n")) {
    if (open !== undefined) {
      if (line.trimEnd() !== open.fence) {
        open.lines.push(line);
        continue;
      }
      const code = open.lines.map((text) => `${text}\n`).join("");
      snippets.push({ language: open.language, headings: headings.filter(Boolean), code });
      open = undefined;
      continue;
    }
    const [, fence, language = ""] = FENCE.exec(line) ?? [];
    if (fence !== undefined) open = { fence, language, lines: [] };
    const [, marks = "", text = ""] = /^(#{1,6}) (.+)$/.exec(line) ?? [];
    if (text !== "") {
      headings.length = Math.min(headings.length, marks.length - 1);
      headings[marks.length - 1] = text;
    }
  }
  return snippets;
}
