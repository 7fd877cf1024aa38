import { describe, expect, test } from "bun:test";
import { type Reading, ResponseReader } from "../src/http/response.ts";

const head = (...lines: string[]) => `${lines.join("\r\n")}\r\n\r\n`;
const OK = "HTTP/1.1 200 OK";

/** What a reader makes of an answer that comes in pieces. */
function readAll(...pieces: string[]): { reading: Reading; reader: ResponseReader } {
  const reader = new ResponseReader();
  let reading: Reading = "more";
  for (const piece of pieces) {
    reading = reader.read(Buffer.from(piece, "latin1"));
    if (reading !== "more") break;
  }
  return { reading, reader };
}

const summary = ({ reading, reader }: ReturnType<typeof readAll>) => [reading, reader.status, reader.isReusable];

describe("an answer", () => {
  test.each([
    ["with a length", `${head(OK, "Content-Length: 2")}ok`, ["done", 200, true]],
    ["with a length of nothing", head(OK, "content-length:0"), ["done", 200, true]],
    ["in chunks", `${head(OK, "Transfer-Encoding: Chunked")}2\r\nok\r\n0\r\n\r\n`, ["done", 200, true]],
    [
      "in chunks with extensions",
      `${head(OK, "Transfer-Encoding: chunked")}2;a=b\r\nok\r\n0\r\n\r\n`,
      ["done", 200, true],
    ],
    ["in chunks with a trailer", `${head(OK, "Transfer-Encoding: chunked")}0\r\nX: y\r\n\r\n`, ["done", 200, true]],
    ["of 204", head("HTTP/1.1 204 No Content"), ["done", 204, true]],
    ["of 204 with a length of nothing", head("HTTP/1.1 204 x", "Content-Length: 0"), ["done", 204, true]],
    [
      "of 204 with the length of what it must not have",
      head("HTTP/1.1 204 x", "Content-Length: 2"),
      ["done", 204, false],
    ],
    ["of 204 with chunks", head("HTTP/1.1 204 x", "Transfer-Encoding: chunked"), ["done", 204, false]],
    ["with a folded line", head(OK, "X: a", " b", "Content-Length: 0"), ["done", 200, false]],
    ["with a folded length", head(OK, "Content-Length: 0", "\t2"), ["done", 200, false]],
    ["with a blank before a colon", head(OK, "Content-Length: 0", "Transfer-Encoding : chunked"), ["done", 200, false]],
    ["of 304 with the length of what it is not", head("HTTP/1.1 304 x", "Content-Length: 9"), ["done", 304, true]],
    ["without a reason", head("HTTP/1.1 200", "Content-Length: 0"), ["done", 200, true]],
    [
      "after others in between",
      head("HTTP/1.1 100 Continue") + head("HTTP/1.1 103 Hints", "Link: x") + head("HTTP/1.1 204"),
      ["done", 204, true],
    ],
    ["of HTTP/1.0", head("HTTP/1.0 200 OK", "Content-Length: 0"), ["done", 200, false]],
    ["that says it is the last", head(OK, "Connection: x, Close", "Content-Length: 0"), ["done", 200, false]],
    ["with something behind it", `${head(OK, "Content-Length: 2")}ok!`, ["done", 200, false]],
    [
      "with another behind its chunks",
      `${head(OK, "Transfer-Encoding: chunked")}0\r\n\r\nHTTP/1.1`,
      ["done", 200, false],
    ],
    ["with bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", ["done", 200, true]],
    ["that ends with the connection", `${head(OK)}some`, ["more", 200, false]],
    ["in a coding of its own", `${head(OK, "Transfer-Encoding: gzip, chunked")}some`, ["more", 200, false]],
    ["with chunks that are none", `${head(OK, "Transfer-Encoding: chunked")}zz\r\n`, ["done", 200, false]],
    [
      "with a chunk that is longer than it says",
      `${head(OK, "Transfer-Encoding: chunked")}2\r\nokay\r\n`,
      ["done", 200, false],
    ],
    ["whose body has no end", head(OK, "Content-Length: 1000000") + "x".repeat(16_385), ["done", 200, false]],
    [
      "whose chunks have no end",
      head(OK, "Transfer-Encoding: chunked") + "800\r\n".padEnd(20_000, "x"),
      ["done", 200, false],
    ],
    [
      "whose chunk has a size without end",
      head(OK, "Transfer-Encoding: chunked") + "0".repeat(300),
      ["done", 200, false],
    ],
  ])("%s", (_, text, expected) => {
    expect(summary(readAll(text))).toEqual(expected as never);
    // In pieces of any size it is the same; what follows an answer may have come too late to be seen.
    for (const size of [1, 2, 3, 7, 100]) {
      const pieces = Array.from({ length: Math.ceil(text.length / size) }, (_, i) =>
        text.slice(i * size, (i + 1) * size),
      );
      const [reading, status] = summary(readAll(...pieces));
      expect([reading, status] as unknown[]).toEqual(expected.slice(0, 2));
    }
  });

  test("gives the first Retry-After, as it came", () => {
    const { reader } = readAll(head("HTTP/1.1 503 x", "retry-after:  120 ", "Retry-After: 5", "Content-Length: 0"));
    expect(reader.retryAfter).toBe("120");
  });
});

describe("no answer", () => {
  test.each([
    ["another protocol", "SSH-2.0"],
    ["a page", "<html>"],
    ["a later version", "HTTP/2 200"],
    ["a status of four digits", head("HTTP/1.1 2000 OK")],
    ["a status of none", head("HTTP/1.1 OK")],
    ["an upgrade", head("HTTP/1.1 101 Switching")],
    ["a header without a colon", head(OK, "nonsense")],
    ["a header without a name", head(OK, ": x")],
    ["two lengths, even if alike", head(OK, "Content-Length: 1", "Content-Length: 1")],
    ["a negative length", head(OK, "Content-Length: -1")],
    ["a length and chunks", head(OK, "Transfer-Encoding: chunked", "Content-Length: 1")],
    ["a head of more than 16 KiB", `${OK}\r\nX: ${"x".repeat(16_400)}`],
    ["1xx without end", head("HTTP/1.1 100 Continue").repeat(1_001)],
  ])("is %s", (_, text) => {
    expect(readAll(text).reading).toBe("invalid");
  });

  test("is known as soon as it can be", () => {
    expect(readAll("H").reading).toBe("more");
    expect(readAll("HTTP/1.").reading).toBe("more");
    expect(readAll("HTTX").reading).toBe("invalid");
  });
});

test("a head that drips byte by byte costs no more than its length", () => {
  const costMs = (length: number): number => {
    const text = `${OK}\r\nX: ${"x".repeat(length)}`;
    const startedAt = process.cpuUsage();
    readAll(...text);
    const { user } = process.cpuUsage(startedAt);
    return user / 1000;
  };
  costMs(16_000);
  expect(costMs(16_000)).toBeLessThan(1_000); // searched from its start each time: 16,000 times 8,000 characters
});

test("whatever comes, reading it ends and throws nothing", () => {
  const parts = [
    "HTTP/1.1 ",
    "200",
    " OK",
    "\r\n",
    "\n",
    "\r",
    "Content-Length: ",
    "Transfer-Encoding: chunked",
    "5",
    "0",
    ":",
    "x",
    "\0",
    "ÿ",
  ];
  let seed = 42;
  const next = (below: number) => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return (seed >>> 8) % below;
  };
  for (let i = 0; i < 5_000; i++) {
    const text = Array.from({ length: next(30) }, () => parts[next(parts.length)]).join("");
    expect(["more", "done", "invalid"]).toContain(readAll(`HTTP/1.1 200 OK\r\n${text}`, text).reading);
  }
});
