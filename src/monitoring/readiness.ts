/**
 * Whether a process can do its work, checked thoroughly enough that load balancers and operators can rely on it.
 */

import { queueKey } from "../queue/layout.ts";
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
import { evictionProblem, replicaProblem } from "../valkey/facts.ts";
import { codeOf, refusalOf } from "../valkey/refusals.ts";
import { describeRefusal, findLacks, type Program } from "./rights.ts";

const PROBE_MS = 2 * 1000; // 2 s: health checks time out after a few seconds, and must get the reason before that
const RETRY_FULL_MS = 10 * 1000; // 10 s between two full checks while rights are missing
const STUCK_MS = 15 * 1000; // 15 s: a worker with free slots picks up a waiting job within milliseconds

export interface ValkeyCheckOptions {
  /** The connection to check with. */
  readonly valkey: Valkey;
  /** The connection that does the work, if different: commands refused there count too. */
  readonly working?: Valkey;
  /** The queue's name. */
  readonly queue: string;
  readonly program: Program;
}

/** What is wrong with a Valkey, one sentence per problem. */
export interface ValkeyProblems {
  /** Problems that keep the process from working. */
  readonly obstacles: readonly string[];
  /** Problems that may lose events. */
  readonly risks: readonly string[];
}

/**
 * Create the function that checks whether Valkey is suitable for a queue. It resolves within 2 s. Rights are checked in full until
 * none is missing, and again once a command has been refused.
 */
export function createValkeyCheck(options: ValkeyCheckOptions): () => Promise<ValkeyProblems> {
  const { valkey, working = valkey } = options;
  const findMissingRights = createRightsCheck(options);
  let asked: Promise<ValkeyProblems> | undefined;
  const ask = async (): Promise<ValkeyProblems> => {
    const refused = refusedOf(working);
    const [facts, lacks] = await Promise.all([readFacts(valkey), findMissingRights(refused === undefined)]);
    const refusals = lacks.length > 0 || refused === undefined ? lacks : [describeRefusal(refused)];
    return {
      // A replica refuses all writes; its role is reported instead.
      obstacles: [
        ...listed(replicaProblem(facts)),
        ...refusals.filter((text) => facts.isPrimary || !text.includes(" READONLY ")),
      ],
      risks: listed(evictionProblem(facts)),
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

/** Why there was no answer in time. Valkey may have become unavailable since, and refused commands may be waiting for a retry. */
function silenceOf(valkey: Valkey): string {
  const trouble = troubleOf(valkey);
  if (trouble instanceof LoadingError) return trouble.message;
  const refused = refusedOf(valkey);
  return refused === undefined ? NO_ANSWER : describeRefusal(refused);
}

/**
 * Create the function that finds missing rights. A quick check is enough if it agrees with the last full check: nothing is missing,
 * or something still is and the full check is recent. A refused command forces a full check.
 */
function createRightsCheck({
  valkey,
  queue,
  program,
}: ValkeyCheckOptions): (isAccepting: boolean) => Promise<string[]> {
  let last: { readonly lacks: string[]; readonly until: number } | undefined; // the last full check
  return async (isAccepting) => {
    if (last !== undefined && isAccepting) {
      const lacks = await findLacks(valkey, queue, program, true);
      const isSame = last.lacks.length === 0 ? lacks.length === 0 : lacks.length > 0 && performance.now() < last.until;
      if (isSame) return last.lacks;
    }
    const lacks = await findLacks(valkey, queue, program);
    last = { lacks, until: performance.now() + RETRY_FULL_MS };
    return lacks;
  };
}

const FIRST_PAUSE_MS = 100;
const MAX_PAUSE_MS = 2 * 1000; // 2 s: how late a starting process may notice that Valkey has recovered

/**
 * Wait until Valkey accepts what a process needs, checking with exponential backoff. Does not wait for risks to go away.
 *
 * @param report  called with the obstacles, first and whenever they change
 */
export async function untilAccepted(
  check: () => Promise<ValkeyProblems>,
  report: (problems: readonly string[]) => void,
): Promise<void> {
  let reported = "";
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(MAX_PAUSE_MS, 2 * pauseMs)) {
    const { obstacles } = await check();
    if (obstacles.length === 0) return;
    if (reported !== obstacles.join()) report(obstacles);
    reported = obstacles.join();
    await Bun.sleep(pauseMs);
  }
}

/** The problems that follow from a Valkey's facts; empty when there are none. */
export const valkeyProblems = (facts: ValkeyFacts): string[] => [
  ...listed(replicaProblem(facts)),
  ...listed(evictionProblem(facts)),
];

const listed = (problem: string | undefined): string[] => (problem === undefined ? [] : [problem]);

/** KEYS: an unused key. Valkey checks memory, disk and replicas before a script's first write. */
const TRY_WRITE = `local reply = redis.pcall("SET", KEYS[1], "", "PX", 1) return type(reply) == "table" and reply.err or ""`;

/**
 * Find out whether Valkey takes writes from anybody: its memory may be full, its disk broken, its replicas gone.
 *
 * @returns its reason to refuse them; undefined when it takes them, or is a replica
 * @throws  the connection's error
 */
export async function findWriteRefusal(valkey: Valkey, queue: string): Promise<string | undefined> {
  const tried = valkey.eval(TRY_WRITE, 1, `${queueKey(queue)}:trial:${crypto.randomUUID()}`).catch((error: Error) => {
    if (isAnswer(error)) return error.message;
    throw error;
  });
  const error = new Error(String(await tried).replace(/^-/, ""));
  return refusalOf(error) === "later" && codeOf(error) !== "READONLY" ? describeRefusal(error.message) : undefined;
}

/**
 * Detect a stuck worker: jobs are waiting and slots are free, but no job has been picked up for 15 s.
 *
 * @param nowMs  epoch ms
 */
export async function checkWorker(worker: DeliveryWorker, queue: Queue, nowMs: number): Promise<string[]> {
  if (!worker.isRunning()) return ["the worker is not running"];
  const idleMs = nowMs - worker.lastPickUpAt;
  if (idleMs < STUCK_MS || worker.active >= worker.capacity) return [];
  const isHeld = Promise.all([queue.isPaused(), queue.isMaxed(), queue.getJobCountByTypes("waiting", "prioritized")]);
  const [isPaused, isMaxed, waiting] = await within(PROBE_MS, isHeld, [true, true, 0]);
  if (isPaused || isMaxed || waiting === 0) return [];
  return [`the worker is stuck: ${waiting} jobs are waiting, none picked up for ${Math.round(idleMs / 1000)} s`];
}
