/** What the gate promises, on a clock of the test's own. The simulator holds it to the rest. */
import { describe, expect, test } from "bun:test";
import type { Outcome } from "../../src/delivery/outcome.ts";
import {
  AdmissionGate,
  type Decision,
  type GateOptions,
  type ParkedJob,
  type Permit,
} from "../../src/isolation/gate.ts";
import { Timeline } from "./timeline.ts";

const SLOTS = 256;
const ENDPOINT_SLOTS = 64;
const EPOCH_MS = 1_760_000_000_000;

const answer = (status = 200, durationMs = 5, retryAfter?: string): Outcome => {
  return { kind: "response", status, retryAfter, durationMs };
};
const SILENCE: Outcome = { kind: "failure", code: "timeout", durationMs: 10_000 };
const REFUSED: Outcome = { kind: "failure", code: "connection_refused", durationMs: 1 };
const NO_RESOLVER: Outcome = { kind: "fault", code: "resolver", durationMs: 10_000 };
const FAULT: Outcome = { kind: "fault", code: "lock_lost", durationMs: 1 };
const BLOCKED: Outcome = { kind: "blocked", range: "private", durationMs: 0 };

/** A gate, its clock, and what it told the worker. */
class Bench {
  readonly timeline = new Timeline();
  readonly gate: AdmissionGate;
  readonly called: ParkedJob[] = [];
  excused = 0;
  wallMs = EPOCH_MS;

  constructor(options: Partial<GateOptions> = {}) {
    this.gate = new AdmissionGate({
      slots: SLOTS,
      endpointSlots: ENDPOINT_SLOTS,
      now: () => this.timeline.nowMs + 1_000,
      epochNow: () => this.timeline.nowMs + this.wallMs,
      random: () => 0,
      schedule: (run, ms) => this.timeline.after(ms, run),
      onExcused: (jobs) => {
        this.excused = jobs;
      },
      onPromote: (jobs) => void this.called.push(...jobs),
      ...options,
    });
  }

  /** Let time pass, for the gate's timers too. */
  async pass(ms: number): Promise<void> {
    const until = this.timeline.nowMs + ms;
    this.timeline.at(until, () => {});
    while (this.timeline.nextAt <= until) {
      this.timeline.step();
      await null;
    }
  }

  ask(path: string, user = "u", bytes = 100, job = `job-${path}`) {
    const endpoint = path.includes("://") ? path : `https://${path}`;
    return this.gate.admit({ endpoint, host: new URL(endpoint).origin, user, bytes, job });
  }

  /** Ask for a permit that must be granted at once. */
  go(path: string, user?: string, bytes?: number): Permit {
    const turn = this.ask(path, user, bytes);
    if (turn.kind !== "go") throw new Error(`expected ${path} to go, got ${JSON.stringify(turn)}`);
    return turn;
  }

  /** Ask for a permit that must be refused. */
  parked(path: string, user?: string): Extract<Decision, { kind: "park" }> {
    const turn = this.ask(path, user);
    if (turn.kind !== "park") throw new Error(`expected ${path} to be parked, got ${turn.kind}`);
    return turn;
  }

  /** All the turns that an endpoint has now. */
  fill(path: string, user = "u"): Permit[] {
    const permits: Permit[] = [];
    const url = new URL(`https://${path}`);
    const endpoint = this.gate.memory.recall(url.href, url.origin);
    const mayGo = () => this.gate.obstacle({ endpoint, user, bytes: 100 }, this.timeline.nowMs + 1_000) === undefined;
    while (mayGo()) permits.push(this.go(path, user));
    return permits;
  }

  end(permits: readonly Permit[], outcome: Outcome): void {
    for (const permit of permits) this.gate.release(permit, outcome);
  }

  /** One attempt after the other. */
  attempts(path: string, outcomes: readonly Outcome[], user?: string): void {
    for (const outcome of outcomes) this.gate.release(this.go(path, user), outcome);
  }

  /** Have an endpoint answer until it takes as many at once as it ever will. */
  grow(path: string, outcome = answer()): void {
    this.attempts(path, Array(ENDPOINT_SLOTS).fill(outcome));
  }
}

const times = <T>(count: number, item: T): T[] => Array(count).fill(item);

describe("an endpoint", () => {
  test("that nobody knows gets five attempts at once, and one more for each 2xx, up to its bound", () => {
    const bench = new Bench();
    const first = bench.fill("a.example/");
    expect(first).toHaveLength(5);
    bench.end(first, answer());
    expect(bench.fill("a.example/")).toHaveLength(10);
    bench.grow("b.example/");
    expect(bench.fill("b.example/")).toHaveLength(ENDPOINT_SLOTS);
  });

  test.each([
    ["silence", SILENCE],
    ["429", answer(429)],
    ["502", answer(502)],
    ["503", answer(503)],
    ["504", answer(504)],
  ])("gets half as many after %s, once for all attempts that were in flight together", (_, outcome) => {
    const bench = new Bench();
    bench.grow("a.example/");
    const permits = bench.fill("a.example/");
    bench.end(permits.slice(0, 4), outcome);
    bench.end(permits.slice(4), FAULT);
    expect(bench.fill("a.example/")).toHaveLength(ENDPOINT_SLOTS / 2);
  });

  test.each([
    ["500", answer(500)],
    ["404", answer(404)],
    ["a fault of ours", FAULT],
    ["a fault of an egress proxy", { kind: "fault", code: "proxy", durationMs: 10_000 } as const],
    ["an address that is refused", BLOCKED],
  ])("keeps its limit after %s", (_, outcome) => {
    const bench = new Bench();
    bench.grow("a.example/");
    bench.attempts("a.example/", times(20, outcome));
    expect(bench.fill("a.example/")).toHaveLength(ENDPOINT_SLOTS);
    expect(bench.gate.openCircuits).toBe(0);
  });

  test("is told from others by its whole URL, query included", () => {
    const bench = new Bench();
    expect(bench.fill("a.example/in?tenant=1")).toHaveLength(5);
    expect(bench.fill("a.example/in?tenant=2")).toHaveLength(5);
  });

  test("is left alone for as long as it asked for by Retry-After, with its jobs spread over the time after", async () => {
    const bench = new Bench({ random: Math.random });
    bench.attempts("a.example/", [answer(429, 5, "60")]);
    const turns = Array.from({ length: 100 }, () => bench.parked("a.example/"));
    for (const { reason, retryAt } of turns) {
      expect(reason).toBe("retry_after");
      expect(retryAt - EPOCH_MS).toBeWithin(60_000, 64_002);
    }
    expect(new Set(turns.map(({ retryAt }) => retryAt)).size).toBeGreaterThan(50);
    await bench.pass(60_000);
    bench.go("a.example/");
  });

  test("is never held for longer than a day", () => {
    const bench = new Bench();
    bench.attempts("a.example/", [answer(503, 5, "99999999")]);
    expect(bench.parked("a.example/").retryAt - EPOCH_MS).toBeLessThanOrEqual(24 * 60 * 60 * 1000);
  });
});

describe("a circuit", () => {
  test.each([
    ["timeouts", SILENCE],
    ["refused connections", REFUSED],
    ["names that no resolver answers for", NO_RESOLVER],
  ])("opens after five %s in a row, and shows its endpoint without the query", (_, outcome) => {
    const bench = new Bench();
    bench.attempts("a.example/in?token=secret", times(5, outcome));
    expect(bench.parked("a.example/in?token=secret").reason).toBe("circuit");
    expect(bench.gate.listOpen()).toEqual(["https://a.example/in"]);
  });

  test("does not open while an answer comes now and then", () => {
    const bench = new Bench();
    bench.attempts("a.example/", times(20, [SILENCE, SILENCE, SILENCE, SILENCE, answer(500)]).flat());
    expect(bench.gate.openCircuits).toBe(0);
  });

  test("takes no notice of silence during which the endpoint was heard", async () => {
    const bench = new Bench();
    bench.grow("a.example/");
    const silent = bench.fill("a.example/").slice(0, 20);
    await bench.pass(100);
    bench.gate.release(silent.pop() as Permit, answer());
    bench.end(silent, SILENCE);
    expect(bench.gate.openCircuits).toBe(0);
  });

  test("lets one probe through after 5 s, then after twice as long each time, a minute at most", async () => {
    const bench = new Bench();
    bench.attempts("a.example/", times(5, REFUSED));
    const pauses: number[] = [];
    for (let probes = 0; probes < 6; probes++) {
      const { retryAt } = bench.parked("a.example/");
      const pauseMs = retryAt - bench.timeline.nowMs - EPOCH_MS;
      pauses.push(Math.round(pauseMs / 1000));
      await bench.pass(pauseMs);
      const probe = bench.go("a.example/");
      expect(bench.fill("a.example/")).toHaveLength(0);
      bench.gate.release(probe, REFUSED);
    }
    expect(pauses).toEqual([5, 10, 20, 40, 60, 60]);
  });

  test.each([200, 404, 500])("closes with an answer of %p", async (status) => {
    const bench = new Bench();
    bench.attempts("a.example/", times(5, REFUSED));
    await bench.pass(5_000);
    bench.attempts("a.example/", [answer(status)]);
    expect(bench.gate.openCircuits).toBe(0);
    bench.go("a.example/");
  });

  test("gives the probe to the next job when one ended by a fault of ours", async () => {
    const bench = new Bench();
    bench.attempts("a.example/", times(5, REFUSED));
    await bench.pass(5_000);
    bench.attempts("a.example/", [FAULT, FAULT]);
    expect(bench.gate.openCircuits).toBe(1);
  });

  test("does not take the end of an older attempt for that of its probe", async () => {
    const bench = new Bench();
    bench.grow("a.example/");
    const [old, ...rest] = bench.fill("a.example/");
    bench.end(rest, SILENCE);
    await bench.pass(5_000);
    const probe = bench.go("a.example/");
    bench.gate.release(old as Permit, SILENCE);
    expect(bench.parked("a.example/").reason).toBe("circuit"); // the probe is still out
    bench.gate.release(probe, answer());
    expect(bench.gate.openCircuits).toBe(0);
  });

  test("of a host opens after five endpoints of two users were silent, but to those that answer", () => {
    const bench = new Bench();
    bench.attempts("h.example/well", [answer()], "healthy");
    for (let i = 0; i < 4; i++) bench.attempts(`h.example/dead/${i}`, [REFUSED], "m");
    bench.go("h.example/new-1", "other");
    bench.attempts("h.example/dead/5", [REFUSED], "n");
    expect(bench.parked("h.example/new-2", "other").reason).toBe("circuit");
    bench.go("h.example/well", "healthy");
    expect(bench.gate.listOpen()).toContain("https://h.example");
  });

  test("of a host opens to one user alone when all that was silent is that user's", () => {
    const bench = new Bench();
    for (let i = 0; i < 10; i++) {
      const turn = bench.ask(`h.example/dead/${i}`, "m");
      if (turn.kind === "go") bench.gate.release(turn, REFUSED);
    }
    expect(bench.parked("h.example/dead/new", "m").reason).toBe("circuit");
    bench.go("h.example/new", "other");
  });

  test("is not held open by a wall clock that is set back", async () => {
    const bench = new Bench();
    bench.attempts("a.example/", times(5, REFUSED));
    bench.wallMs -= 60 * 60 * 1000;
    await bench.pass(5_000);
    bench.go("a.example/");
  });
});

describe("bulkheads", () => {
  test("leave room for new endpoints, however many paths of one host and hosts of one user are silent", () => {
    const bench = new Bench();
    for (let i = 0; i < 5_000; i++) bench.ask(`dead.example/${i}`, `u${i}`);
    for (let i = 0; i < 5_000; i++) bench.ask(`dead-${i}.example/`, "m");
    for (let i = 0; i < 100; i++) bench.go(`new-${i}.example/`, `n${i}`);
  });

  test("leave room for endpoints that answer when thousands of hosts and users are silent", () => {
    const bench = new Bench();
    bench.grow("well.example/");
    for (let i = 0; i < 20_000; i++) bench.ask(`dead-${i}.example/`, `u${i}`);
    expect(bench.fill("well.example/").length).toBeGreaterThan(20);
  });

  test("never let more attempts in flight than nine for each slot", () => {
    const bench = new Bench({ slots: 8, endpointSlots: 8 });
    for (let i = 0; i < 200; i++) bench.attempts(`e${i}.example/`, times(5, answer()), `u${i}`);
    let inFlight = 0;
    for (let i = 0; i < 200; i++) inFlight += bench.fill(`e${i}.example/`, `u${i}`).length;
    expect(inFlight).toBe(72);
  });

  test("keep the bodies in flight within their budget, but for a single one", () => {
    const bench = new Bench({ maxBytes: 1_000_000 });
    bench.attempts("a.example/", [answer()]);
    const large = bench.go("a.example/", "u", 5_000_000);
    expect(bench.parked("b.example/").reason).toBe("memory");
    bench.gate.release(large, answer());
    let bytes = 0;
    for (let i = 0; i < 200; i++) if (bench.ask(`c${i}.example/`, `u${i}`, 100_000).kind === "go") bytes += 100_000;
    expect(bytes).toBeWithin(300_000, 1_000_001);
  });
});

describe("a worker", () => {
  test("is told of old attempts and of jobs that wait, since they need no slot", async () => {
    const bench = new Bench();
    const permits = bench.fill("a.example/");
    bench.ask("a.example/"); // waits
    expect(bench.excused).toBe(1);
    await bench.pass(120);
    expect(bench.excused).toBe(6);
    await bench.pass(200);
    expect(bench.excused).toBe(5);
    bench.end(permits, answer());
    expect(bench.excused).toBe(0);
  });

  test("may not give a permit back twice", () => {
    const bench = new Bench();
    const permit = bench.go("a.example/");
    bench.gate.release(permit, answer());
    expect(() => bench.gate.release(permit, answer())).toThrow("once");
  });
});

describe("a job that cannot go", () => {
  /** The decision about a job that waits, as soon as it is made. */
  const waiting = (bench: Bench, path: string, user?: string) => {
    const asked = bench.ask(path, user);
    if (asked.kind !== "wait") throw new Error(`expected to wait, got ${asked.kind}`);
    const seen: Decision[] = [];
    asked.decision.then((decision) => seen.push(decision));
    return { asked, seen };
  };

  test("waits for an endpoint that is about to answer, and goes the instant it does", async () => {
    const bench = new Bench();
    bench.grow("a.example/");
    const permits = [];
    for (let i = 0; i < ENDPOINT_SLOTS; i++) permits.push(bench.go("a.example/"));
    const [first, second] = [waiting(bench, "a.example/"), waiting(bench, "a.example/")];
    expect(first.asked.isProven).toBe(true);
    bench.gate.release(permits[0] as Permit, answer());
    await null;
    expect([first.seen.length, second.seen.length]).toEqual([1, 0]);
  });

  test("waits for a quarter of a second at most", async () => {
    const bench = new Bench();
    bench.grow("a.example/");
    for (let i = 0; i < ENDPOINT_SLOTS; i++) bench.go("a.example/");
    const { seen } = waiting(bench, "a.example/");
    await bench.pass(260);
    expect(seen).toMatchObject([{ kind: "park", reason: "limit" }]);
  });

  test("does not wait where no answer is near", () => {
    const bench = new Bench();
    bench.attempts("a.example/", times(5, answer(200, 9_000)));
    for (let i = 0; i < 10; i++) bench.go("a.example/");
    bench.parked("a.example/");
  });

  test("takes turns with the jobs of other users who enqueue to the same URL", async () => {
    const bench = new Bench();
    bench.grow("a.example/");
    const permits = [];
    for (let i = 0; i < ENDPOINT_SLOTS; i++) permits.push(bench.go("a.example/", "m"));
    const flood = Array.from({ length: 50 }, () => waiting(bench, "a.example/", "m"));
    const other = waiting(bench, "a.example/", "h");
    bench.end(permits.slice(0, 2), answer());
    await null;
    expect(other.seen).toHaveLength(1);
    expect(flood.filter(({ seen }) => seen.length > 0)).toHaveLength(1);
  });

  test("has a turn at its endpoint's pace when it is parked, each user's as soon as another's", async () => {
    const bench = new Bench();
    bench.attempts("a.example/", times(5, answer(200, 5_000)));
    for (let i = 0; i < 10; i++) bench.go("a.example/");
    const waits = (user: string, count: number) =>
      Array.from({ length: count }, () => bench.parked("a.example/", user).retryAt - EPOCH_MS);
    const many = waits("m", 50);
    expect(many).toEqual(many.toSorted((a, b) => a - b));
    expect((many.at(-1) as number) - (many[0] as number)).toBeWithin(24_000, 25_000);
    expect(waits("h", 1)[0]).toBeLessThan(2_000);
  });

  test("is called back when its endpoint has room before that", async () => {
    const bench = new Bench();
    bench.attempts("a.example/", times(5, answer(200, 5_000)));
    const permits = bench.fill("a.example/");
    const turns = Array.from({ length: 60 }, (_, i) => bench.ask("a.example/", "u", 100, `job-${i}`));
    const last = turns.at(-1);
    if (last?.kind !== "park") throw new Error("expected all to be parked");
    expect(last.retryAt - EPOCH_MS).toBeGreaterThan(25_000);
    bench.end(permits, answer(200, 5_000));
    await bench.pass(1_000);
    expect(bench.called.length).toBeGreaterThanOrEqual(permits.length);
    const due = new Map(turns.map((turn, i) => [`job-${i}`, turn.kind === "park" ? turn.retryAt : 0]));
    for (const { job, retryAt } of bench.called) expect(retryAt).toBe(due.get(job) as number);
  });

  test("is called to probe a circuit when nobody else comes", async () => {
    const bench = new Bench();
    bench.attempts("a.example/", times(5, REFUSED));
    for (const pauseMs of [5_000, 10_000, 20_000]) {
      await bench.pass(pauseMs);
      bench.attempts("a.example/", [REFUSED]);
    }
    await bench.pass(20_000);
    bench.ask("a.example/", "u", 100, "first"); // it would come to probe, but an operator removes it
    bench.ask("a.example/", "u", 100, "second");
    await bench.pass(22_000);
    expect(bench.called.map(({ job }) => job)).toEqual(["second"]);
  });
});

describe("what is remembered", () => {
  test("is bounded, and forgets first what has never answered and is idle", () => {
    const bench = new Bench({ capacity: 1_000 });
    for (let i = 0; i < 900; i++) bench.attempts(`well-${i}.example/`, [answer()]);
    const busy = bench.fill("busy.example/");
    for (let i = 0; i < 5_000; i++) bench.attempts(`dead-${i}.example/`, [REFUSED]);
    expect(bench.gate.memory.size).toBe(1_000);
    const widths = Array.from({ length: 100 }, (_, i) => bench.fill(`well-${i}.example/`).length);
    expect(Math.min(...widths)).toBe(6); // one more than a new one
    expect(bench.ask("busy.example/").kind).not.toBe("go");
    bench.end(busy, answer());
  });

  test("takes some kilobytes for each endpoint", () => {
    const bench = new Bench();
    Bun.gc(true);
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < 20_000; i++) bench.attempts(`e${i}.example/`, [answer()], `u${i}`);
    Bun.gc(true);
    expect((process.memoryUsage().heapUsed - before) / 20_000).toBeLessThan(4_000);
    expect(bench.gate.memory.size).toBe(20_000);
  });

  test("forgets open circuits with their endpoints", () => {
    const bench = new Bench({ capacity: 50 });
    for (let i = 0; i < 50; i++) bench.attempts(`dead-${i}.example/`, times(5, REFUSED), `u${i}`);
    expect(bench.gate.openCircuits).toBe(50);
    for (let i = 0; i < 50; i++) bench.attempts(`well-${i}.example/`, [answer()]);
    expect(bench.gate.openCircuits).toBe(0);
  });
});
