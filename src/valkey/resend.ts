/**
 * Resends commands that Valkey refused temporarily.
 */
import { kindOf } from "./refusal-watch.ts";
import { refusalOf } from "./refusals.ts";

const FIRST_PAUSE_MS = 50;
const MAX_PAUSE_MS = 1000; // 1 s: how long after Valkey's recovery we may notice

/** A command in flight; its promise settles with the caller's reply. */
interface Refusable {
  readonly name: string;
  readonly args: readonly unknown[];
  readonly promise: Promise<unknown>;
}

export interface Resend<Command extends Refusable> {
  /**
   * Keep a refused command and resend it later, in the original order. After a pause growing from 50 ms to 1 s, the first
   * command of each kind is resent, and the rest once one was accepted, so that a thousand waiting commands are not refused
   * a thousand times a second.
   *
   * @returns false when the error is not temporary: the caller then gets it
   */
  take(error: Error, command: Command): boolean;
}

/** Create the buffer of a connection's refused commands. Bounded by the commands it has in flight. */
export function createResend<C extends Refusable>(send: (command: C) => void): Resend<C> {
  let waiting: C[] = [];
  const tried = new Set<C>(); // waiting commands that are being resent
  let timer: Timer | undefined;
  let pauseMs = 0; // 0 while Valkey accepts

  function tryAgain(): void {
    timer = undefined;
    const firsts = new Map<string, C>();
    for (const command of waiting) if (!firsts.has(kindOf(command))) firsts.set(kindOf(command), command);
    for (const command of firsts.values()) tried.add(command);
    for (const command of firsts.values()) {
      send(command);
      const settle = () => settled(command);
      command.promise.then(settle, settle); // once it is accepted, or fails for another reason
    }
  }

  function settled(command: C): void {
    if (!tried.delete(command)) return;
    pauseMs = 0;
    const rest = waiting.filter((other) => other !== command && !tried.has(other));
    waiting = [...tried];
    for (const other of rest) send(other);
  }

  return {
    take(error, command) {
      if (refusalOf(error) !== "later") return false;
      if (!tried.delete(command)) waiting.push(command);
      if (timer !== undefined || tried.size > 0) return true;
      pauseMs = Math.min(MAX_PAUSE_MS, Math.max(FIRST_PAUSE_MS, 2 * pauseMs));
      timer = setTimeout(tryAgain, pauseMs);
      return true;
    },
  };
}
