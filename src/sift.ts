/**
 * Sifting: when one endpoint owns a great part of the queue and may not go, its jobs are moved out of the way together;
 * and when it may go again, long before the turns they were given, they are called forward.
 *
 * One by one each would have to be picked up first, before the others' events behind it: 18,000 jobs are three seconds of
 * everyone's time. One script parks up to three thousand, at the turns they would have been given.
 */
import type { Gate } from "./gate.ts";
import type { Logger } from "./logger.ts";
import { ADVANCE, NOTE, SIFT } from "./sift-scripts.ts";
import type { Valkey } from "./valkey.ts";

const CHUNK = 3_000; // jobs looked at by one script: some 20 ms during which Valkey does nothing else
const ENOUGH = 32; // jobs of one endpoint parked one by one before it is worth looking for more
const LULL_MS = 1000; // 1 s: those 32 must come within it
const WORTHWHILE = 1 / 10; // of a chunk; below it the rest is left to be parked one by one
const NOTED = 200; // jobs looked at by one script, to be noted: half a millisecond
const NOTE_EVERY = 10; // pieces of a very long queue: its first jobs must be noted before they have their turns
const MAX_ADVANCED = 500; // jobs called forward, and looked at for that, by one script

export interface SifterOptions {
  readonly valkey: Valkey;
  /** The prefix of the queue's keys, as in `bull:webhooks`. */
  readonly prefix: string;
  readonly gate: Pick<Gate, "line" | "joined" | "advanced">;
  readonly logger: Pick<Logger, "debug">;
  /**
   * Called when a sift begins, with true, and when it has ended: jobs that are taken faster than it goes are the ones it is
   * about to park.
   */
  readonly onSift?: (isUnderWay: boolean) => void;
  /** Epoch ms. */
  readonly now?: () => number;
}

export interface Sifter {
  /**
   * Call it for each job that is parked one by one: now and then many more are parked behind it. Never throws, and is not
   * waited for.
   */
  parked(endpoint: string): void;
  /** Call so many of an endpoint's parked jobs forward. Never throws, and is not waited for. */
  advance(endpoint: string, jobs: number): void;
}

type Script<Reply> = (...args: unknown[]) => Promise<Reply>;
interface Scripts {
  siftQueue: Script<[moved: number, seen: number, left: string, noteFrom: number, noteTo: number]>;
  noteJobs: Script<[noted: number, last?: string]>;
  advanceJobs: Script<[moved: number, seen: number]>;
}

export function createSifter(options: SifterOptions): Sifter {
  const { valkey, prefix, gate, logger, onSift = () => {}, now = Date.now } = options;
  valkey.defineCommand("siftQueue", { numberOfKeys: 3, lua: SIFT });
  valkey.defineCommand("noteJobs", { numberOfKeys: 1, lua: NOTE });
  valkey.defineCommand("advanceJobs", { numberOfKeys: 2, lua: ADVANCE });
  const { siftQueue, noteJobs, advanceJobs } = valkey as unknown as Scripts;
  const keys = { wait: `${prefix}:wait`, delayed: `${prefix}:delayed`, marker: `${prefix}:marker`, jobs: `${prefix}:` };
  const recent = new Map<string, number>(); // endpoints and how often they were parked since the last lull
  let lullAt = 0;
  let isBusy = false; // with one endpoint: the others can wait
  const unnoted: { from: string; to: number }[] = []; // scores between which jobs in delayed have not been noted yet
  let isNoting = false;

  async function sift(name: string): Promise<void> {
    onSift(true);
    try {
      await siftInPieces(name);
    } finally {
      onSift(false);
      note();
    }
  }

  async function siftInPieces(name: string): Promise<void> {
    const { wait, delayed, marker, jobs } = keys;
    const { host } = new URL(name);
    let left = "";
    for (let pieces = 1; ; pieces++) {
      const line = gate.line(name);
      if (line === undefined) return; // it may go again
      const place = [line.from, line.spacingMs, line.startAt, line.horizonAt];
      const asked = [wait, delayed, marker, jobs, CHUNK, host, name, ...place, left];
      const [moved, seen, last, noteFrom, noteTo] = await siftQueue.call(valkey, ...asked);
      left = last;
      if (noteTo > 0) unnoted.push({ from: `${noteFrom}`, to: noteTo });
      gate.joined(name, moved, line);
      logger.debug({ endpoint: name, moved, seen }, "queue.sifted");
      if (seen < CHUNK || moved < CHUNK * WORTHWHILE) return;
      if (pieces % NOTE_EVERY === 0) note();
    }
  }

  /** Write down of the jobs that were parked together that they are. Never throws, and is not waited for. */
  async function note(): Promise<void> {
    if (isNoting) return; // it goes on with what has been added meanwhile
    isNoting = true;
    let noted = 0;
    try {
      for (let range = unnoted.shift(); range !== undefined; range = unnoted.shift()) {
        const { from, to } = range;
        const [count, last] = await noteJobs.call(valkey, keys.delayed, keys.jobs, now(), from, to, NOTED);
        noted += count;
        if (last !== undefined) unnoted.unshift({ from: `(${last}`, to });
      }
      logger.debug({ noted }, "queue.noted");
    } catch (error) {
      logger.debug({ reason: (error as Error).message }, "queue.unnoted");
    } finally {
      isNoting = false;
    }
  }

  async function advance(name: string, count: number): Promise<void> {
    const { delayed, marker, jobs } = keys;
    const { host } = new URL(name);
    const want = Math.min(count, MAX_ADVANCED);
    const [moved, seen] = await advanceJobs.call(valkey, delayed, marker, jobs, MAX_ADVANCED, host, name, now(), want);
    logger.debug({ endpoint: name, moved, seen }, "queue.advanced");
    // Too few among the others' to be worth looking for: they come at their turns.
    if (moved < want && moved < seen * WORTHWHILE + 1) gate.advanced(name);
  }

  function begin(name: string, work: Promise<void>): void {
    isBusy = true;
    work
      .catch((error: Error) => logger.debug({ endpoint: name, reason: error.message }, "queue.unsifted"))
      .finally(() => {
        isBusy = false;
      });
  }

  return {
    parked(name) {
      if (now() - lullAt > LULL_MS) {
        recent.clear();
        lullAt = now();
      }
      const times = (recent.get(name) ?? 0) + 1;
      recent.set(name, times);
      if (times < ENOUGH || isBusy) return;
      recent.delete(name);
      begin(name, sift(name));
    },
    advance(name, count) {
      if (!isBusy) begin(name, advance(name, count));
    },
  };
}
