/**
 * Decides what to do after an attempt. Pure: clock and randomness are parameters.
 */
import { isDelivered, type Outcome } from "./outcome.ts";

/** How often and when a delivery is attempted. */
export interface RetryPolicy {
  /** The total number of attempts, including the first; 1 or more. */
  readonly attempts: number;
  /** The delay after the 1st, 2nd, … failed attempt, in ms; the last one repeats. Never empty. */
  readonly delaysMs: readonly number[];
  /** Random variation of each delay, as a fraction: 0.2 is ±20 %. */
  readonly jitter: number;
}

/**
 * Why a delivery is given up: 410, a blocked URL, no attempts left, older than `WEBHOOK_MAX_AGE`, past the event's own
 * `expiresAt`, or a full backlog.
 */
export type GiveUpCause = "gone" | "blocked" | "exhausted" | "expired" | "past_expiry" | "backlog_full";

/**
 * What to do after an attempt.
 *
 * - `delivered`  the receiver accepted it
 * - `retry`      try again in `delayMs` (> 0); uses an attempt
 * - `give_up`    no further attempt
 * - `defer`      our own fault: try again in `delayMs` (0: at once, on another worker); uses no attempt
 */
export type Verdict =
  | { readonly kind: "delivered" }
  | { readonly kind: "retry"; readonly delayMs: number }
  | { readonly kind: "give_up"; readonly cause: GiveUpCause }
  | { readonly kind: "defer"; readonly delayMs: number };

export const JITTER = 0.2; // ±20 %, so that a recovering receiver does not get its whole backlog at once
const MAX_DELAY_MS = 24 * 60 * 60 * 1000; // 24 h, for schedules, backoffs and Retry-After
/** Upper bound on the attempts that a job can ask for. */
export const MAX_ATTEMPTS = 100;
const MIN_FAULT_DELAY_MS = 5 * 1000; // 5 s: faults of ours, such as a resolver that is down, are usually short
const MAX_FAULT_DELAY_MS = 5 * 60 * 1000; // 5 min: how late we may notice that a fault is over
const FAULT_DELAY_SHARE = 1 / 4; // of the event's age: some faults last, such as a domain with permanently broken DNS

/**
 * Decide what to do after one attempt.
 *
 * 2xx is delivered; 410 and a blocked address give up; everything else retries on the schedule. `Retry-After` on 429 and
 * 5xx may lengthen a delay, never shorten it, so that a receiver cannot be used to hammer itself, and never beyond 24 h.
 *
 * @param attempt  1-based. May exceed `policy.attempts` after a manual retry, which gets one attempt
 * @param random   in [0, 1); injected so that tests pin the jitter
 * @param nowMs    epoch ms; an HTTP date in `Retry-After` is relative to it
 * @param ageMs    how long the event has been due, in ms; the older it is, the longer the delay after a fault of ours
 * @throws  never
 * @see     Retry-After: RFC 9110 section 10.2.3
 */
export function judge(
  outcome: Outcome,
  attempt: number,
  policy: RetryPolicy,
  random: () => number,
  nowMs: number,
  ageMs = 0,
): Verdict {
  if (isDelivered(outcome)) return { kind: "delivered" };
  if (outcome.kind === "fault") {
    const atOnce = outcome.code === "shutdown" || outcome.code === "lock_lost";
    return { kind: "defer", delayMs: atOnce ? 0 : jittered(faultDelayMs(ageMs), JITTER, random) };
  }
  if (outcome.kind === "blocked") return { kind: "give_up", cause: "blocked" };
  if (outcome.kind === "expired" || outcome.kind === "backlog_full") return { kind: "give_up", cause: outcome.kind };
  if (outcome.kind === "response" && outcome.status === 410) return { kind: "give_up", cause: "gone" };
  if (attempt >= policy.attempts) return { kind: "give_up", cause: "exhausted" };

  const scheduledMs = policy.delaysMs[Math.min(attempt, policy.delaysMs.length) - 1] ?? MAX_DELAY_MS;
  const delayMs = jittered(Math.min(scheduledMs, MAX_DELAY_MS), policy.jitter, random);
  const askedMs = outcome.kind === "response" ? retryAfterMs(outcome.status, outcome.retryAfter, nowMs) : 0;
  return { kind: "retry", delayMs: Math.max(delayMs, askedMs) };
}

const PAST_EXPIRY: Verdict = { kind: "give_up", cause: "past_expiry" };

/**
 * Give up instead of delaying an event beyond its lifetime.
 *
 * @param leftMs    the rest of what `WEBHOOK_MAX_AGE` allows; negative when it is over
 * @param expiryMs  the time until its own `expiresAt`, at which no attempt may begin any more
 */
export function withinLifetime(verdict: Verdict, leftMs: number, expiryMs = Number.POSITIVE_INFINITY): Verdict {
  if (verdict.kind === "give_up" && verdict.cause === "expired") {
    const isOwn = expiryMs <= 0 || (leftMs > 0 && expiryMs < leftMs); // with time left: its turn by a rate limit is too late
    return isOwn ? PAST_EXPIRY : verdict;
  }
  const isDelayed = (verdict.kind === "retry" || verdict.kind === "defer") && verdict.delayMs > 0;
  if (!isDelayed) return verdict;
  if (verdict.delayMs >= expiryMs) return PAST_EXPIRY;
  return verdict.delayMs > leftMs ? { kind: "give_up", cause: "expired" } : verdict;
}

function faultDelayMs(ageMs: number): number {
  return Math.min(Math.max(ageMs * FAULT_DELAY_SHARE, MIN_FAULT_DELAY_MS), MAX_FAULT_DELAY_MS);
}

/** At least 1 ms, since BullMQ takes a delay of 0 to mean "skip the delayed set". */
function jittered(delayMs: number, jitter: number, random: () => number): number {
  return Math.max(1, Math.round(delayMs * (1 - jitter + 2 * jitter * random())));
}

/**
 * How long a receiver asked us to wait.
 *
 * @returns ms from `nowMs`, in [0, 24 h]; 0 when the header is missing, invalid, in the past, or on a status other than 429 and 5xx
 */
export function retryAfterMs(status: number, header: string | undefined, nowMs: number): number {
  if (header === undefined || (status !== 429 && (status < 500 || status > 599))) return 0;
  const text = header.replace(/[ \t]+/g, " ").replace(/^ | $/g, "");
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : parseHttpDate(text, nowMs) - nowMs;
  return Number.isNaN(ms) ? 0 : Math.min(Math.max(ms, 0), MAX_DELAY_MS);
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** The three formats that a recipient must accept. Date.parse accepts many others, but not all of these. */
const DATE_FORMS = [
  /^[A-Z][a-z]+, ?(?<day>\d\d?) (?<month>[A-Z][a-z]{2}) (?<year>\d{4}) (?<time>\d\d:\d\d:\d\d) GMT$/, // IMF-fixdate
  /^[A-Z][a-z]+, ?(?<day>\d\d?)-(?<month>[A-Z][a-z]{2})-(?<year>(?:\d\d){1,2}) (?<time>\d\d:\d\d:\d\d) GMT$/, // RFC 850
  /^[A-Z][a-z]+ (?<month>[A-Z][a-z]{2}) (?<day>\d\d?) (?<time>\d\d:\d\d:\d\d) (?<year>\d{4})$/, // asctime, in GMT
];

/**
 * Read an HTTP date.
 *
 * @param text  with runs of whitespace collapsed to single spaces
 * @returns epoch ms; NaN if invalid
 * @see RFC 9110 section 5.6.7
 */
function parseHttpDate(text: string, nowMs: number): number {
  const parts = DATE_FORMS.map((form) => form.exec(text)?.groups).find((groups) => groups !== undefined);
  if (parts === undefined) return Number.NaN;
  const { day = "", month = "", year = "", time = "" } = parts;
  const [hour = 0, minute = 0, second = 0] = time.split(":").map(Number);
  if (!MONTHS.includes(month) || hour > 23 || minute > 59 || second > 60) return Number.NaN; // 60: a leap second
  const timeMs = ((hour * 60 + minute) * 60 + second) * 1000;
  const dayMs = (fullYear: number) => Date.UTC(fullYear, MONTHS.indexOf(month), Number(day));
  let fullYear = Number(year);
  if (year.length === 2) {
    // A date more than 50 years ahead means the most recent year in the past with these digits.
    const last = new Date(nowMs).getUTCFullYear() + 50;
    fullYear = last - ((last - fullYear) % 100);
    if (dayMs(fullYear) + timeMs > new Date(nowMs).setUTCFullYear(last)) fullYear -= 100;
  }
  const isDay = new Date(dayMs(fullYear)).getUTCDate() === Number(day); // not the 31st of June
  return isDay ? dayMs(fullYear) + timeMs : Number.NaN;
}

/**
 * The policy of one job: `attempts` and `backoff` set by its producer each override the worker's policy.
 *
 * Supports BullMQ's `attempts` and its built-in backoffs (a number, `fixed`, `exponential`, each with `jitter`). Anything else
 * (`attempts: 0` and `backoff: null` from clients that set nothing, an unknown strategy, invalid values) falls back to the worker's
 * policy: an option must never cause a job to be lost.
 *
 * @param options  the job's options as stored; not trusted
 * @throws  never
 */
export function policyOf(options: { attempts?: unknown; backoff?: unknown }, fallback: RetryPolicy): RetryPolicy {
  const attempts = isCount(options.attempts) ? Math.min(options.attempts, MAX_ATTEMPTS) : undefined;
  const backoff = parseBackoff(options.backoff, attempts ?? fallback.attempts);
  if (attempts === undefined && backoff === undefined) return fallback;
  return { ...fallback, ...backoff, attempts: attempts ?? fallback.attempts };
}

function parseBackoff(backoff: unknown, attempts: number): Omit<RetryPolicy, "attempts"> | undefined {
  if (isDelay(backoff)) return { delaysMs: [backoff], jitter: 0 };
  if (typeof backoff !== "object" || backoff === null) return undefined;
  const { type, delay, jitter } = backoff as { type?: unknown; delay?: unknown; jitter?: unknown };
  if (!isDelay(delay)) return undefined;
  // BullMQ's jitter only shortens a delay, by up to that share. Convert it to our form: the middle of that range, ± the jitter.
  const share = typeof jitter === "number" && jitter >= 0 && jitter <= 1 ? jitter : 0;
  const spread = { middle: 1 - share / 2, jitter: share / (2 - share) };
  if (type === "fixed") return { delaysMs: [delay * spread.middle], jitter: spread.jitter };
  if (type !== "exponential") return undefined;
  const delaysMs = Array.from({ length: attempts }, (_, index) => Math.min(delay * 2 ** index, MAX_DELAY_MS));
  return { delaysMs: delaysMs.map((delayMs) => delayMs * spread.middle), jitter: spread.jitter };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

function isDelay(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value) && value > 0;
}
