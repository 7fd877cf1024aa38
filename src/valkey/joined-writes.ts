/**
 * Joins small writes to a socket into fewer, larger ones.
 */
import type { Socket } from "node:net";
import { perTurn } from "../runtime/per-tick.ts";

/** Bytes as a string with one character per byte, which is cheap to join. */
export class ByteText {
  constructor(readonly text: string) {}
}

type Part = string | Uint8Array | ByteText;

const joined = new WeakSet<object>();

/** Whether a stream accepts {@link ByteText}. Plain strings written in the same event-loop turn must then be ASCII. */
export const takesByteText = (stream: object): boolean => joined.has(stream);

const last = new WeakMap<object, (() => void)[]>(); // what joins the next writes, by stream

/**
 * Call a function once, at the end of this event-loop turn at the latest: when what was written to a stream in it is about to be sent, if
 * anything was. What the function writes goes along, behind the rest.
 */
export function writeLast(stream: object, write: () => void): void {
  let isCalled = false;
  const callOnce = () => {
    if (!isCalled) write();
    isCalled = true;
  };
  last.get(stream)?.push(callOnce);
  setImmediate(callOnce);
}

/** Send everything written during one event-loop turn together. */
export function joinWrites(stream: Socket): void {
  const { write, end } = stream;
  const callbacks: (() => void)[] = [];
  let sending: Part[] | undefined;
  const pending = perTurn((parts: Part[]) => {
    sending = parts;
    for (const callback of callbacks.splice(0)) callback();
    sending = undefined;
    write.call(stream, join(parts));
  });
  joined.add(stream);
  last.set(stream, callbacks);
  stream.write = (part: Part) => {
    if (sending === undefined) pending.add(part);
    else sending.push(part);
    return true;
  };
  stream.end = (...given: unknown[]) => {
    pending.flush();
    return end.apply(stream, given as Parameters<typeof end>);
  };
}

function join(parts: Part[]): string | Uint8Array {
  if (parts.some((part) => part instanceof Uint8Array)) return Buffer.concat(parts.map(toBytes));
  const whole = parts.map((part) => (typeof part === "string" ? part : (part as ByteText).text)).join("");
  return parts.some((part) => part instanceof ByteText) ? Buffer.from(whole, "latin1") : whole;
}

function toBytes(part: Part): Uint8Array {
  if (part instanceof Uint8Array) return part;
  return typeof part === "string" ? Buffer.from(part) : Buffer.from(part.text, "latin1");
}
