import { expect, test } from "bun:test";
import { maskAssignments, maskUrls, splitUrl } from "../src/operations/mask-text.ts";
import { createChance } from "./support/chance.ts";

/** What each scanner means, as patterns: short, and quadratic, so that they are good for short texts only. */
const ASSIGNED = [
  /"(?:[^"\\]|\\.)*"?/,
  /(?<slashes>\\+)"[\s\S]*?(?:(?<!\\)\k<slashes>"|$)/,
  /'(?:[^'\\]|\\.)*'?/,
  /\[(?:[^\]"]|"(?:[^"\\]|\\.)*"?)*\]?/,
  /(?<==)[^\s"'[\\,;&]+/,
];
const ASSIGNMENT = new RegExp(
  String.raw`(\bsecrets?\\*["']?\s*[:=]\s*)(?:${ASSIGNED.map((value) => value.source).join("|")})`,
  "gi",
);
const USERINFO = /([a-z][a-z\d+.-]*:(?:\\*\/){2})[^\s"'\\/?#]*@/gi;
const USERINFO_OF_URL = /^([^:@\\/?#]*:[\\/\s]*)?([^\\/?#]*)@(.*)$/s;
const USERINFO_OF_OTHER = /^([^:@\\/?#]*:[\\/\s]*)?(.*)@(.*)$/s;

/** Random texts of parts that matter. */
function texts(parts: readonly string[], count: number): string[] {
  const chance = createChance(20_261_127);
  return Array.from({ length: count }, () => {
    const text = Array.from({ length: Math.ceil(chance.between(0, 12)) }, () => chance.pick(parts)).join("");
    return text.replace(/\\+$/, ""); // a backslash with nothing behind it means nothing
  });
}

test("an assignment in a text is masked as the pattern says that defines it", () => {
  const parts = ["secret", "Secrets", "x", ":", "=", " ", '"', "'", "\\", '\\"', "[", "]", ",", "&", "word", "secret="];
  for (const text of texts(parts, 20_000)) {
    const expected = text.replace(
      ASSIGNMENT,
      (_match, name: string, slashes = "") => `${name}${slashes}"***${slashes}"`,
    );
    expect(maskAssignments(text), JSON.stringify(text)).toBe(expected);
  }
});

test("user name and password of a URL in a text are masked as the pattern says that defines them", () => {
  const parts = ["a", "1", "+", "://", ":\\/\\/", ":", "/", "@", "https://", "u:p", " ", '"', "'", "\\"];
  for (const text of texts(parts, 20_000)) {
    expect(maskUrls(text), JSON.stringify(text)).toBe(text.replace(USERINFO, "$1***@"));
  }
});

test("what stands before the host of a URL is found as the pattern says that defines it", () => {
  const parts = ["a", "https:", "/", "\\", ":", "@", " ", "u:p", "host", "[::1]"];
  for (const url of texts(parts, 20_000)) {
    const match = (URL.canParse(url) ? USERINFO_OF_URL : USERINFO_OF_OTHER).exec(url);
    const { userinfo, masked } = splitUrl(url);
    expect(userinfo, JSON.stringify(url)).toBe(match === null ? undefined : (match[2] ?? ""));
    expect(masked, JSON.stringify(url)).toBe(match === null ? url : `${match[1] ?? ""}***@${match[3]}`);
  }
});
