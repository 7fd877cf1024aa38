/** RFC 9112 section 6.3 rule 1, RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5: answers that have no body, whatever they say. */
import { CHUNKED, CHUNKS, dropped, EMPTY, head, kept } from "./answer-case.ts";

const answers = [204, 304];

export const WITHOUT_BODY = [
  ...answers.flatMap((status) => [
    ...kept(`RFC 9112 6.3 rule 1, ${status}`, [
      ["without a length", head(`HTTP/1.1 ${status} x`), status],
      ["with a length of nothing", head(`HTTP/1.1 ${status} x`, EMPTY), status],
      ["with a type of what is not there", head(`HTTP/1.1 ${status} x`, "Content-Type: text/html"), status],
      ["without a reason", head(`HTTP/1.1 ${status}`), status],
    ]),
    ...dropped(`RFC 9112 6.3 rule 1, ${status}`, [
      ["with a length", head(`HTTP/1.1 ${status} x`, "Content-Length: 2"), status],
      [
        "with a length and the body that it must not have",
        `${head(`HTTP/1.1 ${status} x`, "Content-Length: 2")}ok`,
        status,
      ],
      ["with chunked and no chunks", head(`HTTP/1.1 ${status} x`, CHUNKED), status],
      ["with chunked and the last chunk", `${head(`HTTP/1.1 ${status} x`, CHUNKED)}0\r\n\r\n`, status],
      ["with chunked and chunks", head(`HTTP/1.1 ${status} x`, CHUNKED) + CHUNKS, status],
      ["with a length of nothing and chunked", head(`HTTP/1.1 ${status} x`, EMPTY, CHUNKED), status],
      ["with two lengths", head(`HTTP/1.1 ${status} x`, "Content-Length: 1", "Content-Length: 2"), status],
      ["with two lengths of nothing", head(`HTTP/1.1 ${status} x`, EMPTY, EMPTY), status],
      ["with a length that is none", head(`HTTP/1.1 ${status} x`, "Content-Length: x"), status],
      ["with identity", head(`HTTP/1.1 ${status} x`, "Transfer-Encoding: identity"), status],
      ["with a body all the same", `${head(`HTTP/1.1 ${status} x`)}ok`, status],
      ["with a line end behind it", `${head(`HTTP/1.1 ${status} x`)}\r\n`, status],
      ["of HTTP/1.0", head(`HTTP/1.0 ${status} x`), status],
    ]),
  ]),
  ...kept("RFC 9110 15.3.6", [
    ["205 with a length of nothing", head("HTTP/1.1 205 x", EMPTY), 205],
    ["205 with chunks", `${head("HTTP/1.1 205 x", CHUNKED)}0\r\n\r\n`, 205],
  ]),
  ...dropped("RFC 9110 15.3.6", [["205 until the connection ends", head("HTTP/1.1 205 x"), 205]]),
];
