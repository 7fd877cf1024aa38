/**
 * Notices to the operator's own system: an endpoint is failing, was switched off, or has recovered. Each is a job on the queue
 * `webhooks-notices`, added by the script that makes the change, so that there is one exactly. With shards, each has its own:
 * `webhooks-notices-{0}`, and so on, in the slot of its users' endpoints.
 */
import { queueKey, queueKeys } from "../queue/layout.ts";
import { noticesQueue } from "../queue/own-keys.ts";

/**
 * What a notice says.
 *
 * - `endpoint.failing`    no 2xx for a day and at least 8 failed attempts; once in a streak of failures
 * - `endpoint.disabled`   switched off, for `WEBHOOK_DISABLE_AFTER` without a 2xx or a 410
 * - `endpoint.recovered`  the first 2xx after either
 */
export const NOTICE_TYPES = ["endpoint.failing", "endpoint.disabled", "endpoint.recovered"] as const;
export type NoticeType = (typeof NOTICE_TYPES)[number];

/** The data of a notice's job, and of the webhook that it becomes. Never holds a URL's path or query, headers or secrets. */
export interface NoticeData {
  readonly userId: string;
  readonly endpointId: string;
  /** Of the endpoint's URL, with its port if it is not the default one. */
  readonly host: string;
  /** Why it is, or was, without a 2xx: `failing`, or `gone` for a 410. */
  readonly reason: "failing" | "gone";
  /** The first failed attempt of the streak, ISO 8601. */
  readonly since: string;
  /** How many attempts have failed since, or did until it recovered. */
  readonly failedAttempts: number;
  /** Of the last attempt, as in the log: `http_503`, `timeout`, …; null when it recovered. */
  readonly lastError: string | null;
  /** How many events it missed that can be replayed. */
  readonly missed: number;
}

/** Where notices go. */
export type NoticeMode = "off" | "queue" | "webhook";

/** A notice to be written; how many events were missed is up to the script. */
export interface Notice {
  readonly type: NoticeType;
  readonly data: Omit<NoticeData, "missed">;
  /** When its streak of failures began, epoch ms. */
  readonly since: string;
}

const KEPT_FINISHED = 1_000; // jobs that a consumer has completed, and as many that failed
/** A consumer's failures are retried for about a day. The worker has its own schedule. */
const RETRIES = { attempts: 10, backoff: { type: "exponential", delay: 3 * 60 * 1000 } }; // 3 min, 6, 12, … 12.8 h

/** The options of a notice's job. */
export function noticeOptions(jobId: string, mode: NoticeMode): object {
  return {
    ...(mode === "queue" ? RETRIES : {}),
    removeOnComplete: KEPT_FINISHED,
    removeOnFail: KEPT_FINISHED,
    jobId,
  };
}

/**
 * The id of a notice's job: the same whoever writes it. BullMQ's ids have no colon, and those of users may.
 *
 * @param since  of its streak of failures, epoch ms
 */
export function noticeId({ type, data: { userId, endpointId }, since }: Notice): string {
  return `${encodeURIComponent(userId)}.${endpointId}.${type.slice("endpoint.".length)}.${since}`;
}

/** The keys that write a notice, in a shard with this tag. */
export function noticeKeys(tag: string): string[] {
  const { wait, marker, meta, events, active } = queueKeys(queueKey(noticesQueue(tag)));
  return [wait, marker, meta, events, active];
}

/** The arguments that write a notice: none is written when they are off. */
export function noticeArgs(notice: Notice, tag: string, mode: NoticeMode): string[] {
  if (mode === "off") return ["", "", "", "", "", ""];
  const { jobs } = queueKeys(queueKey(noticesQueue(tag)));
  const id = noticeId(notice);
  const head = `${JSON.stringify(notice.data).slice(0, -1)},"missed":`;
  return [jobs, id, notice.type, head, "}", JSON.stringify(noticeOptions(id, mode))];
}
