/**
 * Reads the answer to one request as its bytes arrive: the status, `Retry-After`, and where the answer ends. Pure.
 *
 * One rule: a readable status line decides the verdict; doubt about framing costs the connection. A receiver that sends a
 * status has dealt with the event, so nothing that is wrong after the status may cause the event to be sent again. But the
 * next answer on the connection begins where this one ends: the connection is kept only if that place is beyond doubt.
 *
 * @see RFC 9110 (semantics), RFC 9112 (HTTP/1.1), RFC 9113 (HTTP/2, only to recognize it)
 */

/** What was read so far: not enough, all that we want to know, or something that is no answer to a request. */
export type Reading = "more" | "done" | "invalid";

const MAX_HEAD_BYTES = 16 * 1024; // 16 KiB of status line and fields; the status stands however long they are
const MAX_BODY_BYTES = 16 * 1024; // 16 KiB: the most of a body that is read; the status has said all we need
const MAX_PREAMBLE_BYTES = 64 * 1024; // 64 KiB of 1xx and blank lines ahead of the answer, so that a flood of them ends
const MAX_LINE_BYTES = 1024; // 1 KiB for a chunk's size with its extensions, or for a trailer field

/** A status line as far as it is needed, as generous as RFC 9112 section 4 allows: blanks of any kind, and more than one. */
const STATUS = /^HTTP\/([12](?:\.\d)?)[ \t\v\f\r]{1,16}(\d{3})(?=[ \t\v\f\r\n])/i;
const MAX_STATUS_BYTES = 32; // what STATUS matches is shorter
const HEAD_END = /\r?\n\r?\n/;

const TOKEN = "[-!#$%&'*+.^_`|~\\w]+";
const TEXT = "[\\t -~\\x80-\\xff]*";
const QUOTED = '"(?:[\\t !#-[\\]-~\\x80-\\xff]|\\\\[\\t -~\\x80-\\xff])*"';
const BLANKS = "[ \\t]*";

/** A head that leaves no room for doubt: fields as RFC 9112 section 5 has them, none folded, no control characters. */
const WELL_FORMED = new RegExp(`^HTTP/1\\.[01] \\d{3}(?: ${TEXT})?(?:\\r?\\n${TOKEN}:${TEXT})*$`);
const FIELD = /\n(content-length|transfer-encoding|connection|retry-after)[ \t]*:([^\n]*)/gi;
const FOLD = /\r?\n[ \t]+/g;
const DIGITS = /^\d{1,15}$/;
const KEEP_ALIVE = /(?:^|,)[ \t]*keep-alive[ \t]*(?:,|$)/i;

/** The line before a chunk: its size, and extensions. */
const EXTENSION = `${BLANKS};${BLANKS}${TOKEN}(?:${BLANKS}=${BLANKS}(?:${TOKEN}|${QUOTED}))?`;
const CHUNK_SIZE = new RegExp(`^([\\dA-Fa-f]{1,16})(?:${EXTENSION})*\\r\\n$`);
/** A line behind the last chunk, which may not say how long the answer is (RFC 9110 section 6.5.1). */
const TRAILER_FIELD = new RegExp(`^(?!(?:content-length|transfer-encoding):)${TOKEN}:${TEXT}\\r\\n$`, "i");

/** How a body ends: after so many bytes, with its last chunk, with the connection, or who knows where. */
type Framing = number | "chunked" | "close" | "unknown";

export class ResponseReader {
  /** The answer's status, from the moment that it can be read; it stands whatever follows, or fails to. */
  status: number | undefined;
  /** The first `Retry-After`, as it came; undefined before the answer's head is complete. */
  retryAfter: string | undefined;
  /** The answer ended where it said it would, and the connection may carry another exchange. */
  isReusable = false;
  /** Nothing has come yet, blank lines aside. */
  isUntouched = true;
  /** What came is no answer but the beginning of HTTP/2: the receiver speaks nothing else. Only after "invalid". */
  speaksHttp2 = false;
  #text = ""; // what is not dealt with yet, a character a byte
  #recent = ""; // the end of it, in which the end of the head may have begun
  #preambleBytes = 0;
  #code: number | undefined; // of the head that is being read: the answer's or that of a 1xx
  #version = "";
  #mayPersist = true;
  #framing: Framing | undefined; // undefined before the answer's head is complete
  #bodyBytes = 0;
  #chunkPart: "size" | "data" | "trailer" = "size";
  #chunkBytes = 0; // what is still to come of a chunk's data

  read(bytes: Buffer): Reading {
    const text = bytes.toString("latin1");
    return this.#framing === undefined ? this.#readHead(text) : this.#readBody(text);
  }

  #readHead(text: string): Reading {
    this.#text += text;
    let recent = this.#recent + text; // all that is searched: a head that drips is not searched again from its start
    for (;;) {
      if (this.#code === undefined) {
        const reading = this.#readStatus();
        if (reading !== undefined) return reading;
        recent = this.#text;
      }
      const isInterim = this.status === undefined;
      const end = HEAD_END.exec(recent);
      // Without an end in sight it begins in the last three characters at the earliest.
      const length = this.#text.length - (end === null ? 3 : recent.length - end.index);
      if (length > (isInterim ? MAX_PREAMBLE_BYTES - this.#preambleBytes : MAX_HEAD_BYTES)) return this.#cutHead();
      if (end === null) {
        this.#recent = recent.slice(-3);
        return "more";
      }
      const framing = this.#readFields(this.#text.slice(0, length));
      this.#text = this.#text.slice(length + end[0].length);
      if (!isInterim) return this.#beginBody(framing);
      if (framing !== "close") this.#mayPersist = false; // a body that none may have may come all the same
      this.retryAfter = undefined;
      this.#code = undefined;
      this.#preambleBytes += length + end[0].length;
    }
  }

  /** @returns undefined once the status can be read */
  #readStatus(): Reading | undefined {
    const start = this.#text.search(/[^ \t\v\f\r\n]|$/);
    if (start > 0) {
      this.#text = this.#text.slice(start);
      this.#preambleBytes += start;
      this.#mayPersist = false; // what belongs to no answer: one before it may have been longer than it said
      if (this.#preambleBytes > MAX_PREAMBLE_BYTES) return "invalid";
    }
    if (this.#text === "") return "more";
    this.isUntouched = false;
    const line = STATUS.exec(this.#text);
    if (line === null) return this.#readNonsense();
    const code = Number(line[2]);
    if (code === 101) return "invalid"; // we asked for no other protocol, and speak none
    this.#code = code;
    this.#version = line[1] as string;
    if (code < 100 || code > 199) this.status = code;
  }

  /** What is no status line may become one, or is HTTP/2. */
  #readNonsense(): Reading {
    const text = this.#text;
    const bytes = Buffer.from(text.slice(0, 9), "latin1");
    if (isFrameHead(bytes)) {
      this.speaksHttp2 = bytes.length === 9;
      return this.speaksHttp2 ? "invalid" : "more";
    }
    const isBeginning = "HTTP/".startsWith(text.slice(0, 5).toUpperCase());
    return isBeginning && text.length < MAX_STATUS_BYTES && !text.includes("\n") ? "more" : "invalid";
  }

  /** The head is longer than we read: its status stands, and what was read of it counts. */
  #cutHead(): Reading {
    if (this.status === undefined) return "invalid";
    const head = this.#text.slice(0, MAX_HEAD_BYTES);
    this.#readFields(head.slice(0, Math.max(0, head.lastIndexOf("\n"))));
    return "done";
  }

  /** @param text  without the line's end before the empty line */
  #readFields(text: string): Framing {
    let head = text;
    if (!WELL_FORMED.test(head)) {
      this.#mayPersist = false; // others may read a length where we see none, or another one
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
   * Find out where the body ends, from fields whose repetitions were joined by commas (RFC 9110 section 5.3). Where they are
   * in doubt the connection is lost, and the likeliest end is good enough to stop reading at.
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
    const hasNoBody = this.status === 204 || this.status === 304; // whatever its fields say (RFC 9112 section 6.3)
    if (hasNoBody && framing !== "close" && framing !== 0) this.#mayPersist = false; // a body may come all the same
    this.#framing = hasNoBody ? 0 : framing;
    const rest = this.#text;
    this.#text = "";
    return this.#readBody(rest);
  }

  #readBody(text: string): Reading {
    const framing = this.#framing;
    this.#bodyBytes += text.length; // with whatever follows the body: that was not asked for
    if (framing === "chunked") return this.#bodyBytes > MAX_BODY_BYTES ? "done" : this.#readChunks(text);
    if (framing === this.#bodyBytes && framing <= MAX_BODY_BYTES) this.isReusable = this.#mayPersist;
    const isOver = framing === "unknown" || (typeof framing === "number" && this.#bodyBytes >= framing);
    return isOver || this.#bodyBytes > MAX_BODY_BYTES ? "done" : "more";
  }

  #readChunks(piece: string): Reading {
    const text = this.#text + piece;
    let at = 0;
    for (;;) {
      const skipped = Math.min(this.#chunkBytes, text.length - at);
      this.#chunkBytes -= skipped;
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
        return "done";
      }
      if (!this.#readChunkLine(line)) return "done"; // no chunks, or not as they must be: the status stands
    }
  }

  /** @returns whether the line is what must stand here: a chunk's size, the line end behind its data, or a trailer field */
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

/** Strips what surrounds a value: spaces and tabs, which are the only blanks of RFC 9110 (section 5.6.3), and a line's CR. */
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

/**
 * The head of what a server of HTTP/2 says first, SETTINGS, or GOAWAY, as far as it has come.
 *
 * @see RFC 9113 sections 3.4, 4.1, 6.5, 6.8
 */
function isFrameHead(bytes: Buffer): boolean {
  const [length = 0, length2 = 0, , type = 4, flags = 0, ...stream] = bytes;
  const isShort = length === 0 && length2 <= 0x40; // 16 KiB at the most, until we allowed more
  return (
    isShort &&
    ((type === 4 && flags === 0) || type === 7) &&
    stream.every((byte, i) => (byte & (i === 0 ? 0x7f : 0xff)) === 0)
  );
}
