/**
 * Sifting: when one endpoint owns a great part of the queue and may not go, its jobs are moved out of the way together;
 * and when it may go again, long before the turns they were given, they are called forward.
 *
 * One by one each would have to be picked up first, before the others' events behind it: 18,000 jobs are three seconds of
 * everyone's time. One script parks up to three thousand, at the turns they would have been given.
 */
import type { Gate } from "./gate.ts";
import type { Logger } from "./logger.ts";
import { endpointName } from "./payload.ts";
import { ADVANCE, NOTE, SIFT } from "./sift-scripts.ts";
import type { Valkey } from "./valkey.ts";

const CHUNK = 3_000; // jobs looked at by one script: some 20 ms during which Valkey does nothing else
const ENOUGH = 32; // jobs of one endpoint parked one by one before it is worth looking for more
const LULL_MS = 1000; // 1 s: those 32 must come within it
const WORTHWHILE = 1 / 10; // of a chunk; below it the rest is left to be parked one by one
const NOTED = 200; // jobs noted by one script, with its turn each: a millisecond
const MAX_UNNOTED = 10; // scripts whose jobs are noted later: a backlog of millions must not be held in memory
const MAX_ADVANCED = 500; // jobs called forward, and looked at for that, by one script

export interface SifterOptions {
  readonly valkey: Valkey;
  /** The prefix of the queue's keys, as in `bull:webhooks`. */
  readonly prefix: string;
  readonly gate: Pick<Gate, "line" | "joined" | "advanced">;
  readonly logger: Pick<Logger, "debug">;
  /** Epoch ms. */
  readonly now?: () => number;
}

export interface Sifter {
  /**
   * Call it for each job that is parked one by one, before it is: now and then many more are parked behind it. Never
   * throws, and is not waited for.
   */
  parked(job: string, endpoint: URL, retryAt: number): void;
  /** Call so many of an endpoint's parked jobs forward. Never throws, and is not waited for. */
  advance(endpoint: string, jobs: number): void;
}

/** What is still to be written of jobs that one script parked. */
interface Note {
  readonly startAt: number;
  /** A job, its turn, the next job, … */
  readonly turns: readonly (string | number)[];
}

type Script<Reply> = (...args: unknown[]) => Promise<Reply>;
interface Scripts {
  siftQueue: Script<[moved: number, seen: number, left: string, unnoted: Note["turns"]]>;
  noteJobs: Script<[noted: number]>;
  advanceJobs: Script<[moved: number, seen: number]>;
}

export function createSifter({ valkey, prefix, gate, logger, now = Date.now }: SifterOptions): Sifter {
  valkey.defineCommand("siftQueue", { numberOfKeys: 3, lua: SIFT });
  valkey.defineCommand("noteJobs", { numberOfKeys: 1, lua: NOTE });
  valkey.defineCommand("advanceJobs", { numberOfKeys: 2, lua: ADVANCE });
  const { siftQueue, noteJobs, advanceJobs } = valkey as unknown as Scripts;
  const keys = { wait: `${prefix}:wait`, delayed: `${prefix}:delayed`, marker: `${prefix}:marker`, jobs: `${prefix}:` };
  const recent = new Map<string, number>(); // endpoints and how often they were parked since the last lull
  let lullAt = 0;
  let isBusy = false; // with one endpoint: the others can wait

  async function sift(name: string, host: string): Promise<void> {
    const { wait, delayed, marker, jobs } = keys;
    const notes: Note[] = [];
    let left = "";
    for (;;) {
      const line = gate.line(name);
      if (line === undefined) break; // it may go again
      const place = [line.from, line.spacingMs, line.startAt, line.horizonAt];
      const asked = [wait, delayed, marker, jobs, CHUNK, host, name, ...place, left];
      const [moved, seen, last, unnoted] = await siftQueue.call(valkey, ...asked);
      left = last;
      notes.push({ startAt: Math.floor(line.startAt), turns: unnoted });
      gate.joined(name, moved, line);
      logger.debug({ endpoint: name, moved, seen }, "queue.sifted");
      if (notes.length === MAX_UNNOTED) await note(name, notes.splice(0));
      if (seen < CHUNK || moved < CHUNK * WORTHWHILE) break;
    }
    await note(name, notes);
  }

  async function note(name: string, notes: readonly Note[]): Promise<void> {
    let noted = 0;
    for (const { startAt, turns } of notes) {
      for (let i = 0; i < turns.length; i += 2 * NOTED) {
        const [count] = await noteJobs.call(valkey, keys.delayed, keys.jobs, startAt, ...turns.slice(i, i + 2 * NOTED));
        noted += count;
      }
    }
    logger.debug({ endpoint: name, noted }, "queue.noted");
  }

  async function advance(name: string, host: string, count: number): Promise<void> {
    const { delayed, marker, jobs } = keys;
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
    parked(job, url, retryAt) {
      valkey.hset(keys.jobs + job, "parked", retryAt).catch(() => {}); // then it comes at its turn, and no sooner
      if (now() - lullAt > LULL_MS) {
        recent.clear();
        lullAt = now();
      }
      const name = endpointName(url);
      const times = (recent.get(name) ?? 0) + 1;
      recent.set(name, times);
      if (times < ENOUGH || isBusy) return;
      recent.delete(name);
      begin(name, sift(name, url.host));
    },
    advance(name, count) {
      if (!isBusy) begin(name, advance(name, new URL(name).host, count));
    },
  };
}
