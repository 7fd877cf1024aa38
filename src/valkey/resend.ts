/**
 * Sending again what Valkey refused for a while, as if it had been away.
 */
import { kindOf } from "./refusal-watch.ts";
import { refusalOf } from "./refusals.ts";

const FIRST_PAUSE_MS = 50;
const MAX_PAUSE_MS = 1000; // 1 s: how long after Valkey's recovery it may be unknown to us

/** A command on its way; its promise settles with the reply that its caller gets. */
interface Refusable {
  readonly name: string;
  readonly args: readonly unknown[];
  readonly promise: Promise<unknown>;
}

export interface Resend<Command extends Refusable> {
  /**
   * Keep a refused command, and send it again, in the order in which the commands were refused: what was sent first still takes
   * effect first. After a pause that grows from 50 ms to 1 s the first of each kind is sent, and all the rest once Valkey has
   * taken one: a thousand that wait are not refused a thousand times a second.
   *
   * @returns false when the error does not pass by itself: the command is the caller's
   */
  take(error: Error, command: Command): boolean;
}

/** Make the place in which a connection's refused commands wait. Bounded by what a connection has in flight. */
export function createResend<C extends Refusable>(send: (command: C) => void): Resend<C> {
  let waiting: C[] = [];
  const tried = new Set<C>(); // of those that wait, on their way again
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
      command.promise.then(settle, settle); // not before it was accepted, or failed otherwise
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
