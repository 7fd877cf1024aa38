/**
 * Custom headers of registered endpoints: which are allowed, and how they are shown and sent. Pure.
 */

/** How many headers an endpoint may have. */
export const MAX_HEADERS = 20;
const MAX_VALUE = 1_024; // characters
const MAX_TOGETHER = 4 * 1024; // 4 KiB, of names and values
const SHOWN = 4; // characters of a value
const MIN_SHOWN = 12; // characters that a value must have for some of them to be shown

/** A header as stored. */
export interface StoredHeader {
  /** Sealed, unless the installation allows plain ones. */
  readonly value: string;
  /** The last 4 characters of the value; absent when it is shorter than 12, or came sealed and could not be opened. */
  readonly end?: string | undefined;
}

/** By name, as the backend wrote it. */
export type StoredHeaders = Readonly<Record<string, StoredHeader>>;

/**
 * Headers that an endpoint may not have: what we send ourselves, what belongs to the connection (RFC 9110 section 7.6.1), what
 * tells a receiver where a request came from, and what a cloud's metadata service asks for. A final `*` stands for any ending.
 */
export const DENIED_HEADERS: readonly string[] = [
  ...["host", "content-*", "transfer-encoding", "te", "trailer", "expect", "upgrade", "connection", "keep-alive"],
  ...["accept-encoding", "user-agent", "cookie", "origin", "referer", "forwarded", "via", "x-forwarded-*", "x-real-ip"],
  ...["proxy-*", "sec-*", "traceparent", "tracestate", "webhook-*", "x-fluxdrop-*"],
  ...["metadata-flavor", "metadata", "x-aws-ec2-metadata-*", "x-goog-*", "x-amz-*"],
];

const NAME = /^[A-Za-z0-9-]{1,64}$/;
const VALUE = /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/; // a space at an end would be lost on the way

/** One problem with an endpoint's headers. It never includes a value. */
export interface HeaderProblem {
  /** Undefined when it is about all of them, or about a name that cannot be shown. */
  readonly name?: string;
  readonly message: string;
}

/** Whether a header is one of {@link DENIED_HEADERS}, in any case. */
export function isDenied(name: string): boolean {
  const lower = name.toLowerCase();
  return DENIED_HEADERS.some((denied) =>
    denied.endsWith("*") ? lower.startsWith(denied.slice(0, -1)) : lower === denied,
  );
}

/** What is wrong with a header's value; undefined when nothing is. Never includes it. */
export function valueProblem(value: unknown): string | undefined {
  if (typeof value !== "string" || value === "") return "expected a non-empty string";
  if (value.length > MAX_VALUE) return `expected at most ${MAX_VALUE} characters`;
  return VALUE.test(value) ? undefined : "expected visible ASCII characters, with spaces only between them";
}

/**
 * What is wrong with an endpoint's headers.
 *
 * @param isExempt  whether a value is not to be looked at, since it is sealed
 */
export function findHeaderProblems(
  headers: Readonly<Record<string, unknown>>,
  isExempt: (value: string) => boolean,
): HeaderProblem[] {
  const entries = Object.entries(headers);
  if (entries.length > MAX_HEADERS) return [{ message: `expected at most ${MAX_HEADERS} headers` }];
  const problems: HeaderProblem[] = [];
  const seen = new Set<string>();
  let together = 0;
  for (const [name, value] of entries) {
    const lower = name.toLowerCase();
    const isSealed = typeof value === "string" && isExempt(value);
    const problem = isSealed ? undefined : valueProblem(value);
    if (!NAME.test(name)) problems.push({ message: "expected names of 1 to 64 letters, digits and hyphens" });
    else if (isDenied(name)) problems.push({ name, message: "not a header that an endpoint may have" });
    else if (seen.has(lower)) problems.push({ name, message: "expected each header once, in whatever case" });
    else if (problem !== undefined) problems.push({ name, message: problem });
    seen.add(lower);
    if (!isSealed && typeof value === "string") together += name.length + value.length;
  }
  if (together > MAX_TOGETHER) problems.push({ message: `expected at most ${MAX_TOGETHER} bytes together` });
  return problems;
}

/** What may be shown of a value; undefined when it is too short for that. */
export function endOf(value: string): string | undefined {
  return value.length < MIN_SHOWN ? undefined : value.slice(-SHOWN);
}

/** Headers as they are shown, never with a whole value: `…` and its last 4 characters, if it has at least 12. */
export function showHeaders(headers: StoredHeaders): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).map(([name, { end }]) => [name, `…${end ?? ""}`]));
}

/** The lines of headers, each with its CRLF. @param values  opened, by name */
export function buildHeaderLines(values: Readonly<Record<string, string>>): string {
  return Object.entries(values)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("");
}
