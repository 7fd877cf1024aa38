/** The gate's behaviour, on a clock of the tests' own. How large its limits are is not looked at more closely than it must be. */
import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { createGate, type Gate, JOBS_PER_SLOT, type Turn } from "../src/gate.ts";
import type { Line } from "../src/line.ts";
import type { Outcome } from "../src/outcome.ts";
import type { Span } from "../src/parked-turns.ts";

const SEED = Number(process.env.GATE_SEED ?? Math.floor(Math.random() * 2 ** 31));
const EPOCH_MS = 1_760_000_000_000;
const SLOTS = 256;
const ENDPOINT_SLOTS = 64;
const MINUTE_MS = 60 * 1000;

const OK = (durationMs = 5): Outcome => ({ kind: "response", status: 200, retryAfter: undefined, durationMs });
const SILENCE: Outcome = { kind: "failure", code: "timeout", durationMs: 10_000 };
const REFUSED: Outcome = { kind: "failure", code: "connection_refused", durationMs: 1 };
const FAULT: Outcome = { kind: "fault", code: "lock_lost", durationMs: 1 };
const GO: Turn = { kind: "go", probe: 0 };
const BLOCKED: Outcome = { kind: "blocked", range: "private", durationMs: 0 };

/** In [0, 1), the same for the same seed (mulberry32). */
function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), state | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}

let nowMs = EPOCH_MS;
beforeEach(() => {
  nowMs = EPOCH_MS;
  jest.useFakeTimers();
});
afterEach(() => {
  jest.useRealTimers();
});

/** Let time pass, for the gate's timers too. */
async function pass(ms: number): Promise<void> {
  nowMs += ms;
  jest.advanceTimersByTime(ms);
  await Promise.resolve();
  await Promise.resolve();
}

function gateOf(options: Partial<Parameters<typeof createGate>[0]> = {}): Gate {
  return createGate({ slots: SLOTS, endpointSlots: ENDPOINT_SLOTS, now: () => nowMs, random: () => 0.5, ...options });
}

/** Ask for a turn and see what comes at once. */
function ask(gate: Gate, endpoint: string, wasParked = false): Turn | "waits" {
  const turn = gate.admit(endpoint, wasParked);
  return turn instanceof Promise ? "waits" : turn;
}
const isGo = (turn: Turn | "waits") => turn !== "waits" && turn.kind === "go";

/** Take all the turns that an endpoint has now; how many there were. Leaves nobody waiting. */
function fill(gate: Gate, endpoint: string): number {
  let count = 0;
  while (gate.line(endpoint) === undefined && isGo(ask(gate, endpoint))) count += 1;
  return count;
}

function release(gate: Gate, endpoint: string, outcome: Outcome, count = 1): void {
  for (let i = 0; i < count; i++) gate.release(endpoint, outcome, GO);
}

/** Have an endpoint answer until it takes as many at once as it ever will. */
function grow(gate: Gate, endpoint: string, outcome = OK()): number {
  let width = 0;
  for (let round = 0; round < 50; round++) {
    width = fill(gate, endpoint);
    release(gate, endpoint, outcome, width);
  }
  return width;
}

/** Open an endpoint's circuit. */
function silence(gate: Gate, endpoint: string): void {
  for (let i = 0; i < 100; i++) {
    const before = gate.openCircuits;
    if (!isGo(ask(gate, endpoint))) return;
    gate.release(endpoint, SILENCE, GO);
    if (gate.openCircuits > before) return;
  }
}

describe("one endpoint", () => {
  test("that is not known yet gets a few turns, not many", () => {
    const count = fill(gateOf(), "a");
    expect(count).toBeGreaterThanOrEqual(1);
    expect(count).toBeLessThanOrEqual(16);
  });

  test("gets more while it answers, up to its bound and not one more", () => {
    const gate = gateOf();
    const widths = Array.from({ length: 50 }, () => {
      const width = fill(gate, "a");
      release(gate, "a", OK(), width);
      return width;
    });
    expect(widths).toEqual(widths.toSorted((a, b) => a - b));
    expect(widths.at(-1)).toBe(ENDPOINT_SLOTS);
  });

  test("gets fewer after timeouts, and a turn at a time at last", () => {
    const gate = gateOf();
    grow(gate, "a");
    const width = fill(gate, "a");
    gate.release("a", SILENCE, GO);
    gate.release("a", OK(), GO);
    release(gate, "a", FAULT, width - 2);
    const narrower = fill(gate, "a");
    expect(narrower).toBeLessThan(width);
    release(gate, "a", FAULT, narrower);
    for (let i = 0; i < 30; i++) {
      ask(gate, "a");
      gate.release("a", i % 3 === 0 ? OK(9_000) : SILENCE, GO); // never enough silence in a row to open its circuit
    }
    expect(fill(gate, "a")).toBeLessThanOrEqual(ENDPOINT_SLOTS / 4);
  });

  test("gets them back as it answers again", () => {
    const gate = gateOf();
    grow(gate, "a");
    for (let i = 0; i < 3; i++) {
      ask(gate, "a");
      gate.release("a", SILENCE, GO);
    }
    expect(grow(gate, "a")).toBe(ENDPOINT_SLOTS);
  });

  test("has no more than its bound where that is one", () => {
    const gate = gateOf({ slots: 1, endpointSlots: 1 });
    for (let i = 0; i < 20; i++) {
      expect(fill(gate, "a")).toBe(1);
      gate.release("a", OK(), GO);
    }
  });

  test("is not held to account for our own faults, nor for an address that we refuse", () => {
    const gate = gateOf();
    const width = fill(gate, "a");
    release(gate, "a", FAULT, width);
    for (const outcome of [FAULT, BLOCKED]) {
      for (let i = 0; i < 100; i++) {
        expect(isGo(ask(gate, "a"))).toBe(true);
        gate.release("a", outcome, GO);
      }
    }
    expect(gate.openCircuits).toBe(0);
    expect(fill(gate, "a")).toBe(width);
  });
});

describe("endpoints that do not answer", () => {
  test.each([1, 50, 1_000])("(%p of them) never hold more than half of the slots together", (count) => {
    const gate = gateOf();
    const names = Array.from({ length: count }, (_, index) => `silent-${index}`);
    const held = names.reduce((sum, name) => sum + fill(gate, name), 0);
    expect(held).toBeGreaterThan(0);
    expect(held).toBeLessThanOrEqual(SLOTS / 2);
    // A healthy one has room, whatever they do.
    expect(isGo(ask(gate, "healthy"))).toBe(held < SLOTS / 2);
  });

  test("leave each of those that nobody has tried yet its first attempt", () => {
    const gate = gateOf();
    const silent = Array.from({ length: 50 }, (_, index) => fill(gate, `silent-${index}`));
    expect(Math.min(...silent)).toBe(1);
    expect(Math.max(...silent)).toBe(4);
    for (let i = 0; i < 20; i++) expect(isGo(ask(gate, `new-${i}`))).toBe(true);
  });

  test("and have been tried leave half of their share to those that nobody has tried yet", () => {
    const gate = gateOf();
    const silent = Array.from({ length: 200 }, (_, index) => `silent-${index}`);
    for (const name of silent) gate.release(name, SILENCE, ask(gate, name) as Turn);
    const held = silent.reduce((sum, name) => sum + fill(gate, name), 0);
    expect(held).toBe(SLOTS / 4);
    for (let i = 0; i < SLOTS / 4; i++) expect(isGo(ask(gate, `new-${i}`))).toBe(true);
    expect(isGo(ask(gate, "one-more"))).toBe(false);
  });

  test("do not put off an endpoint's first attempt by the length of their line, nor its other jobs those of others", () => {
    const gate = gateOf({ random: () => 0 });
    for (let i = 0; i < SLOTS; i++) fill(gate, `silent-${i}`);
    nowMs += 5_000;
    const line = gate.line("silent-70"); // it has one attempt in flight, and no share left for a second
    if (line === undefined) throw new Error("expected a line");
    gate.joined("silent-70", 10_000, line);
    const waitOf = (name: string, wasParked = false) => {
      const turn = ask(gate, name, wasParked);
      if (turn === "waits" || turn.kind !== "park") throw new Error(`expected ${name} to be parked`);
      return turn.retryAt - nowMs;
    };
    const firsts = Array.from({ length: 100 }, (_, index) => waitOf(`new-${index}`));
    expect(firsts).toEqual(firsts.toSorted((a, b) => a - b));
    expect(Math.min(...firsts)).toBeGreaterThanOrEqual(500);
    expect(Math.max(...firsts)).toBeLessThan(3_000);
    expect(waitOf("new-1")).toBeGreaterThan(60_000); // one of its jobs is enough to know more
    nowMs += 3_000;
    expect(waitOf("new-1", true)).toBeLessThan(1_000); // in vain: once more
  });

  test("are tried once each before a new one need not wait for them, and by then it does not wait at all", async () => {
    const gate = gateOf({ random: createRandom(SEED) });
    const waits: number[][] = []; // of new ones that answer: when each came, and for how long it waited
    const due = new Map<number, (() => void)[]>();
    const at = (ms: number, run: () => void) => {
      const tick = Math.max(Math.ceil(ms / 5) * 5, nowMs + 5);
      due.set(tick, [...(due.get(tick) ?? []), run]);
    };
    const come = (name: string, isNew: boolean, cameAt: number, wasParked = false): void => {
      const turn = ask(gate, name, wasParked);
      if (turn === "waits") return; // its endpoint's next job will do
      if (turn.kind === "park") return void at(turn.retryAt, () => come(name, isNew, cameAt, true));
      if (isNew) waits.push([cameAt, nowMs - cameAt]);
      at(nowMs + (isNew ? 5 : 10_000), () => gate.release(name, isNew ? OK() : SILENCE, turn));
    };
    for (let ms = 0; ms < 40_000; ms += 5) {
      at(EPOCH_MS + ms, () => come(`silent-${(ms / 5) % 200}`, false, EPOCH_MS + ms)); // 200 a second
      if (ms % 500 === 0) at(EPOCH_MS + ms, () => come(`new-${ms}`, true, EPOCH_MS + ms));
    }
    while (nowMs < EPOCH_MS + 60_000) {
      await pass(5);
      for (const run of due.get(nowMs) ?? []) run();
    }
    expect(waits).toHaveLength(80);
    const later = waits.filter(([cameAt = 0]) => cameAt > EPOCH_MS + 25_000).map(([, waitMs]) => waitMs);
    expect(Math.max(...waits.map(([, waitMs = 0]) => waitMs))).toBeLessThan(25_000);
    expect(new Set(later)).toEqual(new Set([0]));
  });

  test("and wait for their share are in one line, at the pace of all of them", () => {
    const gate = gateOf({ random: () => 0 });
    for (let i = 0; i < SLOTS; i++) fill(gate, `silent-${i}`);
    const turnOf = (name: string) => {
      const turn = ask(gate, name);
      if (turn === "waits" || turn.kind !== "park") throw new Error(`expected ${name} to be parked`);
      expect(turn.reason).toBe("share");
      return turn.retryAt;
    };
    const first = turnOf("new-1");
    expect(turnOf("new-2")).toBeGreaterThanOrEqual(first);
    const line = gate.line("new-2");
    if (line === undefined) throw new Error("expected a line");
    expect(line.spacingMs).toBeLessThan(1); // 128 at once
    gate.joined("new-2", 1_000, line);
    expect(gate.line("new-1")?.from).toBeCloseTo(line.from + 1_000 * line.spacingMs, 0); // behind those of the other
  });

  test("have a line at the pace of their silence, however many others answer at once meanwhile", () => {
    const gate = gateOf();
    for (let i = 0; i < SLOTS; i++) fill(gate, `silent-${i}`);
    nowMs += 10_000;
    release(gate, "silent-0", SILENCE, 4);
    for (let i = 0; i < 100; i++) gate.release(`new-${i}`, OK(1), ask(gate, `new-${i}`) as Turn);
    expect(gate.line("silent-70")?.spacingMs).toBeCloseTo(10_000 / (SLOTS / 4), 0);
  });

  test("leave half of the slots to those that do", () => {
    const gate = gateOf();
    const healthy = ["h1", "h2", "h3", "h4"];
    for (const name of healthy) grow(gate, name);
    let held = 0;
    for (let i = 0; i < 200; i++) held += fill(gate, `silent-${i}`);
    expect(held).toBeLessThanOrEqual(SLOTS / 2);
    const taken = healthy.reduce((sum, name) => sum + fill(gate, name), 0);
    expect(taken).toBeGreaterThanOrEqual(SLOTS / 4);
  });

  test("are held to that half also when they used to answer", () => {
    const gate = gateOf();
    const names = Array.from({ length: 50 }, (_, index) => `e${index}`);
    for (const name of names) grow(gate, name);
    for (const name of names) {
      expect(isGo(ask(gate, name))).toBe(true);
      gate.release(name, SILENCE, GO);
    }
    const again = names.reduce((sum, name) => sum + fill(gate, name), 0);
    expect(again).toBeLessThanOrEqual(SLOTS / 2);
  });
});

describe("a healthy endpoint's events", () => {
  /**
   * A worker and its queue on the tests' clock, for a minute: the healthy endpoint gets 50 events a second and answers
   * after 20 ms; the others get 100 a second between them and answer after so long, or not at all in the 10 s they have.
   *
   * @returns how long the healthy one's events waited for their turn, sorted, ms
   */
  async function waits(others: number, answerMs: number | undefined): Promise<number[]> {
    const STEP_MS = 5;
    const gate = gateOf({ random: createRandom(SEED) });
    interface Job {
      readonly name: string;
      readonly enqueuedAt: number;
      retryAt?: number;
    }
    const queue: Job[] = [];
    const parked: Job[] = [];
    const underWay: { name: string; endsAt: number; outcome: Outcome }[] = [];
    const delays: number[] = [];
    let taken = 0; // jobs that the worker holds, waiting for a moment or under way
    const settle = (job: Job, turn: Turn): void => {
      if (turn.kind === "park") {
        taken -= 1;
        parked.push({ ...job, retryAt: turn.retryAt });
        return;
      }
      const isHealthy = job.name === "healthy";
      if (isHealthy) delays.push(nowMs - job.enqueuedAt);
      const durationMs = isHealthy ? 20 : (answerMs ?? 10_000);
      const outcome = isHealthy || answerMs !== undefined ? OK(durationMs) : SILENCE;
      underWay.push({ name: job.name, endsAt: nowMs + durationMs, outcome });
    };
    for (let step = 0; step < MINUTE_MS / STEP_MS; step++) {
      if (step % 4 === 0) queue.push({ name: "healthy", enqueuedAt: nowMs });
      if (step % 2 === 0) queue.push({ name: `other-${(step / 2) % others}`, enqueuedAt: nowMs });
      for (const attempt of underWay.filter(({ endsAt }) => endsAt <= nowMs)) {
        underWay.splice(underWay.indexOf(attempt), 1);
        taken -= 1;
        gate.release(attempt.name, attempt.outcome, GO);
      }
      for (const job of parked.filter(({ retryAt = 0 }) => retryAt <= nowMs)) {
        parked.splice(parked.indexOf(job), 1);
        queue.push(job);
      }
      while (taken < SLOTS * JOBS_PER_SLOT && queue.length > 0) {
        const job = queue.shift() as Job;
        taken += 1;
        const turn = gate.admit(job.name, job.retryAt !== undefined);
        if (turn instanceof Promise) turn.then((later) => settle(job, later));
        else settle(job, turn);
      }
      await pass(STEP_MS);
    }
    return delays.sort((a, b) => a - b);
  }

  test.each([
    ["one that is slow", 1, 5_000],
    ["one that is silent", 1, undefined],
    ["fifty that are slow", 50, 5_000],
    ["fifty that are silent", 50, undefined],
  ])("do not wait because of %s", async (_, others, answerMs) => {
    const delays = await waits(others, answerMs);
    const figures = {
      p50: delays[delays.length >> 1],
      p99: delays[Math.floor(delays.length * 0.99)],
      max: delays.at(-1),
    };
    if (process.env.GATE_FIGURES) console.error(others, answerMs, delays.length, figures);
    expect(delays.length).toBeGreaterThan(2_900); // of 3,000
    expect(figures.p50).toBeLessThan(20);
    expect(figures.p99).toBeLessThan(500);
  });
});

describe("a circuit", () => {
  test("opens after silence in a row, and only after silence", () => {
    const gate = gateOf();
    for (const outcome of [OK(), OK(30_000), FAULT, BLOCKED, { ...OK(), status: 500 }, { ...OK(), status: 410 }]) {
      for (let i = 0; i < 50; i++) {
        ask(gate, "a");
        gate.release("a", outcome as Outcome, GO);
      }
      expect(gate.openCircuits).toBe(0);
    }
    for (const outcome of [SILENCE, REFUSED]) {
      const name = JSON.stringify(outcome);
      for (let i = 0; i < 20 && isGo(ask(gate, name)); i++) gate.release(name, outcome, GO);
    }
    expect(gate.openCircuits).toBe(2);
  });

  test("does not open while one answer comes among the failures now and then", () => {
    const gate = gateOf();
    for (let i = 0; i < 200; i++) {
      ask(gate, "a");
      gate.release("a", i % 3 === 0 ? OK() : SILENCE, GO);
    }
    expect(gate.openCircuits).toBe(0);
  });

  test("that is open parks everybody with that reason, each at a time to come, and holds no slot", () => {
    const gate = gateOf({ random: createRandom(SEED) });
    silence(gate, "a");
    for (let i = 0; i < 500; i++) {
      const turn = ask(gate, "a");
      expect(turn).toMatchObject({ kind: "park", reason: "circuit" });
      expect((turn as { retryAt: number }).retryAt).toBeGreaterThan(nowMs);
    }
    expect(fill(gate, "b")).toBeGreaterThan(0);
  });

  test("half-opens with exactly one probe", async () => {
    const gate = gateOf();
    silence(gate, "a");
    const first = ask(gate, "a") as { retryAt: number };
    await pass(first.retryAt - nowMs);
    expect(isGo(ask(gate, "a"))).toBe(true);
    for (let i = 0; i < 10; i++) expect(ask(gate, "a")).toMatchObject({ kind: "park", reason: "circuit" });
    await pass(MINUTE_MS); // the probe is still under way
    expect(ask(gate, "a")).toMatchObject({ kind: "park", reason: "circuit" });
  });

  test("closes with the probe's answer, whatever it says", async () => {
    for (const status of [200, 404, 500]) {
      const gate = gateOf();
      silence(gate, "a");
      await pass(MINUTE_MS);
      ask(gate, "a");
      gate.release("a", { ...OK(), status } as Outcome, GO);
      expect(gate.openCircuits).toBe(0);
      expect(isGo(ask(gate, "a"))).toBe(true);
    }
  });

  test("opens again for longer when the probe is not answered", async () => {
    const gate = gateOf({ random: () => 0 });
    silence(gate, "a");
    const pauses: number[] = [];
    for (let i = 0; i < 12; i++) {
      const { retryAt } = ask(gate, "a") as { retryAt: number };
      pauses.push(retryAt - nowMs);
      await pass(retryAt - nowMs);
      const probe = ask(gate, "a") as Turn;
      expect(isGo(probe)).toBe(true);
      gate.release("a", SILENCE, probe);
      expect(gate.openCircuits).toBe(1);
    }
    expect(pauses).toEqual(pauses.toSorted((a, b) => a - b));
    expect(pauses.at(-1)).toBeGreaterThan((pauses[0] as number) * 2);
    expect(pauses.at(-1)).toBeLessThanOrEqual(5 * MINUTE_MS); // how late we notice that it is back
  });

  test("gives the probe to the next one when the first ended through a fault of ours", async () => {
    const gate = gateOf();
    silence(gate, "a");
    await pass(MINUTE_MS);
    const probe = ask(gate, "a") as Turn;
    expect(isGo(probe)).toBe(true);
    gate.release("a", FAULT, probe);
    expect(gate.openCircuits).toBe(1);
    expect(isGo(ask(gate, "a"))).toBe(true);
    expect(isGo(ask(gate, "a"))).toBe(false);
  });

  test("does not take the end of an attempt that went before it opened for that of its probe", async () => {
    const gate = gateOf();
    grow(gate, "a");
    const old = ask(gate, "a") as Turn;
    for (let i = 0; i < 20 && isGo(ask(gate, "a")); i++); // all of them before the first is known to be in vain
    while (gate.openCircuits === 0) gate.release("a", SILENCE, GO);
    await pass(MINUTE_MS);
    const probe = ask(gate, "a") as Turn;
    expect(isGo(probe)).toBe(true);
    gate.release("a", SILENCE, old);
    expect(gate.line("a")?.startAt).toBe(nowMs); // open, and no longer than before
    expect(isGo(ask(gate, "a"))).toBe(false); // the probe is still out
    gate.release("a", SILENCE, probe);
    expect(gate.line("a")?.startAt).toBeGreaterThan(nowMs);
  });

  test("keeps its first place for a job that takes it: a line that nobody joined has no prober", () => {
    const gate = gateOf({ random: () => 0 });
    silence(gate, "a");
    const line = gate.line("a") as Line;
    gate.joined("a", 0, line);
    expect(ask(gate, "a")).toMatchObject({ kind: "park", retryAt: line.startAt });
    expect((ask(gate, "a") as { retryAt: number }).retryAt).toBeGreaterThan(line.startAt);
  });

  test("gives its first place away once, also to those who are sifted", () => {
    const gate = gateOf({ random: () => 0 });
    silence(gate, "a");
    const line = gate.line("a") as Line;
    gate.joined("a", 300, line);
    expect((ask(gate, "a") as { retryAt: number }).retryAt).toBeGreaterThan(line.startAt);
  });

  test("of one endpoint is nothing to another", () => {
    const gate = gateOf();
    silence(gate, "https://customer.example/a");
    expect(fill(gate, "https://customer.example/b")).toBeGreaterThan(0);
    expect(gate.openCircuits).toBe(1);
  });
});

describe("jobs that are parked", () => {
  /** Fill an endpoint so that the next are parked: its attempts have been under way for long. */
  async function crowded(gate: Gate, name: string): Promise<number> {
    const width = fill(gate, name);
    await pass(MINUTE_MS); // who waits is parked by now, and none of the answers is near
    return width;
  }
  const turnsOf = (gate: Gate, count: number, wasParked = false) =>
    Array.from({ length: count }, () => {
      const turn = ask(gate, "a", wasParked);
      if (turn === "waits" || turn.kind === "go") throw new Error(`expected to be parked, got ${JSON.stringify(turn)}`);
      return turn.retryAt;
    });

  test("get turns in order, at the endpoint's pace, none before its time", async () => {
    const gate = gateOf({ random: () => 0 });
    await crowded(gate, "a");
    const turns = turnsOf(gate, 4);
    expect(turns).toEqual(turns.toSorted((a, b) => a - b));
    expect(new Set(turns).size).toBe(turns.length);
    for (const turn of turns) expect(turn).toBeGreaterThan(nowMs);
    const gaps = turns.slice(1).map((turn, index) => turn - (turns[index] as number));
    expect(Math.max(...gaps) - Math.min(...gaps)).toBeLessThanOrEqual(2); // evenly, but for rounding
  });

  test("have closer turns the more their endpoint takes at once", async () => {
    const [narrow, wide] = [gateOf({ random: () => 0 }), gateOf({ random: () => 0 })];
    grow(wide, "a");
    await Promise.all([crowded(narrow, "a"), crowded(wide, "a")]);
    const gapOf = (gate: Gate) => {
      const [first = 0, second = 0] = turnsOf(gate, 2);
      return second - first;
    };
    expect(gapOf(wide)).toBeLessThan(gapOf(narrow));
  });

  test("go before fresh ones when they come back and must be parked again", async () => {
    const gate = gateOf({ random: () => 0 });
    await crowded(gate, "a");
    const fresh = turnsOf(gate, 100);
    const [again] = turnsOf(gate, 1, true);
    expect(again).toBeLessThan(Math.max(...fresh));
    expect(again).toBeLessThanOrEqual(turnsOf(gate, 1)[0] as number);
  });

  test("are not put off for longer than a quarter of an hour, however many they are", async () => {
    const gate = gateOf({ random: createRandom(SEED) });
    await crowded(gate, "a");
    const turns = turnsOf(gate, 20_000);
    expect(Math.max(...turns) - nowMs).toBeLessThanOrEqual(15 * MINUTE_MS);
    expect(Math.min(...turns)).toBeGreaterThanOrEqual(nowMs);
  });

  test("are told of by the line, for those who would join it, until the endpoint has room again", async () => {
    const gate = gateOf({ random: () => 0 });
    expect(gate.line("a")).toBeUndefined();
    const width = await crowded(gate, "a");
    const line = gate.line("a");
    if (line === undefined) throw new Error("expected a line");
    expect(line.from).toBeGreaterThanOrEqual(nowMs);
    gate.joined("a", 100, line);
    const next = gate.line("a");
    expect((next?.from ?? 0) - line.from).toBeCloseTo(100 * line.spacingMs, 0);
    release(gate, "a", OK(), width);
    expect(gate.line("a")).toBeUndefined();
  });
});

describe("parked jobs are called forward", () => {
  /** A gate, and the spans of turns for which it offered room. */
  function offering() {
    const offered: Span[] = [];
    return {
      offered,
      gate: gateOf({ random: () => 0, onRoom: (_endpoint, _jobs, turns) => void offered.push(turns) }),
    };
  }
  const lineAt = (ms: number): Line => {
    const [startAt, from] = [nowMs, nowMs + ms];
    return { owner: {}, startAt, from, spacingMs: 10, horizonAt: nowMs + MINUTE_MS, joined: () => {} };
  };

  test("until none is left, though no answer comes meanwhile", async () => {
    const { gate, offered } = offering();
    const width = fill(gate, "a");
    const [near, far] = [lineAt(5_000), lineAt(20_000)];
    gate.joined("a", 100, near);
    gate.joined("a", 1, far);
    const spans = [
      { first: near.from, last: near.from + 990 },
      { first: far.from, last: far.from },
    ];
    release(gate, "a", OK(), width);
    expect(offered).toEqual(spans.slice(0, 1));
    gate.advanced("a");
    nowMs -= 1; // clocks need not agree on when 50 ms are over
    await pass(50);
    expect(offered).toEqual(spans);
    gate.advanced("a");
    await pass(1_000);
    expect(offered).toEqual(spans);
  });

  test("as far as they were not yet, as soon as that is known", async () => {
    const { gate, offered } = offering();
    const width = fill(gate, "a");
    const line = lineAt(5_000);
    gate.joined("a", 100, line);
    release(gate, "a", OK(), width);
    const left = { first: line.from + 500, last: line.from + 990 };
    gate.advanced("a", left);
    expect(offered).toHaveLength(1); // not before those have had their time
    await pass(50);
    expect(offered[1]).toEqual(left);
    await pass(200); // Valkey takes its time
    expect(offered).toHaveLength(2);
    gate.advanced("a", left);
    expect(offered[2]).toEqual(left);
  });

  test("also those that were parked while others were: they are in nobody's answer", async () => {
    const { gate, offered } = offering();
    const width = fill(gate, "a");
    const [first, second] = [lineAt(5_000), lineAt(4_000)];
    gate.joined("a", 100, first);
    release(gate, "a", OK(), width);
    gate.joined("a", 1, second);
    gate.advanced("a");
    await pass(50);
    expect(offered[1]).toEqual({ first: second.from, last: second.from });
  });

  test("though it is known only after their endpoint's last answer that they were parked", () => {
    const { gate, offered } = offering();
    const width = fill(gate, "a");
    const line = gate.line("a") as Line; // a sift begins
    release(gate, "a", OK(), width);
    expect(offered).toEqual([]);
    gate.joined("a", 100, line);
    expect(offered).toHaveLength(1);
  });

  test("as soon as the worker has room, if it was full by then", async () => {
    const { gate, offered } = offering();
    const width = fill(gate, "a");
    release(gate, "a", OK(), width);
    for (let i = 0; i < 1_000; i++) grow(gate, `h${i % 8}`);
    for (let i = 0; i < 8; i++) fill(gate, `h${i}`);
    for (let i = 0; gate.line("a") === undefined && i < SLOTS; i++) expect(isGo(ask(gate, `one-${i}`))).toBe(true);
    gate.joined("a", 100, lineAt(5_000));
    await pass(1_000);
    expect(offered).toEqual([]);
    gate.release("h0", OK(), GO);
    gate.release("h1", OK(), GO);
    await pass(50);
    expect(offered).toHaveLength(1);
  });

  test("not while their endpoint is silent", async () => {
    const { gate, offered } = offering();
    grow(gate, "a");
    const width = fill(gate, "a");
    gate.joined("a", 100, lineAt(5_000));
    release(gate, "a", SILENCE, width);
    await pass(1_000);
    expect(offered).toEqual([]);
  });

  test("after which whoever must wait is the first in line again", () => {
    const { gate } = offering();
    grow(gate, "a");
    const width = fill(gate, "a");
    const line = gate.line("a") as Line;
    gate.joined("a", 100_000, line);
    expect(gate.line("a")?.from).toBeGreaterThan(line.from + 1_000);
    release(gate, "a", OK(), width);
    gate.advanced("a");
    fill(gate, "a");
    expect((gate.line("a") as Line).from).toBeLessThan(line.from + 50);
  });

  test("those of a crowd were in its line, not in that of an endpoint which has answered meanwhile", () => {
    const { gate } = offering();
    for (let i = 0; i < SLOTS; i++) fill(gate, `silent-${i}`);
    expect(gate.line("new-1")).toBeUndefined();
    gate.release("silent-0", FAULT, GO); // one may go
    expect(isGo(ask(gate, "new-1"))).toBe(true);
    ask(gate, "new-2");
    const line = gate.line("new-1") as Line;
    const crowd = gate.line("new-2") as Line;
    expect(line.from).toBe(crowd.from);
    gate.release("new-1", OK(), GO);
    expect(isGo(ask(gate, "new-3"))).toBe(true); // in its place
    gate.joined("new-1", 100_000, line);
    expect((gate.line("new-2") as Line).from).toBeGreaterThan(crowd.from + 1_000);
    fill(gate, "new-1");
    expect((gate.line("new-1") as Line).from).toBeLessThan(crowd.from);
  });
});

describe("a job that may not go is told of", () => {
  /** A gate and what it told. */
  function toldBy() {
    const told: [endpoint: string, isProven: boolean][] = [];
    return { told, gate: gateOf({ onHeld: (...held) => void told.push(held) }) };
  }

  test("when it waits for an endpoint that has not answered yet: once, also when it is parked in the end", async () => {
    const { told, gate } = toldBy();
    fill(gate, "a");
    expect(told).toEqual([]);
    const turn = gate.admit("a", false);
    expect(told).toEqual([["a", false]]);
    await pass(1_000);
    expect(await turn).toMatchObject({ kind: "park" });
    expect(told).toHaveLength(1);
  });

  test("when it is parked, also behind one that answers, but not when it waits for that", async () => {
    const { told, gate } = toldBy();
    grow(gate, "a", OK(900));
    fill(gate, "a");
    let waiting = 0;
    while (ask(gate, "a") === "waits") waiting += 1;
    expect(waiting).toBeGreaterThan(0);
    expect(told).toEqual([["a", true]]);
  });

  test("when its endpoint's circuit is open", () => {
    const { told, gate } = toldBy();
    for (let i = 0; i < 5; i++) {
      ask(gate, "a");
      gate.release("a", REFUSED, GO);
    }
    expect(ask(gate, "a")).toMatchObject({ kind: "park", reason: "circuit" });
    expect(told).toEqual([["a", false]]);
  });
});

describe("who has to wait for a moment", () => {
  /** An endpoint that answers quickly and has all it takes under way. */
  function busy(gate: Gate, name = "a"): number {
    grow(gate, name);
    return fill(gate, name);
  }
  const waiting = (gate: Gate, name = "a") => {
    const seen: Turn[] = [];
    const turn = gate.admit(name, false);
    expect(turn).toBeInstanceOf(Promise);
    Promise.resolve(turn).then((settled) => seen.push(settled));
    return seen;
  };

  test("is let go the instant its endpoint answers, one for each answer, first come first served", async () => {
    const gate = gateOf();
    busy(gate);
    const [first, second, third] = [waiting(gate), waiting(gate), waiting(gate)];
    await pass(0);
    expect([first, second, third]).toEqual([[], [], []]);
    gate.release("a", OK(), GO);
    await pass(0);
    expect([first, second, third]).toEqual([[GO], [], []]);
    release(gate, "a", OK(), 2);
    await pass(0);
    expect([second, third]).toEqual([[GO], [GO]]);
  });

  test("is parked when no answer comes, after a second at the latest", async () => {
    const gate = gateOf();
    busy(gate);
    const seen = waiting(gate);
    await pass(1_000);
    expect(seen).toMatchObject([{ kind: "park", reason: "limit" }]);
    expect((seen[0] as { retryAt: number }).retryAt).toBeGreaterThan(nowMs);
    gate.release("a", OK(), GO); // nobody is there to be let go
    expect(fill(gate, "a")).toBe(1);
  });

  test("is parked too when the endpoint falls silent", async () => {
    const gate = gateOf();
    const width = busy(gate);
    const seen = Array.from({ length: 8 }, () => waiting(gate));
    release(gate, "a", SILENCE, width);
    await pass(1_000);
    expect(gate.openCircuits).toBe(1);
    expect(seen.flat().map(({ kind }) => kind)).toEqual(Array(8).fill("park"));
  });

  test("does not wait where no answer is near", async () => {
    const gate = gateOf();
    for (let i = 0; i < 5; i++) {
      ask(gate, "slow");
      gate.release("slow", OK(9_000), GO);
    }
    fill(gate, "slow");
    expect(ask(gate, "slow")).toMatchObject({ kind: "park" });
  });

  test("are never more than the jobs that a worker takes above its slots", () => {
    const gate = gateOf();
    let went = 0;
    let waited = 0;
    const names = Array.from({ length: 100 }, (_, index) => `e${index}`);
    for (const name of names) grow(gate, name);
    for (let round = 0; round < 100; round++) {
      for (const name of names) {
        const turn = ask(gate, name);
        if (turn === "waits") waited += 1;
        else if (turn.kind === "go") went += 1;
      }
    }
    expect(went).toBeLessThanOrEqual(SLOTS);
    expect(went + waited).toBeLessThanOrEqual(JOBS_PER_SLOT * SLOTS + names.length);
  });
});

describe("what is remembered", () => {
  test("is bounded, however many endpoints come by", () => {
    const gate = gateOf({ capacity: 10_000 });
    for (let i = 0; i < 30_000; i++) {
      const name = `https://h${i}.example/`;
      ask(gate, name);
      gate.release(name, OK(), GO);
    }
    expect(gate.size).toBe(10_000);
  });

  test("is 10,000 endpoints unless told otherwise, which take a few MB", () => {
    const gate = gateOf();
    Bun.gc(true);
    const bytesBefore = process.memoryUsage().heapUsed;
    for (let i = 0; i < 25_000; i++) {
      const name = `https://h${i}.example/`;
      ask(gate, name);
      gate.release(name, OK(), GO);
    }
    Bun.gc(true);
    expect(gate.size).toBe(10_000);
    expect(process.memoryUsage().heapUsed - bytesBefore).toBeLessThan(30 * 1024 * 1024);
  });

  test("never leaves out an endpoint that has something in flight", () => {
    const gate = gateOf({ slots: 64, endpointSlots: 16, capacity: 100 });
    grow(gate, "busy");
    const width = fill(gate, "busy");
    for (let i = 0; i < 1_000; i++) {
      const name = `passing-${i}`;
      if (isGo(ask(gate, name))) gate.release(name, OK(), GO);
    }
    expect(gate.size).toBe(100);
    expect(gate.line("busy")).toBeDefined(); // still full
    release(gate, "busy", OK(), width);
    expect(fill(gate, "busy")).toBe(width);
  });

  test("forgets open circuits too, and does not count them any more", () => {
    const gate = gateOf({ capacity: 50 });
    for (let i = 0; i < 50; i++) silence(gate, `silent-${i}`);
    expect(gate.openCircuits).toBe(50);
    for (let i = 0; i < 50; i++) {
      ask(gate, `h${i}`);
      gate.release(`h${i}`, OK(), GO);
    }
    expect(gate.openCircuits).toBe(0);
    expect(gate.size).toBe(50);
  });
});

describe(`whatever comes in whatever order (GATE_SEED=${SEED})`, () => {
  test.each([
    [SLOTS, ENDPOINT_SLOTS, 40],
    [8, 8, 3],
    [1, 1, 2],
    [16, 4, 300],
  ])(
    "%p slots, %p for one of %p endpoints: neither is ever exceeded, and all of them come back",
    async (slots, endpointSlots, count) => {
      const random = createRandom(SEED + slots);
      const gate = gateOf({ slots, endpointSlots, random, capacity: 1_000 });
      const names = Array.from({ length: count }, (_, index) => `e${index}`);
      const oneOf = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T;
      const inFlight = new Map<string, number>(names.map((name) => [name, 0]));
      let total = 0;
      let most = 0;
      let pending = 0;
      const took = (name: string, turn: Turn): void => {
        if (turn.kind === "park") {
          expect(turn.retryAt).toBeGreaterThanOrEqual(nowMs);
          return;
        }
        total += 1;
        inFlight.set(name, (inFlight.get(name) as number) + 1);
        expect(inFlight.get(name)).toBeLessThanOrEqual(endpointSlots);
        most = Math.max(most, total);
        expect(total).toBeLessThanOrEqual(slots);
      };
      const giveBack = (name: string, outcome: Outcome): void => {
        total -= 1;
        inFlight.set(name, (inFlight.get(name) as number) - 1);
        gate.release(name, outcome, GO);
      };
      const outcomes = [OK(), OK(), OK(1), OK(2), OK(3), OK(5_000), SILENCE, REFUSED, FAULT, BLOCKED];

      for (let i = 0; i < 10_000; i++) {
        const busy = names.filter((name) => (inFlight.get(name) as number) > 0);
        const isRush = i % 1_000 < 700;
        if (random() < (isRush ? 0.95 : 0.1) || busy.length === 0) {
          const name = oneOf(names);
          const turn = gate.admit(name, random() < 0.5);
          if (turn instanceof Promise) {
            pending += 1;
            turn.then((settled) => {
              pending -= 1;
              took(name, settled);
            });
          } else took(name, turn);
        } else giveBack(oneOf(busy), oneOf(outcomes));
        if (i % 10 === 0) await pass(Math.floor(random() * 100));
        else await Promise.resolve();
      }
      for (let round = 0; round < 10; round++) {
        await pass(1_000);
        for (const name of names) while ((inFlight.get(name) as number) > 0) giveBack(name, OK());
      }
      expect({ total, pending }).toEqual({ total: 0, pending: 0 });
      expect(most).toBeGreaterThanOrEqual(slots / 2);

      // All counters are at zero: the endpoints that have answered share every slot, and not one more.
      await pass(60 * MINUTE_MS);
      const many = Array.from({ length: slots }, (_, index) => `last-${index}`);
      for (const name of many) {
        expect(isGo(ask(gate, name))).toBe(true);
        gate.release(name, OK(), GO);
      }
      expect(many.map((name) => isGo(ask(gate, name)))).toEqual(many.map(() => true));
      expect(isGo(ask(gate, "one-more"))).toBe(false);
      for (const name of many) gate.release(name, OK(), GO);
      const unknown = Array.from({ length: slots }, (_, index) => fill(gate, `unknown-${index}`));
      expect(unknown.reduce((sum, width) => sum + width)).toBe(Math.max(1, Math.floor(slots / 2)));
    },
  );
});
