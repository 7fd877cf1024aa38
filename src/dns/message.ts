/**
 * Encodes DNS questions and decodes answers. Pure.
 *
 * @see RFC 1035 section 4
 */

/** The record types that are asked for, with their numbers on the wire. */
export const RECORD_TYPES = { A: 1, AAAA: 28 } as const;
export type RecordType = keyof typeof RECORD_TYPES;

const CNAME = 5;
const INTERNET = 1;
const HEAD_BYTES = 12;
const RESPONSE = 0x8000;
const TRUNCATED = 0x0200;
const RECURSION_DESIRED = 0x0100;
const RCODE = 0x000f;
const NO_ERROR = 0;
const NO_SUCH_NAME = 3;
const MAX_NAME_BYTES = 255;
const MAX_ALIASES = 16;
const ADDRESS_BYTES = { A: 4, AAAA: 16 } as const;

/**
 * A name server's answer to one question.
 *
 * - `addresses`  the name exists; the list is empty when it has no address of this family
 * - `no_name`    the name does not exist, in either family
 * - `truncated`  the answer does not fit into a datagram: ask over TCP
 * - `refused`    the server could not or would not answer: SERVFAIL, REFUSED, etc.
 */
export type DnsAnswer =
  | { readonly kind: "addresses"; readonly addresses: readonly string[]; readonly ttlSeconds: number }
  | { readonly kind: "no_name" | "truncated" | "refused" };

interface DnsRecord {
  readonly owner: string;
  readonly type: number;
  readonly ttlSeconds: number;
  /** Offset of its data in the message, and the data's length. */
  readonly at: number;
  readonly length: number;
}

/**
 * Encode a recursive question.
 *
 * @param name  without a trailing dot; empty for the root
 * @returns undefined when it is no valid host name: an empty label, a label over 63 bytes, more than 253 in total, or a character
 *   that host names must not contain (glibc rejects it too)
 */
export function buildQuestion(id: number, name: string, type: RecordType): Buffer | undefined {
  if (!/^[\w.-]*$/.test(name)) return undefined;
  const labels = name === "" ? [] : name.split(".").map((label) => Buffer.from(label, "latin1"));
  if (labels.some(({ length }) => length === 0 || length > 63)) return undefined;
  const encoded = Buffer.concat([...labels.flatMap((label) => [Buffer.of(label.length), label]), Buffer.of(0)]);
  if (encoded.length > MAX_NAME_BYTES) return undefined;
  const message = Buffer.alloc(HEAD_BYTES + encoded.length + 4);
  message.writeUInt16BE(id, 0);
  message.writeUInt16BE(RECURSION_DESIRED, 2);
  message.writeUInt16BE(1, 4);
  encoded.copy(message, HEAD_BYTES);
  message.writeUInt16BE(RECORD_TYPES[type], HEAD_BYTES + encoded.length);
  message.writeUInt16BE(INTERNET, HEAD_BYTES + encoded.length + 2);
  return message;
}

/**
 * Decode an answer. It must carry the question's id and repeat the question, to make spoofing harder.
 *
 * Aliases are followed within the answer: a recursive server includes the whole chain. The TTL is the smallest of those used.
 *
 * @returns undefined for a message that does not answer this question, or is malformed
 * @throws  never
 */
export function parseDnsAnswer(message: Buffer, question: Buffer, type: RecordType): DnsAnswer | undefined {
  try {
    if (message.length < question.length || message.readUInt16BE(0) !== question.readUInt16BE(0)) return undefined;
    const flags = message.readUInt16BE(2);
    const asked = message.toString("latin1", HEAD_BYTES, question.length).toLowerCase();
    if (!(flags & RESPONSE) || message.readUInt16BE(4) !== 1) return undefined;
    if (asked !== question.toString("latin1", HEAD_BYTES).toLowerCase()) return undefined;
    if (flags & TRUNCATED) return { kind: "truncated" };
    if ((flags & RCODE) === NO_SUCH_NAME) return { kind: "no_name" };
    if ((flags & RCODE) !== NO_ERROR) return { kind: "refused" };
    const records = readRecords(message, question.length, message.readUInt16BE(6));
    return collectAddresses(message, records, readName(message, HEAD_BYTES).name, type);
  } catch (error) {
    if (error instanceof RangeError) return undefined; // truncated, or with an endless name
    throw error;
  }
}

function readRecords(message: Buffer, start: number, count: number): DnsRecord[] {
  const records: DnsRecord[] = [];
  let at = start;
  for (let i = 0; i < count; i++) {
    const { name: owner, end } = readName(message, at);
    const length = message.readUInt16BE(end + 8);
    if (end + 10 + length > message.length) throw new RangeError("a truncated record");
    const ttlSeconds = message.readInt32BE(end + 4);
    const record = { owner, ttlSeconds: Math.max(0, ttlSeconds), at: end + 10, length };
    if (message.readUInt16BE(end + 2) === INTERNET) records.push({ ...record, type: message.readUInt16BE(end) });
    at = end + 10 + length;
  }
  return records;
}

function collectAddresses(message: Buffer, records: DnsRecord[], asked: string, type: RecordType): DnsAnswer {
  let name = asked;
  let ttlSeconds = Number.POSITIVE_INFINITY;
  for (let i = 0; i < MAX_ALIASES; i++) {
    const alias = records.find((record) => record.type === CNAME && record.owner === name);
    if (alias === undefined) break;
    ttlSeconds = Math.min(ttlSeconds, alias.ttlSeconds);
    name = readName(message, alias.at).name;
  }
  const bytes = ADDRESS_BYTES[type];
  const found = records.filter(
    ({ owner, type: number, length }) => owner === name && number === RECORD_TYPES[type] && length === bytes,
  );
  const addresses = found.map(({ at }) => formatAddress(message.subarray(at, at + bytes)));
  ttlSeconds = Math.min(ttlSeconds, ...found.map((record) => record.ttlSeconds));
  return { kind: "addresses", addresses, ttlSeconds };
}

/** A name, in lower case, and where it ends at this place in the message; compression may point to labels further up. */
function readName(message: Buffer, start: number): { readonly name: string; readonly end: number } {
  const labels: string[] = [];
  let at = start;
  let end = 0;
  let bytes = 0;
  for (;;) {
    const length = message.readUInt8(at);
    if (length >= 0xc0) {
      const pointer = message.readUInt16BE(at) & 0x3fff;
      if (pointer >= at) throw new RangeError("a name that points forward");
      end ||= at + 2;
      at = pointer;
    } else if (length > 63) {
      throw new RangeError("an unknown kind of label");
    } else if (length === 0) {
      return { name: labels.join("."), end: end || at + 1 };
    } else {
      if (at + 1 + length > message.length) throw new RangeError("a truncated label");
      labels.push(message.toString("latin1", at + 1, at + 1 + length).toLowerCase());
      at += 1 + length;
    }
    bytes += 1 + length;
    if (bytes > 4 * MAX_NAME_BYTES) throw new RangeError("an endless name");
  }
}

function formatAddress(bytes: Buffer): string {
  if (bytes.length === 4) return bytes.join(".");
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16));
  return groups.join(":");
}
