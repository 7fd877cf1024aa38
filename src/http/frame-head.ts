/**
 * Recognizes a receiver that speaks nothing but HTTP/2. Pure.
 */

/**
 * Whether the bytes are the header, or the start of the header, of the first frame of an HTTP/2 server: SETTINGS or GOAWAY.
 *
 * @see RFC 9113 sections 3.4, 4.1, 6.5, 6.8
 */
export function isFrameHead(bytes: Buffer): boolean {
  const [length = 0, length2 = 0, , type = 4, flags = 0, ...stream] = bytes;
  const isShort = length === 0 && length2 <= 0x40; // at most 16 KiB, the initial limit
  return (
    isShort &&
    ((type === 4 && flags === 0) || type === 7) &&
    stream.every((byte, i) => (byte & (i === 0 ? 0x7f : 0xff)) === 0)
  );
}
