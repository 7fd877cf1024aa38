/** RFC 9110 section 10.2.3: which `Retry-After` an answer gives. What it means is judged elsewhere. */
import { CHUNKED, CHUNKS, EMPTY, head, kept } from "./answer-case.ts";

const pause = (...values: string[]) => head("HTTP/1.1 503 x", ...values.map((value) => `Retry-After: ${value}`), EMPTY);

export const RETRY_AFTER = kept("RFC 9110 10.2.3", [
  ["none", pause(), 503],
  ["seconds", pause("120"), 503, "120"],
  ["seconds among blanks", pause(" \t120\t "), 503, "120"],
  ["seconds without a blank", head("HTTP/1.1 503 x", "retry-after:120", EMPTY), 503, "120"],
  ["a date", pause("Fri, 31 Dec 1999 23:59:59 GMT"), 503, "Fri, 31 Dec 1999 23:59:59 GMT"],
  ["a date of RFC 850", pause("Friday, 31-Dec-99 23:59:59 GMT"), 503, "Friday, 31-Dec-99 23:59:59 GMT"],
  ["two, of which the first counts", pause("120", "5"), 503, "120"],
  ["two, of which the first is empty", pause("", "5"), 503, ""],
  ["a list, as it came", pause("120, 5"), 503, "120, 5"],
  ["nonsense, as it came", pause("soon"), 503, "soon"],
  ["one behind the length", head("HTTP/1.1 429 x", EMPTY, "RETRY-AFTER: 9"), 429, "9"],
  ["one before chunks", head("HTTP/1.1 429 x", "Retry-After: 9", CHUNKED) + CHUNKS, 429, "9"],
  ["one on a success", head("HTTP/1.1 200 OK", "Retry-After: 9", EMPTY), 200, "9"],
  ["another field of almost that name", head("HTTP/1.1 503 x", "X-Retry-After: 9", EMPTY), 503],
]);
