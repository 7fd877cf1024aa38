/**
 * Counts the attempts of registered endpoints as they are recorded, warns of those that keep failing, and switches them off.
 */
import { parseUrl } from "../delivery/endpoint-url.ts";
import type { FaultCode } from "../delivery/outcome.ts";
import { endpointName } from "../delivery/request.ts";
import type { Attempt } from "../log/attempt.ts";
import type { EndpointRecords, RecordedAttempt } from "../log/attempts.ts";
import {
  endpointChangesKey,
  endpointIndexKey,
  endpointLogKey,
  endpointOffKey,
  endpointsKey,
  healthKey,
  missedDataKey,
  missedKey,
} from "../queue/own-keys.ts";
import type { DisabledReason } from "../registry/endpoint.ts";
import { indexMember } from "../registry/endpoint-index.ts";
import { type Judgment, judgeStreak, type Streak } from "../registry/health.ts";
import type { Valkey } from "../valkey/connection.ts";
import { CONCLUDE, countScript } from "./health-script.ts";
import { type Notice, type NoticeMode, noticeArgs, noticeKeys } from "./notices.ts";
import type { OutageWatch } from "./outage.ts";

export interface StreakOptions {
  /** The shard's. */
  readonly tag: string;
  /** What the names of the shard's jobs begin with in attempts. */
  readonly label?: string | undefined;
  /** How long an endpoint may be without a 2xx, ms; 0 to switch off none. */
  readonly disableAfterMs: number;
  readonly notices: NoticeMode;
  readonly outage: OutageWatch;
  readonly metrics: {
    /** Count an endpoint that was switched off. */
    endpointDisabled(reason: Exclude<DisabledReason, "manual">): void;
    /** Count an endpoint of which a warning was given. */
    endpointWarned(): void;
  };
  readonly logger: { info(fields: object, message: string): void; error(fields: object, message: string): void };
  /** Epoch ms; by default Valkey's clock. */
  readonly now?: (() => number) | undefined;
}

/** What is to be done about an endpoint. */
interface Conclusion {
  readonly userId: string;
  readonly attempt: Attempt;
  readonly action: "warn" | "disable" | "recover";
  /** The field that it follows from, see `CONCLUDE`. */
  readonly from: string;
  readonly reason: "failing" | "gone";
  readonly notice: Pick<Notice, "type" | "since"> & { readonly failures: number };
}

/** Not attempts of the endpoint: faults of ours, and events whose time is over. */
const UNCOUNTED: ReadonlySet<string | null> = new Set(
  Object.keys({
    ...{ resolver: true, resources: true, proxy: true, shutdown: true, lock_lost: true },
    ...{ expired: true, backlog_full: true },
  } satisfies Record<FaultCode | "expired" | "backlog_full", true>),
);

function resultOf({ success, error, test }: Attempt): "ok" | "failed" | "" {
  if (test || UNCOUNTED.has(error)) return "";
  return success ? "ok" : "failed";
}

/** Create what a shard's log tells of the attempts that it records. */
export function createStreaks(valkey: Valkey, options: StreakOptions): EndpointRecords {
  const { tag, label = "", outage, logger, now } = options;
  const prefixOf = (keyOf: typeof missedKey) => keyOf("", "", tag).slice(0, -1);

  async function conclude(conclusion: Conclusion): Promise<void> {
    const { userId, attempt, action, reason } = conclusion;
    const id = attempt.endpoint_id as string;
    try {
      const version = action === "recover" ? "" : await versionOf(valkey, tag, userId, id, attempt);
      if (version === undefined || (await write(valkey, conclusion, version, options)) === 0) return;
    } catch (error) {
      const { message } = error as Error;
      logger.error({ user: userId, endpoint_id: id, reason: message }, "endpoint.unconcluded");
      return;
    }
    if (action === "warn") options.metrics.endpointWarned();
    if (action === "disable") options.metrics.endpointDisabled(reason);
    const { type, since, failures } = conclusion.notice;
    const line = { user: userId, endpoint_id: id, reason, since: timeOf(since), failed_attempts: failures };
    logger.info({ ...line, error: attempt.error }, type);
  }

  return {
    script: countScript({
      health: healthKey("", tag),
      log: prefixOf(endpointLogKey),
      ...{ missed: prefixOf(missedKey), missedData: prefixOf(missedDataKey) },
    }),
    resultOf,
    jobOf: ({ job = "" }) => job.slice(label.length),
    observed(attempt) {
      const { endpoint, success, error } = attempt;
      if (success || !UNCOUNTED.has(error)) outage.attempted(endpoint, success);
    },
    isUrgent: ({ status_code }) => status_code === 410,
    async recorded(attempts, nowMs) {
      const conclusions = new Map<string, Conclusion>(); // the last of an endpoint's
      for (const recorded of attempts) {
        for (const one of draw(recorded, now?.() ?? nowMs, options)) {
          conclusions.set(`${one.action} ${recorded.attempt.endpoint_id} ${one.userId}`, one);
        }
      }
      await Promise.all([...conclusions.values()].map(conclude));
    },
  };
}

/** What follows from an attempt. */
function* draw(
  { userId, attempt, reply }: RecordedAttempt,
  nowMs: number,
  { disableAfterMs, outage }: StreakOptions,
): Generator<Conclusion> {
  const [since, n, told] = reply as [string, string, string];
  const [of = "", kind, , failures, reason] = told.split(" ");
  if (kind === "over") {
    const notice = { type: "endpoint.recovered", since: of, failures: Number(failures) } as const;
    yield { userId, attempt, action: "recover", from: told, reason: reason === "gone" ? reason : "failing", notice };
  }
  if (since === "" || resultOf(attempt) !== "failed") return;
  const streak: Streak = { since: Number(since), failures: Number(n), isTold: of === since };
  const judgment: Judgment = judgeStreak(streak, attempt.status_code === 410, nowMs, disableAfterMs);
  if (judgment === "none" || (judgment !== "gone" && outage.isOurs)) return;
  const action = judgment === "warn" ? "warn" : "disable";
  const type = judgment === "warn" ? "endpoint.failing" : "endpoint.disabled";
  const notice = { type, since, failures: streak.failures } as const;
  yield { userId, attempt, action, from: since, reason: judgment === "gone" ? "gone" : "failing", notice };
}

/** The version of an endpoint's document; undefined when it has another URL by now, of which the attempt says nothing. */
async function versionOf(
  valkey: Valkey,
  tag: string,
  userId: string,
  id: string,
  { endpoint }: Attempt,
): Promise<string | undefined> {
  const stored = (await valkey.hget(endpointsKey(userId, tag), id)) ?? "";
  const space = stored.indexOf(" ");
  if (space < 0) return undefined;
  const { url } = JSON.parse(stored.slice(space)) as { url: string };
  return endpointName(parseUrl(url) as URL) === endpoint ? stored.slice(0, space) : undefined;
}

/** Not EVALSHA, as for the log: the order of commands stays when they are resent. */
async function write(
  valkey: Valkey,
  { userId, attempt, action, from, reason, notice }: Conclusion,
  version: string,
  { tag, notices }: StreakOptions,
): Promise<number> {
  const id = attempt.endpoint_id as string;
  const { host } = new URL(attempt.endpoint);
  const since = timeOf(notice.since);
  const lastError = action === "recover" ? null : attempt.error;
  const data = { userId, endpointId: id, host, reason, since, failedAttempts: notice.failures, lastError };
  const own = [healthKey(userId, tag), endpointsKey(userId, tag), missedKey(userId, id, tag)];
  const keys = [...own, endpointIndexKey(tag), endpointOffKey(tag), endpointChangesKey(tag), ...noticeKeys(tag)];
  const args = [action, id, from, version, crypto.randomUUID(), reason, indexMember(userId, id)];
  const told = noticeArgs({ ...notice, data }, tag, notices);
  return (await valkey.eval(CONCLUDE, keys.length, ...keys, ...args, ...told)) as number;
}

/** @param ms  epoch ms, as text */
const timeOf = (ms: string): string => new Date(Number(ms)).toISOString();
