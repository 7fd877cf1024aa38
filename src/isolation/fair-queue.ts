/**
 * Fairness between users when there is a backlog: `wait` is one line for all, and 20,000 events of one user would be some
 * seconds of everybody's time.
 *
 * Start-time fair queueing over BullMQ's own `prioritized`, only where it is needed. After some jobs in a row were taken
 * without finding the queue empty, or some may not go, a script looks at a small piece of the line; where nothing
 * dominates, it changes nothing and the next look is put off. Otherwise it goes on in larger pieces. All workers share the
 * result, since it is the queue's own order.
 */

import { queueKeys } from "../queue/layout.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Valkey } from "../valkey/connection.ts";
import { LOOK, WORTHWHILE_SHARE } from "./fair-queue-script.ts";

const FIRST_PIECE = 128; // jobs looked at by the first script: the sooner it is through, the sooner there is work
const LAST_PIECE = 1024; // and by later ones: some 4 ms in which Valkey does nothing else
const GROWTH = 2; // from each to the next: each has one round trip
const MAX_PIECES = 24; // in a row; the rest of a longer backlog is for the next look
const OFTEN = 64; // jobs taken in a row, without finding the queue empty, before a look
const SOON = 16; // and after a look that was worth it: more of the same may be on its way
const VAIN_FACTOR = 2; // times as many as a look in vain saw: about a microsecond for each job taken
const HELD = 32; // jobs that may not go, before a look
const TROUBLE = 4; // jobs of one user held within a second: all of this user's jobs yield
const WINDOW_MS = 1000; // 1 s
const MAX_TROUBLED = 500; // users named to the script
const GIVE_BACK_SHARE = 1 / 16; // of the jobs taken come from `prioritized`, however long the line in `wait` is

/** Key: the hash of flows' tags, described at `LOOK`, for the queue whose keys have this prefix. */
export const flowTagsKey = (prefix: string): string => `${prefix}:fair:tags`;

export interface FairQueueOptions {
  readonly valkey: Valkey;
  /** The queue's name, for the log. */
  readonly queue: string;
  /** The prefix of its keys, as in `bull:webhooks`. */
  readonly prefix: string;
  readonly logger: Pick<Logger, "debug">;
  /** Called with true when a look is to take long, and with false at its end: jobs taken meanwhile are about to be moved. */
  readonly onLook?: ((isUnderWay: boolean) => void) | undefined;
  /** Called after each script: so many of the jobs that it looked at are now the next in the queue. */
  readonly onLeft?: ((jobs: number) => void) | undefined;
}

/** Nothing here throws, or has to be waited for. */
export interface FairQueue {
  /** A job was taken. */
  taken(): void;
  /** No job was waiting. */
  empty(): void;
  /** A job of this user may not go yet. */
  held(userId: string): void;
}

type Look = (...args: unknown[]) => Promise<[seen: number, moved: number, left: number, goesOn: number, last: string]>;

export function createFairQueue(options: FairQueueOptions): FairQueue {
  const { valkey, queue, prefix, logger, onLook = () => {}, onLeft = () => {} } = options;
  valkey.defineCommand("lookAtQueue", { numberOfKeys: 5, lua: LOOK });
  const { lookAtQueue } = valkey as unknown as { lookAtQueue: Look };
  const { wait, prioritized, marker, meta, jobs } = queueKeys(prefix);
  const keys = [wait, prioritized, marker, meta, flowTagsKey(prefix)];
  const heldBy = new Map<string, number>(); // held jobs by user, in the current second
  let windowStartedAt = 0;
  let held = 0; // jobs held in the current second, or since the last look
  let taken = 0; // in a row, since the last look
  let enough = OFTEN;
  let isLooking = false;
  let isLong = false; // the current look

  async function look(): Promise<void> {
    const givenBack = Math.floor(taken * GIVE_BACK_SHARE);
    let [size, behind] = [FIRST_PIECE, ""];
    let [allSeen, allMoved] = [0, 0];
    for (let piece = 1; piece <= MAX_PIECES; piece++) {
      if (piece === 2 || held >= TROUBLE) tell(true);
      const troubled = [...heldBy].filter(([, times]) => times >= TROUBLE).map(([user]) => user);
      const rest = [givenBack, ...troubled.slice(0, MAX_TROUBLED)];
      const [seen, moved, left, goesOn, last] = await lookAtQueue.call(valkey, ...keys, jobs, size, behind, ...rest);
      allSeen += seen;
      allMoved += moved;
      onLeft(left);
      if (goesOn === 0) break;
      [size, behind] = [Math.min(LAST_PIECE, size * GROWTH), last];
    }
    logger.debug({ queue, seen: allSeen, moved: allMoved }, "queue.looked");
    if (allMoved > 0 && allMoved * WORTHWHILE_SHARE >= allSeen) enough = SOON;
    else enough = Math.max(OFTEN, VAIN_FACTOR * allSeen);
  }

  function tell(isUnderWay: boolean): void {
    if (isLong === isUnderWay) return;
    isLong = isUnderWay;
    onLook(isUnderWay);
  }

  return {
    taken() {
      taken += 1;
      if (isLooking || (taken < enough && held < HELD)) return;
      isLooking = true;
      look()
        .catch((error: Error) => logger.debug({ queue, reason: error.message }, "queue.unlooked"))
        .finally(() => {
          isLooking = false;
          taken = 0;
          held = 0;
          tell(false);
        });
    },
    empty() {
      taken = 0;
      enough = OFTEN;
    },
    held(userId) {
      const nowMs = performance.now();
      if (nowMs - windowStartedAt > WINDOW_MS) {
        heldBy.clear();
        held = 0;
        windowStartedAt = nowMs;
      }
      held += 1;
      heldBy.set(userId, (heldBy.get(userId) ?? 0) + 1);
    },
  };
}
