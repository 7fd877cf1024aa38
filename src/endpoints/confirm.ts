/**
 * Makes sure that what a worker remembers of endpoints is no older than a job that it took, for the jobs that depend on it.
 */
import type { Confirm } from "../queue/pick-ups.ts";
import type { Valkey } from "../valkey/connection.ts";
import { writeLast } from "../valkey/joined-writes.ts";
import type { Memory } from "./memory.ts";

const ASKED_AT_ONCE = 4; // jobs: the first of them waits for the last; one question for a whole turn took longer (bench/RESULTS.md)

/** A question to Valkey whether anything has changed, for several jobs. */
interface Check {
  /** Resolves once all that had changed is forgotten. Never rejects. */
  readonly done: Promise<void>;
  /** Whether its answer came in an earlier turn of the event loop. */
  isPast: boolean;
}

export interface Confirming {
  /** Whether something is remembered, or will be soon. */
  readonly isToBeChecked: () => boolean;
  /** Look up what has changed. */
  readonly catchUp: () => Promise<unknown>;
}

/**
 * Create the confirmation of a shard's jobs.
 *
 * The question goes behind the command that takes the job, on the same connection, so that it is about a later moment, and costs no time. If
 * its answer came before the job's, Valkey had refused that command, and it was sent anew: then it is asked again.
 *
 * @param valkey      the connection on which the worker takes its jobs
 * @param changesKey  of the shard's changes
 */
export function createConfirm(
  valkey: Valkey,
  changesKey: string,
  memory: Memory,
  { isToBeChecked, catchUp }: Confirming,
): Confirm {
  const check = shareChecks(valkey, async (answered) => {
    const newest = await valkey.lindex(changesKey, 0).catch(() => undefined);
    answered();
    if (newest === undefined)
      memory.forget(); // what cannot be checked is not remembered
    else if ((newest ?? "") !== memory.newest) await catchUp().catch(() => memory.forget());
  });
  return () => {
    const sent = isToBeChecked() ? check() : undefined;
    return () => {
      if (sent !== undefined && !sent.isPast) return sent.done;
      return isToBeChecked() ? check().done : undefined;
    };
  };
}

/** Make the function that asks, each time for {@link ASKED_AT_ONCE} jobs, or fewer at the end of a turn of the event loop. */
function shareChecks(valkey: Valkey, run: (answered: () => void) => Promise<void>): () => Check {
  let next: (Check & { send(): void }) | undefined;
  let asked = 0;

  function create(): NonNullable<typeof next> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const check = { done: promise, isPast: false, send };
    function send(): void {
      if (next !== check) return; // it was sent before
      next = undefined;
      asked = 0;
      const answered = () => {
        setImmediate(() => {
          check.isPast = true;
        });
      };
      run(answered).then(resolve);
    }
    writeLast(valkey.stream, send);
    return check;
  }

  return () => {
    next ??= create();
    const check = next;
    asked += 1;
    if (asked === ASKED_AT_ONCE) check.send();
    return check;
  };
}
