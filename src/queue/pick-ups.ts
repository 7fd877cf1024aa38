/**
 * The commands of BullMQ that bring a worker its next job, and what the worker notes of it when it comes.
 */
import type { RedisQueueBackend } from "bullmq";
import { type Pins, readPins } from "./pin.ts";

/** Scripts that may return a job. */
export const PICK_UPS: ReadonlySet<string> = new Set(["moveToActive", "moveToFinished", "moveToDelayed"]);

/** The reply of one of them: a job's hash as fields and values, and its id; something else, or no hash, without a job. */
export type PickUp = [hash: string[] | undefined, id: string] | number;

/**
 * Called when a command that may bring a job has been sent. What it returns is called when there is one, and gives what has to be waited
 * for before it is relied on that nothing which is remembered is older than the job; undefined for nothing.
 */
export type Confirm = () => () => Promise<void> | undefined;

/** What a worker knows of a job beside what BullMQ reads of it. */
export interface Notes extends Pins {
  /** See {@link Confirm}. Never rejects. */
  readonly confirmed?: Promise<void> | undefined;
}

interface Noted {
  notes?: Notes;
}

const NONE: Notes = {};

/** What was noted of a job. */
export const notesOf = (job: object): Notes => (job as Noted).notes ?? NONE;

export function setNotes(job: object, notes: Notes): void {
  (job as Noted).notes = notes;
}

/** Note what there is of each job that a backend brings. Of most there is nothing. */
export function watchPickUps(
  backend: RedisQueueBackend,
  confirm: Confirm,
  note: (id: string, notes: Notes) => void,
): RedisQueueBackend {
  const execute = backend.execCommand.bind(backend);
  backend.execCommand = (client, command, args) => {
    const replied = execute(client, command, args);
    if (!PICK_UPS.has(command)) return replied;
    const confirmed = confirm();
    return replied.then((reply: PickUp) => {
      const [hash, id] = Array.isArray(reply) ? reply : [];
      if (!hash) return reply;
      const pins = readPins(hash);
      const waiting = confirmed();
      if (pins !== undefined || waiting !== undefined)
        note(id as string, pins === undefined ? { confirmed: waiting } : { ...pins, confirmed: waiting });
      return reply;
    });
  };
  return backend;
}
