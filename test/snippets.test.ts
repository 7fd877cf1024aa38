import { expect, test } from "bun:test";
import { findSnippet, parseSnippets } from "./support/snippets.ts";

test("blocks are found with their language and the headings above them; a # in a block is none", () => {
  const page =
    "# A\n## B\n```js\none\n```\n### C\n```python\n# no heading\n\ntwo\n```\n## D\n````md\n```js\n```\n````\n";
  expect(parseSnippets(page)).toEqual([
    { language: "js", headings: ["A", "B"], code: "one\n" },
    { language: "python", headings: ["A", "B", "C"], code: "# no heading\n\ntwo\n" },
    { language: "md", headings: ["A", "D"], code: "```js\n```\n" },
  ]);
});

test("a page that lost a block is told, with what was looked for", () => {
  const look = () => findSnippet("README.md", "cobol", { heading: "Send", marker: "PERFORM" });
  expect(look).toThrow('expected README.md to have a cobol block under "Send" with "PERFORM" in it');
});
