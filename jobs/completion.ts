/**
 * The completion hook: records every attempt, whatever its outcome.
 */

import { errorCode, isDelivered, type Outcome, statusCode, tlsCause } from "../src/delivery/outcome.ts";
import { endpointName, type WebhookEvent } from "../src/delivery/request.ts";
import type { Verdict } from "../src/delivery/retry.ts";
import type { Attempt, AttemptLog } from "../src/log/attempts.ts";
import { keepResponse } from "../src/log/kept-response.ts";
import type { Metrics } from "../src/monitoring/metrics.ts";
import type { Logger } from "../src/runtime/logger.ts";

/** A finished attempt. */
export interface Completion {
  readonly event: WebhookEvent;
  /** The job's id, so that operators can find it in Bull Board. */
  readonly job: string;
  /** UUID of this attempt. */
  readonly delivery: string;
  /** 1-based. */
  readonly attempt: number;
  /** Epoch ms. */
  readonly startedAt: number;
  readonly outcome: Outcome;
  readonly verdict: Verdict;
  /** Whether the event is a test event that an operator sent by hand. */
  readonly isTest?: boolean;
}

/**
 * Called at the end of every attempt and awaited before the job is acknowledged. It resolves once the log entry has been sent
 * on the connection that will carry the acknowledgement, so that a crash cannot lose the entry of an acknowledged job.
 */
export type Completed = (completion: Completion) => Promise<void>;

/**
 * Create the hook, which writes each attempt to the user's log, the metrics, and one line of output.
 *
 * It never changes the verdict: the receiver has already answered, and a failed log write must not cause another delivery. A
 * deferred attempt (a fault of ours) is not counted as one, so it is left out of the user's log.
 */
export function createCompletion({
  log,
  metrics,
  logger,
  keepResponseBytes = 0,
}: {
  log: Pick<AttemptLog, "record">;
  metrics: Pick<Metrics, "attempted" | "unlogged" | "backlogFull">;
  logger: Pick<Logger, "info" | "error">;
  /** How much of the body is kept of a failed response. */
  keepResponseBytes?: number;
}): Completed {
  return async ({ event, job, delivery, attempt, startedAt, outcome, verdict, isTest }) => {
    const cause = tlsCause(outcome);
    const entry: Attempt = {
      id: event.id,
      delivery,
      attempt,
      timestamp: new Date(startedAt).toISOString(),
      endpoint: endpointName(event.endpoint.url),
      event: event.type,
      status_code: statusCode(outcome),
      duration_ms: outcome.durationMs,
      success: isDelivered(outcome),
      error: errorCode(outcome),
      ...(cause !== undefined && { cause }),
      job,
      ...(isTest && { test: true }),
      ...(event.endpoint.id !== undefined && { endpoint_id: event.endpoint.id }),
    };
    metrics.attempted(event.type, outcome);
    if (verdict.kind === "give_up" && verdict.cause === "backlog_full") metrics.backlogFull();
    const line = { user: event.userId, ...entry, ...causeOf(outcome), verdict: verdict.kind, ...retryDelayOf(verdict) };
    logger.info(line, "delivery.attempted");
    if (verdict.kind === "defer") return;
    await new Promise<void>((onSent) => {
      const write = async () =>
        log.record(event.userId, withResponse(entry, outcome, event, keepResponseBytes), onSent);
      write()
        .catch((error) => {
          metrics.unlogged();
          const reason = error instanceof Error ? error.message : String(error);
          logger.error({ job, user: event.userId, delivery, reason }, "attempt.unlogged");
        })
        .then(onSent);
    });
  };
}

/** The response is for the log alone, not for the line of output. */
function withResponse(entry: Attempt, outcome: Outcome, { endpoint }: WebhookEvent, keptBytes: number): Attempt {
  if (outcome.kind !== "response" || outcome.beginning === undefined) return entry;
  return { ...entry, response: keepResponse(outcome.beginning, keptBytes, endpoint) };
}

/** Includes causes that customers must not see: the cause of a `dns` failure would reveal which internal names exist. */
function causeOf(outcome: Outcome): { cause?: string } {
  return "cause" in outcome && outcome.cause !== undefined ? { cause: outcome.cause } : {};
}

function retryDelayOf(verdict: Verdict): { retry_in_ms?: number } {
  return verdict.kind === "retry" || verdict.kind === "defer" ? { retry_in_ms: verdict.delayMs } : {};
}
