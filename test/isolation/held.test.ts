/** Held jobs in the gate, on a clock of the test's own: when they return, and that they burden nobody else. */
import { expect, test } from "bun:test";
import { AdmissionGate, type Decision, type ParkedJob, type Permit } from "../../src/isolation/gate.ts";
import { type Hold, Holds } from "../../src/isolation/holds.ts";
import { Timeline } from "./timeline.ts";

const EPOCH_MS = 1_760_000_000_000;
const MINUTE_MS = 60_000;
const ANSWER = { kind: "response", status: 200, retryAfter: undefined, durationMs: 5 } as const;

function createBench() {
  const timeline = new Timeline();
  const holds = new Holds();
  const promoted: ParkedJob[] = [];
  const epochNow = () => EPOCH_MS + timeline.nowMs;
  const gate = new AdmissionGate({
    ...{ slots: 256, endpointSlots: 64, holds, epochNow, random: () => 0 },
    now: () => timeline.nowMs,
    schedule: (run, ms) => timeline.after(ms, run),
    onPromote: (jobs) => void promoted.push(...jobs),
  });
  const holdFor = (ms: number, part: Partial<Hold>) => {
    const hold = { id: "h1", kind: "user", target: "u", from: epochNow(), until: epochNow() + ms } as const;
    holds.replace([{ ...hold, ...part }]);
  };
  const ask = (url: string, user = "u", job = "job") =>
    gate.admit({ endpoint: url, host: new URL(url).origin, user, bytes: 100, job });
  const pass = async (ms: number) => {
    const until = timeline.nowMs + ms;
    timeline.at(until, () => {});
    while (timeline.nextAt <= until) {
      timeline.step();
      await null;
    }
  };
  /** For how long a job was parked, ms; undefined when it was not. */
  const parkedFor = (turn: ReturnType<typeof ask>) =>
    turn.kind === "park" && turn.reason === "held" ? turn.retryAt - epochNow() : undefined;
  return { gate, holds, promoted, holdFor, ask, pass, parkedFor };
}

test("a held job returns when its hold ends, or after a minute, to be checked again", async () => {
  const { holdFor, ask, parkedFor, pass } = createBench();
  holdFor(90_000, {});
  expect(parkedFor(ask("https://a.example/"))).toBe(MINUTE_MS);
  await pass(MINUTE_MS);
  expect(parkedFor(ask("https://a.example/"))).toBe(30_000);
  expect(ask("https://a.example/", "other").kind).toBe("go");
  await pass(30_000);
  expect(ask("https://a.example/").kind).toBe("go");
});

test("jobs of a released hold are promoted, those of another user's at the same endpoint stay", async () => {
  const { holds, promoted, ask, pass } = createBench();
  const until = EPOCH_MS + 10 * MINUTE_MS;
  const hold = (user: string): Hold => ({ id: user, kind: "user", target: user, from: EPOCH_MS, until });
  holds.replace([hold("u1"), hold("u2")]);
  for (const user of ["u1", "u2"]) {
    for (let job = 0; job < 30; job++) expect(ask("https://a.example/", user, `${user}-${job}`).kind).toBe("park");
  }
  await pass(2_000);
  expect(promoted).toEqual([]);
  holds.replace([hold("u1"), { ...hold("u2"), until: EPOCH_MS + 2_000 }]);
  await pass(1_000);
  expect(promoted.map(({ job }) => job)).toEqual(Array.from({ length: 30 }, (_, job) => `u2-${job}`));
});

test("20,000 held jobs of one host put off no other's, and are promoted within seconds of a release", async () => {
  const { gate, holds, promoted, holdFor, ask, pass } = createBench();
  holdFor(60 * MINUTE_MS, { kind: "host", target: "a.example" });
  for (let job = 0; job < 20_000; job++) ask(`https://a.example/${job % 100}`, `u${job % 1_000}`, `j${job}`);
  for (let other = 0; other < 50; other++) {
    const turn = ask(`https://b.example/${other}`, "v", `o${other}`);
    expect(turn.kind).toBe("go");
    gate.release(turn as Permit, ANSWER);
  }
  // An open circuit's jobs return as soon as without the held ones.
  const silence = { kind: "failure", code: "timeout", durationMs: 1 } as const;
  for (let times = 0; times < 5; times++) gate.release(ask("https://c.example/", "v") as Permit, silence);
  ask("https://c.example/", "v"); // this one probes
  expect((ask("https://c.example/", "v") as Extract<Decision, { kind: "park" }>).retryAt).toBe(EPOCH_MS + 5_000);
  holds.replace([]);
  const before = promoted.length;
  await pass(10_000);
  expect(promoted.length - before).toBeGreaterThan(5_000);
});

test("a job that waits in the process is parked when its user is held meanwhile", async () => {
  const { gate, holdFor, ask, pass, parkedFor } = createBench();
  const permits = Array.from({ length: 5 }, () => ask("https://a.example/") as Permit);
  const turn = ask("https://a.example/");
  expect(turn.kind).toBe("wait");
  holdFor(MINUTE_MS, {});
  gate.release(permits[0] as Permit, ANSWER);
  await pass(1);
  expect(parkedFor(await (turn as Extract<typeof turn, { kind: "wait" }>).decision)).toBeGreaterThan(MINUTE_MS - 300);
});
