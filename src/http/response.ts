/**
 * Parses the response to one request as its bytes arrive: the status, `Retry-After`, and where the response ends. Pure.
 *
 * One rule: a readable status line decides the verdict; doubt about framing costs the connection. A receiver that sends a
 * status has processed the event, so errors after the status never cause the event to be sent again. But the next response on the
 * connection starts where this one ends, so the connection is reused only if that point is beyond doubt.
 *
 * @see RFC 9110 (semantics), RFC 9112 (HTTP/1.1), RFC 9113 (HTTP/2, only to recognize it)
 */

import { isFrameHead } from "./frame-head.ts";
import { CollectedBeginning } from "./response-beginning.ts";

/** The state after reading some bytes: more are needed, the response is complete, or it is no valid HTTP/1 response. */
export type Reading = "more" | "done" | "invalid";

const MAX_HEAD_BYTES = 16 * 1024; // 16 KiB of status line and fields; a longer head is cut off, but its status counts
const MAX_BODY_BYTES = 16 * 1024; // 16 KiB of the body, just to reach its end: only the status matters
const MAX_PREAMBLE_BYTES = 64 * 1024; // 64 KiB of 1xx responses and blank lines, as protection against a flood of them
const MAX_LINE_BYTES = 1024; // 1 KiB for a chunk's size line, or for a trailer field

/** The start of a status line, as leniently as RFC 9112 section 4 allows: any kind and number of blanks. */
const STATUS = /^HTTP\/([12](?:\.\d)?)[ \t\v\f\r]{1,16}(\d{3})(?=[ \t\v\f\r\n])/i;
const MAX_STATUS_BYTES = 32; // what STATUS matches is shorter
const HEAD_END = /\r?\n\r?\n/;

const TOKEN = "[-!#$%&'*+.^_`|~\\w]+";
const TEXT = "[\\t -~\\x80-\\xff]*";
const QUOTED = '"(?:[\\t !#-[\\]-~\\x80-\\xff]|\\\\[\\t -~\\x80-\\xff])*"';
const BLANKS = "[ \\t]*";

/** An unambiguous head: fields as in RFC 9112 section 5, none folded, no control characters. */
const WELL_FORMED = new RegExp(`^HTTP/1\\.[01] \\d{3}(?: ${TEXT})?(?:\\r?\\n${TOKEN}:${TEXT})*$`);
const FIELD = /\n(content-length|transfer-encoding|connection|retry-after)[ \t]*:([^\n]*)/gi;
const FOLD = /\r?\n[ \t]+/g;
const DIGITS = /^\d{1,15}$/;
const KEEP_ALIVE = /(?:^|,)[ \t]*keep-alive[ \t]*(?:,|$)/i;

/** The line before a chunk: its size and extensions. */
const EXTENSION = `${BLANKS};${BLANKS}${TOKEN}(?:${BLANKS}=${BLANKS}(?:${TOKEN}|${QUOTED}))?`;
const CHUNK_SIZE = new RegExp(`^([\\dA-Fa-f]{1,16})(?:${EXTENSION})*\\r\\n$`);
/** A line after the last chunk. It must not be a framing field (RFC 9110 section 6.5.1). */
const TRAILER_FIELD = new RegExp(`^(?!(?:content-length|transfer-encoding):)${TOKEN}:${TEXT}\\r\\n$`, "i");

/** How the end of the body is found: a length in bytes, chunked coding, the end of the connection, or not at all. */
type Framing = number | "chunked" | "close" | "unknown";

export class ResponseReader {
  /** The final status, as soon as it can be read. Nothing that follows changes it. */
  status: number | undefined;
  /** The value of the first `Retry-After`, unparsed; undefined before the response's head is complete. */
  retryAfter: string | undefined;
  /** Whether the response ended exactly where its framing said, so that the connection can be reused. */
  isReusable = false;
  /** Whether nothing but blank lines has arrived. */
  isUntouched = true;
  /** Whether the bytes are the start of an HTTP/2 connection, all that the receiver speaks. Set only with "invalid". */
  speaksHttp2 = false;
  /** What came of a failed response; undefined while there is none, or when it is not kept. */
  beginning: CollectedBeginning | undefined;
  #text = ""; // bytes not processed yet, as latin1
  #recent = ""; // the last characters of #text, which may be the start of HEAD_END
  #preambleBytes = 0;
  #code: number | undefined; // the status of the head being read: final or 1xx
  #version = "";
  #mayPersist = true;
  #framing: Framing | undefined; // undefined before the response's head is complete
  #bodyBytes = 0;
  #chunkPart: "size" | "data" | "trailer" = "size";
  #chunkBytes = 0; // remaining bytes of the current chunk's data

  /** @param keptBytes  how much of a failed response's body to keep; 0 keeps nothing, and costs nothing */
  constructor(private readonly keptBytes = 0) {}

  /** The receiver has finished sending. */
  end(): void {
    this.isReusable = false;
    if (this.#framing === "close") this.beginning?.end();
  }

  read(bytes: Buffer): Reading {
    const text = bytes.toString("latin1");
    return this.#framing === undefined ? this.#readHead(text) : this.#readBody(text);
  }

  #readHead(text: string): Reading {
    this.#text += text;
    let recent = this.#recent + text; // search only new text, so that a slowly dripping head does not take quadratic time
    for (;;) {
      if (this.#code === undefined) {
        const reading = this.#readStatus();
        if (reading !== undefined) return reading;
        recent = this.#text;
      }
      const isInterim = this.status === undefined;
      const end = HEAD_END.exec(recent);
      // If HEAD_END has not been found, it starts in the last three characters at the earliest.
      const length = this.#text.length - (end === null ? 3 : recent.length - end.index);
      if (length > (isInterim ? MAX_PREAMBLE_BYTES - this.#preambleBytes : MAX_HEAD_BYTES)) return this.#cutHead();
      if (end === null) {
        this.#recent = recent.slice(-3);
        return "more";
      }
      const head = this.#text.slice(0, length);
      const framing = this.#readFields(head);
      if (!isInterim) this.#keepHead(head);
      this.#text = this.#text.slice(length + end[0].length);
      if (!isInterim) return this.#beginBody(framing);
      if (framing !== "close") this.#mayPersist = false; // 1xx responses have no body, but this one may send one anyway
      this.retryAfter = undefined;
      this.#code = undefined;
      this.#preambleBytes += length + end[0].length;
    }
  }

  /** @returns undefined once the status has been read */
  #readStatus(): Reading | undefined {
    const start = this.#text.search(/[^ \t\v\f\r\n]|$/);
    if (start > 0) {
      this.#text = this.#text.slice(start);
      this.#preambleBytes += start;
      this.#mayPersist = false; // stray bytes: the previous response may have been longer than it said
      if (this.#preambleBytes > MAX_PREAMBLE_BYTES) return "invalid";
    }
    if (this.#text === "") return "more";
    this.isUntouched = false;
    const line = STATUS.exec(this.#text);
    if (line === null) return this.#readUnknownStart();
    const code = Number(line[2]);
    if (code === 101) return "invalid"; // we never ask for another protocol
    this.#code = code;
    this.#version = line[1] as string;
    if (code < 100 || code > 199) this.status = code;
  }

  /** Text that is not a status line: an incomplete one, HTTP/2, or garbage. */
  #readUnknownStart(): Reading {
    const text = this.#text;
    const bytes = Buffer.from(text.slice(0, 9), "latin1");
    if (isFrameHead(bytes)) {
      this.speaksHttp2 = bytes.length === 9;
      return this.speaksHttp2 ? "invalid" : "more";
    }
    const isBeginning = "HTTP/".startsWith(text.slice(0, 5).toUpperCase());
    return isBeginning && text.length < MAX_STATUS_BYTES && !text.includes("\n") ? "more" : "invalid";
  }

  /** The head is too long: its status counts, and so do the complete fields before the limit. */
  #cutHead(): Reading {
    if (this.status === undefined) return "invalid";
    const head = this.#text.slice(0, MAX_HEAD_BYTES);
    const fields = head.slice(0, Math.max(0, head.lastIndexOf("\n")));
    this.#readFields(fields);
    this.#keepHead(fields);
    this.beginning?.cut();
    return "done";
  }

  #keepHead(head: string): void {
    const status = this.status ?? 0;
    if (this.keptBytes > 0 && (status < 200 || status > 299)) {
      this.beginning = new CollectedBeginning(head, this.keptBytes);
    }
  }

  /** @param text  the head, without the line break of its last line */
  #readFields(text: string): Framing {
    let head = text;
    if (!WELL_FORMED.test(head)) {
      this.#mayPersist = false; // other parsers may see a different length
      head = head.replace(FOLD, " ");
    }
    let length: string | undefined;
    let coding: string | undefined;
    let isKeptAlive = this.#version === "1.1";
    FIELD.lastIndex = 0;
    for (let field = FIELD.exec(head); field !== null; field = FIELD.exec(head)) {
      const value = withoutBlanks(field[2] as string);
      switch ((field[1] as string).toLowerCase()) {
        case "content-length":
          length = length === undefined ? value : `${length},${value}`;
          break;
        case "transfer-encoding":
          coding = coding === undefined ? value : `${coding},${value}`;
          break;
        case "connection":
          if (/\bclose\b/i.test(value)) this.#mayPersist = false;
          else if (KEEP_ALIVE.test(value)) isKeptAlive = true;
          break;
        default:
          this.retryAfter ??= value;
      }
    }
    if (!isKeptAlive) this.#mayPersist = false;
    return this.#framingBy(length, coding);
  }

  /**
   * Determine where the body ends, from field values joined by commas (RFC 9110 section 5.3). If they are ambiguous, the connection
   * is not reused, and the most likely end is good enough to stop reading at.
   */
  #framingBy(length: string | undefined, coding: string | undefined): Framing {
    if (coding === undefined) {
      if (length === undefined) return "close";
      if (DIGITS.test(length)) return Number(length);
    } else if (length === undefined && this.#version === "1.1" && coding.toLowerCase() === "chunked") return "chunked";
    this.#mayPersist = false;
    const codings = (coding ?? "").toLowerCase().split(",").map(withoutBlanks);
    if (codings.findLast((name) => name !== "" && name !== "identity") === "chunked") return "chunked";
    if (length === undefined) return "close";
    const [first = "", ...others] = new Set(length.split(",").map(withoutBlanks));
    return others.length === 0 && DIGITS.test(first) ? Number(first) : "unknown";
  }

  #beginBody(framing: Framing): Reading {
    const hasNoBody = this.status === 204 || this.status === 304; // regardless of its fields (RFC 9112 section 6.3)
    if (hasNoBody && framing !== "close" && framing !== 0) this.#mayPersist = false; // it may send a body anyway
    this.#framing = hasNoBody ? 0 : framing;
    const rest = this.#text;
    this.#text = "";
    return this.#readBody(rest);
  }

  #readBody(text: string): Reading {
    const framing = this.#framing;
    if (framing === "chunked") return this.#readChunked(text);
    this.beginning?.add(typeof framing === "number" ? text.slice(0, Math.max(0, framing - this.#bodyBytes)) : text);
    this.#bodyBytes += text.length; // includes unsolicited bytes after the body
    if (framing === this.#bodyBytes && framing <= MAX_BODY_BYTES) this.isReusable = this.#mayPersist;
    if (typeof framing === "number" && this.#bodyBytes >= framing) this.beginning?.end();
    else if (framing !== "unknown" && this.#bodyBytes <= MAX_BODY_BYTES) return "more";
    this.beginning?.cut();
    return "done";
  }

  #readChunked(text: string): Reading {
    this.#bodyBytes += text.length;
    if (this.#bodyBytes <= MAX_BODY_BYTES) return this.#readChunks(text);
    this.#mayPersist = false;
    if (this.beginning !== undefined) this.#readChunks(text);
    this.beginning?.cut();
    return "done";
  }

  #readChunks(piece: string): Reading {
    const text = this.#text + piece;
    let at = 0;
    for (;;) {
      const skipped = Math.min(this.#chunkBytes, text.length - at);
      this.#chunkBytes -= skipped;
      if (skipped > 0) this.beginning?.add(text.slice(at, at + skipped));
      at += skipped;
      const end = text.indexOf("\n", at) + 1;
      if ((end === 0 ? text.length : end) - at > MAX_LINE_BYTES) return "done";
      if (end === 0) {
        this.#text = text.slice(at);
        return "more";
      }
      const line = text.slice(at, end);
      at = end;
      if (this.#chunkPart === "trailer" && line === "\r\n") {
        this.isReusable = this.#mayPersist && at === text.length;
        this.beginning?.end();
        return "done";
      }
      if (!this.#readChunkLine(line)) return "done"; // malformed chunks: the status counts
    }
  }

  /** @returns whether the line is valid here: a chunk's size, the line break after its data, or a trailer field */
  #readChunkLine(line: string): boolean {
    if (this.#chunkPart === "trailer") return TRAILER_FIELD.test(line);
    if (this.#chunkPart === "data") {
      this.#chunkPart = "size";
      return line === "\r\n";
    }
    const size = CHUNK_SIZE.exec(line)?.[1];
    if (size === undefined) return false;
    this.#chunkBytes = Number.parseInt(size, 16);
    this.#chunkPart = this.#chunkBytes === 0 ? "trailer" : "data";
    return true;
  }
}

/** Strips the whitespace around a value: spaces and tabs (RFC 9110 section 5.6.3), and the CR of its line break. */
function withoutBlanks(text: string): string {
  let start = 0;
  let end = text.endsWith("\r") ? text.length - 1 : text.length;
  while (start < end && isBlank(text.charCodeAt(start))) start++;
  while (start < end && isBlank(text.charCodeAt(end - 1))) end--;
  return text.slice(start, end);
}

function isBlank(code: number): boolean {
  return code === 0x20 || code === 0x09;
}
