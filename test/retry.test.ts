import { describe, expect, test } from "bun:test";
import type { Outcome } from "../src/delivery/outcome.ts";
import {
  JITTER,
  judge,
  policyOf,
  type RetryPolicy,
  retryAfterMs,
  type Verdict,
  withinLifetime,
} from "../src/delivery/retry.ts";

const SECOND = 1000;
const HOUR = 60 * 60 * SECOND;
const DAY = 24 * HOUR;
const NOW = Date.UTC(2026, 10, 23, 12, 0, 0);
const policy: RetryPolicy = { attempts: 4, delaysMs: [5 * SECOND, 60 * SECOND, 300 * SECOND], jitter: JITTER };
const middle = () => 0.5; // no jitter
const highest = () => 1 - Number.EPSILON;

const response = (status: number, retryAfter?: string): Outcome => ({
  kind: "response",
  status,
  retryAfter,
  durationMs: 1,
});
const failure: Outcome = { kind: "failure", code: "timeout", durationMs: 1 };

describe("judge", () => {
  test.each<[number, object]>([
    [101, { kind: "retry", delayMs: 5000 }],
    [200, { kind: "delivered" }],
    [202, { kind: "delivered" }],
    [204, { kind: "delivered" }],
    [299, { kind: "delivered" }],
    [301, { kind: "retry", delayMs: 5000 }],
    [304, { kind: "retry", delayMs: 5000 }],
    [308, { kind: "retry", delayMs: 5000 }],
    [400, { kind: "retry", delayMs: 5000 }],
    [404, { kind: "retry", delayMs: 5000 }],
    [409, { kind: "retry", delayMs: 5000 }],
    [410, { kind: "give_up", cause: "gone" }],
    [429, { kind: "retry", delayMs: 5000 }],
    [500, { kind: "retry", delayMs: 5000 }],
    [599, { kind: "retry", delayMs: 5000 }],
  ])("answers %p with %j on the first attempt", (status, verdict) => {
    expect(judge(response(status), 1, policy, middle, NOW)).toEqual(verdict as never);
  });

  test.each(["timeout", "dns", "connection_refused", "connection_reset", "unreachable", "tls", "network"] as const)(
    "retries after %s",
    (code) => {
      const outcome: Outcome = { kind: "failure", code, durationMs: 1 };
      expect(judge(outcome, 1, policy, middle, NOW)).toEqual({ kind: "retry", delayMs: 5000 });
    },
  );

  test("follows the schedule and then gives up", () => {
    const verdicts = [1, 2, 3, 4].map((attempt) => judge(failure, attempt, policy, middle, NOW));
    expect(verdicts).toEqual([
      { kind: "retry", delayMs: 5 * SECOND },
      { kind: "retry", delayMs: 60 * SECOND },
      { kind: "retry", delayMs: 300 * SECOND },
      { kind: "give_up", cause: "exhausted" },
    ]);
  });

  test("repeats the last delay when there are more attempts than delays", () => {
    const verdict = judge(failure, 9, { ...policy, attempts: 10 }, middle, NOW);
    expect(verdict).toEqual({ kind: "retry", delayMs: 300 * SECOND });
  });

  test("gives up after a failed manual retry, and takes a delivered one", () => {
    expect(judge(failure, 5, policy, middle, NOW)).toEqual({ kind: "give_up", cause: "exhausted" });
    expect(judge(response(200), 5, policy, middle, NOW)).toEqual({ kind: "delivered" });
  });

  test("says gone and blocked rather than exhausted on the last attempt", () => {
    const blocked: Outcome = { kind: "blocked", range: "loopback", durationMs: 0 };
    expect(judge(response(410), 4, policy, middle, NOW)).toEqual({ kind: "give_up", cause: "gone" });
    expect(judge(blocked, 4, policy, middle, NOW)).toEqual({ kind: "give_up", cause: "blocked" });
    expect(judge(blocked, 1, policy, middle, NOW)).toEqual({ kind: "give_up", cause: "blocked" });
  });

  test.each([
    ["shutdown", 0],
    ["lock_lost", 0],
    ["resolver", 5000],
    ["resources", 5000],
  ] as const)("never charges our own fault: %s comes back after %p ms, also on the last attempt", (code, delayMs) => {
    for (const attempt of [1, 4, 100]) {
      const verdict = judge({ kind: "fault", code, durationMs: 1 }, attempt, policy, middle, NOW);
      expect(verdict).toEqual({ kind: "defer", delayMs });
    }
  });

  test.each([
    [0, 5],
    [20 * SECOND, 5],
    [60 * SECOND, 15],
    [10 * 60 * SECOND, 150],
    [HOUR, 300],
    [30 * DAY, 300],
    [-HOUR, 5],
  ])("waits longer for a resolver the older the event is: %p ms, then %p s", (ageMs, seconds) => {
    const fault: Outcome = { kind: "fault", code: "resolver", durationMs: 1 };
    const delayAt = (random: () => number) => judge(fault, 1, policy, random, NOW, ageMs);
    expect(delayAt(middle)).toEqual({ kind: "defer", delayMs: seconds * SECOND });
    expect(delayAt(() => 0)).toEqual({ kind: "defer", delayMs: seconds * SECOND * 0.8 });
    expect(delayAt(highest)).toEqual({ kind: "defer", delayMs: seconds * SECOND * 1.2 });
    const stop: Outcome = { kind: "fault", code: "shutdown", durationMs: 1 };
    expect(judge(stop, 1, policy, middle, NOW, ageMs)).toEqual({ kind: "defer", delayMs: 0 });
  });

  test("looks for a resolver some hundred times in three days, not every few seconds", () => {
    const fault: Outcome = { kind: "fault", code: "resolver", durationMs: 1 };
    let ageMs = 0;
    let tries = 0;
    for (; ageMs < 3 * DAY; tries++) {
      const verdict = judge(fault, 1, policy, Math.random, NOW + ageMs, ageMs);
      ageMs += verdict.kind === "defer" ? verdict.delayMs : Number.NaN;
    }
    expect(tries).toBeGreaterThan(3 * 24);
    expect(tries).toBeLessThan(1_200);
  });

  test("keeps every delay within 20 % of the schedule, and uses all of that", () => {
    for (const [index, scheduled] of policy.delaysMs.entries()) {
      const delayAt = (random: number) => {
        const verdict = judge(failure, index + 1, policy, () => random, NOW);
        return verdict.kind === "retry" ? verdict.delayMs : Number.NaN;
      };
      expect(delayAt(0)).toBe(scheduled * 0.8);
      expect(delayAt(highest())).toBe(scheduled * 1.2);
      for (let step = 0; step < 1000; step++) {
        const delay = delayAt(step / 1000);
        expect(delay >= scheduled * 0.8 && delay <= scheduled * 1.2 && Number.isInteger(delay)).toBe(true);
      }
    }
  });

  test("never delays by less than 1 ms, which BullMQ would read as no delay", () => {
    const tiny = { attempts: 3, delaysMs: [0.001], jitter: 1 };
    expect(judge(failure, 1, tiny, () => 0, NOW)).toEqual({ kind: "retry", delayMs: 1 });
  });

  test("never schedules beyond 24 h, jitter aside", () => {
    const endless = { attempts: 3, delaysMs: [Number.MAX_VALUE], jitter: 0 };
    expect(judge(failure, 1, endless, highest, NOW)).toEqual({ kind: "retry", delayMs: DAY });
  });

  describe("and Retry-After:", () => {
    const delayAfter = (status: number, retryAfter: string, attempt = 1, random = middle) => {
      const verdict = judge(response(status, retryAfter), attempt, policy, random, NOW);
      return verdict.kind === "retry" ? verdict.delayMs : verdict;
    };
    const httpDate = (ms: number) => new Date(ms).toUTCString();

    test.each<[number, string, number]>([
      [429, "120", 120 * SECOND],
      [503, "120", 120 * SECOND],
      [500, "120", 120 * SECOND],
      [599, "120", 120 * SECOND],
      [503, " 120 ", 120 * SECOND],
      [503, "007", 7 * SECOND],
      [503, httpDate(NOW + 120 * SECOND), 120 * SECOND],
      [429, httpDate(NOW + 2 * DAY), DAY],
      [503, "86400", DAY],
      [503, "86401", DAY],
      [503, "9".repeat(400), DAY],
      [503, "Fri, 31 Dec 9999 23:59:59 GMT", DAY],
      [503, "Mon, 23 Nov 2026 12:02:00 GMT", 120 * SECOND],
      [503, "Monday, 23-Nov-26 12:02:00 GMT", 120 * SECOND],
      [503, "Mon Nov 23 12:02:00 2026", 120 * SECOND],
      [429, "\t Monday, 23-Nov-26 12:02:00 GMT \t", 120 * SECOND],
      [503, "Mon,  23  Nov 2026   12:02:00\tGMT", 120 * SECOND],
      [503, "Mon,23 Nov 2026 12:02:00 GMT", 120 * SECOND],
      [503, "Mon  Nov  23  12:02:00  2026", 120 * SECOND],
      [503, "Mon, 23-Nov-2026 12:02:00 GMT", 120 * SECOND],
      [503, "Mon, 23 Nov 2026 12:01:60 GMT", 120 * SECOND], // a leap second
      [503, "Sun, 23 Nov 2026 12:02:00 GMT", 120 * SECOND], // it is a Monday
      [503, "Thursday, 31-Dec-26 23:59:59 GMT", DAY],
      [503, "Sunday, 22-Nov-76 12:00:00 GMT", DAY],
      [503, "Monday, 23-Nov-76 12:00:00 GMT", DAY], // 50 years, no more
    ])("%p with %p waits %p ms", (status, retryAfter, expected) => {
      expect(delayAfter(status, retryAfter)).toBe(expected);
    });

    test.each<[number, string]>([
      [503, "0"],
      [503, "4"],
      [503, httpDate(NOW + 4 * SECOND)],
      [503, httpDate(NOW)],
      [503, httpDate(NOW - DAY)],
      [503, httpDate(0)],
      [503, "Monday, 23-Nov-26 12:00:04 GMT"],
      [503, "Mon Nov 23 12:00:04 2026"],
      [503, "Sunday, 06-Nov-94 08:49:37 GMT"],
      [503, "Sun Nov  6 08:49:37 1994"],
      [503, "Monday, 23-Nov-76 12:00:01 GMT"], // more than 50 years ahead, and so of 1976
      [503, "Friday, 31-Dec-76 00:00:00 GMT"],
      [503, "Saturday, 01-Jan-00 00:00:00 GMT"],
    ])("%p with %p never shortens the schedule", (status, retryAfter) => {
      expect(delayAfter(status, retryAfter)).toBe(5 * SECOND);
      expect(delayAfter(status, retryAfter, 3)).toBe(300 * SECOND);
    });

    test.each([
      "",
      " ",
      "-1",
      "+60",
      "60s",
      "60.5",
      "1e3",
      "0x3c",
      "60, 120",
      "Infinity",
      "NaN",
      "soon",
      "2026-11-23T13:00:00Z",
      "Mon, 99 Nov 2026 12:00:00 GMT",
      "Mon, 23 Xxx 2026 12:00:00 GMT",
      "Mon, 23 Nov 2026 13:00:00 CET",
      "Mon, 31 Feb 2027 12:00:00 GMT",
      "Wednesday, 31-Jun-27 12:00:00 GMT",
      "Mon Feb 29 12:00:00 2027",
      "Mon, 23 Nov 2026 24:00:00 GMT",
      "Mon, 23 Nov 2026 13:60:00 GMT",
      "Mon, 23 Nov 2026 13:00:61 GMT",
      "Mon, 00 Nov 2026 13:00:00 GMT",
      "Mon, 23 Nov 26 13:00:00 GMT",
      "Monday, 23-Nov-126 13:00:00 GMT",
      "Monday, 23-Nov-26 13:00:00",
      "Mon Nov 23 13:00:00 2026 GMT",
      "Mon Nov 23 13:00:00 26",
      "Mon Nov 23 13:00:00",
      "23 Nov 2026 13:00:00 GMT",
      "Mon, 23 nov 2026 13:00:00 GMT",
      "Mon, 23 Nov 2026 13:00:00 GMT, Mon, 23 Nov 2026 13:00:00 GMT",
      "\u00a03600",
      "3600\v",
      "3600\n",
      "Mon, 23 Nov 2026 13:00:00",
      "٣٦٠٠",
      "\u0000",
    ])("junk as in %p leaves the schedule as it is", (retryAfter) => {
      expect(delayAfter(503, retryAfter)).toBe(5 * SECOND);
    });

    test.each([301, 302, 400, 404, 408, 418, 425, 428, 430, 499, 600, 999])("counts for nothing on %p", (status) => {
      expect(delayAfter(status, "3600")).toBe(5 * SECOND);
    });

    test("takes a year of two digits for the one within 50 years, whenever that is", () => {
      const waitFor = (header: string, now: string) => retryAfterMs(503, header, Date.parse(now));
      expect(waitFor("Friday, 01-Jan-00 00:00:09 GMT", "2099-12-31T23:59:59Z")).toBe(10 * SECOND);
      expect(waitFor("Thursday, 31-Dec-99 23:59:59 GMT", "2100-01-01T00:00:00Z")).toBe(0);
      expect(waitFor("Monday, 29-Feb-28 00:00:01 GMT", "2028-02-29T00:00:00Z")).toBe(SECOND);
    });

    test("counts for nothing where there is no further attempt", () => {
      expect(judge(response(410, "3600"), 1, policy, middle, NOW)).toEqual({ kind: "give_up", cause: "gone" });
      expect(judge(response(503, "3600"), 4, policy, middle, NOW)).toEqual({ kind: "give_up", cause: "exhausted" });
    });

    test("is compared with the jittered delay, so that it lengthens no more than it must", () => {
      expect(delayAfter(503, "5", 1, () => 0)).toBe(5 * SECOND);
      expect(delayAfter(503, "5", 1, highest)).toBe(6 * SECOND);
    });
  });

  test("never throws and never loses a job, whatever comes together", () => {
    const outcomes: Outcome[] = [failure, response(503, "junk"), response(Number.NaN), response(-1, "")];
    const attempts = [-1, 0, 0.5, 1, 1e9, Number.NaN, Number.POSITIVE_INFINITY];
    const policies: RetryPolicy[] = [
      policy,
      { attempts: 1, delaysMs: [1], jitter: 0 },
      { attempts: 1e9, delaysMs: [], jitter: 1 },
      { attempts: 1e9, delaysMs: [Number.MAX_VALUE], jitter: 1 },
    ];
    for (const outcome of outcomes) {
      for (const attempt of attempts) {
        for (const each of policies) {
          const verdict = judge(outcome, attempt, each, highest, NOW);
          if (verdict.kind === "retry") expect(verdict.delayMs > 0 && verdict.delayMs <= 2 * DAY).toBe(true);
          else expect(verdict.kind).toBe("give_up");
        }
      }
    }
  });
});

describe("withinLifetime", () => {
  const retry: Verdict = { kind: "retry", delayMs: 1_000 };
  const defer: Verdict = { kind: "defer", delayMs: 1_000 };
  const atOnce: Verdict = { kind: "defer", delayMs: 0 };
  const delivered: Verdict = { kind: "delivered" };
  const gone: Verdict = { kind: "give_up", cause: "gone" };
  const expired: Verdict = { kind: "give_up", cause: "expired" };
  const pastExpiry: Verdict = { kind: "give_up", cause: "past_expiry" };

  test.each<[Verdict, leftMs: number, expiryMs: number | undefined, Verdict]>([
    [retry, 1_000, undefined, retry],
    [retry, 999, undefined, expired],
    [defer, 999, undefined, expired],
    [atOnce, -1, undefined, atOnce],
    [retry, 1_000, 1_001, retry],
    [retry, 1_000, 1_000, pastExpiry], // no attempt begins at its expiry
    [retry, 999, 1_000, pastExpiry],
    [retry, 999, 1_001, expired],
    [defer, 1_000, -1, pastExpiry],
    [atOnce, 1_000, -1, atOnce], // whoever takes it next sees that it has expired
    [delivered, -1, -1, delivered], // an attempt that had begun
    [gone, -1, -1, gone],
    [expired, -1, 1, expired],
    [expired, -1, 0, pastExpiry],
  ])("turns %p with %p ms left, and %p until its own expiry, into %p", (verdict, leftMs, expiryMs, expected) => {
    expect(withinLifetime(verdict, leftMs, expiryMs)).toEqual(expected);
  });
});

describe("policyOf", () => {
  test.each<[string, object]>([
    ["nothing", {}],
    ["what clients of other languages store", { attempts: 0, backoff: null, delay: 0 }],
    ["null", { attempts: null, backoff: null }],
    ["zeroes", { attempts: 0, backoff: 0 }],
    ["negative numbers", { attempts: -3, backoff: -1000 }],
    ["NaN", { attempts: Number.NaN, backoff: Number.NaN }],
    ["Infinity", { attempts: Number.POSITIVE_INFINITY, backoff: Number.POSITIVE_INFINITY }],
    ["a fraction and text", { attempts: 2.5, backoff: "5000" }],
    ["texts", { attempts: "5", backoff: "exponential" }],
    ["booleans", { attempts: true, backoff: true }],
    ["lists", { attempts: [3], backoff: [1000] }],
    ["beyond what is exact", { attempts: 2 ** 53, backoff: {} }],
    ["an unknown strategy", { backoff: { type: "custom", delay: 1000 } }],
    ["a strategy of Object.prototype", { backoff: { type: "toString", delay: 1000 } }],
    ["a strategy called __proto__", { backoff: { type: "__proto__", delay: 1000 } }],
    ["a strategy called constructor", { backoff: { type: "constructor", delay: 1000 } }],
    ["a strategy without a delay", { backoff: { type: "exponential" } }],
    ["a strategy that is not text", { backoff: { type: 1, delay: 1000 } }],
    ["a delay of 0", { backoff: { type: "fixed", delay: 0 } }],
    ["a negative delay", { backoff: { type: "fixed", delay: -1 } }],
    ["a delay of NaN", { backoff: { type: "exponential", delay: Number.NaN } }],
    ["a delay of Infinity", { backoff: { type: "exponential", delay: Number.POSITIVE_INFINITY } }],
    ["a delay that is text", { backoff: { type: "fixed", delay: "1000" } }],
    ["a delay that is null", { backoff: { type: "fixed", delay: null } }],
  ])("falls back to the worker's policy: %s", (_, options) => {
    expect(policyOf(options, policy)).toEqual(policy);
  });

  test.each<[object, RetryPolicy]>([
    [{ attempts: 2 }, { ...policy, attempts: 2 }],
    [{ attempts: 1 }, { ...policy, attempts: 1 }],
    [
      { attempts: 2, backoff: null },
      { ...policy, attempts: 2 },
    ],
    [
      { attempts: 2, backoff: { type: "toString" } },
      { ...policy, attempts: 2 },
    ],
    [{ attempts: 1e15 }, { ...policy, attempts: 100 }],
    [{ backoff: 1000 }, { attempts: 4, delaysMs: [1000], jitter: 0 }],
    [
      { attempts: 3, backoff: { type: "fixed", delay: 1000 } },
      { attempts: 3, delaysMs: [1000], jitter: 0 },
    ],
    [
      { attempts: 3, backoff: { type: "exponential", delay: 1000 } },
      { attempts: 3, delaysMs: [1000, 2000, 4000], jitter: 0 },
    ],
    [{ backoff: { type: "exponential", delay: 1 } }, { attempts: 4, delaysMs: [1, 2, 4, 8], jitter: 0 }],
    [
      { attempts: 3, backoff: { type: "exponential", delay: 20 * HOUR } },
      { attempts: 3, delaysMs: [20 * HOUR, DAY, DAY], jitter: 0 },
    ],
    [{ backoff: { type: "fixed", delay: 1000, jitter: "half" } }, { attempts: 4, delaysMs: [1000], jitter: 0 }],
    [{ backoff: { type: "fixed", delay: 1000, jitter: 7 } }, { attempts: 4, delaysMs: [1000], jitter: 0 }],
  ])("reads %j", (options, expected) => {
    expect(policyOf(options, policy)).toEqual(expected);
  });

  test.each([0.5, 1, 0.2])("spreads like BullMQ, which only shortens: jitter %p", (jitter) => {
    const own = policyOf({ attempts: 3, backoff: { type: "exponential", delay: 1000, jitter } }, policy);
    for (const [attempt, longest] of [
      [1, 1000],
      [2, 2000],
    ] as const) {
      expect(judge(failure, attempt, own, highest, NOW)).toEqual({ kind: "retry", delayMs: longest });
      const shortest = Math.max(1, Math.round(longest * (1 - jitter)));
      expect(judge(failure, attempt, own, () => 0, NOW)).toEqual({ kind: "retry", delayMs: shortest });
    }
  });

  test("makes no list of a size that a producer chooses", () => {
    const own = policyOf({ attempts: Number.MAX_SAFE_INTEGER, backoff: { type: "exponential", delay: 1 } }, policy);
    expect(own.attempts).toBe(100);
    expect(own.delaysMs.length).toBe(100);
    expect(own.delaysMs.every((delay) => delay > 0 && delay <= DAY)).toBe(true);
  });

  test("makes a policy that judge can work with to its end, whatever was stored", () => {
    const nonsense = [undefined, null, 0, -1, 1, 7, 1e300, Number.NaN, "x", true, [], {}, { type: "__proto__" }];
    const backoffs = [
      ...nonsense,
      ...nonsense.map((delay) => ({ type: "exponential", delay, jitter: delay })),
      ...nonsense.map((delay) => ({ type: "fixed", delay, jitter: delay })),
    ];
    for (const attempts of nonsense) {
      for (const backoff of backoffs) {
        const own = policyOf({ attempts, backoff }, policy);
        expect(own.attempts >= 1 && own.attempts <= 100 && own.delaysMs.length > 0).toBe(true);
        for (let attempt = 1; attempt < own.attempts; attempt++) {
          const verdict = judge(failure, attempt, own, highest, NOW);
          expect(verdict.kind === "retry" && verdict.delayMs >= 1 && verdict.delayMs <= 1.2 * DAY).toBe(true);
        }
        expect(judge(failure, own.attempts, own, highest, NOW).kind).toBe("give_up");
      }
    }
  });
});
