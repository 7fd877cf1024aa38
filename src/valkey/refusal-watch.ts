/**
 * What Valkey refuses of a connection: from the first refusal until the same is accepted.
 */
import { createHash } from "node:crypto";
import { codeOf } from "./refusals.ts";

const LASTING_MS = 15 * 1000; // 15 s without another: longer than the longest pause before the next try

/** A command, as far as it matters what it is. */
interface Asked {
  readonly name: string;
  readonly args: readonly unknown[];
  readonly promise: Promise<unknown>;
}

export interface RefusalWatch {
  /** Valkey answered a command with an error. */
  refused(error: Error, command: Asked): void;
  /** A command is sent: when it is one that was refused, its success ends that. */
  sent(command: Asked): void;
  /** What was last refused, in Valkey's words; undefined while nothing is. */
  readonly reason: string | undefined;
}

export interface RefusalWatchOptions {
  /** Called once when refusals begin, with what Valkey said first. */
  readonly onRefusing: (answer: string) => void;
  /** Called once when all that was refused was accepted, or has not been refused again for 15 s. */
  readonly onAccepting: () => void;
}

/** No refusals: a script that has to be sent whole, and what follows from a refusal that came before. */
const CONSEQUENCES = new Set(["NOSCRIPT", "EXECABORT"]);
/** Commands that may be refused: whoever sends them does without. */
const OPTIONAL = new Set(["info", "hello", "client"]);

/** Make the watch of a connection, and of those that are duplicated from it. */
export function createRefusalWatch({ onRefusing, onAccepting }: RefusalWatchOptions): RefusalWatch {
  const refusals = new Map<string, { answer: string; timer: Timer }>(); // by what was refused

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

/** What a command is, by its name. Scripts are told apart, whether they are sent whole or by their digest. */
export function kindOf({ name, args }: Asked): string {
  if (name !== "eval" && name !== "evalsha") return name;
  const script = String(args[0]);
  return `script ${script.length === 40 ? script : createHash("sha1").update(script).digest("hex")}`;
}
