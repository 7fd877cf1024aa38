/**
 * Fewer, larger writes to a socket.
 */
import type { Socket } from "node:net";

/**
 * Send what is written during one turn of the event loop together. A busy worker writes a command for each of a dozen
 * answers that arrive at once, and to ask the system a dozen times costs more than all the rest of it.
 */
export function joinWrites(stream: Socket): void {
  const { write, end } = stream;
  let pending: (string | Uint8Array)[] = [];
  const flush = (): void => {
    const [first] = pending;
    if (first === undefined) return;
    const isText = pending.every((part) => typeof part === "string");
    const whole = isText ? pending.join("") : Buffer.concat(pending.map(toBytes));
    pending = [];
    write.call(stream, whole);
  };
  stream.write = (part: string | Uint8Array) => {
    if (pending.push(part) === 1) setImmediate(flush);
    return true;
  };
  stream.end = (...given: unknown[]) => {
    flush();
    return end.apply(stream, given as Parameters<typeof end>);
  };
}

function toBytes(part: string | Uint8Array): Uint8Array {
  return typeof part === "string" ? Buffer.from(part) : part;
}
