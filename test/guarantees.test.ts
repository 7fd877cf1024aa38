/** docs/guarantees.md names tests that exist: each promise at least one, by its file and a part of its title. */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";

const document = readFileSync(join(import.meta.dir, "../docs/guarantees.md"), "utf8");

/** What stands first in a call, as titles do: `test("…", …)`, `])("…", …)`, chaos(`…`, …). */
const TITLE = /\(\s*(["`])((?:(?!\1)[^\\])+)\1,/g;
const REFERENCE = /`([\w/-]+\.(?:test|long)\.ts)`((?:[:,;]? "[^"]+")+)/g;

/** The titles of a file's tests; those of a folder of its own count as the file's. */
function titlesOf(file: string): string[] {
  const path = join(import.meta.dir, file);
  const folder = dirname(path);
  const files = folder === import.meta.dir ? [path] : readdirSync(folder).map((name) => join(folder, name));
  return files.flatMap((name) => [...readFileSync(name, "utf8").matchAll(TITLE)].map((match) => match[2] as string));
}

/** The rows of the table of promises, and what each of them names. */
const promises = [...document.matchAll(/^\| (\*\*.+?\*\*)(.*)$/gm)].map(([, promise = "", rest = ""]) => ({
  promise,
  shown: [...rest.matchAll(REFERENCE)].flatMap(([, file = "", parts = ""]) =>
    [...parts.matchAll(/"([^"]+)"/g)].map((part) => ({ file, part: part[1] as string })),
  ),
  files: [...rest.matchAll(/`([\w/-]+\.(?:test|long)\.ts)`/g)].map((match) => match[1]),
}));

test("every promise names a test, and every file it names comes with a title", () => {
  expect(promises.length).toBeGreaterThan(8);
  for (const { promise, shown, files } of promises) {
    expect({ promise, files: [...new Set(shown.map(({ file }) => file))] }).toEqual({
      promise,
      files: files as string[],
    });
    expect(files).not.toEqual([]);
  }
});

test("every test it names exists", () => {
  const missing = promises.flatMap(({ shown }) =>
    shown.filter(({ file, part }) => !titlesOf(file).some((title) => title.includes(part))),
  );
  expect(missing).toEqual([]);
  const [, part = ""] = document.match(/npm run test:outage -- -t "([^"]+)"/) ?? [];
  expect(part).not.toBe("");
  expect(titlesOf("chaos/outages.long.ts").some((title) => title.includes(part))).toBe(true);
});
