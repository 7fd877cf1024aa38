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

const MAX_KNOWN = 1024;
const LENGTHS = Array.from({ length: MAX_KNOWN }, (_, length) => `$${length}`);

const lengthOf = (text: string): string => LENGTHS[text.length] ?? `$${text.length}`;

/** A command's bytes: as a text while they are ASCII, so that many can be joined at little cost. */
function toWritable(this: { name: string; args: (string | Buffer)[] }): string | Buffer {
  const parts = [`*${this.args.length + 1}`, lengthOf(this.name), this.name];
  let isText = true;
  for (const arg of this.args) {
    let bytes: string; // a character a byte
    if (typeof arg === "string" && Buffer.byteLength(arg) === arg.length) {
      bytes = arg;
    } else {
      bytes = (typeof arg === "string" ? Buffer.from(arg) : arg).toString("latin1");
      isText = false;
    }
    parts.push(lengthOf(bytes), bytes);
  }
  parts.push("");
  const whole = parts.join("\r\n");
  return isText ? whole : Buffer.from(whole, "latin1");
}

Object.assign(Command.prototype, { toWritable });
Object.assign((Redis as unknown as { defaultOptions: object }).defaultOptions, { protocol: 2 });
