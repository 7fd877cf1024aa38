/**
 * A request saved to a file, as by curl, a proxy or `fluxhook listen --save`.
 */

/** A received request, for checking its signature. */
export interface SavedRequest {
  /** Lowercase names; the first of repeated headers. */
  readonly headers: Readonly<Record<string, string>>;
  /** As received, byte for byte. */
  readonly body: Buffer;
}

/**
 * Split a raw request: an optional request line, headers, an empty line, the body. Lines end with CRLF or LF.
 *
 * @returns undefined without an empty line, or when a line before it is not a header
 */
export function parseRequest(bytes: Buffer): SavedRequest | undefined {
  const end = ["\r\n\r\n", "\n\n"]
    .map((gap) => ({ at: bytes.indexOf(gap), length: gap.length }))
    .filter(({ at }) => at >= 0)
    .sort((a, b) => a.at - b.at)[0];
  if (end === undefined) return undefined;
  const headers = parseHeaders(bytes.subarray(0, end.at).toString("latin1"));
  return headers === undefined ? undefined : { headers, body: bytes.subarray(end.at + end.length) };
}

/**
 * Read headers: one `Name: value` per line after an optional request line, or a JSON object.
 *
 * @returns undefined when it is neither
 */
export function parseHeaders(text: string): Record<string, string> | undefined {
  const headers: Record<string, string> = {};
  const add = (name: string, value: string) => {
    headers[name.toLowerCase()] ??= value;
  };
  if (text.trimStart().startsWith("{")) {
    const parsed = parseObject(text);
    for (const [name, value] of Object.entries(parsed ?? {})) add(name, String([value].flat()[0]));
    return parsed === undefined ? undefined : headers;
  }
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== "");
  const isRequestLine = /^[A-Z]+ \S+ HTTP\/[\d.]+$/;
  for (const line of lines.filter((candidate, i) => i > 0 || !isRequestLine.test(candidate))) {
    const match = /^([!#$%&'*+.^_`|~\w-]+):[ \t]*(.*?)[ \t]*$/.exec(line);
    if (match === null) return undefined;
    add(match[1] as string, match[2] as string);
  }
  return headers;
}

function parseObject(text: string): object | undefined {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Write a request in the format of {@link parseRequest}. */
export function writeRequest(target: string, rawHeaders: readonly string[], body: Buffer): Buffer {
  const lines = [`POST ${target} HTTP/1.1`];
  for (let i = 0; i < rawHeaders.length; i += 2) lines.push(`${rawHeaders[i]}: ${rawHeaders[i + 1]}`);
  return Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), body]);
}
