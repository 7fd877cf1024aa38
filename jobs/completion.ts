/**
 * The completion hook: what is kept of an attempt, whatever came of it.
 */

import { errorCode, isDelivered, type Outcome, statusCode, tlsCause } from "../src/delivery/outcome.ts";
import { endpointName, type WebhookEvent } from "../src/delivery/request.ts";
import type { Verdict } from "../src/delivery/retry.ts";
import type { Attempt, AttemptLog } from "../src/log/attempts.ts";
import type { Metrics } from "../src/monitoring/metrics.ts";
import type { Logger } from "../src/runtime/logger.ts";

/** One attempt, finished. */
export interface Completion {
  readonly event: WebhookEvent;
  /** The job's id, for the operator. */
  readonly job: string;
  /** UUID of this attempt. */
  readonly delivery: string;
  /** 1-based. */
  readonly attempt: number;
  /** Epoch ms. */
  readonly startedAt: number;
  readonly outcome: Outcome;
  readonly verdict: Verdict;
}

/**
 * Called at the end of every attempt and awaited before the job is acknowledged. By then the log line is on its way over
 * the connection that takes the acknowledgement, ahead of it, so that a crash cannot lose the line alone.
 */
export type Completed = (completion: Completion) => Promise<void>;

/**
 * Make the hook: attempt → the user's log, metrics, one line of output.
 *
 * Nothing in it can change the verdict: the receiver has answered, and a log that cannot be written must not send the
 * event again. An attempt that ended through a fault of ours is no attempt, and is not in the user's log, unless the
 * delivery ends with it.
 */
export function createCompletion({
  log,
  metrics,
  logger,
}: {
  log: Pick<AttemptLog, "record">;
  metrics: Pick<Metrics, "attempted" | "unlogged" | "backlogFull">;
  logger: Pick<Logger, "info" | "error">;
}): Completed {
  return async ({ event, job, delivery, attempt, startedAt, outcome, verdict }) => {
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
    };
    metrics.attempted(event.type, outcome);
    if (verdict.kind === "give_up" && verdict.cause === "backlog_full") metrics.backlogFull();
    const line = { user: event.userId, ...entry, ...causeOf(outcome), verdict: verdict.kind, ...pauseOf(verdict) };
    logger.info(line, "delivery.attempted");
    if (verdict.kind === "defer") return;
    await new Promise<void>((onSent) => {
      const write = async () => log.record(event.userId, entry, onSent);
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

/** Every cause, for the operator's line alone: that of `dns` would show a customer which internal names there are. */
function causeOf(outcome: Outcome): { cause?: string } {
  return "cause" in outcome && outcome.cause !== undefined ? { cause: outcome.cause } : {};
}

function pauseOf(verdict: Verdict): { retry_in_ms?: number } {
  return verdict.kind === "retry" || verdict.kind === "defer" ? { retry_in_ms: verdict.delayMs } : {};
}
