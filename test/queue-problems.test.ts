/** What counts as a problem of a queue, from when on, and that the alerts agree. */
import { describe, expect, test } from "bun:test";
import {
  type JudgedQueue,
  type JudgedShard,
  judgeQueue,
  PROBLEMS,
  type ProblemCode,
  THRESHOLDS,
} from "../src/operations/queue-problems.ts";
import { DEFAULT_KEPT } from "../src/queue/worker.ts";
import type { ValkeyFacts } from "../src/valkey/facts.ts";

const valkey: ValkeyFacts = {
  ...{ server: "Valkey 8.0.1", evictionPolicy: "noeviction", appendOnly: true, isPrimary: true },
  ...{ usedMemoryBytes: 50, maxMemoryBytes: 100 },
};
const well: JudgedQueue = {
  ...{ isPaused: false, workers: 1, keepFailed: 10_000, oldestWaitingMs: undefined, strays: undefined, circuits: [] },
  counts: { waiting: 0, delayed: 0, failed: 0 },
  attempts: { made: 1_000, failed: 0, pendingBefore: 0 },
  finished: { completed: 1_000, failed: 0 },
  valkey,
};
const { lateMs, veryLateMs, minutes } = THRESHOLDS;
const late = { oldestWaitingMs: lateMs + 1 };
const full = { ...valkey, usedMemoryBytes: 100 };
const hosts = (count: number) => Array.from({ length: count }, (_, index) => `${index}.example`);

const CASES: [name: string, changes: Partial<JudgedQueue>, codes: ProblemCode[]][] = [
  ["that delivers has none", {}, []],
  ["whose workers Valkey does not tell has none", { workers: undefined, valkey: undefined }, []],
  ["is late when a job waits for more than a minute", late, ["late"]],
  ["is not late when a job waits for a minute", { oldestWaitingMs: lateMs }, []],
  ["is very late when a job waits for more than ten minutes", { oldestWaitingMs: veryLateMs + 1 }, ["very_late"]],
  ["without a worker is that, and not late", { ...late, workers: 0, strays: 2 }, ["no_worker", "strays"]],
  ["that is paused is that, and not late", { ...late, isPaused: true }, ["paused"]],
  [
    "whose workers attempt nothing while a job waits is stuck",
    { oldestWaitingMs: minutes * 60_000 + 1, attempts: { made: 0, failed: 0, pendingBefore: 1 } },
    ["stuck"],
  ],
  [
    "whose workers are too old to tell what they attempt is not called stuck",
    { oldestWaitingMs: minutes * 60_000 + 1, attempts: { made: 0, failed: 0, pendingBefore: undefined } },
    ["late"],
  ],
  ["has failing attempts when more than half fail", { attempts: { ...well.attempts, failed: 501 } }, ["most_fail"]],
  ["may have half of its attempts fail", { attempts: { ...well.attempts, failed: 500 } }, []],
  ["says when nearly all fail", { attempts: { ...well.attempts, failed: 901 } }, ["nearly_all_fail"]],
  ["is not judged by 29 attempts", { attempts: { made: 29, failed: 29, pendingBefore: 0 } }, []],
  ["is not judged by one event of one", { finished: { completed: 0, failed: 1 } }, []],
  ["says when most of ten events fail", { finished: { completed: 4, failed: 6 } }, ["events_fail"]],
  [
    "grows when more events of late are pending than delivered",
    { counts: { waiting: 500, delayed: 600, failed: 0 }, attempts: { made: 1_000, failed: 0, pendingBefore: 50 } },
    ["backlog_grows"],
  ],
  [
    "does not grow with a long backlog that was there before",
    { counts: { waiting: 0, delayed: 9_000, failed: 0 }, attempts: { made: 10, failed: 10, pendingBefore: 9_000 } },
    [],
  ],
  ["with 50 silent hosts has no problem", { circuits: hosts(50) }, []],
  ["with 51 silent hosts has one", { circuits: hosts(51) }, ["open_circuits"]],
  ["says when a change of shards has not ended", { pastCounts: [3] }, ["unmoved"]],
  [
    "does not while a shard is away, since shards are counted",
    { pastCounts: [3], away: [{ label: "1/" }] },
    ["shard_away"],
  ],
  ["says when it soon drops failed events", { counts: { waiting: 0, delayed: 0, failed: 9_001 } }, ["failed_full"]],
  [
    "keeps as many failed events as the setting says",
    { counts: { waiting: 0, delayed: 0, failed: 9_001 }, keepFailed: 50_000 },
    [],
  ],
  ["says when Valkey's memory runs out", { valkey: { ...valkey, usedMemoryBytes: 71 } }, ["valkey_memory"]],
  ["does not judge the memory without a limit", { valkey: { ...full, maxMemoryBytes: 0 } }, []],
  [
    "on a full Valkey says that, and not that it is late",
    { ...late, valkey: full, refusal: "Valkey refuses: OOM" },
    ["valkey_full"],
  ],
  ["says when Valkey refuses writes", { refusal: "Valkey refuses: MISCONF" }, ["valkey_refuses"]],
  ["on a replica says so", { valkey: { ...valkey, isPrimary: false } }, ["valkey_replica"]],
  ["says when Valkey may evict events", { valkey: { ...valkey, evictionPolicy: "allkeys-lru" } }, ["valkey_evicts"]],
];

describe("a queue", () => {
  test.each(CASES)("%s", (_, changes, codes) => {
    expect(judgeQueue({ ...well, ...changes }).map(({ code }) => code)).toEqual(codes);
  });

  const shard = (index: number, changes: Partial<JudgedShard> = {}): JudgedShard => ({
    ...{ label: `${index}/`, isPaused: false, workers: 1, counts: { waiting: 0, failed: 0 } },
    ...changes,
  });

  test.each<[string, Partial<JudgedQueue>, string[]]>([
    [
      "where events wait and no worker is",
      { shards: [shard(0), shard(1, { workers: 0, counts: { waiting: 2, failed: 0 } }), shard(2, { workers: 0 })] },
      ["Events wait in shard 1, which nobody serves"],
    ],
    [
      "that do not answer",
      { away: [{ label: "3/" }, { label: "old/" }] },
      ["Shards 3 and old do not answer: their events are not being delivered"],
    ],
    [
      "that are paused",
      { isPaused: true, shards: [shard(0), shard(1, { isPaused: true }), shard(2, { isPaused: true })] },
      ["The queue is paused in shards 1 and 2: nothing is being delivered from there"],
    ],
    [
      "that will soon drop failed events",
      {
        counts: { waiting: 0, delayed: 0, failed: 9_401 },
        shards: [
          shard(0, { counts: { waiting: 0, failed: 400 } }),
          shard(1, { counts: { waiting: 0, failed: 9_001 } }),
        ],
      },
      ["9,001 failed events are kept in shard 1; beyond 10,000, the oldest are dropped"],
    ],
    [
      "not when together they keep more failed events than one may",
      {
        counts: { waiting: 0, delayed: 0, failed: 12_000 },
        shards: [
          shard(0, { counts: { waiting: 0, failed: 6_000 } }),
          shard(1, { counts: { waiting: 0, failed: 6_000 } }),
        ],
      },
      [],
    ],
  ])("of several shards names those %s", (_, changes, texts) => {
    expect(judgeQueue({ ...well, ...changes }).map(({ text }) => text)).toEqual(texts);
  });

  test("has its problems listed worst first, each in plain sentences without a period", () => {
    const everything: JudgedQueue = {
      ...{ ...well, ...late, strays: 1, circuits: hosts(51), counts: { waiting: 9_000, delayed: 0, failed: 10_000 } },
      ...{ attempts: { made: 1_000, failed: 1_000, pendingBefore: 0 }, finished: { completed: 0, failed: 10 } },
      valkey: { ...valkey, usedMemoryBytes: 80, evictionPolicy: "volatile-ttl" },
    };
    const problems = judgeQueue(everything);
    const codes = Object.keys(PROBLEMS);
    const places = problems.map(({ code }) => codes.indexOf(code));
    expect(places).toEqual(places.toSorted((a, b) => a - b));
    expect(problems.length).toBe(9);
    for (const { text, todo } of problems) {
      expect(text).toMatch(/^[A-Z\d].*[^.]$/);
      expect(todo).toMatch(/^[A-Z].*[^.]$/);
    }
    expect(problems.map(({ text }) => text)).toContain(
      "100% of attempts failed in the last 5 minutes (1,000 of 1,000)",
    );
  });
});

describe("the alerts", async () => {
  const path = new URL("../docs/monitoring/alerts.yml", import.meta.url);
  const { groups } = Bun.YAML.parse(await Bun.file(path).text()) as {
    groups: { rules: { alert: string; expr: string; labels: { severity: string } }[] }[];
  };
  const rules = new Map(groups.flatMap((group) => group.rules).map((rule) => [rule.alert, rule]));
  /** What an expression compares with, in its order. */
  const boundsOf = (alert: string) =>
    [...(rules.get(alert)?.expr ?? "").matchAll(/[<>]=? (\d[\d.e]*)/g)].map(([, bound]) => Number(bound));

  const { failedShare, nearlyAllShare, minAttempts, minEvents, minGrowth, pendingShare, memoryShare } = THRESHOLDS;
  const perSecond = minAttempts / (minutes * 60);
  test.each([
    ["FluxhookQueueLate", [lateMs / 1000]],
    ["FluxhookQueueVeryLate", [veryLateMs / 1000]],
    ["FluxhookNearlyAllAttemptsFail", [perSecond, nearlyAllShare]],
    ["FluxhookMostAttemptsFail", [perSecond, failedShare]],
    ["FluxhookMostEventsFail", [minEvents, failedShare]],
    ["FluxhookBacklogGrows", [minGrowth, pendingShare]],
    ["FluxhookManyOpenCircuits", [THRESHOLDS.openCircuits]],
    ["FluxhookValkeyMemory", [0, memoryShare]],
    ["FluxhookFailedSetFull", [THRESHOLDS.failedKeptShare * DEFAULT_KEPT.keepFailed]],
    ["FluxhookStrayJobs", [0]],
  ])("of %s begin where the problem does", (alert, bounds) => {
    expect(boundsOf(alert)).toEqual(bounds);
  });

  test("have the severity of their problem, and look as far back", () => {
    for (const [code, { severity, alert }] of Object.entries(PROBLEMS)) {
      if (alert !== undefined) expect([code, rules.get(alert)?.labels.severity]).toEqual([code, severity]);
    }
    for (const alert of ["FluxhookNearlyAllAttemptsFail", "FluxhookMostAttemptsFail", "FluxhookBacklogGrows"]) {
      expect(rules.get(alert)?.expr, alert).toContain(`[${minutes}m]`);
    }
  });

  test("count prioritized events among those that wait and do not move", () => {
    expect(rules.get("FluxhookNothingMoves")?.expr).toContain('state=~"waiting|prioritized"');
  });
});

test("the dashboard's colors change where the problems begin", async () => {
  const { panels } = (await Bun.file(new URL("../docs/monitoring/dashboard.json", import.meta.url)).json()) as {
    panels: {
      type: string;
      title: string;
      fieldConfig: { defaults: { thresholds: { steps: { value: number }[] } } };
    }[];
  };
  const stepsOf = (name: string) =>
    panels
      .find(({ type, title }) => type === "stat" && title === name)
      ?.fieldConfig.defaults.thresholds.steps.slice(1)
      .map(({ value }) => value);
  expect(stepsOf("Error share")).toEqual([THRESHOLDS.failedShare, THRESHOLDS.nearlyAllShare]);
  expect(stepsOf("Oldest waiting")).toEqual([lateMs / 1000, veryLateMs / 1000]);
  expect(stepsOf("Silent hosts")).toEqual([THRESHOLDS.openCircuits]);
});
