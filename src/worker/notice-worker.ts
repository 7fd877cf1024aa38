/**
 * Delivers notices to the operator's own system as signed webhooks, as events are delivered: with the sender, the gate and the retries of
 * all others. URL and secret come from the settings, and no customer's log has the attempts.
 */
import { createCompletion } from "../../jobs/completion.ts";
import { createDeliver } from "../../jobs/deliver.ts";
import type { Outcome } from "../delivery/outcome.ts";
import { JITTER, type RetryPolicy } from "../delivery/retry.ts";
import type { Backlog } from "../isolation/backlog.ts";
import { createArrivals } from "../queue/arrivals.ts";
import { queueKey } from "../queue/layout.ts";
import { noticesQueue } from "../queue/own-keys.ts";
import { DeliveryWorker, type Job } from "../queue/worker.ts";
import type { Config } from "../settings/config.ts";
import { NOTICE_TYPES, type NoticeMode } from "../streaks/notices.ts";
import type { PipelineShard, SharedParts } from "./shard-worker.ts";

const CONCURRENCY = 4; // notices at a time: they are few, and must not compete with events
const EVENTS: ReadonlySet<string> = new Set(NOTICE_TYPES);
const USER = "notices"; // whom the gate takes them for
/** Their queue is bounded where they are added. */
const BOUNDLESS: Backlog = { isFull: () => false, list() {}, join: () => true, leave() {} };

/** The settings that decide about notices. */
export type NoticeConfig = Pick<Config, "notices" | "noticeUrl" | "noticeSecret">;

/** What becomes of notices. */
export function noticeMode({ notices, noticeUrl }: NoticeConfig): NoticeMode {
  if (noticeUrl !== undefined) return "webhook";
  return notices ? "queue" : "off";
}

type Parts = Pick<SharedParts, "sender" | "gate" | "metrics" | "random"> & {
  readonly config: NoticeConfig & Pick<Config, "timeoutMs" | "retryDelaysMs" | "maxAgeMs" | "maxBodyBytes">;
  /** That of the settings by default. */
  readonly policy?: RetryPolicy | undefined;
  readonly logger: Parameters<typeof createCompletion>[0]["logger"] & {
    debug(fields: object, message: string): void;
    warn(fields: object, message: string): void;
  };
};

/** Create the worker of a shard's notices; undefined when they are not delivered as webhooks. It runs when told to. */
export function createNoticeWorker({ tag, label, valkey }: PipelineShard, parts: Parts): DeliveryWorker | undefined {
  const { config, sender, gate, metrics, random, logger } = parts;
  const { noticeUrl, noticeSecret, timeoutMs, retryDelaysMs, maxAgeMs, maxBodyBytes } = config;
  if (noticeUrl === undefined || noticeSecret === undefined) return undefined;
  const queue = noticesQueue(tag);
  const name = (job: string) => `${queue}/${job}`; // differs from those of events
  const endpoint = { url: noticeUrl.href, secret: noticeSecret };
  const log = { record: async (_user: string, _attempt: unknown, onSent?: () => void) => onSent?.() };
  const attempted = (_type: string, outcome: Outcome) => metrics.noticeAttempted(outcome); // customers' attempts are counted without them
  const completed = createCompletion({ log, metrics: { ...metrics, attempted }, logger });
  const deliver = createDeliver({
    ...{ events: EVENTS, secretKeys: [], maxBodyBytes, maxAgeMs, random, backlog: BOUNDLESS },
    gate: {
      admit: ({ job = "", ...candidate }) => gate.admit({ ...candidate, job: name(job) }),
      release: (...given) => gate.release(...given),
    },
    sender: { send: (request, key) => sender.send(request, name(key)) },
    completed: (completion) => completed({ ...completion, job: name(completion.job) }),
    arrivedAt: createArrivals(valkey, queueKey(queue)),
    rejected: (job, reason) => logger.warn({ job: name(label + job.id), reason }, "job.rejected"),
    held() {},
    parked: ({ reason }) => metrics.parked(reason),
  });
  const worker = new DeliveryWorker(
    (job, ...given) => {
      // Only in memory: where it goes and what signs it are in no job.
      const addressed = Object.create(job, { data: { value: { userId: USER, endpoint, data: job.data } } }) as Job;
      return deliver(addressed, ...given);
    },
    {
      ...{ queue, valkey, timeoutMs, concurrency: CONCURRENCY },
      policy: parts.policy ?? { attempts: retryDelaysMs.length + 1, delaysMs: retryDelaysMs, jitter: JITTER },
    },
  );
  worker.on("error", (error) => logger.debug({ reason: error.message, queue }, "worker.error"));
  worker.on("lockRenewalFailed", (ids) => {
    for (const id of ids) sender.cancel(name(id), "lock_lost");
  });
  return worker;
}
