import { describe, expect, test } from "bun:test";
import { runInNewContext } from "node:vm";
import { signFluxdrop, signStandard } from "../src/delivery/signature.ts";
import { type ReceivedHeaders, type Secrets, type VerifyOptions, VerifyUsageError, verify } from "../src/verify.ts";

const SECRET = "topsecret";
const NOW = 1_760_000_000;
const ID = "97f2722f-92a5-58bf-b4f0-b12e476e3a6d";
const PAYLOAD = { id: ID, event: "file.created", timestamp: "2025-10-09T08:53:20.000Z", data: { name: "größe 🦊" } };
const BODY = JSON.stringify(PAYLOAD);

/** Every header of ours, as the worker sends them. */
function headersOf(body = BODY, { secrets = [SECRET], id = ID, at = NOW } = {}): Record<string, string> {
  return {
    "content-type": "application/json",
    "x-fluxdrop-event": "file.created",
    "x-fluxdrop-timestamp": String(at),
    "x-fluxdrop-signature": signFluxdrop(body, secrets[0] as string),
    "webhook-id": id,
    "webhook-timestamp": String(at),
    "webhook-signature": signStandard(id, at, body, secrets),
  };
}

const without = (prefix: string) =>
  Object.fromEntries(Object.entries(headersOf()).filter(([name]) => !name.startsWith(prefix)));
const check = (body: Parameters<typeof verify>[0], headers: ReceivedHeaders, options: VerifyOptions = {}) =>
  verify(body, headers, SECRET, { nowSeconds: NOW, ...options });
const ok = { ok: true, payload: PAYLOAD } as never;
const refused = (reason: string) => ({ ok: false, reason }) as never;

describe("a good request gives its payload", () => {
  const bytes = new TextEncoder().encode(BODY);
  test.each<[string, Parameters<typeof verify>[0]]>([
    ["text", BODY],
    ["a Buffer", Buffer.from(BODY)],
    ["a Uint8Array", bytes],
    ["a part of a larger one", new Uint8Array([0, ...bytes, 0]).subarray(1, -1)],
    ["an ArrayBuffer", bytes.slice().buffer as ArrayBuffer],
    ["bytes of another realm, as a test runner makes them", runInNewContext(`new Uint8Array([${bytes}])`)],
    ["an ArrayBuffer of another realm", runInNewContext(`new Uint8Array([${bytes}]).buffer`)],
  ])("from %s", (_, body) => expect(check(body, headersOf())).toEqual(ok));

  test.each<[string, ReceivedHeaders]>([
    ["Node's record", headersOf()],
    ["a Fetch Headers", new Headers(headersOf())],
    ["names in any case", Object.fromEntries(Object.entries(headersOf()).map(([n, v]) => [n.toUpperCase(), v]))],
    ["arrays", Object.fromEntries(Object.entries(headersOf()).map(([n, v]) => [n, [v, "junk"]]))],
    ["a Map", new Map(Object.entries(headersOf()).map(([n, v]) => [n.toUpperCase(), v]))],
    ["numbers, as a gateway makes of them", { ...headersOf(), "webhook-timestamp": NOW as never }],
    ["null where there is none", { ...headersOf(), "x-fluxdrop-signature": null as never }],
    ["something with get()", { get: (name: string) => headersOf()[name] }],
    ["none of the older ones", without("x-fluxdrop-")],
  ])("with the headers as %s", (_, headers) => expect(check(BODY, headers)).toEqual(ok));

  test("with either of two secrets, on either side", () => {
    const rotated = headersOf(BODY, { secrets: ["new", SECRET] });
    for (const known of [SECRET, "new", ["old", "new"]]) {
      expect(verify(BODY, rotated, known, { nowSeconds: NOW })).toEqual(ok);
    }
  });

  test.each<[string, Secrets]>([
    ["undefined", [SECRET, undefined]],
    ["empty", ["", SECRET, null]],
    ["no base64", ["whsec_***", SECRET]],
  ])("with a second secret that is %s, as while nothing is rotated", (_, secrets) => {
    expect(verify(BODY, headersOf(), secrets, { nowSeconds: NOW })).toEqual(ok);
    expect(verify(BODY, headersOf(BODY, { secrets: ["another"] }), secrets, { nowSeconds: NOW })).toEqual(
      refused("wrong_signature"),
    );
  });

  test("among signatures that are doubled, of another key kind, or no signatures at all", () => {
    const signature = headersOf()["webhook-signature"] as string;
    for (const given of [`${signature} ${signature}`, `v1a,AAAA ${signature}`, `v2,x  , ${signature} junk`]) {
      expect(check(BODY, { ...headersOf(), "webhook-signature": given })).toEqual(ok);
    }
    const asymmetric = { ...headersOf(), "webhook-signature": signature.replace("v1,", "v1a,") };
    expect(check(BODY, asymmetric)).toEqual(refused("wrong_signature"));
  });

  test("within the tolerance, either way", () => {
    for (const at of [NOW - 60, NOW, NOW + 60]) {
      expect(check(BODY, headersOf(BODY, { at }), { toleranceSeconds: 60 })).toEqual(ok);
    }
    for (const at of [NOW - 61, NOW + 61]) {
      expect(check(BODY, headersOf(BODY, { at }), { toleranceSeconds: 60 })).toEqual(refused("stale_timestamp"));
    }
    expect(check(BODY, headersOf(BODY, { at: 1 }), { toleranceSeconds: Number.POSITIVE_INFINITY })).toEqual(ok);
  });

  test("of an event type that this version does not know", () => {
    const body = JSON.stringify({ ...PAYLOAD, event: "file.renamed" });
    expect(check(body, headersOf(body))).toMatchObject({ ok: true, payload: { event: "file.renamed" } });
  });

  test("by the real clock, when told nothing", () => {
    const now = Math.floor(Date.now() / 1000);
    expect(verify(BODY, headersOf(BODY, { at: now }), SECRET)).toEqual(ok);
    expect(verify(BODY, headersOf(), SECRET)).toEqual(refused("stale_timestamp"));
  });
});

describe("the check that failed is named:", () => {
  test.each<[string, Parameters<typeof verify>[0], ReceivedHeaders]>([
    ["missing_signature", BODY, {}],
    ["missing_signature", BODY, new Headers({ "webhook-id": ID })],
    ["unsigned_timestamp", BODY, without("webhook-")],
    ["unsigned_timestamp", BODY, without("webhook-signature")],
    ["unsigned_timestamp", BODY, new Headers(without("webhook-id"))],
    ["bad_timestamp", BODY, without("webhook-timestamp")],
    ["bad_timestamp", BODY, { ...headersOf(), "webhook-timestamp": "2025-10-09T08:53:20Z" }],
    ...["", " ", "soon", "1e9", "-1", "1760000000.5", `${NOW}\n`, "9".repeat(13)].map((stated) => {
      const headers = { ...headersOf(), "webhook-timestamp": stated };
      return ["bad_timestamp", BODY, headers] as [string, string, ReceivedHeaders];
    }),
    ["stale_timestamp", BODY, headersOf(BODY, { at: NOW - 301 })],
    ["stale_timestamp", BODY, headersOf(BODY, { at: NOW + 301 })],
    ["wrong_signature", `${BODY} `, headersOf()],
    ["wrong_signature", BODY, headersOf(BODY, { secrets: ["another"] })],
    ["wrong_signature", BODY, { ...headersOf(), "webhook-timestamp": String(NOW + 1) }],
    ["wrong_signature", BODY, { ...headersOf(), "webhook-id": crypto.randomUUID() }],
  ])("%s", (reason, body, headers) => expect(check(body, headers)).toEqual(refused(reason)));

  test.each(["", "null", "[]", '"text"', "{", '{"id":1}', JSON.stringify({ ...PAYLOAD, data: null })])(
    "malformed_payload, signed but no event: %p",
    (body) => expect(check(body, headersOf(body))).toEqual(refused("malformed_payload")),
  );

  test("malformed_payload, when the id in the body is not the signed one", () => {
    expect(check(BODY, headersOf(BODY, { id: "another" }))).toEqual(refused("malformed_payload"));
  });
});

describe("a replay", () => {
  // The request was sent an hour ago; its X-Fluxdrop-Timestamp was changed by who sends it again.
  const old = headersOf(BODY, { at: NOW - 3600 });
  const stripped = {
    "x-fluxdrop-signature": old["x-fluxdrop-signature"],
    "x-fluxdrop-timestamp": String(NOW),
  };

  test("is refused as it was, or with another time", () => {
    expect(check(BODY, old)).toEqual(refused("stale_timestamp"));
    expect(check(BODY, { ...old, "webhook-timestamp": String(NOW) })).toEqual(refused("wrong_signature"));
  });

  test("with the Standard Webhooks headers left out is refused, unless the receiver insists", () => {
    expect(check(BODY, stripped)).toEqual(refused("unsigned_timestamp"));
    expect(check(BODY, stripped, { allowUnsignedTime: true })).toEqual(ok);
  });

  test("does not get past a wrong signature by a right one of the older kind", () => {
    const headers = { ...headersOf(), "webhook-signature": "v1,AAAA" };
    expect(check(BODY, headers, { allowUnsignedTime: true })).toEqual(refused("wrong_signature"));
  });
});

describe("a mistake of the receiver's throws, so that it answers 500 and loses nothing:", () => {
  const codeOf = (call: () => unknown): unknown => {
    try {
      return call();
    } catch (error) {
      return error instanceof VerifyUsageError && error instanceof TypeError ? error.code : error;
    }
  };

  test.each([[undefined], [null], [PAYLOAD], [{}], [[1]], [7], [() => BODY]])("the body %p", (body) => {
    expect(codeOf(() => verify(body as never, headersOf(), SECRET))).toBe("PARSED_BODY");
    expect(() => verify(body as never, headersOf(), SECRET)).toThrow("as received, before any JSON parser");
  });

  test.each([
    [undefined],
    [null],
    [""],
    [[]],
    [[""]],
    ["whsec_"],
    ["whsec_***"],
    [[undefined]],
    [[null, ""]],
    [7],
    [{}],
  ])("no usable secret: %p", (secrets) => {
    expect(codeOf(() => verify(BODY, headersOf(), secrets as never))).toBe("NO_SECRET");
    expect(() => verify(BODY, headersOf(), secrets as never)).toThrow("expected a secret");
  });

  test.each([undefined, null, "webhook-id: 1"])("the headers %p", (headers) => {
    expect(codeOf(() => verify(BODY, headers as never, SECRET))).toBe("NO_HEADERS");
  });

  test.each([
    { tolerance: 60 },
    { toleranceSeconds: "60" },
    { toleranceSeconds: Number.NaN },
    { toleranceSeconds: -1 },
  ])("the options %p", (options) => {
    expect(codeOf(() => verify(BODY, headersOf(), SECRET, options as never))).toBe("INVALID_ARGUMENT");
  });
});
