import { describe, expect, test } from "bun:test";
import { Webhook } from "standardwebhooks";
import { isSecret, type SignedHeaders, signFluxdrop, signStandard, verify } from "../src/delivery/signature.ts";

// Every expected value below came from the openssl command line, never from our own code. BODY, UTF8 and the keys are:
const BODY = '{"id":"1","event":"file.created"}';
const UTF8 = '{"name":"größe-文件-🦊.txt"}';
const SPEC_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"; // of the Standard Webhooks specification
const BINARY_SECRET = "whsec_4OHi4+Tl5ufo6err7O3u7/Dx8vP09fb3+Pn6+/z9/v8="; // the bytes e0 to ff: no UTF-8

describe("X-Fluxdrop-Signature", () => {
  test.each([
    // printf '%s' "$BODY" | openssl dgst -sha256 -hmac topsecret -r
    ["a body", BODY, "topsecret", "1f6fe8a4d1b4dbef21fa5cd81ee1737152a529c33a988628d2f0fabad6536b17"],
    // printf '' | openssl dgst -sha256 -hmac topsecret -r
    ["an empty body", "", "topsecret", "818f9cb88315ac08b5ef83f96650ca6f4e3dddcb4548e4879b746f56b57fa2b0"],
    // printf '%s' "$UTF8" | openssl dgst -sha256 -hmac 'Schlüssel🔑' -r
    ["multi-byte UTF-8", UTF8, "Schlüssel🔑", "6efebddb7c83bcfc6876d46db91aa3002783a495d4a5e91e45ffacbad8f17be3"],
    // printf '%s' "$BODY" | openssl dgst -sha256 -hmac whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw -r
    ["a whsec_ secret as it is", BODY, SPEC_SECRET, "f800cdb3066317c83ba8a2956e4f5c7483add67b6db83531dfa7fd3bf8d15252"],
  ])("signs %s as openssl does, text and bytes alike", (_, body, secret, expected) => {
    expect(signFluxdrop(body, secret)).toBe(expected);
    expect(signFluxdrop(Buffer.from(body), secret)).toBe(expected);
  });
});

describe("Standard Webhooks", () => {
  test("signs the specification's own example as the specification says", () => {
    expect(signStandard("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}', [SPEC_SECRET])).toBe(
      "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    );
  });

  test.each([
    // printf '%s' "msg_1.1760000000.$BODY" | openssl dgst -sha256 -hmac topsecret -binary | openssl base64
    ["a body", BODY, "topsecret", "dh6eB4KzE/wi9irV3pDKCusADZEXjIS8pwl3Z0UNR8c="],
    // printf '%s' "msg_1.1760000000." | openssl dgst -sha256 -hmac topsecret -binary | openssl base64
    ["an empty body", "", "topsecret", "xOlPd5zM69MYgAZqxD8itIcAms7jtpkAPznlfTD/QtM="],
    // printf '%s' "msg_1.1760000000.$UTF8" | openssl dgst -sha256 -hmac 'Schlüssel🔑' -binary | openssl base64
    ["multi-byte UTF-8", UTF8, "Schlüssel🔑", "JReUM8fHVLbtmEdmWhllPiiUyc48KIFFSin8aN62a6k="],
    // printf '%s' "msg_1.1760000000.$BODY" | openssl dgst -sha256 -mac HMAC -macopt hexkey:e0e1…ff -binary | openssl base64
    ["a whsec_ secret decoded", BODY, BINARY_SECRET, "5o4b+1FObTHnoYAjdszrF0kUtm9u/pIoLDkoMSeKOf0="],
  ])("signs %s as openssl does, text and bytes alike", (_, body, secret, expected) => {
    expect(signStandard("msg_1", 1760000000, body, [secret])).toBe(`v1,${expected}`);
    expect(signStandard("msg_1", 1760000000, Buffer.from(body), [secret])).toBe(`v1,${expected}`);
  });

  test("signs once per secret while rotating, current first, separated by one space", () => {
    expect(signStandard("msg_1", 1760000000, BODY, ["topsecret", BINARY_SECRET])).toBe(
      "v1,dh6eB4KzE/wi9irV3pDKCusADZEXjIS8pwl3Z0UNR8c= v1,5o4b+1FObTHnoYAjdszrF0kUtm9u/pIoLDkoMSeKOf0=",
    );
  });

  test.each(["whsec_", "whsec_a", "whsec_not base64", "whsec_YWJj=", "whsec_YW-_"])(
    "refuses the secret %p",
    (secret) => {
      expect(isSecret(secret)).toBe(false);
      expect(() => signStandard("msg_1", 1760000000, BODY, [secret])).toThrow(RangeError);
    },
  );
});

test.each([
  ["", false],
  ["s", true],
  [" ", true],
  ["whsec", true],
  ["WHSEC_not base64", true],
  ["whsec_YQ==", true],
  ["whsec_YWJj", true],
  ["whsec_YWJj\n", false],
  ["sealed:v1:AAAA", true],
] as const)("takes %p for a secret: %p", (text, expected) => {
  expect(isSecret(text)).toBe(expected);
});

describe("verify", () => {
  const secret = BINARY_SECRET;
  const now = 1760000000;
  const at = { nowSeconds: now };
  const standardHeaders = (secrets: string[], timestamp = now): Record<string, string> => ({
    "webhook-id": "msg_1",
    "webhook-timestamp": String(timestamp),
    "webhook-signature": signStandard("msg_1", timestamp, BODY, secrets),
  });
  const fluxdropHeaders = (timestamp = now): Record<string, string> => ({
    "x-fluxdrop-timestamp": String(timestamp),
    "x-fluxdrop-signature": signFluxdrop(BODY, secret),
  });
  const ok = { ok: true } as const;
  const refused = (reason: string) => ({ ok: false, reason }) as never;

  test("takes what openssl signed", () => {
    const headers = {
      "webhook-id": "msg_1",
      "webhook-timestamp": "1760000000",
      "webhook-signature": "v1,5o4b+1FObTHnoYAjdszrF0kUtm9u/pIoLDkoMSeKOf0=",
    };
    expect(verify(BODY, headers, BINARY_SECRET, at)).toEqual(ok);
    expect(verify(Buffer.from(BODY), headers, BINARY_SECRET, at)).toEqual(ok);
  });

  test("takes either scheme, and both together", () => {
    expect(verify(BODY, standardHeaders([secret]), secret, at)).toEqual(ok);
    expect(verify(BODY, fluxdropHeaders(), secret, at)).toEqual(ok);
    expect(verify(BODY, { ...standardHeaders([secret]), ...fluxdropHeaders() }, secret, at)).toEqual(ok);
  });

  test("takes an empty body", () => {
    const signature = "v1,xOlPd5zM69MYgAZqxD8itIcAms7jtpkAPznlfTD/QtM="; // the openssl vector above
    const headers = { "webhook-id": "msg_1", "webhook-timestamp": "1760000000", "webhook-signature": signature };
    expect(verify("", headers, "topsecret", at)).toEqual(ok);
    expect(verify(new Uint8Array(), headers, "topsecret", at)).toEqual(ok);
  });

  test("refuses a good X-Fluxdrop-Signature when the Standard Webhooks one is wrong", () => {
    const headers = { ...standardHeaders(["another"]), ...fluxdropHeaders() };
    expect(verify(BODY, headers, secret, at)).toEqual(refused("wrong_signature"));
  });

  test("takes either of two secrets on either side while rotating", () => {
    expect(verify(BODY, standardHeaders(["new", secret]), secret, at)).toEqual(ok);
    expect(verify(BODY, standardHeaders(["new", secret]), "new", at)).toEqual(ok);
    expect(verify(BODY, standardHeaders([secret]), ["new", secret], at)).toEqual(ok);
    expect(verify(BODY, fluxdropHeaders(), ["new", secret], at)).toEqual(ok);
    expect(verify(BODY, standardHeaders(["old", "older"]), ["new", secret], at)).toEqual(refused("wrong_signature"));
  });

  test("reads the first of a header that is an array", () => {
    const headers: SignedHeaders = Object.fromEntries(
      Object.entries(standardHeaders([secret])).map(([name, value]) => [name, [value, "junk"]]),
    );
    expect(verify(BODY, headers, secret, at)).toEqual(ok);
    expect(verify(BODY, { "webhook-id": [], "webhook-signature": [] }, secret, at)).toEqual(
      refused("missing_signature"),
    );
  });

  test("ignores signatures of versions it does not know", () => {
    const { "webhook-signature": good, ...rest } = standardHeaders([secret]);
    expect(verify(BODY, { ...rest, "webhook-signature": `v1a,abc v2,def ${good}` }, secret, at)).toEqual(ok);
    expect(verify(BODY, { ...rest, "webhook-signature": `${good}`.replace("v1,", "v2,") }, secret, at)).toEqual(
      refused("wrong_signature"),
    );
  });

  describe("refuses what was tampered with:", () => {
    const good = standardHeaders([secret]);
    test.each<[string, string, Record<string, string>]>([
      ["the body", `${BODY} `, good],
      ["the body's case", BODY.toUpperCase(), good],
      ["the id", BODY, { ...good, "webhook-id": "msg_2" }],
      ["the timestamp", BODY, { ...good, "webhook-timestamp": String(now + 1) }],
      ["the signature's end", BODY, { ...good, "webhook-signature": `${good["webhook-signature"]}=` }],
      ["the signature's start", BODY, { ...good, "webhook-signature": `v1,${good["webhook-signature"]}` }],
      ["the signature, emptied", BODY, { ...good, "webhook-signature": "" }],
      ["the body, with the body-only scheme", `${BODY} `, fluxdropHeaders()],
      [
        "hex in upper case",
        BODY,
        { ...fluxdropHeaders(), "x-fluxdrop-signature": signFluxdrop(BODY, secret).toUpperCase() },
      ],
    ])("%s", (_, body, headers) => {
      expect(verify(body, headers, secret, at)).toEqual(refused("wrong_signature"));
    });
  });

  test.each([
    [0, "takes", ok],
    [300, "takes", ok],
    [-300, "takes", ok],
    [301, "refuses", refused("stale_timestamp")],
    [-301, "refuses", refused("stale_timestamp")],
    [1e9, "refuses", refused("stale_timestamp")],
  ])("when the timestamp is %p s behind the clock, %s it", (behind, _, expected) => {
    expect(verify(BODY, standardHeaders([secret], now - behind), secret, at)).toEqual(expected);
    expect(verify(BODY, fluxdropHeaders(now - behind), secret, at)).toEqual(expected);
  });

  test("takes another tolerance, and the real clock when told nothing", () => {
    expect(verify(BODY, standardHeaders([secret], now - 900), secret, { ...at, toleranceSeconds: 900 })).toEqual(ok);
    const current = Math.floor(Date.now() / 1000);
    expect(verify(BODY, standardHeaders([secret], current), secret)).toEqual(ok);
    expect(verify(BODY, standardHeaders([secret], now), secret)).toEqual(refused("stale_timestamp"));
  });

  test("refuses everything when clock or tolerance are not numbers", () => {
    const headers = standardHeaders([secret], 1);
    expect(verify(BODY, headers, secret, { nowSeconds: Number.NaN })).toEqual(refused("stale_timestamp"));
    expect(verify(BODY, headers, secret, { ...at, toleranceSeconds: Number.NaN })).toEqual(refused("stale_timestamp"));
  });

  test.each([undefined, "", "now", "1e9", "-1760000000", " 1760000000", "1760000000.0", "0x68e7", "9".repeat(400)])(
    "calls the timestamp %p bad",
    (timestamp) => {
      expect(verify(BODY, { ...standardHeaders([secret]), "webhook-timestamp": timestamp }, secret, at)).toEqual(
        refused("bad_timestamp"),
      );
      expect(verify(BODY, { ...fluxdropHeaders(), "x-fluxdrop-timestamp": timestamp }, secret, at)).toEqual(
        refused("bad_timestamp"),
      );
    },
  );

  test.each<[string, SignedHeaders]>([
    ["no headers", {}],
    ["an id alone", { "webhook-id": "msg_1" }],
    ["a signature without its id", { "webhook-signature": "v1,abc", "webhook-timestamp": "1760000000" }],
  ])("calls the signature missing with %s", (_, headers) => {
    expect(verify(BODY, headers, secret, at)).toEqual(refused("missing_signature"));
  });

  test("takes nothing without a usable secret: an empty one signs nothing", () => {
    const signature = { "x-fluxdrop-signature": signFluxdrop(BODY, ""), "x-fluxdrop-timestamp": String(now) };
    for (const secrets of ["", [], [""], "whsec_", "whsec_***"]) {
      expect(verify(BODY, signature, secrets, at)).toEqual(refused("wrong_signature"));
      expect(verify(BODY, standardHeaders([secret]), secrets, at)).toEqual(refused("wrong_signature"));
    }
  });
});

describe("the standardwebhooks package", () => {
  const timestamp = Math.floor(Date.now() / 1000); // it reads the real clock
  const headersOf = (signature: string) => ({
    "webhook-id": "msg_1",
    "webhook-timestamp": String(timestamp),
    "webhook-signature": signature,
  });
  const receivers = [
    ["a whsec_ secret", BINARY_SECRET, new Webhook(BINARY_SECRET)],
    ["a plain secret", "topsecret", new Webhook("topsecret", { format: "raw" })],
  ] as const;

  test.each(receivers)("verifies what we sign with %s", (_, secret, receiver) => {
    const headers = headersOf(signStandard("msg_1", timestamp, UTF8, [secret]));
    expect(receiver.verify(UTF8, headers)).toEqual(JSON.parse(UTF8));
    expect(receiver.verify(Buffer.from(UTF8), headers)).toEqual(JSON.parse(UTF8));
    expect(() => receiver.verify(`${UTF8} `, headers)).toThrow("No matching signature");
  });

  test.each(receivers)("signs what we verify with %s", (_, secret, receiver) => {
    const headers = headersOf(receiver.sign("msg_1", new Date(timestamp * 1000), UTF8));
    expect(verify(UTF8, headers, secret)).toEqual({ ok: true });
  });

  test("verifies with the old secret and with the new one while we sign with both", () => {
    const headers = headersOf(signStandard("msg_1", timestamp, BODY, ["topsecret", BINARY_SECRET]));
    for (const [, , receiver] of receivers) expect(receiver.verify(BODY, headers)).toEqual(JSON.parse(BODY));
  });
});
