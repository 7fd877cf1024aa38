/**
 * Encodes commands and decodes replies for the worker, in place of ioredis's own code, which takes a third of BullMQ's time
 * per job (bench/RESULTS.md). Import it before the first connection; from then on every connection of the process uses
 * RESP2, and replies are strings, never buffers.
 *
 * ioredis 6 writes each argument of a command with binary data into its own buffer, and reads through private fields that
 * were compiled to WeakMaps. This file depends on three of its internals (version pinned in package.json).
 *
 * @see RESP: https://valkey.io/topics/protocol/
 */
import { createRequire } from "node:module";
import { Command, Redis } from "ioredis";
import { ByteText, takesByteText } from "./joined-writes.ts";

const require = createRequire(import.meta.url);

/** The callbacks that ioredis passes to its decoder. */
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

const RedisParser: ParserClass = require("redis-parser"); // used by ioredis up to version 5
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

/** The leading arguments that all calls of a script have shared so far, and their encoding. */
interface Prefix {
  readonly args: readonly Argument[];
  readonly text: string;
}

const prefixes = new Map<Argument, Prefix>(); // by the script's digest, the first argument

/** Most keys of a script are the queue's and the same in each call, so they are encoded only once. */
function prefixOf(args: readonly Argument[]): Prefix {
  const digest = args[0] as Argument;
  const known = prefixes.get(digest);
  let length = 0;
  if (known === undefined) while (isAscii(args[length])) length += 1;
  else while (length < known.args.length && known.args[length] === args[length]) length += 1;
  if (length === known?.args.length) return known;
  const same = args.slice(0, length);
  const prefix = { args: same, text: same.flatMap((arg) => [lengthOf(arg as string), arg]).join("\r\n") };
  prefixes.set(digest, prefix);
  return prefix;
}

const NO_PREFIX: Prefix = { args: [], text: "" };

/** The part of ioredis's commands used here. */
interface Writable {
  readonly name: string;
  readonly args: readonly Argument[];
  /** Index in a pipeline, which joins its commands itself and does not accept {@link ByteText}. */
  readonly pipelineIndex?: number;
}

/** Encode a command: as a string while it is ASCII, which is cheap to join. */
function toWritable(this: Writable, stream: object): string | Buffer | ByteText {
  const { name, args, pipelineIndex } = this;
  const parts = [`*${args.length + 1}`, lengthOf(name), name];
  const prefix = name === "evalsha" ? prefixOf(args) : NO_PREFIX;
  if (prefix.text !== "") parts.push(prefix.text);
  let isText = true;
  for (let i = prefix.args.length; i < args.length; i++) {
    const arg = args[i] as Argument;
    if (isAscii(arg)) {
      parts.push(lengthOf(arg as string), arg as string);
    } else {
      const bytes = (typeof arg === "string" ? Buffer.from(arg) : arg).toString("latin1"); // one character per byte
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
