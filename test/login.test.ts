/** Who may in, who has to wait, and what is said about it. */
import { afterAll, describe, expect, test } from "bun:test";
import { Hono } from "hono";
import { Registry } from "prom-client";
import { type BoardConfig, createBoardApp } from "../src/board/app.ts";
import { createBoardLog } from "../src/board/log.ts";
import { LoginTries } from "../src/board/login-tries.ts";
import { networkOf, readVisitor } from "../src/board/visitor.ts";
import { type Network, parseNetwork } from "../src/dns/address.ts";
import { openQueue } from "../src/queue/worker.ts";
import type { Logger } from "../src/runtime/logger.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { onlyShard } from "./support/only-shard.ts";
import type { Line } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const RIGHT = "correct horse";
const valkey = connectValkey(await testValkeyUrl(), "test:login", createLogger("silent").logger);
const queue = openQueue(`login-${crypto.randomUUID()}`, valkey);
afterAll(async () => {
  await queue.close();
  valkey.disconnect();
});

const networks = (...texts: string[]) => texts.map((text) => parseNetwork(text) as Network);
const basic = (password: string, user = "admin") => ({ authorization: `Basic ${btoa(`${user}:${password}`)}` });

/** A board with a clock and a log of its own. */
function openBoard(config: Partial<BoardConfig> = {}) {
  const lines: Line[] = [];
  const write = (level: string) => (fields: object, message: string) => lines.push({ level, message, ...fields });
  const logger = { info: write("info"), warn: write("warn"), error: write("error") } as unknown as Logger;
  const clock = { ms: 5 };
  const app = createBoardApp({
    ...{
      config: { ...BOARD_DEFAULTS, boardPassword: RIGHT, ...config },
      shards: onlyShard(queue.name, valkey),
      registry: new Registry(),
      logger,
    },
    monotonicNow: () => clock.ms,
  });
  /** Ask for the metrics, from an address. */
  const ask = async (from: string, headers: Record<string, string>, path = "/metrics", method = "GET") => {
    const connection = { requestIP: () => ({ address: from }) };
    return await app.request(path, { method, headers }, connection);
  };
  return { ask, lines, clock };
}

describe("guessing passwords", () => {
  test("has an address wait after ten of them, longer each time and a minute at most", async () => {
    const { ask, clock } = openBoard();
    for (let n = 0; n < 10; n++) expect((await ask("192.0.2.1", basic(`wrong ${n}`))).status).toBe(401);
    const waits: number[] = [];
    for (let n = 10; n < 20; n++) {
      const response = await ask("192.0.2.1", basic(`wrong ${n}`));
      expect([response.status, response.headers.get("www-authenticate")]).toEqual([429, null]);
      const seconds = Number(response.headers.get("retry-after"));
      waits.push(seconds);
      clock.ms += seconds * 1000;
      expect((await ask("192.0.2.1", basic(`wrong ${n}`))).status).toBe(401); // looked at again
    }
    expect(waits).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
  });

  test("leaves three thousand tries with ten that are looked at, and the right one unseen among the rest", async () => {
    const { ask } = openBoard();
    const statuses = new Map<number, number>();
    for (let n = 0; n < 3_000; n++) {
      const { status } = await ask("192.0.2.1", basic(n === 2_000 ? RIGHT : `wrong ${n}`));
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
    }
    expect(statuses).toEqual(
      new Map([
        [401, 10],
        [429, 2_990],
      ]),
    );
  });

  test("never keeps out the right password from another address", async () => {
    const { ask } = openBoard();
    for (let n = 0; n < 100; n++) await ask("2001:db8:1:2::1", basic(`wrong ${n}`));
    expect((await ask("2001:db8:1:2::99", basic(RIGHT))).status).toBe(429); // the same network
    for (const address of ["2001:db8:1:3::1", "192.0.2.1", "::ffff:192.0.2.2"]) {
      expect((await ask(address, basic(RIGHT))).status, address).toBe(200);
    }
  });

  test("is forgotten after a quarter of an hour", async () => {
    const { ask, clock } = openBoard();
    for (let n = 0; n < 10; n++) await ask("192.0.2.1", basic(`wrong ${n}`));
    clock.ms += 15 * 60 * 1000;
    for (let n = 0; n < 10; n++) expect((await ask("192.0.2.1", basic(`wrong ${n}`))).status).toBe(401);
  });

  test("is not what a program with an old password does: it keeps out nobody beside it", async () => {
    const { ask, lines } = openBoard();
    for (let n = 0; n < 100; n++) expect((await ask("192.0.2.1", basic("old password"))).status).toBe(401);
    expect((await ask("192.0.2.1", basic(RIGHT))).status).toBe(200);
    expect(lines.length).toBe(1);
  });

  test("is not what a request without a password does", async () => {
    const { ask, lines } = openBoard();
    for (let n = 0; n < 100; n++) expect((await ask("192.0.2.1", {})).status).toBe(401);
    expect((await ask("192.0.2.1", basic(RIGHT))).status).toBe(200);
    expect(lines).toEqual([]);
  });

  test.each([
    "Basic",
    "Basic !",
    "Basic YQ",
    "Bearer x",
    "Basic YWRtaW46",
    `Basic ${btoa(`${RIGHT}`)}`,
    "x".repeat(9_000),
  ])("is what any other credentials are: %s", async (authorization) => {
    const { ask } = openBoard();
    expect((await ask("192.0.2.1", { authorization })).status).toBe(401);
  });

  test("from everywhere takes no more memory than ten thousand places", () => {
    let now = 0;
    const tries = new LoginTries(() => now);
    for (let n = 0; n < 10; n++) tries.add("192.0.2.1", String(n));
    for (let n = 0; n < 20_000; n++) {
      now += 1;
      tries.add(`place ${n}`, "x");
    }
    expect(tries.isRepeated("place 19999", "x")).toBe(true);
    expect(tries.isRepeated("place 10000", "x")).toBe(true);
    expect(tries.isRepeated("place 9999", "x")).toBe(false);
    expect(tries.waitMs("192.0.2.1")).toBe(0);
  });
});

describe("board.refused", () => {
  test("is a line when it begins, not one for each request", async () => {
    const { ask, lines } = openBoard();
    for (let n = 0; n < 3_000; n++) await ask("192.0.2.1", basic(`wrong ${n}`));
    expect(lines.map(({ message, reason, address }) => ({ message, reason, address }))).toEqual([
      { message: "board.refused", reason: "wrong_password", address: "192.0.2.1" },
      { message: "board.refused", reason: "too_many_tries", address: "192.0.2.1" },
    ]);
    expect(JSON.stringify(lines)).not.toContain("wrong 0");
  });

  test("is ten lines a minute at most, from however many addresses", async () => {
    const { ask, lines } = openBoard();
    for (let n = 0; n < 500; n++) await ask(`192.0.${n >> 8}.${n & 255}`, basic("wrong"));
    expect(lines.length).toBe(10);
  });

  test("counts the rest, and tells it at the end of the minute", async () => {
    const lines: object[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    const warn = (fields: object) => {
      lines.push(fields);
      if ("counts" in fields) resolve();
    };
    const log = createBoardLog({ logger: { info: warn, warn }, trustProxy: [], windowMs: 1 });
    const app = new Hono().get("/", (c) => {
      for (let n = 0; n < 5; n++) log.refused(c, "wrong_password");
      return c.text("");
    });
    await app.request("/");
    await promise;
    expect(lines).toEqual([
      { reason: "wrong_password", operator: undefined, address: "unknown" },
      { reason: "more", counts: { wrong_password: 4 } },
    ]);
  });

  test.each([
    ["foreign_site", { origin: "https://evil.example" }, "/actions/redeliver", {}],
    [
      "foreign_site",
      { "sec-fetch-site": "cross-site", "content-type": "application/json" },
      "/board/api/queues/pause",
      {},
    ],
    ["readonly", { origin: "http://localhost" }, "/actions/redeliver", { boardReadonly: true }],
  ])("names who was refused, and why: %s", async (reason, headers, path, config) => {
    const { ask, lines } = openBoard(config);
    const method = path.startsWith("/board") ? "PUT" : "POST";
    expect((await ask("192.0.2.7", { ...basic(RIGHT), ...headers }, path, method)).status).toBe(403);
    expect(lines).toEqual([
      expect.objectContaining({
        level: "warn",
        message: "board.refused",
        reason,
        operator: "admin",
        address: "192.0.2.7",
      }),
    ]);
  });

  test("names what Bull Board was asked for", async () => {
    const { ask, lines } = openBoard();
    const path = `/board/api/queues/${queue.name}/obliterate`;
    expect((await ask("192.0.2.7", { ...basic(RIGHT), origin: "http://localhost" }, path, "PUT")).status).toBe(403);
    expect(lines).toEqual([
      expect.objectContaining({
        reason: "not_allowed",
        action: "/api/queues/:queueName/obliterate",
        operator: "admin",
      }),
    ]);
  });
});

describe("board.action", () => {
  const ACTION = ["/board/api/queues/resume", "PUT"] as const;
  const proxied = {
    ...basic(RIGHT),
    origin: "http://localhost",
    "x-forwarded-user": "ada@example.com",
    "x-forwarded-for": "203.0.113.9",
  };

  test("names the address, and the user of the login", async () => {
    const { ask, lines } = openBoard();
    expect((await ask("192.0.2.7", proxied, ...ACTION)).status).toBe(200);
    expect(lines).toEqual([
      {
        level: "info",
        message: "board.action",
        action: "/api/queues/resume",
        status: 200,
        operator: "admin",
        address: "192.0.2.7",
      },
    ]);
  });

  test("names whom a trusted proxy names, and where they come from", async () => {
    const { ask, lines } = openBoard({ boardTrustProxy: networks("192.0.2.0/28") });
    await ask("192.0.2.7", proxied, ...ACTION);
    expect(lines).toEqual([expect.objectContaining({ operator: "ada@example.com", address: "203.0.113.9" })]);
  });
});

describe("a visitor", () => {
  const visit = (peer: string, headers: Record<string, string>, ...trusted: string[]) =>
    readVisitor(
      { request: new Request("http://localhost/", { headers }), connection: { requestIP: () => ({ address: peer }) } },
      networks(...trusted),
    );
  const claim = (text: string) => ({ "x-forwarded-for": text, "x-forwarded-user": "ada" });

  test.each([
    ["nobody is trusted", "192.0.2.1", "203.0.113.9", [], { address: "192.0.2.1", name: undefined }],
    ["another is trusted", "192.0.2.1", "203.0.113.9", ["192.0.2.2"], { address: "192.0.2.1", name: undefined }],
    ["it is trusted", "192.0.2.1", "203.0.113.9", ["192.0.2.1"], { address: "203.0.113.9", name: "ada" }],
    ["it comes as IPv6", "::ffff:192.0.2.1", "203.0.113.9", ["192.0.2.1"], { address: "203.0.113.9", name: "ada" }],
    [
      "the client made up the rest",
      "10.0.0.1",
      "1.1.1.1, 203.0.113.9",
      ["10.0.0.0/8"],
      { address: "203.0.113.9", name: "ada" },
    ],
    [
      "there are two of them",
      "10.0.0.1",
      "203.0.113.9, 10.0.0.2",
      ["10.0.0.0/8"],
      { address: "203.0.113.9", name: "ada" },
    ],
    [
      "it names ports",
      "10.0.0.1",
      "203.0.113.9:4711, [fd00::2]:1",
      ["10.0.0.0/8", "fd00::/8"],
      { address: "203.0.113.9", name: "ada" },
    ],
    ["it names no address", "10.0.0.1", "unknown, _x", ["10.0.0.0/8"], { address: "10.0.0.1", name: "ada" }],
    ["it says nothing", "10.0.0.1", "", ["10.0.0.0/8"], { address: "10.0.0.1", name: "ada" }],
  ])("is who the connection or a proxy says, when %s", (_when, peer, forwarded, trusted, expected) => {
    expect(visit(peer, claim(forwarded), ...trusted)).toEqual(expected);
  });

  test.each([
    ["192.0.2.1", "192.0.2.1"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
    ["2001:db8::1", "2001:db8:0:0::/64"],
    ["::1", ":0:0:0::/64"],
    ["unknown", "unknown"],
  ])("is counted by its network: %s", (address, network) => {
    expect(networkOf(address)).toBe(network);
  });
});
