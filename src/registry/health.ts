/**
 * How the attempts of registered endpoints have been going.
 *
 * Key: `webhooks:health:<tag><userId>`, a hash. Fields of each endpoint, none of them before its first attempt; times are epoch ms, by
 * Valkey's clock:
 *
 * - `<id>.since`  the first failed attempt since the last 2xx, so when the current streak of failures began
 * - `<id>.n`      how many attempts have failed since then
 * - `<id>.ok`     the last 2xx, to the minute; the first one after failures exactly. Followed by ` failing` from the first failure on until there
 *   is neither a streak nor anything to tell: the next 2xx reads nothing else, as long as there is a time alone
 * - `<id>.told`   what was told of the streak: `<since> failing <ms> <n> failing`, or `<since> disabled <ms> <n>` and `failing` or `gone`;
 *   after the 2xx that ended it, until the notice of that is written, `<since> over <ms> <n>` and the reason
 *
 * Less than 200 bytes an endpoint; no expiry, but removed with the endpoint.
 */
import { healthKey } from "../queue/own-keys.ts";
import type { Valkey } from "../valkey/connection.ts";

/** What the hash has of an endpoint, behind its id and a dot. */
export const HEALTH_FIELDS = ["since", "n", "ok", "told"] as const;

/** How an endpoint's attempts have been going. Times are epoch ms, by Valkey's clock. */
export interface EndpointHealth {
  /** Since when attempts have been failing; undefined when the last one was answered with 2xx, or there was none yet. */
  readonly failingSince?: number | undefined;
  /** How many attempts have failed since then. */
  readonly failures: number;
  /** The last 2xx, at most a minute earlier than it was; undefined before the first. */
  readonly lastSuccessAt?: number | undefined;
  /** When the warning that it is failing was due and given, in this streak of failures. */
  readonly warnedAt?: number | undefined;
}

/** The health of an endpoint without attempts. */
export const NOTHING_KNOWN: EndpointHealth = { failures: 0 };

/**
 * The health of a user's endpoints, by their ids. Those without attempts are missing.
 *
 * @param tag  the shard's
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readHealth(
  valkey: Valkey,
  tag: string,
  userId: string,
): Promise<ReadonlyMap<string, EndpointHealth>> {
  return parseHealth(await valkey.hgetall(healthKey(userId, tag)));
}

const WARN_AFTER_MS = 24 * 60 * 60 * 1000; // 1 d
const WARN_ATTEMPTS = 8;
const DISABLE_ATTEMPTS = 20;

/** Failed attempts without a 2xx among them. */
export interface Streak {
  /** The first of them, epoch ms. */
  readonly since: number;
  readonly failures: number;
  /** Whether a warning of it was given. */
  readonly isTold: boolean;
}

/** What a streak calls for: a warning, or switching the endpoint off, as `failing` or as `gone`. */
export type Judgment = "none" | "warn" | "failing" | "gone";

/**
 * Judge a streak after a failed attempt. Both time and attempts must be enough: one event a week proves nothing in five days, nor do
 * twenty events in five minutes. Pure.
 *
 * @param isGone          whether the attempt was answered with 410
 * @param nowMs           epoch ms
 * @param disableAfterMs  how long an endpoint may be without a 2xx, ms; 0 for ever
 */
export function judgeStreak(
  { since, failures, isTold }: Streak,
  isGone: boolean,
  nowMs: number,
  disableAfterMs: number,
): Judgment {
  if (isGone) return "gone";
  const lastsMs = nowMs - since;
  if (disableAfterMs > 0 && lastsMs >= disableAfterMs && failures >= DISABLE_ATTEMPTS) return "failing";
  return !isTold && lastsMs >= WARN_AFTER_MS && failures >= WARN_ATTEMPTS ? "warn" : "none";
}

/** Read the fields of a user's hash. */
export function parseHealth(fields: Readonly<Record<string, string>>): Map<string, EndpointHealth> {
  const ids = new Set(Object.keys(fields).map((field) => field.slice(0, field.lastIndexOf("."))));
  return new Map(
    [...ids].map((id) => {
      const since = fields[`${id}.since`];
      const ok = fields[`${id}.ok`];
      const [toldOf, told, at] = (fields[`${id}.told`] ?? "").split(" ");
      const health: EndpointHealth = {
        failures: since === undefined ? 0 : Number(fields[`${id}.n`] ?? 0),
        ...(since === undefined ? {} : { failingSince: Number(since) }),
        ...(ok === undefined ? {} : { lastSuccessAt: Number.parseInt(ok, 10) }),
        ...(told === "failing" && toldOf === since ? { warnedAt: Number(at) } : {}),
      };
      return [id, health];
    }),
  );
}
