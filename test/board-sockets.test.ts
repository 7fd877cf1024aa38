/** The board's process under requests that no browser sends, byte by byte. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect } from "node:net";
import { startBoardProcess } from "./support/board.ts";
import { eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

setDefaultTimeout(60_000); // one of them takes its time

const board = await startBoardProcess({
  VALKEY_URL: await testValkeyUrl(),
  BOARD_TRUST_PROXY: "127.0.0.1",
  WEBHOOK_QUEUE: `raw-${crypto.randomUUID()}`,
});
afterAll(() => board.stop());

const get = (target: string, ...headers: string[]) =>
  [`GET ${target} HTTP/1.1`, ...headers, "Connection: close", "", ""].join("\r\n");
const HOST = "Host: localhost";

describe("a request", () => {
  test.each([
    ["without a Host", get("/")],
    ["with an empty one", get("/", "Host:")],
    ["with two", get("/", HOST, "Host: evil.example")],
    ["with the same twice", get("/", HOST, HOST)],
    ["with two, the first of them foreign", get("/", "Host: evil.example", HOST)],
    ["with two in one line", get("/", "Host: localhost, evil.example")],
    ["without one, as in HTTP/1.0", "GET /healthz HTTP/1.0\r\n\r\n"],
    ["whose Host is cut off", get("/", "Host: [::1")],
    ["whose Host has a blank", get("/", "Host: a b")],
    ["whose Host is a path", get("/", "Host: localhost/evil")],
    ["whose Host has a user", get("/", "Host: evil@localhost")],
    ["whose Host is escaped", get("/", "Host: %6cocalhost")],
    ["whose port is none", get("/", "Host: localhost:99999")],
    ["whose Host is not ASCII", get("/", "Host: loc\xe9")],
    ["whose Host is malformed, for its health", get("/healthz", "Host: [::1")],
    ["for a path with a NUL", get("/users/a%00b", HOST)],
    ["for a file with a NUL", get("/board/static/js/main%00.js", HOST)],
    ["for a job with a NUL", get("/board/api/queues/webhooks/%00", HOST)],
  ])("is refused with 400: %s", async (_name, bytes) => {
    const { status, body } = await board.send(bytes);
    expect(status, body).toBe(400);
  });

  test.each([
    [414, "for a path of 10,000 characters", get(`/board/static/${"a/".repeat(5_000)}`, HOST)],
    [404, "for a file with a name of 1,000", get(`/board/static/${"a".repeat(1_000)}`, HOST)],
    [404, "for a file outside", get("/board/static/..%2f..%2f..%2fpackage.json", HOST)],
    [431, "with a query of 100 kB", get(`/?notice=${"a".repeat(100_000)}`, HOST)],
    [400, "for Bull Board's queue %zz", get("/board/api/queues?activeQueue=%25zz", HOST)],
    [400, "for all jobs of a queue at once", get("/board/api/queues?jobsPerPage=1000000", HOST)],
    [404, "of the kind OPTIONS", get("/", HOST).replace("GET", "OPTIONS")],
    [200, "of the kind HEAD", get("/", HOST).replace("GET", "HEAD")],
    [200, "for a user that is no UTF-8", get("/users/%ff%zz", HOST)],
    [200, "by an address", get("/", "Host: [::1]:3000")],
  ])("is answered with %d: %s", async (expected, _name, bytes) => {
    const { status, body } = await board.send(bytes);
    expect(status, body).toBe(expected);
  });

  const post = (body: string, ...headers: string[]) =>
    [
      `POST /actions/redeliver HTTP/1.1`,
      HOST,
      "Connection: close",
      "Origin: http://localhost",
      ...headers,
      "",
      body,
    ].join("\r\n");
  const FORM = "Content-Type: application/x-www-form-urlencoded";
  test.each([
    [400, "without a boundary", post("abc", "Content-Type: multipart/form-data", "Content-Length: 3")],
    [
      400,
      "cut off before its boundary",
      post("abc", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 3"),
    ],
    [400, "of another kind", post("{}", "Content-Type: application/json", "Content-Length: 2")],
    [400, "empty", post("", FORM)],
    [413, "of 1 MB", post("a".repeat(1_000_000), FORM, "Content-Length: 1000000")],
    [
      413,
      "of 1 MB in chunks",
      post(`f4240\r\n${"a".repeat(1_000_000)}\r\n0\r\n\r\n`, FORM, "Transfer-Encoding: chunked"),
    ],
    [400, "of two lengths", post("abc", FORM, "Content-Length: 3", "Content-Length: 2")],
  ])("is answered with %d when its form is %s", async (expected, _name, bytes) => {
    const { status, body } = await board.send(bytes);
    expect(status, body).toBe(expected);
  });

  test("that comes a byte a second is refused when that is its form, cut off when that is its head", async () => {
    const bytes = post("user=usr_1&job=1&more=012345678901234567890123456789", FORM, "Content-Length: 52");
    const body = bytes.indexOf("\r\n\r\n") + 4;
    const [form, head] = await Promise.all([
      board.send(bytes.slice(0, body), { slowly: bytes.slice(body) }), // 10 s
      board.send("GET / HTTP/1.1\r\n", { slowly: `X-Header: ${"a".repeat(50)}` }), // 12 s
    ]);
    expect(form.status).toBe(408);
    expect([head.status, head.tookMs < 40_000]).toEqual([0, true]);
  });

  test("is answered beside a thousand others that never end", async () => {
    const open = Array.from({ length: 1_000 }, () => connect(board.port, "127.0.0.1"));
    for (const socket of open) {
      socket.on("error", () => {});
      socket.write("POST /actions/redeliver HTTP/1.1\r\nHost: localhost\r\nContent-Le");
    }
    expect((await board.send(get("/", HOST))).status).toBe(200);
    for (const socket of open) socket.destroy();
  });

  test.each([
    "/users/usr_1/attempts",
    "/healthz",
    "/readyz",
    "/nowhere",
    "/board/api/queues",
    "/board",
    "/",
    "/metrics",
  ])("is answered with what no cache keeps: %s", async (path) => {
    const { head } = await board.send(get(path, HOST));
    expect(head.toLowerCase()).toContain("cache-control: no-store");
  });
});

test("an operator's name from a trusted proxy is logged without what acts on a terminal", async () => {
  const headers = [
    "Origin: http://localhost",
    "Content-Length: 0",
    "X-Forwarded-User: ada\x9b31m\x85",
    "X-Forwarded-For: 203.0.113.9",
  ];
  const put = get("/board/api/queues/resume", HOST, ...headers).replace("GET", "PUT");
  expect((await board.send(put)).status).toBe(200);
  const line = '"operator":"ada\\u009b31m\\u0085","address":"203.0.113.9"';
  await eventually(() => board.output().includes(line), Boolean);
});

test("has told no stack trace and no failure, and still serves its first page", async () => {
  const { status } = await board.send(get("/", HOST));
  expect(status).toBe(200);
  expect(board.errors()).toBe("");
  expect(board.output()).not.toMatch(/board\.failed|"level":"(error|fatal)"|\n\s+at /);
});
