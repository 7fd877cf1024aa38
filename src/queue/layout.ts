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

/** Lists of job ids. `paused` is what clients before BullMQ 6 write. */
export const JOB_LISTS = ["wait", "paused", "active"] as const;

/** Sorted sets of job ids. */
export const JOB_SETS = ["delayed", "prioritized", "waiting-children", "completed", "failed"] as const;

/** Where a job may be: the name of the key that holds its id. */
export type JobPlace = (typeof JOB_LISTS)[number] | (typeof JOB_SETS)[number];

/** Whether a place is a list, and not a sorted set. */
export const isJobList = (place: JobPlace): place is (typeof JOB_LISTS)[number] =>
  (JOB_LISTS as readonly JobPlace[]).includes(place);

/** The states by which BullMQ counts jobs, but for those of flows. */
export const JOB_STATES = ["waiting", "prioritized", "active", "delayed", "completed", "failed"] as const;

/** The states that people see: to them a prioritized job is a waiting one. */
export type ShownState = Exclude<(typeof JOB_STATES)[number], "prioritized">;

/** The keys of the queue with this prefix that our scripts and commands touch. */
export const queueKeys = (prefix: string) => ({
  /** List of job ids, next job last. Workers take these first. */
  wait: `${prefix}:wait`,
  /** List of job ids that clients before BullMQ 6 make while the queue is paused. */
  paused: `${prefix}:paused`,
  /** Sorted set of job ids, lowest score next. Workers take these when `wait` is empty. */
  prioritized: `${prefix}:prioritized`,
  /** Sorted set of job ids by {@link delayedScore}. */
  delayed: `${prefix}:delayed`,
  /** Sorted set of the ids of jobs whose children are not done. */
  "waiting-children": `${prefix}:waiting-children`,
  /** Sorted set of job ids, by when they completed, epoch ms. */
  completed: `${prefix}:completed`,
  /** Sorted set of job ids, by when they failed, epoch ms. */
  failed: `${prefix}:failed`,
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
  /** Stream of what becomes of jobs. */
  events: `${prefix}:events`,
  /** Counter that orders jobs of one priority. */
  pc: `${prefix}:pc`,
  /** Sorted set of the ids of job schedulers. Each is a hash, at this key, a colon, and its id. */
  repeat: `${prefix}:repeat`,
  /** What a job's key begins with; its id follows. A job is a hash, its data the field `data`, as JSON. */
  jobs: `${prefix}:`,
});

/** The keys of a queue, see {@link queueKeys}. */
export const keysOf = (queue: { readonly name: string }) => queueKeys(queueKey(queue.name));

/** What the key of a job's lock ends with, behind the job's own. */
export const LOCK_SUFFIX = ":lock";

/** The same of its logs. */
export const LOGS_SUFFIX = ":logs";

/** The same of what a job with children has. */
export const FLOW_SUFFIXES = [":dependencies", ":processed", ":failed", ":unsuccessful"] as const;

/** Member and score of the marker that says: jobs wait. */
export const MARKER = { member: "0", score: 0 } as const;

/** Member of the marker that says: a delayed job is due at its score, epoch ms. */
export const DELAYED_MARKER = "1";

/** A job's score is this times its priority, and a counter. A producer's priority is 1 or more, so scores below this come first. */
export const PRIORITY_SCORE = 2 ** 32;

/** Scores of `delayed` per ms: jobs of one millisecond keep their order. */
export const DELAYED_SCORE_PER_MS = 4096;
