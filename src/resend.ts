/**
 * Sending again what Valkey refused for a while, as if it had been away.
 */
import { codeOf, refusalOf } from "./refusals.ts";

const FIRST_PAUSE_MS = 50;
const MAX_PAUSE_MS = 1000; // 1 s: how long after Valkey's recovery it may be unknown to us

/** A command on its way; its promise settles with the reply that its caller gets. */
interface Refusable {
  readonly promise: Promise<unknown>;
}

export interface ResendOptions<Command extends Refusable> {
  readonly send: (command: Command) => void;
  /** Called once when refusals begin, with the code of the first, as in `OOM`. */
  readonly onRefusing: (code: string) => void;
  /** Called once when Valkey has executed a command that it had refused. */
  readonly onAccepting: () => void;
}

export interface Resend<Command extends Refusable> {
  /**
   * Keep a refused command, and send it again after a pause that grows from 50 ms to 1 s, in the order in which the commands
   * were refused: what was sent first still takes effect first.
   *
   * @returns false when the error does not pass by itself: the command is the caller's
   */
  take(error: Error, command: Command): boolean;
}

/** Make the place in which a connection's refused commands wait. Bounded by what a connection has in flight. */
export function createResend<C extends Refusable>({ send, onRefusing, onAccepting }: ResendOptions<C>): Resend<C> {
  let refused: C[] = [];
  let timer: Timer | undefined;
  let pauseMs = 0; // 0 while Valkey accepts

  function sendAll(): void {
    timer = undefined;
    const [first, ...rest] = refused;
    if (first === undefined) return;
    refused = [];
    for (const command of [first, ...rest]) send(command);
    first.promise.then(accepted, accepted); // not before it was accepted, or failed otherwise
  }

  function accepted(): void {
    if (pauseMs === 0) return;
    pauseMs = 0;
    onAccepting();
  }

  return {
    take(error, command) {
      if (refusalOf(error) !== "later") return false;
      refused.push(command);
      if (timer !== undefined) return true;
      if (pauseMs === 0) onRefusing(codeOf(error));
      pauseMs = Math.min(MAX_PAUSE_MS, Math.max(FIRST_PAUSE_MS, 2 * pauseMs));
      timer = setTimeout(sendAll, pauseMs);
      return true;
    },
  };
}
