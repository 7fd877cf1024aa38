/** RFC 9112 section 2.2: where lines end, and what may stand before the first. */
import { dropped, EMPTY, kept, ok } from "./answer-case.ts";

export const LINE_ENDS = [
  ...kept("RFC 9112 2.2", [
    ["CRLF", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200],
    ["LF alone", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200],
    ["LF after the status line alone", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", 200],
    ["LF as the empty line", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n", 200],
    ["LF before an empty line of CRLF", "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n", 200],
    ["LF, with chunks", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n0\r\n\r\n", 200],
    ["LF, without a field", "HTTP/1.1 204 x\n\n", 204],
  ]),
  ...dropped("RFC 9112 2.2", [
    ["LF in chunks", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n", 200],
    ["LF CR", "HTTP/1.1 200 OK\n\rContent-Length: 0\n\r\n\r", 200],
    ["CR alone", "HTTP/1.1 200 OK\rContent-Length: 0\r\r", 200],
    ["CR CR LF", "HTTP/1.1 200 OK\r\r\nContent-Length: 0\r\r\n\r\r\n", 200],
    ["a bare CR in a value", ok(["X: a\rb", EMPTY]), 200],
    ["a bare CR with a field behind it", ok(["X: a\rTransfer-Encoding: chunked", EMPTY]), 200],
    ["a bare CR in a name", ok(["X\rY: z", EMPTY]), 200],
    ["a bare CR at the end of a length", ok(["Content-Length: 2\r"], "ok"), 200],
    ["a bare CR inside a length", ok(["Content-Length: 2\r3"], "ok"), 200],
    ["a bare CR where a line begins", ok(["\rContent-Length: 9", EMPTY]), 200],
    ["a bare CR as the last line", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r", 200],
  ]),
  ...dropped("RFC 9112 2.2, before the status line", [
    ["an empty line", `\r\n${ok([EMPTY])}`, 200],
    ["an empty line of LF", `\n${ok([EMPTY])}`, 200],
    ["several empty lines", `\r\n\r\n\n\r\n${ok([EMPTY])}`, 200],
    ["an empty line, and a failure", "\r\nHTTP/1.1 503 x\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n", 503, "9"],
    ["a CR", `\r${ok([EMPTY])}`, 200],
    ["lines of blanks", ` \r\n\t\r\n${ok([EMPTY])}`, 200],
    ["64 KiB of empty lines", `${"\r\n".repeat(32 * 1024)}${ok([EMPTY])}`, 200],
    ["more of them than we read", `${"\r\n".repeat(33 * 1024)}${ok([EMPTY])}`, "invalid"],
    ["an empty line, and nothing else", "\r\n", "nothing"],
    ["nothing at all", "", "nothing"],
    ["an empty line, and half a word", "\r\nHTT", "invalid"],
  ]),
];
