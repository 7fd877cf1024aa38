/**
 * How commands and replies look on the wire to Valkey: the worker's replacement for ioredis's own writer and reader, which
 * cost a third of all that BullMQ does for a job (bench/RESULTS.md). Import it before the first connection; from then
 * on every connection of the process speaks RESP2, and replies are texts, never bytes.
 *
 * ioredis 6 writes each argument of a command that holds bytes into a buffer of its own, and reads through private fields
 * that were compiled to WeakMaps. This file knows three of its insides (version pinned in package.json).
 *
 * @see RESP: https://valkey.io/topics/protocol/
 */
import { createRequire } from "node:module";
import { Command, Redis } from "ioredis";
import { ByteText, takesByteText } from "./joined-writes.ts";

const require = createRequire(import.meta.url);

/** Whoever takes replies, as ioredis gives it to its decoder. */
interface Replies {
  readonly onReply: (reply: unknown) => void;
  readonly onErrorReply: (error: Error) => void;
}

interface Parser {
  execute(bytes: Buffer): void;
}

type ParserClass = new (options: {
  returnReply: (reply: unknown) => void;
  returnError: (error: Error) => void;
  returnFatalError: (error: Error) => void;
}) => Parser;

const RedisParser: ParserClass = require("redis-parser"); // what ioredis used until version 5
const decoding: { Decoder: unknown } = require("ioredis/built/resp/decoder");

decoding.Decoder = class {
  readonly #parser: Parser;

  constructor({ onReply, onErrorReply }: Replies) {
    const returnFatalError = (error: Error): never => {
      throw error; // ioredis drops the connection
    };
    this.#parser = new RedisParser({ returnReply: onReply, returnError: onErrorReply, returnFatalError });
  }

  write(bytes: Buffer): void {
    this.#parser.execute(bytes);
  }
};

type Argument = string | Buffer;

const MAX_KNOWN = 1024;
const LENGTHS = Array.from({ length: MAX_KNOWN }, (_, length) => `$${length}`);

const lengthOf = (text: string): string => LENGTHS[text.length] ?? `$${text.length}`;

const isAscii = (arg: Argument | undefined): boolean =>
  typeof arg === "string" && Buffer.byteLength(arg) === arg.length;

/** The arguments with which every call of a script has begun so far, and how they are written. */
interface Beginning {
  readonly args: readonly Argument[];
  readonly text: string;
}

const beginnings = new Map<Argument, Beginning>(); // by the script's digest, the first argument

/** Most keys of a script are the queue's, the same each time: they are written once. */
function beginningOf(args: readonly Argument[]): Beginning {
  const digest = args[0] as Argument;
  const known = beginnings.get(digest);
  let length = 0;
  if (known === undefined) while (isAscii(args[length])) length += 1;
  else while (length < known.args.length && known.args[length] === args[length]) length += 1;
  if (length === known?.args.length) return known;
  const same = args.slice(0, length);
  const beginning = { args: same, text: same.flatMap((arg) => [lengthOf(arg as string), arg]).join("\r\n") };
  beginnings.set(digest, beginning);
  return beginning;
}

const NOTHING: Beginning = { args: [], text: "" };

/** What of ioredis's commands is read here. */
interface Writable {
  readonly name: string;
  readonly args: readonly Argument[];
  /** Its place in a pipeline, which joins its commands itself, and takes no {@link ByteText}. */
  readonly pipelineIndex?: number;
}

/** A command's bytes: as a text while they are ASCII, so that many can be joined at little cost. */
function toWritable(this: Writable, stream: object): string | Buffer | ByteText {
  const { name, args, pipelineIndex } = this;
  const parts = [`*${args.length + 1}`, lengthOf(name), name];
  const begin = name === "evalsha" ? beginningOf(args) : NOTHING;
  if (begin.text !== "") parts.push(begin.text);
  let isText = true;
  for (let i = begin.args.length; i < args.length; i++) {
    const arg = args[i] as Argument;
    if (isAscii(arg)) {
      parts.push(lengthOf(arg as string), arg as string);
    } else {
      const bytes = (typeof arg === "string" ? Buffer.from(arg) : arg).toString("latin1"); // a character a byte
      parts.push(lengthOf(bytes), bytes);
      isText = false;
    }
  }
  parts.push("");
  const whole = parts.join("\r\n");
  if (isText) return whole;
  const isJoined = pipelineIndex === undefined && takesByteText(stream);
  return isJoined ? new ByteText(whole) : Buffer.from(whole, "latin1");
}

Object.assign(Command.prototype, { toWritable });
Object.assign((Redis as unknown as { defaultOptions: object }).defaultOptions, { protocol: 2 });
