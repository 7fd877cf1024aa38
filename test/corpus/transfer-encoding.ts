/** RFC 9112 sections 6.1, 6.3 and 7: codings of an answer's transfer. */
import { CHUNKED, CHUNKS, dropped, head, kept, ok } from "./answer-case.ts";

const coded = (...values: string[]) =>
  ok(
    values.map((value) => `Transfer-Encoding: ${value}`),
    CHUNKS,
  );

export const TRANSFER_ENCODINGS = [
  ...kept("RFC 9112 6.1", [
    ["chunked", coded("chunked"), 200],
    ["chunked in capitals", coded("CHUNKED"), 200],
    ["chunked in mixed letters, between tabs", coded("\tChunked\t"), 200],
    ["chunked, of a failure", head("HTTP/1.1 500 x", CHUNKED) + CHUNKS, 500],
  ]),
  ...dropped("RFC 9112 6.1", [
    ["chunked twice in a list", coded("chunked, chunked"), 200],
    ["chunked twice", coded("chunked", "chunked"), 200],
    ["chunked, then identity", coded("chunked", "identity"), 200],
    ["identity, then chunked", coded("identity, chunked"), 200],
    ["identity alone", ok(["Transfer-Encoding: identity"], "ok"), 200],
    ["gzip, then chunked", coded("gzip, chunked"), 200],
    ["gzip and chunked on two lines", coded("gzip", "chunked"), 200],
    ["chunked, then gzip", coded("chunked, gzip"), 200],
    ["gzip alone", ok(["Transfer-Encoding: gzip"], "\x1f\x8b"), 200],
    ["a coding that nobody knows", coded("xchunked"), 200],
    ["a coding that begins with chunked", coded("chunkedx"), 200],
    ["chunked in quotes", coded('"chunked"'), 200],
    ["chunked with a parameter", coded("chunked;q=1"), 200],
    ["chunked behind a comma", coded(",chunked"), 200],
    ["chunked before a comma", coded("chunked,"), 200],
    ["chunked before a semicolon", coded("chunked;"), 200],
    ["chunked behind a blank and another word", coded("x chunked"), 200],
    ["no coding", ok(["Transfer-Encoding:"], "ok"), 200],
    ["a comma", ok(["Transfer-Encoding: ,"], "ok"), 200],
    ["a name with an underscore", ok(["Transfer_Encoding: chunked"], CHUNKS), 200],
    ["a name that is misspelled", ok(["Transfer-Encodings: chunked"], CHUNKS), 200],
    ["chunked of HTTP/1.0", head("HTTP/1.0 200 OK", CHUNKED) + CHUNKS, 200],
    [
      "chunked of HTTP/1.0 that is kept alive",
      head("HTTP/1.0 200 OK", "Connection: keep-alive", CHUNKED) + CHUNKS,
      200,
    ],
    ["chunked of HTTP/2.0", head("HTTP/2.0 200 OK", CHUNKED) + CHUNKS, 200],
    ["chunked that says it is the last", ok([CHUNKED, "Connection: close"], CHUNKS), 200],
  ]),
];
