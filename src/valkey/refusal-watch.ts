/**
 * Tracks commands that Valkey refuses on a connection, from the first refusal until the same kind of command is accepted.
 */
import { createHash } from "node:crypto";
import { codeOf } from "./refusals.ts";

const LASTING_MS = 15 * 1000; // a refusal is over after 15 s without another: longer than the longest pause between tries

/** The part of an ioredis command that identifies its kind and result. */
interface SentCommand {
  readonly name: string;
  readonly args: readonly unknown[];
  readonly promise: Promise<unknown>;
}

export interface RefusalWatch {
  /** Valkey answered a command with an error. */
  refused(error: Error, command: SentCommand): void;
  /** A command is sent. If its kind was refused before, its success ends the refusal. */
  sent(command: SentCommand): void;
  /** Valkey's message for the latest refusal; undefined while nothing is refused. */
  readonly reason: string | undefined;
}

export interface RefusalWatchOptions {
  /** Called once when refusals begin, with Valkey's message. */
  readonly onRefusing: (answer: string) => void;
  /** Called once when every refused kind was accepted, or was not refused again for 15 s. */
  readonly onAccepting: () => void;
}

/** Not refusals: a script that has to be sent in full, and the consequence of an earlier refusal. */
const CONSEQUENCES = new Set(["NOSCRIPT", "EXECABORT"]);
/** Commands whose callers can do without a reply. */
const OPTIONAL = new Set(["info", "hello", "client"]);

/** Create the watch for a connection and its duplicates. */
export function createRefusalWatch({ onRefusing, onAccepting }: RefusalWatchOptions): RefusalWatch {
  const refusals = new Map<string, { answer: string; timer: Timer }>(); // by kind

  function end(what: string): void {
    const refusal = refusals.get(what);
    if (refusal === undefined) return;
    clearTimeout(refusal.timer);
    refusals.delete(what);
    if (refusals.size === 0) onAccepting();
  }

  return {
    refused(error, command) {
      if (CONSEQUENCES.has(codeOf(error)) || OPTIONAL.has(command.name)) return;
      const what = kindOf(command);
      clearTimeout(refusals.get(what)?.timer);
      const timer = setTimeout(() => end(what), LASTING_MS);
      timer.unref();
      const isFirst = refusals.size === 0;
      refusals.set(what, { answer: error.message, timer });
      if (isFirst) onRefusing(error.message);
    },
    sent(command) {
      if (refusals.size === 0) return;
      const what = kindOf(command);
      if (refusals.has(what)) command.promise.then(() => end(what)).catch(() => {});
    },
    get reason() {
      return [...refusals.values()].at(-1)?.answer;
    },
  };
}

/** A command's kind: its name, or for scripts their digest, whether sent in full or by digest. */
export function kindOf({ name, args }: SentCommand): string {
  if (name !== "eval" && name !== "evalsha") return name;
  const script = String(args[0]);
  return `script ${script.length === 40 ? script : createHash("sha1").update(script).digest("hex")}`;
}
