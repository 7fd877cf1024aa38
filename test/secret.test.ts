/** What may stand where a secret stands: an event is signed with exactly this text, so a slip in it makes every signature wrong. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createKey } from "../src/delivery/seal.ts";
import { bareSecret, isSealed, plainSecretProblem, secretProblem } from "../src/delivery/secret.ts";
import type { NewEvent } from "../src/events.ts";
import { createFluxhook, type Fluxhook } from "../src/index.ts";
import { jobData } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const KEY = "s3cr3t-that-must-not-leak";
const BASE64 = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SEALED = "sealed:v1:ZGVmZ2hpamtsbW5vP3OtAxq2DPNGUzqvshMIzzH_Uyfw0N5-RevognkYTWEmBQ";

const BLANK = "expected no blank or line break at its ends: trim it";
const INVISIBLE = "expected no control or invisible character, a byte order mark for example: take it out";
const BROKEN = "expected valid Unicode: it was decoded from bytes that are no text, or cut inside a character";
const QUOTES = "expected no quotes around it: leave them out";
const VERSION = "expected whsec_ at its beginning: take away the v1, before it";
const WHSEC = "expected whsec_ at its beginning and nowhere else, in just this spelling";
const NOT_BASE64 = "expected base64 after whsec_";
const PADDING = "expected base64 after whsec_, whole and with the = at its end";
const BASE64URL = "expected base64 after whsec_, got base64url: write + for -, and / for _";
const CUT_OFF = "expected a sealed secret whole: this one is cut off";
const NOT_BASE64URL = "expected base64url after sealed:v1:, and nothing behind it";
const NOT_SEALED = "expected a sealed secret to be sealed:v1: and base64url, with nothing around it";

describe("a secret is taken:", () => {
  test.each([
    "a",
    "'",
    KEY,
    "the customer's secret",
    'it\'s "quoted" inside',
    "größe 🔑",
    "👨‍👩‍👧", // joined by zero-width characters
    "´acute",
    "x".repeat(1024),
    "1ab$%^&*()_+-=[]{}|;:,.<>?/~`!@#",
    `whsec_${BASE64}`,
    "whsec_YQ==",
    "whsecret",
    "my-whsec-of-old",
    "unsealed-v1",
    "sealed",
    "sealed-envelope",
    "v1,something",
    SEALED,
    `${SEALED}==`, // padded, as many languages do
    SEALED.replaceAll("_", "/").replaceAll("-", "+"), // base64, as others do: it opens
    `sealed:v1:${"A".repeat(4_190)}`,
  ])("%s", (text) => {
    expect(secretProblem(text)).toBeUndefined();
  });
});

describe("a secret is refused, with a reason of its own and without being shown:", () => {
  test.each<[unknown, string]>([
    [undefined, "expected a string"],
    [7, "expected a string"],
    [Buffer.from(KEY), "expected a string"],
    ["", "expected a non-empty string"],
    ["x".repeat(1025), "expected at most 1024 characters"],
    [`${KEY}${"x".repeat(100_000)}`, "expected at most 1024 characters"],
    [`whsec_${"A".repeat(1020)}`, "expected at most 1024 characters"],
    [`sealed:v1:${"A".repeat(4_191)}`, "expected at most 4200 characters, sealed"],
    ...[" ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028"].flatMap((blank): [string, string][] => [
      [`${KEY}${blank}`, BLANK],
      [`${blank}${KEY}`, BLANK],
      [`${blank}whsec_${BASE64}`, BLANK],
      [`whsec_${BASE64}${blank}`, BLANK],
      [`${blank}${SEALED}`, BLANK],
      [`${SEALED}${blank}`, BLANK],
      [`${blank}"${KEY}"`, BLANK],
      [blank, BLANK],
    ]),
    ...["\ufeff", "\u200b", "\u200d", "\u2060", "\u00ad", "\u202e", "\u0000", "\u0085", "\u001b"].flatMap(
      (char): [string, string][] => [
        [`${char}${KEY}`, INVISIBLE],
        [`${KEY}${char}`, INVISIBLE],
        [`${char}whsec_${BASE64}`, INVISIBLE],
        [`${char}${SEALED}`, INVISIBLE],
      ],
    ),
    ...["\n", "\t", "\u0000", "\u007f", "\u0085", "\ufeff", "\u200b", "\u2029"].map((char): [string, string] => [
      `${KEY}${char}${KEY}`,
      INVISIBLE,
    ]),
    [Buffer.from(`${KEY}\n`, "utf16le").toString("utf8"), INVISIBLE], // a file as PowerShell writes it
    [`${KEY}\ufffd`, BROKEN],
    [`${KEY}\ud83d`, BROKEN],
    [`\udd11${KEY}`, BROKEN],
    ...[`"${KEY}"`, `'${KEY}'`, `\`${KEY}\``, `“${KEY}”`, `«${KEY}»`, `＂${KEY}＂`, `\\"${KEY}\\"`, '""'].map(
      (quoted): [string, string] => [quoted, QUOTES],
    ),
    [`"whsec_${BASE64}"`, QUOTES],
    [`"${SEALED}"`, QUOTES],
    [`b'${KEY}'`, QUOTES], // what Python's str() makes of bytes
    [`v1,whsec_${BASE64}`, VERSION],
    [`v1, whsec_${BASE64}`, VERSION],
    [`V1:WHSEC_${BASE64}`, VERSION],
    ...[
      "WHSEC_",
      "Whsec_",
      "whsec-",
      "whsec:",
      "whsec ",
      "wh sec_",
      "whsec%5F",
      "_whsec_",
      "ｗｈｓｅｃ＿",
      '"whsec_',
    ].map((prefix): [string, string] => [`${prefix}${BASE64}`, WHSEC]),
    ["whsec", WHSEC],
    [`SECRET=whsec_${BASE64}`, WHSEC],
    [`whsec_whsec_${BASE64}`, WHSEC],
    [`whsec_${BASE64},whsec_${BASE64}`, WHSEC],
    ["whsec_", NOT_BASE64],
    [`whsec_${BASE64}!`, NOT_BASE64],
    [`whsec_ ${BASE64}`, NOT_BASE64],
    ["whsec_YWJj=", NOT_BASE64],
    ["whsec_YQ", PADDING],
    [`whsec_${BASE64}a`, PADDING],
    ["whsec_YW-_", BASE64URL],
    ["whsec_Y-8", BASE64URL],
    ["sealed:v1:", CUT_OFF],
    [SEALED.slice(0, 47), CUT_OFF],
    [`${SEALED}!`, NOT_BASE64URL],
    [`${SEALED},${SEALED}`, NOT_BASE64URL],
    [`${SEALED.slice(0, 50)} ${SEALED.slice(50)}`, NOT_BASE64URL],
    ...["Sealed:v1:", "SEALED:V1:", "sealed:v2:", "sealed:", "sealed :v1:", "sealed: v1:", "sealed%3Av1%3A"].map(
      (prefix): [string, string] => [SEALED.replace("sealed:v1:", prefix), NOT_SEALED],
    ),
    ...[
      "ｓｅａｌｅｄ：ｖ１：",
      "sealed：v1：",
      "sealed-v1-",
      "sealed.v1.",
      "sealedv1:",
      '"sealed:v1:',
      "(sealed:v1:",
    ].map((prefix): [string, string] => [SEALED.replace("sealed:v1:", prefix), NOT_SEALED]),
    [`SECRET=${SEALED}`, NOT_SEALED],
    [`["${SEALED}"]`, NOT_SEALED],
    [`v1,${SEALED}`, NOT_SEALED],
  ])("%p", (text, reason) => {
    expect(secretProblem(text)).toBe(reason);
    expect(reason).not.toMatch(new RegExp(`${KEY}|${BASE64}|${SEALED.slice(10, 20)}`));
  });
});

describe("a backend is told so at once, and nothing is queued:", () => {
  let fluxhook: Fluxhook;
  beforeAll(async () => {
    fluxhook = createFluxhook({
      valkeyUrl: await testValkeyUrl(),
      queue: crypto.randomUUID(),
      sealingKey: createKey(),
    });
  });
  afterAll(() => fluxhook.close());

  const event = (secret: string | string[]): NewEvent => ({
    event: "file.created",
    ...jobData("https://example.com/"),
    endpoint: { url: "https://example.com/", secret },
  });
  const refusal = (sent: Promise<unknown>) =>
    sent.then(
      () => "queued",
      (error: unknown) => String(error),
    );

  test("by enqueue", async () => {
    expect(await refusal(fluxhook.enqueue(event(`${KEY}\n`)))).toContain(`endpoint.secret: ${BLANK}`);
    expect(await refusal(fluxhook.enqueue(event([KEY, ` ${SEALED}`])))).toContain(`endpoint.secret.1: ${BLANK}`);
  });

  test("by enqueueMany", async () => {
    const told = await refusal(
      fluxhook.enqueueMany([event(KEY), event([KEY, `v1,whsec_${BASE64}`]), event("sealed:v2:AAAA")]),
    );
    expect(told).toContain(`endpoint.secret.1: ${VERSION}`);
    expect(told).toContain(`endpoint.secret: ${NOT_SEALED}`);
    expect(told).not.toContain(BASE64);
  });
});

test("a plain secret is one that is not sealed", () => {
  expect(plainSecretProblem(KEY)).toBeUndefined();
  expect(plainSecretProblem(`${KEY} `)).toBe(BLANK);
  expect(plainSecretProblem(SEALED)).toBe("expected a plain secret: this one is sealed already");
});

test("only the whole form is a sealed secret", () => {
  expect(isSealed(SEALED)).toBe(true);
  for (const text of [` ${SEALED}`, `${SEALED}\n`, "sealed:v1:AAAA", SEALED.replace("v1", "v2"), KEY]) {
    expect(isSealed(text)).toBe(false);
  }
});

test.each([` ${KEY}\r\n`, `\ufeff"${KEY}"\n`, `'${KEY}'`, `v1,${KEY}`, ` " v1,${KEY} " `, `\u200b${KEY}\u0000`])(
  "what slips in around a secret is taken off: %p",
  (text) => {
    expect(bareSecret(text)).toBe(KEY);
  },
);

test("a slip in a text of any length is found in time that grows with it, not with its square", () => {
  for (const part of ["sealed", "wh", "v1,", "_", " ", '"', "sealed:", "whsec_", "-", "v1"]) {
    const text = part.repeat(4_200 / part.length);
    const startedAt = performance.now();
    for (let i = 0; i < 20; i++) secretProblem(`${text}!`.slice(-4_200));
    expect(performance.now() - startedAt).toBeLessThan(500);
  }
});
