/**
 * Whether a process can do its work: readiness that is true, so that a balancer or an operator can trust it.
 */

import type { DeliveryWorker, Queue } from "../queue/worker.ts";
import { within } from "../runtime/deadline.ts";
import {
  isAnswer,
  LoadingError,
  NoDatabaseError,
  readFacts,
  refusedOf,
  troubleOf,
  type Valkey,
  type ValkeyFacts,
} from "../valkey/connection.ts";
import { UNTOLD } from "../valkey/facts.ts";
import { describeRefusal, findLacks, type Program } from "./rights.ts";

const PROBE_MS = 2 * 1000; // 2 s: probes give up after a few seconds, and must get the reason before
const TRIED_MS = 10 * 1000; // 10 s between two trials in full of what is refused anyway
const STUCK_MS = 15 * 1000; // 15 s: a worker with free slots picks up a waiting job within milliseconds

export interface ValkeyCheckOptions {
  /** Asked. */
  readonly valkey: Valkey;
  /** The connection that does the work, when that is another: what is refused there counts too. */
  readonly working?: Valkey;
  /** The queue's name. */
  readonly queue: string;
  readonly program: Program;
}

/** What keeps Valkey from being good for a queue, a sentence each. */
export interface ValkeyProblems {
  /** What keeps the process from working. */
  readonly obstacles: readonly string[];
  /** What may lose events all the same. */
  readonly risks: readonly string[];
}

/**
 * Make the question whether Valkey is good for a queue. It is answered within 2 s. Rights are tried in full until all are there,
 * and again once something was refused.
 */
export function createValkeyCheck(options: ValkeyCheckOptions): () => Promise<ValkeyProblems> {
  const { valkey, working = valkey } = options;
  const findRefused = createTrial(options);
  let asked: Promise<ValkeyProblems> | undefined;
  const ask = async (): Promise<ValkeyProblems> => {
    const refused = refusedOf(working);
    const [facts, lacks] = await Promise.all([readFacts(valkey), findRefused(refused === undefined)]);
    const refusals = lacks.length > 0 || refused === undefined ? lacks : [describeRefusal(refused)];
    return {
      // A replica takes no writes, and says so by its role.
      obstacles: [
        ...roleProblems(facts),
        ...refusals.filter((text) => facts.isPrimary || !text.includes(" READONLY ")),
      ],
      risks: evictionProblems(facts),
    };
  };
  return async () => {
    const trouble = troubleOf(valkey);
    if (trouble instanceof NoDatabaseError || trouble instanceof LoadingError) return failed(trouble.message);
    if (trouble !== undefined && isAnswer(trouble)) return failed(describeRefusal(trouble.message));
    asked ??= ask()
      .catch((error: Error) => failed(isAnswer(error) ? describeRefusal(error.message) : NO_ANSWER))
      .finally(() => {
        asked = undefined;
      });
    return (await within(PROBE_MS, asked, undefined)) ?? failed(silenceOf(valkey));
  };
}

const NO_ANSWER = "Valkey does not answer";
const failed = (obstacle: string): ValkeyProblems => ({ obstacles: [obstacle], risks: [] });

/** Why there was no answer in time: it may have changed meanwhile, and commands that were refused for now wait. */
function silenceOf(valkey: Valkey): string {
  const trouble = troubleOf(valkey);
  if (trouble instanceof LoadingError) return trouble.message;
  const refused = refusedOf(valkey);
  return refused === undefined ? NO_ANSWER : describeRefusal(refused);
}

/**
 * Make the question what is lacking. It is tried in full unless nothing was lacking last time, and nothing was refused since; what
 * was lacking a moment ago still is while the least is.
 */
function createTrial({ valkey, queue, program }: ValkeyCheckOptions): (isAccepting: boolean) => Promise<string[]> {
  let last: { readonly lacks: string[]; readonly until: number } | undefined;
  return async (isAccepting) => {
    if (last !== undefined && isAccepting) {
      const lacks = await findLacks(valkey, queue, program, true);
      const isSame = last.lacks.length === 0 ? lacks.length === 0 : lacks.length > 0 && performance.now() < last.until;
      if (isSame) return last.lacks;
    }
    const lacks = await findLacks(valkey, queue, program);
    last = { lacks, until: performance.now() + TRIED_MS };
    return lacks;
  };
}

const FIRST_PAUSE_MS = 100;
const MAX_PAUSE_MS = 2 * 1000; // 2 s: how long after Valkey's recovery a process that starts may not know of it

/**
 * Wait until Valkey accepts what a process needs, asking ever less often. A risk is no reason to wait.
 *
 * @param tell  called with what is in the way, once unless it changes
 */
export async function untilAccepted(
  check: () => Promise<ValkeyProblems>,
  tell: (problems: readonly string[]) => void,
): Promise<void> {
  let told = "";
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(MAX_PAUSE_MS, 2 * pauseMs)) {
    const { obstacles } = await check();
    if (obstacles.length === 0) return;
    if (told !== obstacles.join()) tell(obstacles);
    told = obstacles.join();
    await Bun.sleep(pauseMs);
  }
}

/** What in a Valkey's facts keeps it from being good for a queue; empty when nothing does. */
export const valkeyProblems = (facts: ValkeyFacts): string[] => [...roleProblems(facts), ...evictionProblems(facts)];

function roleProblems({ isPrimary }: ValkeyFacts): string[] {
  return isPrimary ? [] : ["Valkey takes no writes: it is a replica"];
}

function evictionProblems({ evictionPolicy }: ValkeyFacts): string[] {
  if (evictionPolicy === "noeviction" || evictionPolicy === UNTOLD) return [];
  return [`Valkey may drop queued events: expected maxmemory-policy noeviction, got ${evictionPolicy}`];
}

/**
 * Whether a worker's loop has died behind its back: jobs wait, slots are free, and none was picked up for 15 s.
 *
 * @param nowMs  epoch ms
 */
export async function checkWorker(worker: DeliveryWorker, queue: Queue, nowMs: number): Promise<string[]> {
  if (!worker.isRunning()) return ["the worker does not run"];
  const idleMs = nowMs - worker.lastPickUpAt;
  if (idleMs < STUCK_MS || worker.active >= worker.capacity) return [];
  const isHeld = Promise.all([queue.isPaused(), queue.isMaxed(), queue.getJobCountByTypes("waiting", "prioritized")]);
  const [isPaused, isMaxed, waiting] = await within(PROBE_MS, isHeld, [true, true, 0]);
  if (isPaused || isMaxed || waiting === 0) return [];
  return [`the worker is stuck: ${waiting} jobs wait, none was picked up for ${Math.round(idleMs / 1000)} s`];
}
