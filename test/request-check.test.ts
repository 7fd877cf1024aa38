import { describe, expect, test } from "bun:test";
import { checkRequest } from "../src/cli/request-check.ts";
import { parseHeaders, parseRequest, type SavedRequest, writeRequest } from "../src/cli/saved-request.ts";
import { alignColumns, printable } from "../src/cli/terminal.ts";
import { buildBody, buildRequest } from "../src/delivery/request.ts";
import { verify } from "../src/verify.ts";

const SECRET = "current-secret";
const OLD = "whsec_b2xkLXNlY3JldC1vZi10aGUtdGVzdA==";
const ID = "5b6cf1d6-0c8e-4a53-9d0f-6a1f3c1f7a52";
const NOW = Date.UTC(2026, 10, 24, 9, 0, 0);
const body = buildBody(ID, "file.created", NOW, { path: "/ü.txt", size: 1 });
const endpoint = { url: new URL("http://h/in"), secrets: [SECRET, OLD] as [string, string] };
const { head } = buildRequest(
  { id: ID, type: "file.created", timestampMs: NOW, userId: "u", endpoint, body },
  crypto.randomUUID(),
  NOW,
);
const rawHeaders = head.trimEnd().split(/: |\r\n/);
const request = parseRequest(writeRequest("/in", rawHeaders, body)) as SavedRequest;
const at = { nowMs: NOW + 1000, toleranceMs: 60_000 };
const marks = (checked: ReturnType<typeof checkRequest>) => checked.checks.map(({ ok }) => ok);

describe("a request is", () => {
  test("right with the current secret", () => {
    const checked = checkRequest(request, [SECRET], at);
    expect([checked.ok, ...marks(checked)]).toEqual([true, true, true, true, true]);
  });

  test("right with an older secret, by the one signature that knows it", () => {
    const checked = checkRequest(request, [OLD], at);
    expect([checked.ok, ...marks(checked)]).toEqual([true, true, false, true, true]);
    expect(checkRequest(request, ["x", OLD], at).checks[0]?.detail).toBe("matches secret 2 of 2");
  });

  test("wrong with another secret, or another byte", () => {
    expect(checkRequest(request, ["x"], at)).toMatchObject({ ok: false, hint: null });
    const tampered = { ...request, body: Buffer.from(request.body.toString().replace('"size":1', '"size":2')) };
    expect(marks(checkRequest(tampered, [SECRET], at))).toEqual([false, false, true, true]);
  });

  test.each([
    [{ nowMs: NOW + 60_000, toleranceMs: 60_000 }, true],
    [{ nowMs: NOW + 61_000, toleranceMs: 60_000 }, false],
    [{ nowMs: NOW - 61_000, toleranceMs: 60_000 }, false],
    [{ nowMs: NOW + 1e10, toleranceMs: Number.POSITIVE_INFINITY }, true],
  ])("held against the clock: %p %p", (when, ok) => {
    const checked = checkRequest(request, [SECRET], when);
    expect([checked.ok, ...marks(checked)]).toEqual([ok, true, true, ok, true]);
  });

  const without = (...prefixes: string[]) =>
    Object.fromEntries(
      Object.entries(request.headers).filter(([name]) => !prefixes.some((prefix) => name.startsWith(prefix))),
    );

  test("not taken with X-Fluxdrop-Signature alone, which leaves the time unsigned, nor without any", () => {
    const alone = checkRequest({ ...request, headers: without("webhook-") }, [SECRET], at);
    expect([alone.ok, ...marks(alone)]).toEqual([false, null, true, true, true]);
    expect(alone.hint).toContain("could be a replay");
    expect(checkRequest({ ...request, headers: {} }, [SECRET], at).ok).toBe(false);
  });

  test("wrong when a header is missing", () => {
    const checked = checkRequest({ ...request, headers: without("webhook-id") }, [SECRET], at);
    expect([checked.ok, checked.checks[0]?.detail]).toEqual([false, "missing webhook-id"]);
  });

  test("told when the event of the header, which is not signed, is another", () => {
    const other = { ...request.headers, "x-fluxdrop-event": "file.deleted" };
    const checked = checkRequest({ ...request, headers: other }, [SECRET], at);
    expect([checked.ok, checked.checks[3]?.detail]).toEqual([true, expect.stringContaining("not signed, differs")]);
  });

  test("judged as fluxhook/verify judges it, whatever is missing, changed or late", () => {
    const names = Object.keys(request.headers);
    const headers = [
      ...names.map((name) => without(name)),
      without("webhook-", "x-"),
      without("x-"),
      ...names.flatMap((name) => ["", "0", "soon", ID].map((value) => ({ ...request.headers, [name]: value }))),
    ];
    const bodies = [request.body, Buffer.from("{}"), Buffer.concat([request.body, Buffer.from("\n")])];
    const secrets = [[SECRET], [OLD], ["x"], ["", "whsec_*"], ["x", SECRET]];
    const times = [
      at,
      { nowMs: NOW + 61_000, toleranceMs: 60_000 },
      { nowMs: 0, toleranceMs: Number.POSITIVE_INFINITY },
    ];
    const differing: unknown[] = [];
    const verdicts = new Set<string>();
    for (const given of headers)
      for (const bytes of bodies)
        for (const known of secrets)
          for (const { nowMs, toleranceMs } of times) {
            const { ok } = checkRequest({ headers: given, body: bytes }, known, { nowMs, toleranceMs });
            const options = { nowSeconds: nowMs / 1000, toleranceSeconds: toleranceMs / 1000 };
            const verdict = known.includes("")
              ? { ok: false, reason: "NO_SECRET" }
              : verify(bytes, given, known, options);
            verdicts.add(verdict.ok ? "ok" : (verdict as { reason: string }).reason);
            if (ok !== verdict.ok) differing.push({ given, known, verdict });
          }
    expect(differing).toEqual([]);
    expect(verdicts.size).toBeGreaterThanOrEqual(7);
  });
});

describe("a mistake is told:", () => {
  test("a body that an editor ended", () => {
    const ended = { ...request, body: Buffer.concat([body, Buffer.from("\n")]) };
    expect(checkRequest(ended, [SECRET], at).hint).toContain("without the line break");
  });

  test("a body that was parsed and written anew", () => {
    const anew = { ...request, body: Buffer.from(JSON.stringify(JSON.parse(body.toString()), null, 2)) };
    expect(checkRequest(anew, [SECRET], at).hint).toContain("parsed and reserialized");
  });

  test.each([`${SECRET} `, `\ufeff${SECRET}`, `"${SECRET}"\n`, `v1,${OLD}`])(
    "a secret with something around it: %p",
    (secret) => {
      expect(checkRequest(request, ["another", secret], at).hint).toBe(
        "The signature matches without the characters around the secret: spaces, line breaks, quotes, a byte order mark or a v1, prefix.",
      );
    },
  );

  test.each([
    [
      OLD.replace("whsec_", "WHSEC_"),
      "Not a secret that Fluxhook signs with: expected whsec_ at its beginning and nowhere else, in just this spelling.",
    ],
    [
      `sealed:v1:${"A".repeat(60)}`,
      "Not a secret that Fluxhook signs with: expected a plain secret: this one is sealed already.",
    ],
  ])("a secret that can be none: %p", (secret, hint) => {
    expect(checkRequest(request, ["another", secret], at).hint).toBe(hint);
  });
});

describe("a saved request", () => {
  test("is read as it was written, byte for byte", () => {
    const bytes = Buffer.from([0, 10, 10, 13, 10, 13, 10, 255]);
    const read = parseRequest(writeRequest("/x", ["A-b", "1", "A-B", "2", "C", ""], bytes));
    expect(read?.headers).toEqual({ "a-b": "1", c: "" });
    expect(read?.body.equals(bytes)).toBe(true);
  });

  test("may come from elsewhere: LF, no request line, JSON", () => {
    expect(parseRequest(Buffer.from("A: 1\nB:2\n\nbody"))).toEqual({
      headers: { a: "1", b: "2" },
      body: Buffer.from("body"),
    });
    expect(parseHeaders('{"A": "1", "B": ["2", "3"]}')).toEqual({ a: "1", b: "2" });
  });

  test.each(["", "just text", "A: 1\nnot a header\n\nbody", "A: 1", "{ no json"])("is none: %p", (text) => {
    expect(parseRequest(Buffer.from(text))).toBeUndefined();
  });
});

test("what comes from elsewhere cannot steer the terminal", () => {
  expect(printable("a\x1b[2J\r\nb\u202ec\u009b")).toBe("a\\u001b[2J\\u000d\\u000ab\\u202ec\\u009b");
  expect(printable("ü 漢 😀")).toBe("ü 漢 😀");
});

test("columns stand below each other, whatever their colours", () => {
  expect(
    alignColumns([
      ["a", "bb", "c"],
      ["\x1b[31maaa\x1b[0m", "b", ""],
    ]),
  ).toEqual(["a    bb  c", "\x1b[31maaa\x1b[0m  b"]);
});
