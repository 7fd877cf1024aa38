import { describe, expect, test } from "bun:test";
import { ProxyEvidence } from "../src/http/proxy-evidence.ts";

const SECOND = 1000;

describe("a host that the proxy cannot reach", () => {
  test("is to blame when another was reached within 30 s, and not when that was longer ago", () => {
    const evidence = new ProxyEvidence();
    evidence.passed("alive.test", 0);
    expect(evidence.isToBlame("dead.test", 30 * SECOND)).toBe(true);
    expect(evidence.isToBlame("dead.test", 30 * SECOND + 1)).toBe(false);
  });

  test("is not to blame when nobody was reached, or it alone", () => {
    const evidence = new ProxyEvidence();
    expect(evidence.isToBlame("dead.test", 0)).toBe(false);
    evidence.passed("dead.test", 1);
    evidence.passed("dead.test", 2);
    expect(evidence.isToBlame("dead.test", 3)).toBe(false);
  });

  test("is to blame also when it was itself the last that was reached", () => {
    const evidence = new ProxyEvidence();
    evidence.passed("alive.test", 0);
    evidence.passed("dead.test", 1);
    evidence.passed("dead.test", 2);
    expect(evidence.isToBlame("dead.test", 3)).toBe(true);
  });

  test("is not to blame as the fourth since anybody was reached, however often the first three have failed", () => {
    const evidence = new ProxyEvidence();
    evidence.passed("alive.test", 0);
    const hosts = ["a.test", "b.test", "c.test", "a.test", "b.test", "c.test", "d.test", "a.test"];
    const blamed = hosts.map((host, at) => evidence.isToBlame(host, at));
    expect(blamed).toEqual([true, true, true, true, true, true, false, false]);
    evidence.passed("alive.test", 9);
    expect(evidence.isToBlame("d.test", 10)).toBe(true);
  });
});

describe("a host about which the proxy is silent", () => {
  test("is to blame when another was reached since it was asked, however many hosts have failed", () => {
    const evidence = new ProxyEvidence();
    for (const host of ["a.test", "b.test", "c.test", "d.test"]) evidence.isToBlame(host, 0);
    evidence.passed("alive.test", 5 * SECOND);
    for (const host of ["a.test", "b.test", "c.test", "d.test"]) evidence.isToBlame(host, 6 * SECOND);
    expect(evidence.isToBlameForSilence("silent.test", 5 * SECOND, 10 * SECOND)).toBe(true);
    expect(evidence.isToBlameForSilence("silent.test", 5 * SECOND + 1, 10 * SECOND)).toBe(false);
  });

  test("is to blame when another was reached lately, as where there is little traffic", () => {
    const evidence = new ProxyEvidence();
    evidence.passed("alive.test", 0);
    expect(evidence.isToBlameForSilence("silent.test", 20 * SECOND, 30 * SECOND)).toBe(true);
    expect(evidence.isToBlameForSilence("silent.test", 21 * SECOND, 31 * SECOND)).toBe(false);
    expect(evidence.isToBlameForSilence("alive.test", 20 * SECOND, 30 * SECOND)).toBe(false);
  });
});
