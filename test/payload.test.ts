import { describe, expect, test } from "bun:test";
import { buildBody, buildRequest, endpointName, type WebhookEvent } from "../src/delivery/request.ts";
import { verify } from "../src/delivery/signature.ts";

const ID = "2c5ea4c0-4067-51fe-9e7f-1b1c3c8f9a10";
const TIMESTAMP_MS = Date.UTC(2026, 10, 23, 8, 5, 9, 7);
const bodyOf = (data: object, timestampMs = TIMESTAMP_MS) => buildBody(ID, "file.created", timestampMs, data);
const event: WebhookEvent = {
  id: ID,
  type: "file.created",
  timestampMs: TIMESTAMP_MS,
  userId: "usr_42",
  endpoint: { url: new URL("https://hooks.example.com:8443/in?token=t#top"), secrets: ["current", "previous"] },
  body: bodyOf({ fileId: "f_1", size: 12 }),
};
const delivery = "6e2f7f3e-8a3b-4d5c-9f60-0d1e2f3a4b5c";
const nowMs = 1_760_000_000_999;
const pairs = (head: string) =>
  head.split("\r\n").flatMap((line) => (line === "" ? [] : [line.split(": ") as [name: string, value: string]]));

describe("the body", () => {
  test("is id, event, timestamp and data in that order, compact, to the byte", () => {
    expect(event.body.toString()).toBe(
      '{"id":"2c5ea4c0-4067-51fe-9e7f-1b1c3c8f9a10","event":"file.created",' +
        '"timestamp":"2026-11-23T08:05:09.007Z","data":{"fileId":"f_1","size":12}}',
    );
  });

  test("is the same on every attempt", () => {
    const first = buildRequest(event, delivery, nowMs);
    const later = buildRequest(event, crypto.randomUUID(), nowMs + 3_600_000);
    expect(later.body).toEqual(first.body);
  });

  test.each<[string, object, string]>([
    ["multi-byte text as UTF-8", { a: "größe-文件-🦊" }, '{"a":"größe-文件-🦊"}'],
    ["a lone surrogate as an escape, so that the bytes are UTF-8", { a: "x\ud800y" }, '{"a":"x\\ud800y"}'],
    ["the order of keys", { b: 1, a: 2, "2": 3, "1": 4 }, '{"1":4,"2":3,"b":1,"a":2}'],
    ["an own __proto__", JSON.parse('{"__proto__":{"a":1},"constructor":2}'), '{"__proto__":{"a":1},"constructor":2}'],
    ["a toJSON that is data", { toJSON: "x" }, '{"toJSON":"x"}'],
    ["control characters as escapes", { a: "\u0000\n\u007f" }, '{"a":"\\u0000\\n\u007f"}'],
    ["null, booleans, nested lists", { a: [null, true, [[]], {}] }, '{"a":[null,true,[[]],{}]}'],
    ["nothing at all", {}, "{}"],
  ])("keeps %s", (_, data, expected) => {
    const body = bodyOf(data);
    expect(body.toString()).toEndWith(`"data":${expected}}`);
    expect(new TextDecoder("utf-8", { fatal: true }).decode(body)).toBe(body.toString());
  });

  test.each([
    [0, "1970-01-01T00:00:00.000Z"],
    [1_760_000_000_000.9, "2025-10-09T08:53:20.000Z"],
    [8_640_000_000_000_000, "+275760-09-13T00:00:00.000Z"],
  ])("writes the moment %p as %s", (timestampMs, expected) => {
    expect(JSON.parse(bodyOf({}, timestampMs).toString()).timestamp).toBe(expected);
  });
});

describe("the request", () => {
  const { head, body, url } = buildRequest(event, delivery, nowMs);

  test("has the contract's headers in the contract's order and case", () => {
    expect(pairs(head)).toEqual([
      ["Host", "hooks.example.com:8443"],
      ["User-Agent", "Fluxhook/1.0"],
      ["Content-Type", "application/json"],
      ["Content-Length", String(body.length)],
      ["Accept-Encoding", "identity"],
      ["X-Fluxdrop-Event", "file.created"],
      ["X-Fluxdrop-Delivery", delivery],
      ["X-Fluxdrop-Timestamp", "1760000000"],
      ["X-Fluxdrop-Signature", expect.stringMatching(/^[0-9a-f]{64}$/)],
      ["webhook-id", event.id],
      ["webhook-timestamp", "1760000000"],
      ["webhook-signature", expect.stringMatching(/^v1,[A-Za-z0-9+/]{43}= v1,[A-Za-z0-9+/]{43}=$/)],
    ]);
    expect(url.href).toBe("https://hooks.example.com:8443/in?token=t#top");
  });

  test("verifies with each active secret, and with the current one by the older scheme", () => {
    const received = Object.fromEntries(pairs(head).map(([name, value]) => [name.toLowerCase(), value]));
    const at = { nowSeconds: nowMs / 1000 };
    const { "webhook-signature": _, ...fluxdropOnly } = received;
    expect(verify(body, received, "current", at)).toEqual({ ok: true });
    expect(verify(body, received, "previous", at)).toEqual({ ok: true });
    expect(verify(body, fluxdropOnly, "current", at)).toEqual({ ok: true });
    expect(verify(body, fluxdropOnly, "previous", at)).toEqual({ ok: false, reason: "wrong_signature" });
  });

  test("counts the body's length in bytes", () => {
    const request = buildRequest({ ...event, body: bodyOf({ a: "🦊" }) }, delivery, nowMs);
    expect(Object.fromEntries(pairs(request.head))["Content-Length"]).toBe(String(request.body.length));
    expect(request.body.length).toBe(bodyOf({ a: "" }).length + 4);
  });

  test("names the host without a default port, in brackets or punycode where it must", () => {
    const hostOf = (text: string) =>
      buildRequest({ ...event, endpoint: { ...event.endpoint, url: new URL(text) } }, delivery, nowMs).head.match(
        /^Host: (.*)\r\n/,
      )?.[1];
    expect(hostOf("https://example.com:443/")).toBe("example.com");
    expect(hostOf("http://example.com:443/")).toBe("example.com:443");
    expect(hostOf("http://[2606:4700::1]:8080/")).toBe("[2606:4700::1]:8080");
    expect(hostOf("https://münchen.example/")).toBe("xn--mnchen-3ya.example");
  });

  test.each(["a\r\nX-Injected: 1", "a\nb", "a\0", "文"])("takes no %j into its head", (text) => {
    expect(() => buildRequest({ ...event, type: text }, delivery, nowMs)).toThrow(RangeError);
    expect(() => buildRequest({ ...event, id: text }, delivery, nowMs)).toThrow(RangeError);
    expect(() => buildRequest(event, text, nowMs)).toThrow(RangeError);
  });

  test("has no secret in it", () => {
    expect(head + body.toString()).not.toMatch(/current|previous/);
  });
});

test.each([
  ["https://hooks.example.com/in?token=t#top", "https://hooks.example.com/in"],
  ["http://hooks.example.com:8080", "http://hooks.example.com:8080/"],
  ["HTTPS://Hooks.Example.com:443/A%20b", "https://hooks.example.com/A%20b"],
])("an endpoint's name leaves out query and fragment: %s", (url, expected) => {
  expect(endpointName(new URL(url))).toBe(expected);
});
