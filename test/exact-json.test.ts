import { describe, expect, test } from "bun:test";
import { holdsInexactNumbers, isExactNumber, parseExact } from "../src/delivery/exact-json.ts";
import { type Chance, createChance } from "./support/chance.ts";

/** What `JSON.stringify` would write, if it wrote each number as it stands in the text: they are strings meanwhile. */
function expected(text: string): string {
  const marked = text.replace(
    /("(?:[^"\\]|\\.)*")|(-?\d[\d.eE+-]*)/g,
    (_, string, number) => string ?? `"#${number}#"`,
  );
  return JSON.stringify(JSON.parse(marked)).replace(/"#([\d.eE+-]+)#"/g, "$1");
}

const digits = ({ between, pick }: Chance, most: number) =>
  Array.from({ length: Math.floor(between(1, most + 1)) }, () => pick([..."00123456789"])).join("");

/** A number in any spelling that JSON has, many at the edges of what a double holds. */
function randomNumber(chance: Chance): string {
  const { pick } = chance;
  const edges = ["9007199254740991", "9007199254740992", "9007199254740993", "123456789012345", "0.000001", "1e21"];
  const whole = pick(["0", "0", digits(chance, 18).replace(/^0+(?=.)/, ""), pick(edges)]);
  const fraction = /[.e]/.test(whole)
    ? ""
    : pick(["", "", `.${digits(chance, 18)}`, `.${digits(chance, 3)}`, ".0", ".000000"]);
  const exponent = /e/.test(whole)
    ? ""
    : pick(["", "", "", pick(["e", "E"]) + pick(["", "+", "-"]) + digits(chance, 3)]);
  return pick(["", "", "-"]) + whole + fraction + exponent;
}

function randomString({ pick, between }: Chance): string {
  const parts = [
    "a",
    "é",
    " ",
    ":1.0",
    ",",
    "[1e5,",
    '\\"',
    "\\\\",
    "\\n",
    "\\u0022",
    "\\ud83d",
    "]",
    "{",
    "-0",
    "12345678901234567890",
  ];
  return `"${Array.from({ length: Math.floor(between(0, 6)) }, () => pick(parts)).join("")}"`;
}

function randomJson(chance: Chance, levels = 4): string {
  const { pick, between } = chance;
  const blank = () => pick(["", "", " ", "\n\t", "\r\n  "]);
  const many = (item: () => string) =>
    Array.from({ length: Math.floor(between(0, 5)) }, () => blank() + item() + blank()).join(",") || blank();
  const kind =
    levels === 0 ? pick(["number", "string", "word"]) : pick(["number", "number", "string", "word", "array", "object"]);
  if (kind === "number") return randomNumber(chance);
  if (kind === "string") return randomString(chance);
  if (kind === "word") return pick(["true", "false", "null"]);
  if (kind === "array") return `[${many(() => randomJson(chance, levels - 1))}]`;
  const key = () =>
    pick(['"a"', '"b"', '"1"', '"0"', '"__proto__"', '"constructor"', '"rawJSON"', randomString(chance)]);
  return `{${many(() => `${key()}${blank()}:${blank()}${randomJson(chance, levels - 1)}`)}}`;
}

const isPlain = (number: string) => String(Number(number)) === number;

describe("parseExact", () => {
  test.each([
    "9007199254740993",
    "-9007199254740993",
    "18446744073709551615",
    "1e400",
    "-1e400",
    "-0",
    "-0.0",
    "0.0",
    "1.0",
    "1.10",
    "1E5",
    "1e5",
    "1e+5",
    "1e21",
    "1e-7",
    "0.0000001",
    "0.1234567890123456789",
    "5e-400",
    `1${"0".repeat(400)}`,
  ])("keeps %s wherever it stands", (number) => {
    for (const text of [number, `[${number}]`, `{"a":${number}}`, `[[1,{"b":[null,${number}]}],"x"]`]) {
      expect(JSON.stringify(parseExact(text))).toBe(text);
      expect(JSON.stringify(parseExact(`\n ${text} \t`))).toBe(text);
    }
    expect(isExactNumber(parseExact(number)) || isPlain(number)).toBe(true);
  });

  test.each([
    '{"a":[0,-1,1.5,123456789012345,9007199254740991,0.000001,0.30000000000000004,1e+21,1.5e-7]}',
    '{"id":"9007199254740993","note":"sums: 1.0, 1.10 and [1e400, -0]","9007199254740993":1}',
    '[true,false,null,"",{},[]]',
  ])("gives what JSON.parse gives where there is nothing to keep: %s", (text) => {
    expect(parseExact(text)).toEqual(JSON.parse(text));
    expect(JSON.stringify(parseExact(text))).toBe(text);
  });

  test("keeps a __proto__, and of a key that comes twice the last value in the first one's place", () => {
    const text = '{"__proto__":{"a":1.0},"b":1,"c":2,"b":9007199254740993,"c":3.0,"c":4,"2":5,"1":6}';
    const value = parseExact(text) as object;
    expect(JSON.stringify(value)).toBe('{"1":6,"2":5,"__proto__":{"a":1.0},"b":9007199254740993,"c":4}');
    expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
    expect(Object.getOwnPropertyDescriptor(value, "__proto__")).toMatchObject({ writable: true, configurable: true });
  });

  test("takes an object with a rawJSON for an object", () => {
    const value = parseExact('{"rawJSON":"1","n":1.0}');
    expect(isExactNumber(value)).toBe(false);
    expect(JSON.stringify(value)).toBe('{"rawJSON":"1","n":1.0}');
    for (const other of [null, undefined, 1, "1", {}, { rawJSON: "1" }]) expect(isExactNumber(other)).toBe(false);
  });

  test("reads strings as JSON.parse does, at any length", () => {
    for (const part of ['\\"', "\\\\", "\\u0041", "é\\n", "a"]) {
      const text = `[1.0,"${part.repeat(1_000_000)}"]`;
      expect((parseExact(text) as unknown[])[1]).toBe(JSON.parse(text)[1]);
    }
  });

  test.each([
    "",
    "1.",
    "01",
    "-",
    "[1.0",
    "[1.0,]",
    '{"a":1.0,}',
    "1.0 2.0",
    "NaN",
    "[1.0,Infinity]",
    "{a:1.0}",
    '["\n",1.0]',
  ])("refuses %p like JSON.parse", (text) => {
    expect(() => parseExact(text)).toThrow(SyntaxError);
  });

  test.each([2_000, 100_000])("reads %d levels", (levels) => {
    for (const [open, close] of [
      ["[", "]"],
      ['{"a":', "}"],
    ]) {
      const value = parseExact(`${open?.repeat(levels)}9007199254740993${close?.repeat(levels)}`);
      let at = value;
      for (let level = 0; level < levels; level++) at = Object.values(at as object)[0];
      expect(at).toMatchObject({ rawJSON: "9007199254740993" });
    }
  });

  test("reads 256 KB of numbers in time that grows with their length", () => {
    const items = [
      "9007199254740993",
      "1.0",
      `1${"0".repeat(250_000)}`,
      `"${':1.0,\\"'.repeat(25_000)}"`,
      `"${"[".repeat(250_000)}"`,
    ];
    const startedAt = performance.now();
    for (const item of items) {
      const text = `[${Array(Math.ceil(256_000 / item.length))
        .fill(item)
        .join()},1.0]`;
      expect(JSON.stringify(parseExact(text))).toBe(text);
      parseExact(text.replaceAll(",", `,${" ".repeat(100)}`));
    }
    expect(performance.now() - startedAt).toBeLessThan(10_000); // some 30 ms; quadratic: minutes
  });

  test("writes every text anew with its numbers as they were: 20,000 texts of chance", () => {
    const chance = createChance(26);
    for (let round = 0; round < 20_000; round++) {
      const text = randomJson(chance);
      const value = parseExact(text);
      expect(JSON.stringify(value)).toBe(expected(text));
    }
  });
});

describe("holdsInexactNumbers", () => {
  test("is true of exactly those numbers that JavaScript writes differently: 200,000 of chance", () => {
    const chance = createChance(53);
    const wrong: string[] = [];
    for (let round = 0; round < 200_000; round++) {
      const number = randomNumber(chance);
      const around = chance.pick([
        ["", ""],
        ["[", "]"],
        ['{"a" :\t', "}"],
        ["[1,\n", " ]"],
      ]);
      if (holdsInexactNumbers(around.join(number)) === isPlain(number)) wrong.push(number);
    }
    expect(wrong).toEqual([]);
  });

  test.each([
    '{"createdAt":"2026-11-26T08:00:00.000Z","at": "08:30:00.0 "}',
    '{"price":"1,200.00","sum":"€ 1, 1.0 and [2.50"}',
    '{"sha":"sha256:9e1077cc","user":"user:7e57d004-2b97-4d5e-8f90-a1b2c3d4e5f6","card":"no: 4111111111111111"}',
  ])("is false of what looks like one within a string: %s", (text) => {
    expect(holdsInexactNumbers(text)).toBe(false);
  });

  test("is true of no text that was written by JavaScript", () => {
    const chance = createChance(1);
    for (let round = 0; round < 20_000; round++) {
      const number = chance.between(-1, 1) * 10 ** Math.floor(chance.between(-12, 25));
      for (const value of [number, Math.round(number), Number(number.toFixed(4))]) {
        expect(holdsInexactNumbers(JSON.stringify({ value: Object.is(value, -0) ? 0 : value }))).toBe(false);
      }
    }
  });
});
