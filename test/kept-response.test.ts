/** What is kept of the bytes of a failed response. */
import { describe, expect, test } from "bun:test";
import { gzipSync } from "node:zlib";
import { seal } from "../src/delivery/seal.ts";
import { ResponseReader } from "../src/http/response.ts";
import type { KeptResponse } from "../src/log/attempts.ts";
import { keepResponse, receivedFor } from "../src/log/kept-response.ts";
import { createChance } from "./support/chance.ts";

const WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw/+8=";
const PLAIN = 'p4ss "word" & <söme/thing>';
const URL_WITH_TOKEN = new URL("https://customer.example/hook?token=tok_8fhq27&page=2");
const CONFIDENTIAL = { url: URL_WITH_TOKEN, secrets: [WHSEC, PLAIN] };
const HEX_MAC = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const MAC = "K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=";

/** What is kept of a response that comes in these pieces, after which the receiver closes its side. */
function keep(response: string | readonly string[], keptBytes = 1024, isClosed = true): KeptResponse | undefined {
  const reader = new ResponseReader(receivedFor(keptBytes));
  for (const piece of typeof response === "string" ? [response] : response) {
    if (reader.read(Buffer.from(piece, "latin1")) !== "more") break;
  }
  if (isClosed) reader.end();
  return reader.beginning && keepResponse(reader.beginning, keptBytes, CONFIDENTIAL);
}

const FAILED = "HTTP/1.1 503 Service Unavailable\r\n";
const utf8 = (text: string) => Buffer.from(text).toString("latin1");
const withBody = (body: string, fields = "") => `${FAILED}${fields}Content-Length: ${body.length}\r\n\r\n${body}`;
const bodyOf = (text: string, keptBytes?: number) => keep(withBody(utf8(text)), keptBytes)?.body;

describe("a failed response", () => {
  test("is kept with its status line, some of its headers and its body", () => {
    const head = `${FAILED}Server: nginx/1.25\r\nDate: Tue, 24 Nov 2026 09:00:00 GMT\r\nRetry-After: 60\r\nX-Request-Id: abc-1\r\n`;
    expect(keep(`${head}Content-Type: text/html; charset=utf-8\r\nContent-Length: 13\r\n\r\n<h1>busy</h1>`)).toEqual({
      status_line: "HTTP/1.1 503 Service Unavailable",
      headers: {
        server: "nginx/1.25",
        date: "Tue, 24 Nov 2026 09:00:00 GMT",
        "retry-after": "60",
        "x-request-id": "abc-1",
        "content-type": "text/html; charset=utf-8",
        "content-length": "13",
      },
      body: "<h1>busy</h1>",
    });
  });

  test("is kept without cookies, credentials and headers that nobody knows", () => {
    const fields =
      "Set-Cookie: sid=1\r\nWWW-Authenticate: Negotiate b64\r\nAuthorization: x\r\nX-Internal-Token: y\r\n__proto__: z\r\n";
    expect(keep(withBody("", fields))?.headers).toEqual({ "content-length": "0" });
  });

  test("is kept without the query and the user of the address that it redirects to", () => {
    const locationOf = (value: string) => keep(withBody("", `Location: ${value}\r\n`))?.headers.location;
    expect(locationOf("https://u:p@other.example/a?token=1#x")).toBe("https://other.example/a");
    expect(locationOf("//u@other.example/a@b?c")).toBe("//other.example/a@b");
    expect(locationOf("/login?next=%2F")).toBe("/login");
  });

  test("is cut to what is kept, between characters, and says so", () => {
    expect(keep(withBody("x".repeat(1024)))).not.toHaveProperty("is_truncated");
    expect(keep(withBody("x".repeat(1025)))).toMatchObject({ body: "x".repeat(1024), is_truncated: true });
    expect(bodyOf("é".repeat(10), 5)).toBe("éé");
    expect(keep(withBody("é\xff"), 16)?.body).toBe("\ufffd\ufffd");
    expect(keep(withBody("y".repeat(100_000)), 16 * 1024)?.body).toMatch(/^y{14000,16384}$/);
  });

  test("says so, too, when it ended early or has not ended", () => {
    expect(keep(`${FAILED}Content-Length: 10\r\n\r\nhalf`)).toMatchObject({ body: "half", is_truncated: true });
    expect(keep(`${FAILED}\r\nuntil it closes`)).not.toHaveProperty("is_truncated");
    expect(keep(`${FAILED}\r\nstalls`, 1024, false)).toMatchObject({ body: "stalls", is_truncated: true });
    expect(keep(`${FAILED}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n`)).toMatchObject({
      body: "half",
      is_truncated: true,
    });
    expect(keep(`${FAILED}X-Long: ${"x".repeat(20_000)}\r\n\r\nbody`)).toMatchObject({ body: "", is_truncated: true });
  });

  test("is kept without chunked coding, also when its body is longer than what is read", () => {
    const chunked = (...chunks: string[]) =>
      `${FAILED}Transfer-Encoding: chunked\r\n\r\n${chunks.map((chunk) => `${chunk.length.toString(16)}\r\n${chunk}\r\n`).join("")}0\r\n\r\n`;
    expect(keep(chunked("one, ", "two"))).toEqual({
      status_line: FAILED.trim(),
      headers: { "transfer-encoding": "chunked" },
      body: "one, two",
    });
    expect(keep(chunked("z".repeat(40_000)))).toMatchObject({ body: "z".repeat(1024), is_truncated: true });
  });

  test("is kept without a body that is compressed or no text", () => {
    const zipped = gzipSync("secret").toString("latin1");
    expect(keep(withBody(zipped, "Content-Encoding: gzip\r\n"))).toEqual({
      status_line: FAILED.trim(),
      headers: { "content-encoding": "gzip", "content-length": `${zipped.length}` },
      body: "",
      omitted: "compressed",
    });
    expect(keep(withBody("PNG\0\0"))).toMatchObject({ body: "", omitted: "binary" });
    expect(keep(withBody("", "Content-Encoding: br\r\n"))).not.toHaveProperty("omitted");
  });

  test("is kept alike, however its bytes are split", () => {
    const chance = createChance(11);
    const responses = [
      withBody(`a ${WHSEC} b`.repeat(40)),
      `HTTP/1.1 100 Continue\r\n\r\n${FAILED}Transfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nT: x\r\n\r\n`,
      `${FAILED}\r\n${"until the end ".repeat(300)}`,
    ];
    for (const response of responses) {
      const whole = keep(response);
      expect(whole?.body.length).toBeGreaterThan(10);
      for (let round = 0; round < 200; round++) {
        const pieces: string[] = [];
        for (let at = 0; at < response.length; ) {
          const length = chance.pick([1, 2, 7, chance.between(1, 400)]);
          pieces.push(response.slice(at, at + length));
          at += length;
        }
        expect(keep(pieces)).toEqual(whole);
      }
    }
  });

  test("is not kept of a 2xx, and nothing is when nothing is to be kept", () => {
    expect(keep("HTTP/1.1 204 No Content\r\n\r\n")).toBeUndefined();
    expect(keep("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).toBeUndefined();
    expect(keep(withBody("x"), 0)).toBeUndefined();
  });
});

describe("what a receiver echoes", () => {
  test.each([
    ["as it is", (text: string) => text],
    ["in JSON", (text: string) => JSON.stringify({ echo: text })],
    ["in PHP's JSON", (text: string) => JSON.stringify({ echo: text }).replaceAll("/", "\\/")],
    ["in JSON within JSON", (text: string) => JSON.stringify(JSON.stringify({ echo: text }))],
    ["in ASCII JSON", (text: string) => JSON.stringify(text).replace(/[^ -~]/g, (c) => `\\u${hex4(c)}`)],
    ["in a URL", (text: string) => `/?echo=${encodeURIComponent(text)}`],
    ["in HTML", (text: string) => text.replace(/[&<>"']/g, (c) => `&${ENTITIES[c]};`)],
    ["in HTML with all characters escaped", (text: string) => text.replace(/[^\w ]/gu, (c) => `&#x${hex(c)};`)],
    ["in HTML, in decimal", (text: string) => text.replace(/[^\w ]/gu, (c) => `&#${c.codePointAt(0)};`)],
  ])("is masked %s", (_, write) => {
    for (const text of [WHSEC, WHSEC.slice(6), PLAIN, `v1,${MAC}`, HEX_MAC, HEX_MAC.toUpperCase(), "tok_8fhq27"]) {
      const body = bodyOf(`before ${write(`[${text}]`)} after`) as string;
      expect(body).toContain("***");
      expect(body.replaceAll("***", "")).not.toMatch(/MfKQ|LaSw|p4ss|thing|K5oZ|pI4|9f86|0a08|8fhq/i);
      expect(body).toStartWith("before ");
      expect(body).toEndWith(" after");
    }
  });

  test("is masked in headers and in the status line", () => {
    const kept = keep(`HTTP/1.1 401 bad ${WHSEC}\r\nServer: x ${MAC}\r\nContent-Length: 0\r\n\r\n`);
    expect(kept?.status_line).toBe("HTTP/1.1 401 bad ***");
    expect(kept?.headers.server).toBe("x ***");
  });

  test("is masked when it begins before the cut and ends behind it", () => {
    for (let at = 950; at < 1024; at++) {
      const body = bodyOf(`${"-".repeat(at)}${WHSEC} v1,${MAC} ${HEX_MAC}${"-".repeat(9_000)}`) as string;
      expect(body.replace(/^-+\*\*\*/, "")).not.toMatch(/[A-Za-z]{2}/);
    }
  });

  test("is masked also when it is a sealed secret, another's secret, or the signature that was expected", () => {
    const sealed = seal(WHSEC, Buffer.alloc(32, 7), "usr_1");
    expect(bodyOf(`got ${sealed}.`)).toBe("got ***.");
    expect(bodyOf("expected whsec_c29tZWJvZHkgZWxzZQ==, got nothing")).toBe("expected ***, got nothing");
    expect(bodyOf(`{"expected":"${HEX_MAC}","sha256=${HEX_MAC}":"v1a,${MAC}"}`)).toBe(
      '{"expected":"***","sha256=***":"v1a,***"}',
    );
  });

  test("stays when it is none", () => {
    for (const text of [
      "The requested URL /api/v1/webhooks/incoming/flux/drop/events was not found on this server.",
      "trace 4bf92f3577b34da6a3ce929d0e0e4736, request 00f067aa0ba902b7",
      '{"error":"invalid_signature","id":"0d1a1c2e-8a4f-4f6c-9d0f-6a1f3c1f7a52"}',
      "a page=2 b",
    ]) {
      expect(bodyOf(text)).toBe(text);
    }
  });

  test("is looked for in a time that grows with the text alone", () => {
    const hostile = ["a", "A1", "\\", "%2", "&#", "whsec_", "v1,", "=", "+/"].map((text) =>
      text.repeat(16_384 / text.length),
    );
    const startedAt = performance.now();
    for (const text of hostile) {
      keepResponse({ head: FAILED, body: text, isCut: false, isEnded: true }, 16 * 1024, {
        url: URL_WITH_TOKEN,
        secrets: ["a".repeat(1023), "\\".repeat(1000), WHSEC],
      });
    }
    expect(performance.now() - startedAt).toBeLessThan(10_000);
  });
});

const hex = (character: string) => (character.codePointAt(0) as number).toString(16);
const hex4 = (character: string) => hex(character).padStart(4, "0");
const ENTITIES: Readonly<Record<string, string>> = { "&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "#39" };
