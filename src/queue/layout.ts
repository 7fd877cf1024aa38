/**
 * How BullMQ lays out a queue in Valkey (version pinned in package.json): all that our own scripts and commands know of it.
 * `test/queue-layout.test.ts` compares it with what BullMQ itself writes.
 */

/** Completes "expected the queue to be …". */
export const QUEUE_NAME_FORM = "1 to 100 letters, digits or . _ - { }";

/** Whether a text may name a queue: a colon would part it, a blank is most likely a slip. */
export const isQueueName = (text: string): boolean => /^[\w.{}-]{1,100}$/.test(text);

/** The prefix of a queue's keys. */
export const queueKey = (name: string): string => `bull:${name}`;

/** The keys of the queue with this prefix that our scripts touch. */
export const queueKeys = (prefix: string) => ({
  /** List of job ids, next job last. Workers take these first. */
  wait: `${prefix}:wait`,
  /** Sorted set of job ids, lowest score next. Workers take these when `wait` is empty. */
  prioritized: `${prefix}:prioritized`,
  /** Sorted set of job ids by {@link delayedScore}. */
  delayed: `${prefix}:delayed`,
  /** Sorted set whose members wake waiting workers: {@link MARKER}, or one for the next delayed job. */
  marker: `${prefix}:marker`,
  /** List of the ids of jobs that workers hold. Each has a lock, a string with its worker's token, at its key and {@link LOCK_SUFFIX}. */
  active: `${prefix}:active`,
  /** Set of job ids: those of them that are active without a lock when BullMQ next checks have stalled. */
  stalled: `${prefix}:stalled`,
  /** While it exists, BullMQ does not check for stalled jobs. */
  "stalled-check": `${prefix}:stalled-check`,
  /** Hash; the field `paused` is there while the queue is paused. */
  meta: `${prefix}:meta`,
  /** What a job's key begins with; its id follows. A job is a hash, its data the field `data`, as JSON. */
  jobs: `${prefix}:`,
});

/** What the key of a job's lock ends with, behind the job's own. */
export const LOCK_SUFFIX = ":lock";

/** Member and score of the marker that says: jobs wait. */
export const MARKER = { member: "0", score: 0 } as const;

/** Member of the marker that says: a delayed job is due at its score, epoch ms. */
export const DELAYED_MARKER = "1";

/** A job's score is this times its priority, and a counter. A producer's priority is 1 or more, so scores below this come first. */
export const PRIORITY_SCORE = 2 ** 32;

/** Scores of `delayed` per ms: jobs of one millisecond keep their order. */
export const DELAYED_SCORE_PER_MS = 4096;
