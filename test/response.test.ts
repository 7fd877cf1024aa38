import { describe, expect, test } from "bun:test";
import { type Reading, ResponseReader } from "../src/http/response.ts";
import { type AnswerCase, CHUNKED, head, ok, type Verdict } from "./corpus/answer-case.ts";
import { CHUNKED_BODIES } from "./corpus/chunks.ts";
import { FIELDS } from "./corpus/fields.ts";
import { INCOMPLETE } from "./corpus/incomplete.ts";
import { INTERIM } from "./corpus/interim.ts";
import { LENGTHS } from "./corpus/length.ts";
import { LINE_ENDS } from "./corpus/line-ends.ts";
import { OTHER_PROTOCOLS } from "./corpus/other-protocols.ts";
import { PERSISTENCE } from "./corpus/persistence.ts";
import { RETRY_AFTER } from "./corpus/retry-after.ts";
import { STATUS_LINES } from "./corpus/status-line.ts";
import { TRANSFER_ENCODINGS } from "./corpus/transfer-encoding.ts";
import { WITHOUT_BODY } from "./corpus/without-body.ts";
import { createChance } from "./support/chance.ts";

const CORPUS: readonly AnswerCase[] = [
  ...[STATUS_LINES, OTHER_PROTOCOLS, LINE_ENDS, FIELDS, LENGTHS, TRANSFER_ENCODINGS, CHUNKED_BODIES],
  ...[WITHOUT_BODY, INTERIM, INCOMPLETE, PERSISTENCE, RETRY_AFTER],
].flat();

interface Conclusion {
  readonly verdict: Verdict;
  readonly isKept: boolean;
  readonly retryAfter: string | undefined;
}

/** What becomes of an answer that comes in these pieces, after which the connection ends. */
function conclude(pieces: readonly Buffer[]): Conclusion {
  const conclusion = concludeWith(new ResponseReader(), pieces);
  const keeping = concludeWith(new ResponseReader(100), pieces);
  if (!Bun.deepEquals(keeping, conclusion)) expect(keeping).toEqual(conclusion); // toEqual is slow, and these are many
  return conclusion;
}

function concludeWith(reader: ResponseReader, pieces: readonly Buffer[]): Conclusion {
  let reading: Reading = "more";
  let count = 0;
  while (reading === "more" && count < pieces.length) reading = reader.read(pieces[count++] as Buffer);
  const isOver = count === pieces.length; // what comes after an answer ends the connection, whoever sees it
  return { verdict: verdictOf(reader, reading), isKept: reader.isReusable && isOver, retryAfter: reader.retryAfter };
}

function verdictOf(reader: ResponseReader, reading: Reading): Verdict {
  if (reader.speaksHttp2) return reading === "invalid" ? "http2" : Number.NaN;
  if (reading === "invalid") return "invalid";
  return reader.status ?? (reader.isUntouched ? "nothing" : "invalid");
}

/** The bytes between these places. */
function cut(bytes: Buffer, places: Iterable<number>): Buffer[] {
  const ends = [...new Set([...places, bytes.length])].filter((end) => end > 0).sort((a, b) => a - b);
  return ends.map((end, i) => bytes.subarray(ends[i - 1] ?? 0, end));
}

const bytesOf = (text: string) => Buffer.from(text, "latin1");
const oneByOne = (text: string) => cut(bytesOf(text), text.length === 0 ? [] : bytesOf(text).keys());

/** All places where it may be cut in two, and for long ones those around which something happens. */
function* placesIn(length: number): Generator<number> {
  const isNear = (place: number, edge: number) => Math.abs(place - edge) < 100;
  for (let at = 1; at < length; at++) {
    if (length < 4096 || [0, 16 * 1024, 64 * 1024, length].some((edge) => isNear(at, edge))) yield at;
  }
}

const named = CORPUS.map((answer) => [`${answer.section}: ${answer.title}`, answer] as const);
const right = ({ verdict, isKept, retryAfter }: AnswerCase): Conclusion => ({ verdict, isKept, retryAfter });

describe("the verdict, and whether the connection is kept, is right for", () => {
  test.each(named)("%s", (_, answer) => {
    expect(conclude([bytesOf(answer.bytes)])).toEqual(right(answer));
  });
});

describe("however the bytes are split, the conclusion is the same for", () => {
  test.each(named)("%s", (_, answer) => {
    const bytes = bytesOf(answer.bytes);
    const expectSame = (pieces: readonly Buffer[]) => {
      const conclusion = conclude(pieces);
      if (!Bun.deepEquals(conclusion, right(answer)))
        expect({ pieces, conclusion }).toEqual({ pieces, conclusion: right(answer) });
    };
    expectSame(oneByOne(answer.bytes));
    for (const place of placesIn(bytes.length)) expectSame(cut(bytes, [place]));
    const chance = createChance(bytes.length);
    for (let i = 0; i < 20; i++) {
      expectSame(
        cut(
          bytes,
          Array.from({ length: 2 + i }, () => Math.floor(chance.between(0, bytes.length))),
        ),
      );
    }
  });
});

test("each title of the corpus stands for one case", () => {
  const titles = named.map(([title]) => title);
  expect(titles.filter((title, i) => titles.indexOf(title) !== i)).toEqual([]);
});

describe("what is read", () => {
  const readingOf = (text: string) => new ResponseReader().read(bytesOf(text));

  test.each<[string, string, Reading]>([
    ["the beginning of a status line", "H", "more"],
    ["a version without its end", "HTTP/1.", "more"],
    ["what is no status line", "HTTX", "invalid"],
    ["another protocol, before its line ends", "SSH-2.0", "invalid"],
    ["a version that does not exist, once its line ends", "HTTP/7.3 200 OK\r\n", "invalid"],
    ["the first bytes of HTTP/2", "\0\0", "more"],
    ["a head without its end", "HTTP/1.1 200 OK\r\n", "more"],
    ["an interim answer", head("HTTP/1.1 100 Continue"), "more"],
    ["a body of a length, with more to come", ok(["Content-Length: 3"], "ok"), "more"],
    ["a body of the connection's length", ok([], "some"), "more"],
    ["a body in an unknown coding, which ends with the connection", ok(["Transfer-Encoding: gzip"], "x"), "more"],
    ["a body in gzip and chunks", ok(["Transfer-Encoding: gzip, chunked"], "0\r\n\r\n"), "done"],
    ["chunks with more to come", ok([CHUNKED], "2\r\nok\r\n"), "more"],
    ["a length twice, and a body as long as that", ok(["Content-Length: 2", "Content-Length: 2"], "ok"), "done"],
    ["a length and identity", ok(["Content-Length: 2", "Transfer-Encoding: identity"], "ok"), "done"],
    ["lengths that contradict each other", ok(["Content-Length: 2", "Content-Length: 3"]), "done"],
    ["a length that is none", ok(["Content-Length: x"]), "done"],
    ["204 with a length", head("HTTP/1.1 204 x", "Content-Length: 9"), "done"],
    ["chunks that are none", ok([CHUNKED], "hello\r\n"), "done"],
    ["more of a head than we read", `HTTP/1.1 200 OK\r\nX: ${"x".repeat(16 * 1024)}`, "done"],
    ["more of a body than we read", ok([], "x".repeat(16 * 1024 + 1)), "done"],
  ])("of %s is waited for no longer than needed", (_, text, reading) => {
    expect(readingOf(text)).toBe(reading);
  });

  test("has its status before its head is complete, and blank lines are nothing", () => {
    const reader = new ResponseReader();
    expect([reader.read(bytesOf("\r\n\r\n")), reader.isUntouched]).toEqual(["more", true]);
    expect([reader.read(bytesOf("HTTP/1.1 200")), reader.isUntouched, reader.status]).toEqual([
      "more",
      false,
      undefined,
    ]);
    expect([reader.read(bytesOf(" ")), reader.status]).toEqual(["more", 200]);
  });
});

/** The least time that our own code takes for it, of three, in ms. */
function costMs(work: () => unknown): number {
  const costs = [1, 2, 3].map(() => {
    const startedAt = process.cpuUsage();
    work();
    return process.cpuUsage(startedAt).user / 1000;
  });
  return Math.min(...costs);
}

test.each<[string, string, Reading]>([
  ["a head", `HTTP/1.1 200 OK\r\nX: ${"x".repeat(16_300)}`, "more"],
  ["a head of many lines", `HTTP/1.1 200 OK\r\n${"X: y\r\n".repeat(2_700)}`, "more"],
  ["a head of blanks", ok([`Content-Length:${" ".repeat(16_300)}x`]), "done"],
  ["a chunk", ok([CHUNKED], `3ff0\r\n${"x".repeat(16_300)}`), "more"],
  ["chunks of a byte", ok([CHUNKED], "1\r\nx\r\n".repeat(2_700)), "more"],
  ["a trailer", ok([CHUNKED], `0\r\n${"X: y\r\n".repeat(2_700)}`), "more"],
  ["an interim head", `HTTP/1.1 103 x\r\nX: ${"x".repeat(65_000)}`, "more"],
])("%s that drips byte by byte costs no more than its length", (_, text, expected) => {
  const pieces = oneByOne(text);
  const drip = () => {
    const reader = new ResponseReader();
    return pieces.map((piece) => reader.read(piece)).at(-1);
  };
  expect(drip()).toBe(expected);
  // Some 4 ms. Searched or copied from its start each time, the longest would be 65,000 times 32,000 characters.
  expect(costMs(drip)).toBeLessThan(100);
});

test("whatever comes, reading it ends, throws nothing, and is the same in pieces", () => {
  const parts = [
    ...["HTTP/1.1 ", "200", "100", " OK", "\r\n", "\n", "\r", " ", "\t", ":", ";", ",", "x", "\0", "\xff"],
    ...["Content-Length: ", "Transfer-Encoding: chunked", "Connection: close", "5", "0", "0\r\n\r\n", "\r\n\r\n"],
  ];
  const chance = createChance(42);
  for (let i = 0; i < 20_000; i++) {
    const tail = Array.from({ length: Math.floor(chance.between(0, 30)) }, () => chance.pick(parts)).join("");
    const text = i % 2 === 0 ? tail : `HTTP/1.1 200 OK\r\n${tail}`;
    const whole = conclude([bytesOf(text)]);
    const pieces = oneByOne(text);
    const conclusion = conclude(pieces);
    if (!Bun.deepEquals(whole, conclusion)) expect({ text, conclusion }).toEqual({ text, conclusion: whole });
    if (i % 2 === 1) expect(whole.verdict).toBe(200);
  }
});
