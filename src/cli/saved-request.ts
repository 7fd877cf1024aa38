/**
 * A request in a file: as curl, a proxy or `fluxhook listen --save` writes it. Bytes in, headers and body out.
 */

/** A received request, for the checks of a signature. */
export interface SavedRequest {
  /** Lower-case names; of several with one name, the first. */
  readonly headers: Readonly<Record<string, string>>;
  /** As received, byte for byte. */
  readonly body: Buffer;
}

/**
 * Split a raw request: a request line or none, headers, an empty line, the body. Lines end with CRLF or LF.
 *
 * @returns undefined when there is no empty line, or a line before it that is no header
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
 * Read headers: `Name: value` a line, after a request line or none; or a JSON object.
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

/** Write a request so that {@link parseRequest} reads it again. */
export function writeRequest(target: string, rawHeaders: readonly string[], body: Buffer): Buffer {
  const lines = [`POST ${target} HTTP/1.1`];
  for (let i = 0; i < rawHeaders.length; i += 2) lines.push(`${rawHeaders[i]}: ${rawHeaders[i + 1]}`);
  return Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), body]);
}
