/**
 * Sifting: when endpoints that may not go own a great part of the queue, their jobs are moved out of the way together; and
 * when one may go again, long before the turns they were given, they are called forward.
 *
 * One by one each would have to be picked up first, before the others' events behind it: 18,000 jobs are three seconds of
 * everyone's time. One script parks up to three thousand, at the turns they would have been given.
 */
import type { Gate } from "./gate.ts";
import { dealOut, type Line } from "./line.ts";
import type { Logger } from "./logger.ts";
import type { Span } from "./parked-turns.ts";
import { ADVANCE, NOTE, SCORE_PER_MS, SIFT } from "./sift-scripts.ts";
import type { Valkey } from "./valkey.ts";

const FIRST_CHUNK = 1_000; // jobs looked at by the first script: the sooner it is through, the sooner there is work
const CHUNK = 3_000; // and by the last: some 10 to 20 ms during which Valkey does nothing else
const GROWTH = 3 / 2; // from each to the next: each has one round trip, and the worker must not run out of work in it
const ENOUGH = 32; // jobs that may not go, one by one, before it is worth looking for more
const LULL_MS = 1000; // 1 s: those 32 must come within it
const OFTEN = 4; // of them an endpoint's that is silent so far, for its jobs to be looked for; 32 of one that answers
const MAX_ENDPOINTS = 200; // in one script
const WORTHWHILE = 1 / 10; // of a chunk; below it the rest is left to be parked one by one
const NOTED = 200; // jobs looked at by one script, to be noted: half a millisecond
const NOTE_EVERY = 10; // pieces of a very long queue: its first jobs must be noted before they have their turns
const MAX_ADVANCED = 500; // jobs called forward, and looked at for that, by one script
const RARE = 1 / 100; // of those: fewer were found than that
const MAX_RARE = 10; // such scripts in a row, half a second of looking; then the rest is left to come at its turns
const nothing = () => ({ from: Number.POSITIVE_INFINITY, to: 0 });

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
  /** Called after each piece of a sift: so many jobs that may go are now the next in the queue. */
  readonly onCleared?: (jobs: number) => void;
  /** Epoch ms. */
  readonly now?: () => number;
}

export interface Sifter {
  /**
   * Call it for each job that was taken and may not go: now and then many more are parked behind it. Never throws, and is
   * not waited for.
   *
   * @param isProven  its endpoint answers, if not fast enough
   */
  held(endpoint: string, isProven: boolean): void;
  /**
   * Call so many of an endpoint's parked jobs forward, of those whose turns are in that span. Never throws, and is not
   * waited for.
   */
  advance(endpoint: string, jobs: number, turns: Span): void;
}

type Script<Reply> = (...args: unknown[]) => Promise<Reply>;
interface Scripts {
  siftQueue: Script<[seen: number, left: string, noteFrom: number, noteTo: number, ...moved: number[]]>;
  noteJobs: Script<[noted: number, last?: string]>;
  advanceJobs: Script<[moved: number, seen: number, until?: number]>;
}

export function createSifter(options: SifterOptions): Sifter {
  const { valkey, prefix, gate, logger, onSift = () => {}, onCleared = () => {}, now = Date.now } = options;
  valkey.defineCommand("siftQueue", { numberOfKeys: 3, lua: SIFT });
  valkey.defineCommand("noteJobs", { numberOfKeys: 1, lua: NOTE });
  valkey.defineCommand("advanceJobs", { numberOfKeys: 2, lua: ADVANCE });
  const { siftQueue, noteJobs, advanceJobs } = valkey as unknown as Scripts;
  const keys = { wait: `${prefix}:wait`, delayed: `${prefix}:delayed`, marker: `${prefix}:marker`, jobs: `${prefix}:` };
  const often = new Map<string, number>(); // endpoints, and how many of their jobs were held since the last lull
  const inTheWay = new Set<string>(); // those of them that were held often
  let held = 0; // jobs since the last lull, or the last sift
  let lullAt = 0;
  let isBusy = false;
  let unnoted = nothing(); // between these scores jobs in delayed have not been noted yet
  let isNoting = false;
  const rare = new Map<string, number>(); // endpoints whose parked jobs are looked for, and scripts in a row that found few

  async function sift(): Promise<void> {
    onSift(true);
    try {
      await siftInPieces();
    } finally {
      onSift(false);
      note();
    }
  }

  async function siftInPieces(): Promise<void> {
    const { wait, delayed, marker, jobs } = keys;
    let left = "";
    let chunk = FIRST_CHUNK;
    for (let pieces = 1; ; pieces++) {
      const found = new Map<string, Line>();
      for (const name of inTheWay) {
        const line = gate.line(name);
        if (line !== undefined && found.size < MAX_ENDPOINTS) found.set(name, line);
      }
      if (found.size === 0) return; // they may go again
      const names = [...found.keys()];
      const lines = dealOut([...found.values()]);
      const places = lines.flatMap((line, i) => [names[i], line.from, line.spacingMs, line.startAt, line.horizonAt]);
      const asked = [wait, delayed, marker, jobs, chunk, now(), left, ...places];
      const [seen, last, noteFrom, noteTo, ...counts] = await siftQueue.call(valkey, ...asked);
      left = last;
      if (noteTo > 0) addUnnoted(noteFrom, noteTo);
      for (const [i, line] of lines.entries()) gate.joined(names[i] as string, counts[i] ?? 0, line);
      const moved = counts.reduce((sum, count) => sum + count, 0);
      logger.debug({ endpoints: lines.length, moved, seen }, "queue.sifted");
      onCleared(seen - moved);
      if (seen < chunk || moved < chunk * WORTHWHILE) return;
      chunk = Math.min(CHUNK, Math.round(chunk * GROWTH));
      if (pieces % NOTE_EVERY === 0) note();
    }
  }

  /** Write down of the jobs that were parked together that they are. Never throws, and is not waited for. */
  async function note(): Promise<void> {
    if (isNoting) return; // it goes on with what has been added meanwhile
    isNoting = true;
    let noted = 0;
    try {
      while (unnoted.from <= unnoted.to) {
        const { from, to } = unnoted;
        const [count, last = to] = await noteJobs.call(valkey, keys.delayed, keys.jobs, now(), from, to, NOTED);
        noted += count;
        if (unnoted.from === from) unnoted.from = Number(last) + 1; // unless more was added before it
      }
      unnoted = nothing();
      logger.debug({ noted }, "queue.noted");
    } catch (error) {
      logger.debug({ reason: (error as Error).message }, "queue.unnoted"); // after the next sift
    } finally {
      isNoting = false;
    }
  }

  function addUnnoted(from: number, to: number): void {
    unnoted = { from: Math.min(unnoted.from, from), to: Math.max(unnoted.to, to) };
  }

  async function advance(name: string, count: number, turns: Span): Promise<void> {
    let left: Span | undefined = turns;
    try {
      left = await advanceIn(turns, name, count);
    } finally {
      gate.advanced(name, left);
    }
  }

  /** Returns the turns at which there may be more. */
  async function advanceIn({ first, last }: Span, name: string, count: number): Promise<Span | undefined> {
    const { delayed, marker, jobs } = keys;
    const most = Math.min(count, MAX_ADVANCED);
    const asked = [delayed, marker, jobs, MAX_ADVANCED, name, now(), most, first, last];
    const [moved, seen, until] = await advanceJobs.call(valkey, ...asked);
    logger.debug({ endpoint: name, moved, seen }, "queue.advanced");
    // Too few among the others' are not worth looking for without end.
    const times = seen === MAX_ADVANCED && moved < MAX_ADVANCED * RARE ? (rare.get(name) ?? 0) + 1 : 0;
    const isOver = until === undefined || times === MAX_RARE;
    if (times === 0 || isOver) rare.delete(name);
    else rare.set(name, times);
    return isOver ? undefined : { first: until / SCORE_PER_MS, last };
  }

  function begin(work: Promise<void>): void {
    isBusy = true;
    work
      .catch((error: Error) => logger.debug({ reason: error.message }, "queue.unsifted"))
      .finally(() => {
        isBusy = false;
      });
  }

  return {
    held(name, isProven) {
      if (now() - lullAt > LULL_MS && !isBusy) {
        often.clear();
        inTheWay.clear();
        held = 0;
        lullAt = now();
      }
      const times = (often.get(name) ?? 0) + 1;
      often.set(name, times);
      if (times >= (isProven ? ENOUGH : OFTEN)) inTheWay.add(name);
      held += 1;
      if (held < ENOUGH || isBusy) return;
      held = 0;
      begin(sift());
    },
    advance(name, count, turns) {
      if (isBusy) gate.advanced(name, turns);
      else begin(advance(name, count, turns));
    },
  };
}
