/**
 * Ends this process when it can no longer end itself.
 */
const TURN_MS = 5 * 1000; // 5 s: how often a loop shows that it turns. Every second costs a busy worker a seventh of its time
const LOOK_MS = 5 * 1000; // 5 s: how often the thread looks whether it did
const ORPHAN_MS = 250; // how often it looks for the parent

/** What the thread looks at. */
export interface Watch {
  /** How often, ms. */
  readonly tickMs: number;
  /** Its process ends with this one, by its pid. */
  readonly parent?: number;
  readonly loop?: { readonly turns: Int32Array; readonly hungMs: number };
}

/** End this process when its parent is gone, whatever it is at. */
export function endWithParent(pid: number): void {
  startThread({ tickMs: ORPHAN_MS, parent: pid });
}

/**
 * End this process when its event loop hangs, so that its supervisor starts another. A loop that hangs has lost its jobs to others,
 * and never gives them up.
 *
 * Not while a debugger may have stopped it.
 *
 * @param hungMs  for how long, in time during which the process ran: longer than a job's lock
 */
export function endWhenHung(hungMs: number): void {
  if (process.execArgv.some((arg) => arg.startsWith("--inspect"))) return;
  const turns = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  startThread({ tickMs: LOOK_MS, loop: { turns, hungMs } });
  setInterval(() => Atomics.add(turns, 0, 1), TURN_MS).unref();
}

function startThread(watch: Watch): void {
  const thread = new Worker(`${import.meta.dir}/watchdog-thread.ts`);
  thread.postMessage(watch);
  thread.unref();
}
