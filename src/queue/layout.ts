/**
 * How BullMQ stores a queue in Valkey (version pinned in package.json), as far as our scripts and commands depend on it.
 * `test/queue-layout.test.ts` compares it with what BullMQ writes.
 */

/** Completes "expected the queue to be …". */
export const QUEUE_NAME_FORM = "1 to 100 letters, digits or . _ - { }";

/** Whether a text is a valid queue name. A colon would split the key, and a space is most likely a typo. */
export const isQueueName = (text: string): boolean => /^[\w.{}-]{1,100}$/.test(text);

/** The prefix of a queue's keys. */
export const queueKey = (name: string): string => `bull:${name}`;

/** Lists of job ids. Only clients before BullMQ 6 write `paused`. */
export const JOB_LISTS = ["wait", "paused", "active"] as const;

/** Sorted sets of job ids. */
export const JOB_SETS = ["delayed", "prioritized", "waiting-children", "completed", "failed"] as const;

/** Where a job can be: the name of the key that holds its id. */
export type JobPlace = (typeof JOB_LISTS)[number] | (typeof JOB_SETS)[number];

/** Whether a place is a list rather than a sorted set. */
export const isJobList = (place: JobPlace): place is (typeof JOB_LISTS)[number] =>
  (JOB_LISTS as readonly JobPlace[]).includes(place);

/** The states by which BullMQ counts jobs, except those of flows. */
export const JOB_STATES = ["waiting", "prioritized", "active", "delayed", "completed", "failed"] as const;

/** The states that operators see, where prioritized jobs count as waiting. */
export type ShownState = Exclude<(typeof JOB_STATES)[number], "prioritized">;

/** The keys that our scripts and commands use, of the queue with this prefix. */
export const queueKeys = (prefix: string) => ({
  /** List of job ids, next job last. Workers take these first. */
  wait: `${prefix}:wait`,
  /** List of job ids that clients before BullMQ 6 use while the queue is paused. */
  paused: `${prefix}:paused`,
  /** Sorted set of job ids, lowest score next. Workers take these when `wait` is empty. */
  prioritized: `${prefix}:prioritized`,
  /** Sorted set of job ids by {@link delayedScore}. */
  delayed: `${prefix}:delayed`,
  /** Sorted set of the ids of jobs with unfinished children. */
  "waiting-children": `${prefix}:waiting-children`,
  /** Sorted set of job ids by completion time, epoch ms. */
  completed: `${prefix}:completed`,
  /** Sorted set of job ids by failure time, epoch ms. */
  failed: `${prefix}:failed`,
  /** Sorted set whose members wake waiting workers: {@link MARKER}, or one for the next delayed job. */
  marker: `${prefix}:marker`,
  /** List of the ids of jobs that workers hold. Each has a lock, a string with its worker's token, at its key plus {@link LOCK_SUFFIX}. */
  active: `${prefix}:active`,
  /** Set of job ids. Those still active without a lock at BullMQ's next check have stalled. */
  stalled: `${prefix}:stalled`,
  /** While it exists, BullMQ does not check for stalled jobs. */
  "stalled-check": `${prefix}:stalled-check`,
  /** Hash; has the field `paused` while the queue is paused. */
  meta: `${prefix}:meta`,
  /** Stream of job events. */
  events: `${prefix}:events`,
  /** Counter that orders jobs of equal priority. */
  pc: `${prefix}:pc`,
  /** Sorted set of the ids of job schedulers. Each is a hash at this key, a colon and its id. */
  repeat: `${prefix}:repeat`,
  /** Prefix of a job's key, followed by its id. A job is a hash, with its data as JSON in the field `data`. */
  jobs: `${prefix}:`,
});

/** The keys of a queue, see {@link queueKeys}. */
export const keysOf = (queue: { readonly name: string }) => queueKeys(queueKey(queue.name));

/** The types of a queue's keys, as Valkey's TYPE names them. */
export const KEY_TYPES = {
  wait: "list",
  active: "list",
  prioritized: "zset",
  delayed: "zset",
  completed: "zset",
  failed: "zset",
  marker: "zset",
  meta: "hash",
  events: "stream",
} as const satisfies Partial<Record<keyof ReturnType<typeof queueKeys>, string>>;

/** Fields of a job's hash, by the names that they have in BullMQ's `Job`. */
export const JOB_FIELDS = {
  name: "name",
  data: "data",
  opts: "opts",
  timestamp: "timestamp",
  delay: "delay",
  priority: "priority",
  attemptsMade: "atm",
  attemptsStarted: "ats",
  stalledCounter: "stc",
  processedOn: "processedOn",
  finishedOn: "finishedOn",
  failedReason: "failedReason",
  stacktrace: "stacktrace",
  returnvalue: "returnvalue",
  repeatJobKey: "rjk",
  deduplicationId: "deid",
} as const;

/** Suffix of the key of a job's lock, after the job's own key. */
export const LOCK_SUFFIX = ":lock";

/** Suffix of the key of a job's logs. */
export const LOGS_SUFFIX = ":logs";

/** Suffixes of the keys of a job with children. */
export const FLOW_SUFFIXES = [":dependencies", ":processed", ":failed", ":unsuccessful"] as const;

/** Member and score of the marker for waiting jobs. */
export const MARKER = { member: "0", score: 0 } as const;

/** Member of the marker for a delayed job, which is due at its score, epoch ms. */
export const DELAYED_MARKER = "1";

/** A job's score is this times its priority, plus a counter. Producers' priorities start at 1, so scores below this come first. */
export const PRIORITY_SCORE = 2 ** 32;

/** Scores per ms in `delayed`, so that jobs due in the same millisecond keep their order. */
export const DELAYED_SCORE_PER_MS = 4096;
