/**
 * Reads the answer to one request as its bytes arrive: the status, `Retry-After`, and where the answer ends. Pure.
 *
 * Generous in what it takes for an answer, since the status decides and an event that was taken must not be sent again;
 * strict in what it takes for the end of one, since the next answer on the connection begins there.
 *
 * @see HTTP/1.1: RFC 9112
 */

/** What was read so far: not enough, all that we want to know, or something that is no answer to a request. */
export type Reading = "more" | "done" | "invalid";

const MAX_HEAD_BYTES = 16 * 1024; // 16 KiB of status line and headers
const MAX_BODY_BYTES = 16 * 1024; // 16 KiB: the most of a body that is read; the status has said all we need
const MAX_INTERIM = 1_000; // 1xx before the answer: reading a flood of them would leave no time for anything else

const STATUS_LINE = /^HTTP\/1\.([01]) (\d{3})(?: |\r?\n)/;
const BEGINNING = /^H(?:T(?:T(?:P(?:\/(?:1(?:\.|$)|$)|$)|$)|$)|$)/;
const HEAD_END = /\r?\n\r?\n/g;
const OBSOLETE = /^[^:]*[ \t]/; // a folded line, or blanks before the colon: others may read a length where we see none
const CHUNK_SIZE = /^([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n/;

/** How a body ends: after so many bytes, with its last chunk, or with the connection. */
type Framing = number | "chunked" | "close";

export class ResponseReader {
  /** The answer's status; undefined before its head is complete. */
  status: number | undefined;
  /** The first `Retry-After`, as it came. */
  retryAfter: string | undefined;
  /** The answer ended where it said it would, and the connection may carry another exchange. */
  isReusable = false;
  /** Nothing has come yet. */
  isUntouched = true;
  #text = ""; // what is not dealt with yet, a character a byte
  #framing: Framing = "close";
  #bodyBytes = 0;
  #interim = 0;
  #isPersistent = false;

  read(bytes: Buffer): Reading {
    this.isUntouched = false;
    const searched = this.#text.length;
    this.#text += bytes.toString("latin1");
    return this.status === undefined ? this.#readHead(searched) : this.#readBody();
  }

  #readHead(searched: number): Reading {
    for (;;) {
      if (!BEGINNING.test(this.#text.slice(0, 7))) return "invalid";
      HEAD_END.lastIndex = Math.max(0, searched - 3); // a head that drips is not searched again from its start
      const end = HEAD_END.exec(this.#text);
      if ((end?.index ?? this.#text.length) > MAX_HEAD_BYTES) return "invalid";
      if (end === null) return "more";
      const head = this.#text.slice(0, end.index);
      this.#text = this.#text.slice(HEAD_END.lastIndex);
      searched = 0;
      const [, minor, code] = STATUS_LINE.exec(`${head}\n`) ?? [];
      const status = Number(code);
      if (code === undefined || status === 101) return "invalid";
      if (status >= 100 && status < 200) {
        this.#interim += 1;
        if (this.#interim > MAX_INTERIM) return "invalid";
        if (this.#text === "") return "more";
        continue;
      }
      const framing = this.#readHeaders(head, minor === "1");
      if (framing === undefined) return "invalid";
      this.status = status;
      this.#framing = status === 204 || status === 304 ? 0 : framing;
      if (status === 204 && framing !== "close" && framing !== 0) this.#isPersistent = false; // a body may come all the same
      return this.#readBody();
    }
  }

  /** @returns undefined for headers that contradict themselves: who knows where such an answer ends? */
  #readHeaders(head: string, isPersistent: boolean): Framing | undefined {
    let length: string | undefined;
    let coding: string | undefined;
    this.#isPersistent = isPersistent;
    const lines = head.split("\n");
    for (let i = 1; i < lines.length; i++) {
      const line = lines[i] as string;
      if (OBSOLETE.test(line)) {
        this.#isPersistent = false;
        continue;
      }
      const colon = line.indexOf(":");
      if (colon < 1) return undefined;
      const value = line.slice(colon + 1).trim();
      switch (line.slice(0, colon).toLowerCase()) {
        case "content-length":
          if (length !== undefined || !/^\d{1,15}$/.test(value)) return undefined;
          length = value;
          break;
        case "transfer-encoding":
          coding = coding === undefined ? value : `${coding}, ${value}`;
          break;
        case "connection":
          if (/\bclose\b/i.test(value)) this.#isPersistent = false;
          break;
        case "retry-after":
          this.retryAfter ??= value;
      }
    }
    if (coding === undefined) return length === undefined ? "close" : Number(length);
    if (length !== undefined) return undefined;
    return coding.toLowerCase() === "chunked" ? "chunked" : "close";
  }

  #readBody(): Reading {
    if (this.#framing === "chunked") return this.#readChunks();
    this.#bodyBytes += this.#text.length;
    this.#text = "";
    if (this.#framing === "close") return this.#bodyBytes > MAX_BODY_BYTES ? "done" : "more";
    if (this.#bodyBytes < this.#framing) return this.#bodyBytes > MAX_BODY_BYTES ? "done" : "more";
    this.isReusable = this.#isPersistent && this.#bodyBytes === this.#framing; // more than that was not asked for
    return "done";
  }

  #readChunks(): Reading {
    for (;;) {
      const line = CHUNK_SIZE.exec(this.#text);
      if (this.#bodyBytes + this.#text.length > MAX_BODY_BYTES) return "done";
      if (line === null) return /^[^\r\n]{0,200}\r?$/.test(this.#text) ? "more" : "done"; // not chunks: the status stands
      const start = line[0].length;
      const size = Number.parseInt(line[1] as string, 16);
      if (size === 0) return this.#readTrailer(start);
      if (this.#text.length < start + size + 2) return "more";
      if (this.#text.slice(start + size, start + size + 2) !== "\r\n") return "done";
      this.#bodyBytes += start + size + 2;
      this.#text = this.#text.slice(start + size + 2);
    }
  }

  /** What follows the last chunk: as a rule nothing but an empty line. */
  #readTrailer(start: number): Reading {
    const rest = this.#text.slice(start);
    const end = rest.startsWith("\r\n") ? 2 : rest.indexOf("\r\n\r\n") + 4;
    if (end < 4 && end !== 2) return "more";
    this.isReusable = this.#isPersistent && end === rest.length;
    return "done";
  }
}
