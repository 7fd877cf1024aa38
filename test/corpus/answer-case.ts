/** One answer of the corpus: bytes as a receiver may send them after one request, and what is right to make of them. */
export interface AnswerCase {
  /** Where it is said, as in `RFC 9112 6.3`. */
  readonly section: string;
  readonly title: string;
  /** All that comes until the connection ends, a character a byte. */
  readonly bytes: string;
  readonly verdict: Verdict;
  /** The connection may carry another exchange. */
  readonly isKept: boolean;
  readonly retryAfter?: string;
}

/** The status; or no answer at all, one of HTTP/2, or nothing that could be the beginning of an answer. */
export type Verdict = number | "invalid" | "http2" | "nothing";

/** An answer whose verdict stands, and which ends beyond doubt. */
type Row = readonly [title: string, bytes: string, verdict: Verdict, retryAfter?: string];

/** Answers after which the connection may carry another exchange. */
export function kept(section: string, rows: readonly Row[]): AnswerCase[] {
  return rows.map(([title, bytes, verdict, retryAfter]) => ({
    section,
    title,
    bytes,
    verdict,
    retryAfter,
    isKept: true,
  }));
}

/** Answers after which it may not: they say so, their end is not beyond doubt, or they are none. */
export function dropped(section: string, rows: readonly Row[]): AnswerCase[] {
  return kept(section, rows).map((answer) => ({ ...answer, isKept: false }));
}

/** Lines as HTTP/1.1 ends them, with the empty line behind them. */
export function head(...lines: string[]): string {
  return `${lines.join("\r\n")}\r\n\r\n`;
}

/** A well-formed answer of 200 with these fields, and what follows them. */
export function ok(fields: readonly string[], rest = ""): string {
  return head("HTTP/1.1 200 OK", ...fields) + rest;
}

export const EMPTY = "Content-Length: 0";
export const CHUNKED = "Transfer-Encoding: chunked";
export const CHUNKS = "2\r\nok\r\n0\r\n\r\n";
