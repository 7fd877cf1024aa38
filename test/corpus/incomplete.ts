/** RFC 9112 section 8: answers that the end of the connection cuts off, and heads that are longer than we read. */
import { CHUNKED, dropped, EMPTY, head, kept, ok } from "./answer-case.ts";

const KIB = 1024;
const OK = "HTTP/1.1 200 OK";
/** A head of exactly so many bytes, up to the line's end before the empty line. */
const headOf = (bytes: number) => head(OK, EMPTY, `X: ${"x".repeat(bytes - head(OK, EMPTY, "X: ").length + 4)}`);

export const INCOMPLETE = [
  ...dropped("RFC 9112 8, within the status line", [
    ["a letter", "H", "invalid"],
    ["the name", "HTTP/", "invalid"],
    ["the version", "HTTP/1.1", "invalid"],
    ["two digits of the status", "HTTP/1.1 20", "invalid"],
    ["three digits, of which nobody knows whether there are more", "HTTP/1.1 200", "invalid"],
    ["behind the status", "HTTP/1.1 200 ", 200],
    ["within the reason", "HTTP/1.1 200 O", 200],
    ["within the reason of a failure", "HTTP/1.1 503 Service Unav", 503],
    ["within the reason of an interim answer", "HTTP/1.1 100 Cont", "invalid"],
    ["within the reason of 101", "HTTP/1.1 101 Sw", "invalid"],
    ["within the line's end", "HTTP/1.1 200 OK\r", 200],
  ]),
  ...dropped("RFC 9112 8, within the fields", [
    ["behind the status line", "HTTP/1.1 200 OK\r\n", 200],
    ["within a name", "HTTP/1.1 200 OK\r\nContent-Le", 200],
    ["within a value", "HTTP/1.1 200 OK\r\nContent-Length: 1", 200],
    ["behind a field", "HTTP/1.1 202 x\r\nContent-Length: 0\r\n", 202],
    ["within the empty line", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r", 200],
    ["410 behind a field", "HTTP/1.1 410 Gone\r\nX: y\r\n", 410],
    ["a Retry-After that may not be all of it", "HTTP/1.1 503 x\r\nRetry-After: 12", 503],
    ["1xx behind the status line", "HTTP/1.1 100 Continue\r\n", "invalid"],
  ]),
  ...dropped("RFC 9112 8, within the body", [
    ["before a body of a length", ok(["Content-Length: 2"]), 200],
    ["within a body of a length", ok(["Content-Length: 2"], "o"), 200],
    ["within a failure's body", `${head("HTTP/1.1 500 x", "Content-Length: 9")}oops`, 500],
    ["before the first chunk", ok([CHUNKED]), 200],
    ["within a chunk's size", ok([CHUNKED], "1"), 200],
    ["behind a chunk's size", ok([CHUNKED], "2\r\n"), 200],
    ["within a chunk's data", ok([CHUNKED], "2\r\no"), 200],
    ["within a chunk's end", ok([CHUNKED], "2\r\nok\r"), 200],
    ["before the last chunk", ok([CHUNKED], "2\r\nok\r\n"), 200],
    ["within the last chunk", ok([CHUNKED], "2\r\nok\r\n0"), 200],
    ["before the empty line of the last chunk", ok([CHUNKED], "2\r\nok\r\n0\r\n"), 200],
    ["within the empty line of the last chunk", ok([CHUNKED], "2\r\nok\r\n0\r\n\r"), 200],
    ["within the trailer", ok([CHUNKED], "0\r\nX: y"), 200],
    ["behind the trailer", ok([CHUNKED], "0\r\nX: y\r\n"), 200],
  ]),
  ...kept("RFC 9110 5.4", [
    ["a head of 8 KiB", headOf(8 * KIB), 200],
    ["a head a byte shorter than is read", headOf(16 * KIB - 1), 200],
    ["the longest head that is read", headOf(16 * KIB), 200],
  ]),
  ...dropped("RFC 9110 5.4", [
    ["a head a byte longer than is read", headOf(16 * KIB + 1), 200],
    ["a head two bytes longer than is read", headOf(16 * KIB + 2), 200],
    ["a head of 16 KiB and three bytes", headOf(16 * KIB + 3), 200],
    ["a head of 16 KiB and four bytes", headOf(16 * KIB + 4), 200],
    ["a head a byte longer than is read, with lines of LF", headOf(16 * KIB + 4).replaceAll("\r", ""), 200],
    ["a head of 20 KiB", headOf(20 * KIB), 200],
    ["a head without end", `${OK}\r\n${"X: y\r\n".repeat(8 * KIB)}`, 200],
    ["a failure with a head of 20 KiB", headOf(20 * KIB).replace("200 OK", "500 Oh"), 500],
    ["a reason of 20 KiB", head(`HTTP/1.1 200 ${"x".repeat(20 * KIB)}`, EMPTY), 200],
    ["a status line without end", `HTTP/1.1 503 ${"x".repeat(20 * KIB)}`, 503],
    [
      "a Retry-After within what is read",
      head("HTTP/1.1 503 x", "Retry-After: 8", `X: ${"x".repeat(20 * KIB)}`),
      503,
      "8",
    ],
    ["a Retry-After behind what is read", head("HTTP/1.1 503 x", `X: ${"x".repeat(20 * KIB)}`, "Retry-After: 8"), 503],
    [
      "a Retry-After that goes beyond what is read",
      head(`HTTP/1.1 503 ${"x".repeat(16 * KIB - 30)}`, "Retry-After: 88888"),
      503,
    ],
    ["410 with a head of 20 KiB", headOf(20 * KIB).replace("200 OK", "410 No"), 410],
  ]),
];
