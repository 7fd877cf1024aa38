/** RFC 9110 section 15.2: what comes before the answer. */
import { CHUNKED, CHUNKS, dropped, EMPTY, head, kept, ok } from "./answer-case.ts";

const CONTINUE = head("HTTP/1.1 100 Continue");
const ANSWER = ok([EMPTY]);

export const INTERIM = [
  ...kept("RFC 9110 15.2", [
    ["100", CONTINUE + ANSWER, 200],
    ["102", head("HTTP/1.1 102 Processing") + ANSWER, 200],
    ["103 with links", head("HTTP/1.1 103 Early Hints", "Link: </a>; rel=preload", "Link: </b>") + ANSWER, 200],
    ["one that nobody registered", head("HTTP/1.1 199 x") + ANSWER, 200],
    ["several", CONTINUE + head("HTTP/1.1 102 x") + head("HTTP/1.1 103 x") + ANSWER, 200],
    ["one without a reason", head("HTTP/1.1 100") + ANSWER, 200],
    ["one with lines that end with LF", `HTTP/1.1 100 Continue\n\n${ANSWER}`, 200],
    ["a thousand", CONTINUE.repeat(1000) + ANSWER, 200],
    ["one before a failure", CONTINUE + head("HTTP/1.1 500 x", EMPTY), 500],
    ["one before chunks", CONTINUE + ok([CHUNKED], CHUNKS), 200],
    ["one before 204", CONTINUE + head("HTTP/1.1 204 x"), 204],
    ["one before 410", CONTINUE + head("HTTP/1.1 410 Gone", EMPTY), 410],
    ["one of 20 KiB", head("HTTP/1.1 103 x", ...Array(20).fill(`Link: ${"x".repeat(1024)}`)) + ANSWER, 200],
    [
      "one with a Retry-After, which counts for nothing",
      head("HTTP/1.1 103 x", "Retry-After: 9") + head("HTTP/1.1 503 x", EMPTY),
      503,
    ],
    [
      "one with another Retry-After",
      head("HTTP/1.1 103 x", "Retry-After: 9") + head("HTTP/1.1 503 x", "Retry-After: 5", EMPTY),
      503,
      "5",
    ],
  ]),
  ...dropped("RFC 9110 15.2", [
    ["one that says it is the last", head("HTTP/1.1 100 x", "Connection: close") + ANSWER, 200],
    ["one of HTTP/1.0", head("HTTP/1.0 100 Continue") + ANSWER, 200],
    ["one with a length of nothing", head("HTTP/1.1 100 x", EMPTY) + ANSWER, 200],
    ["one with chunked", head("HTTP/1.1 100 x", CHUNKED) + ANSWER, 200],
    ["one with a line without a colon", head("HTTP/1.1 100 x", "nonsense") + ANSWER, 200],
    ["one with an empty line behind it", `${CONTINUE}\r\n${ANSWER}`, 200],
    ["one with a body that it must not have", `${head("HTTP/1.1 100 x", "Content-Length: 2")}ok${ANSWER}`, "invalid"],
    ["one, and no answer", CONTINUE, "invalid"],
    ["one, and half an answer", `${CONTINUE}HTTP/1.1 20`, "invalid"],
    ["one, and another protocol", `${CONTINUE}SSH-2.0`, "invalid"],
    ["one that is cut off", "HTTP/1.1 100 Continue\r\nX", "invalid"],
    ["100 KiB of them", CONTINUE.repeat(4096) + ANSWER, "invalid"],
    ["one of 100 KiB", head("HTTP/1.1 103 x", `X: ${"x".repeat(100 * 1024)}`) + ANSWER, "invalid"],
  ]),
  ...dropped("RFC 9110 15.2.2", [
    ["101, which we did not ask for", head("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket"), "invalid"],
    ["101 with an answer behind it", head("HTTP/1.1 101 x", "Upgrade: h2c") + ANSWER, "invalid"],
    ["101 behind 100", CONTINUE + head("HTTP/1.1 101 x"), "invalid"],
  ]),
  ...dropped("RFC 9112 9.2", [
    ["a second answer in the same breath", ANSWER + head("HTTP/1.1 500 x", EMPTY), 200],
    ["a failure, and a second answer", head("HTTP/1.1 503 x", "Retry-After: 3", EMPTY) + ANSWER, 503, "3"],
    ["100 behind the answer", ANSWER + CONTINUE, 200],
  ]),
];
