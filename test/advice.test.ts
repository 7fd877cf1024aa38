import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import {
  type BlockedCode,
  errorCode,
  type FailureCode,
  type FaultCode,
  type Outcome,
  type TlsCause,
} from "../src/delivery/outcome.ts";
import { type Advice, adviceFor } from "../src/operations/advice.ts";

// Typed, so that a new code without words does not compile here.
const FAILURES: Record<FailureCode, true> = {
  timeout: true,
  dns: true,
  connection_refused: true,
  connection_reset: true,
  unreachable: true,
  tls: true,
  invalid_response: true,
  http2_only: true,
  network: true,
};
const FAULTS: Record<FaultCode, true> = {
  resolver: true,
  resources: true,
  proxy: true,
  shutdown: true,
  lock_lost: true,
};
const BLOCKED: Record<BlockedCode, true> = { blocked_port: true, https_required: true };
const CAUSES: Record<TlsCause, true> = {
  expired: true,
  not_yet_valid: true,
  wrong_host: true,
  untrusted: true,
  handshake: true,
};
const UNKNOWN = adviceFor("from_the_future");

const outcomes: Outcome[] = [
  ...Object.keys(FAILURES).map((code) => ({ kind: "failure", code: code as FailureCode, durationMs: 1 }) as const),
  ...Object.keys(FAULTS).map((code) => ({ kind: "fault", code: code as FaultCode, durationMs: 1 }) as const),
  ...Object.keys(BLOCKED).map((code) => ({ kind: "blocked", code: code as BlockedCode, durationMs: 1 }) as const),
  { kind: "blocked", range: "private", durationMs: 1 },
  { kind: "expired", durationMs: 0 },
  { kind: "backlog_full", durationMs: 0 },
];

test("docs/receivers.md explains every code and cause", async () => {
  const guide = await Bun.file(join(import.meta.dir, "../docs/receivers.md")).text();
  const rows = (section: string) => {
    const table = guide.split(`${section}\n`)[1]?.split("\n#")[0] ?? "";
    return [...table.matchAll(/^\| (`.+?) \|/gm)].flatMap(([, names = ""]) => names.match(/\w+/g) ?? []);
  };
  const codes = outcomes.map((outcome) => errorCode(outcome) as string);
  expect(
    rows("## When a delivery fails")
      .filter((name) => !name.startsWith("http_") && name !== "error")
      .sort(),
  ).toEqual(codes.sort());
  expect(
    rows("### TLS causes")
      .filter((name) => name !== "cause")
      .sort(),
  ).toEqual(Object.keys(CAUSES).sort());
});

describe("there are words for", () => {
  test.each(outcomes.map((outcome) => errorCode(outcome) as string))("%s, and for nothing else the same", (code) => {
    const advice = adviceFor(code);
    expect(advice).not.toEqual(UNKNOWN);
    const others = outcomes.map((outcome) => errorCode(outcome) as string).filter((other) => other !== code);
    expect(others.map((other) => adviceFor(other).what)).not.toContain(advice.what);
  });

  test("every status that is not delivered, the usual ones in words of their own", () => {
    const all: Advice[] = [];
    for (let status = 100; status < 600; status++) {
      if (status >= 200 && status < 300) continue;
      all.push(adviceFor(`http_${status}`));
    }
    expect(all).not.toContainEqual(UNKNOWN);
    expect(adviceFor("http_302").todo).toContain("not followed");
    expect(adviceFor("http_410").todo).toContain("Not retried");
    expect(adviceFor("http_429").todo).toContain("Retry-After");
    expect(adviceFor("http_418").what).toContain("418");
    expect(adviceFor("http_503").what).not.toBe(adviceFor("http_500").what);
  });
});

test.each(Object.keys(CAUSES))("a TLS failure that is %s has words of its own", (cause) => {
  const advice = adviceFor("tls", undefined, cause);
  const others = [undefined, ...Object.keys(CAUSES).filter((other) => other !== cause)];
  for (const other of others) {
    expect(adviceFor("tls", undefined, other).what).not.toBe(advice.what);
    expect(adviceFor("tls", undefined, other).todo).not.toBe(advice.todo);
  }
});

test.each(["from_the_future", "constructor", ""])(
  "a TLS failure with the unknown cause %j has TLS's words",
  (cause) => {
    expect(adviceFor("tls", undefined, cause)).toEqual(adviceFor("tls"));
  },
);

test("a cause of anything but TLS changes nothing", () => {
  expect(adviceFor("dns", undefined, "expired")).toEqual(adviceFor("dns"));
});

test("a timeout names the deadline that is set", () => {
  expect(adviceFor("timeout").what).toBe("No response within 10 s");
  expect(adviceFor("timeout", 2_500).what).toBe("No response within 2.5 s");
});

test.each(["", "constructor", "__proto__", "http_", "http_99", "http_999x", "<script>"])("%j gets none", (code) => {
  expect(adviceFor(code)).toEqual(UNKNOWN);
});
