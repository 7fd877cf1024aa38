/**
 * Fairness between users when there is a backlog: BullMQ's `wait` is a single FIFO list, in which 20,000 events of one user would
 * delay everyone else by seconds.
 *
 * Start-time fair queueing on top of BullMQ's own `prioritized`, only where it is needed. After a run of jobs without finding the
 * queue empty, or when jobs cannot be attempted, a script scans a small piece of `wait`. If no user or endpoint dominates, it
 * changes nothing, and the next scan is put off; otherwise it continues with larger pieces. All workers share the result, since it
 * is the order of the queue itself.
 */

import { queueKeys } from "../queue/layout.ts";
import { flowTagsKey } from "../queue/turns.ts";
import { invariant } from "../runtime/invariant.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Valkey } from "../valkey/connection.ts";
import { MAX_NEWEST, MIN_WAITING, NEWEST_SHARE, SCAN, WORTHWHILE_SHARE } from "./fair-queue-script.ts";

const FIRST_PIECE = 128; // jobs scanned by the first script; few, since workers wait for the result
const MAX_PIECE = 1024; // and by any script: it blocks Valkey for about 4 ms
const GROWTH = 2; // from one piece to the next
const MAX_PIECES = 24; // per scan; the rest of a longer backlog is left to the next one
const SCAN_AFTER = 64; // jobs taken without finding the queue empty
const SCAN_AGAIN_AFTER = 16; // the same, after a scan that moved many jobs: more of them may be on their way
const BACK_OFF_FACTOR = 2; // after a scan that did not: jobs to take per job scanned, which keeps the cost near 1 µs per job
const SCAN_AFTER_HELD = 32; // jobs that could not be attempted
const TROUBLED_AFTER = 4; // jobs of one user held within a second: from then on, all of that user's jobs yield
const WINDOW_MS = 1000; // 1 s
const MAX_TROUBLED = 500; // users passed to the script
const GIVE_BACK_SHARE = 1 / 16; // of the jobs taken come from `prioritized`, however long `wait` is

invariant(
  FIRST_PIECE >= MIN_WAITING && FIRST_PIECE <= MAX_PIECE,
  "the first piece to be large enough for the script to act on it, and not above the maximum",
);
invariant(MAX_NEWEST * NEWEST_SHARE <= MAX_PIECE, "the largest piece to have room for the maximum of newest jobs");
invariant(SCAN_AGAIN_AFTER < SCAN_AFTER, "to scan again sooner after a scan that moved many jobs");

export interface FairQueueOptions {
  readonly valkey: Valkey;
  /** The queue's name, for the log. */
  readonly queue: string;
  /** The prefix of its keys, as in `bull:webhooks`. */
  readonly prefix: string;
  readonly logger: Pick<Logger, "debug">;
  /** Called with true when a scan turns out to be long, and with false when it ends: jobs taken in between should have yielded. */
  readonly onLongScan?: ((isRunning: boolean) => void) | undefined;
  /** Called after each script with the number of scanned jobs now at the head of the queue: these are safe to take. */
  readonly onScanned?: ((jobs: number) => void) | undefined;
}

/** Told what the worker sees of the queue. All methods return at once and never throw. */
export interface FairQueue {
  /** A job was taken. */
  taken(): void;
  /** The queue was found empty. */
  empty(): void;
  /** A job of this user could not be attempted yet. */
  held(userId: string): void;
}

type Scan = (...args: unknown[]) => Promise<[seen: number, moved: number, left: number, goesOn: number, last: string]>;

export function createFairQueue(options: FairQueueOptions): FairQueue {
  const { valkey, queue, prefix, logger, onLongScan = () => {}, onScanned = () => {} } = options;
  valkey.defineCommand("scanQueue", { numberOfKeys: 5, lua: SCAN });
  const { scanQueue } = valkey as unknown as { scanQueue: Scan };
  const { wait, prioritized, marker, meta, jobs } = queueKeys(prefix);
  const keys = [wait, prioritized, marker, meta, flowTagsKey(prefix)];
  const heldBy = new Map<string, number>(); // held jobs by user, in the current second
  let windowStartedAt = 0;
  let held = 0; // in the current second, or since the last scan
  let taken = 0; // since the last scan, or since the queue was empty
  let scanAfter = SCAN_AFTER;
  let isScanning = false;
  let isLong = false; // the current scan

  async function scan(): Promise<void> {
    const givenBack = Math.floor(taken * GIVE_BACK_SHARE);
    let [size, behind] = [FIRST_PIECE, ""];
    let [allSeen, allMoved] = [0, 0];
    for (let piece = 1; piece <= MAX_PIECES; piece++) {
      if (piece === 2 || held >= TROUBLED_AFTER) reportLong(true);
      const troubled = [...heldBy].filter(([, times]) => times >= TROUBLED_AFTER).map(([user]) => user);
      const rest = [givenBack, ...troubled.slice(0, MAX_TROUBLED)];
      const [seen, moved, left, goesOn, last] = await scanQueue.call(valkey, ...keys, jobs, size, behind, ...rest);
      allSeen += seen;
      allMoved += moved;
      onScanned(left);
      if (goesOn === 0) break;
      [size, behind] = [Math.min(MAX_PIECE, size * GROWTH), last];
    }
    logger.debug({ queue, seen: allSeen, moved: allMoved }, "queue.looked");
    if (allMoved > 0 && allMoved * WORTHWHILE_SHARE >= allSeen) scanAfter = SCAN_AGAIN_AFTER;
    else scanAfter = Math.max(SCAN_AFTER, BACK_OFF_FACTOR * allSeen);
  }

  function reportLong(isRunning: boolean): void {
    if (isLong === isRunning) return;
    isLong = isRunning;
    onLongScan(isRunning);
  }

  return {
    taken() {
      taken += 1;
      if (isScanning || (taken < scanAfter && held < SCAN_AFTER_HELD)) return;
      isScanning = true;
      scan()
        .catch((error: Error) => logger.debug({ queue, reason: error.message }, "queue.unlooked"))
        .finally(() => {
          isScanning = false;
          taken = 0;
          held = 0;
          reportLong(false);
        });
    },
    empty() {
      taken = 0;
      scanAfter = SCAN_AFTER;
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
