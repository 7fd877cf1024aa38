/** What a worker keeps of thousands of endpoints: idle connections within bounds, and no memory for good. */
import { afterEach, expect, test } from "bun:test";
import { createServer, type Socket } from "node:net";
import { errorCode } from "../src/delivery/outcome.ts";
import type { Address } from "../src/dns/address.ts";
import { endAll, open, stack } from "./support/deliveries.ts";
import { http } from "./support/listener.ts";
import { bounded, eventually, jobData } from "./support/stack.ts";

const MIB = 1024 * 1024;
afterEach(endAll);

const loopback: Address[] = [{ address: "127.0.0.1", family: 4 }];

/** Collect garbage, and say what is left, in bytes. */
function residentBytes(): number {
  Bun.gc(true);
  return process.memoryUsage.rss();
}

test("13,000 endpoints leave no more than 2,048 idle connections, which end, and their memory is used again", async () => {
  const ENDPOINTS = 13_000;
  const EVENTS = 3_000;
  const MAX_IDLE = 2_048;
  const SLOTS = 256;
  const system = await stack({ resolve: async () => loopback, concurrency: SLOTS });

  const sockets = new Set<Socket>();
  let most = 0;
  const server = createServer((socket) => {
    sockets.add(socket);
    most = Math.max(most, sockets.size);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => {});
    socket.on("data", () => socket.write(http(200)));
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  open.push({
    async stop() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((closed) => server.close(() => closed()));
    },
  });
  const { port } = server.address() as { port: number };

  let made = 0;
  const nextUrl = () => `http://h${++made}.example:${port}/`;

  // First as events, more than may be idle. One user for all: the log is not what this is about.
  const userId = `usr_${crypto.randomUUID()}`;
  const all = Promise.withResolvers<void>();
  let delivered = 0;
  system.worker.on("completed", () => {
    delivered += 1;
    if (delivered === EVENTS) all.resolve();
  });
  const bytesAtStart = residentBytes();
  const startedAt = performance.now();
  while (made < EVENTS) {
    const data = () => jobData(nextUrl(), { userId });
    await system.queue.addBulk(Array.from({ length: 1000 }, () => ({ name: "file.created", data: data() })));
  }
  await bounded(all.promise, () => `${EVENTS} deliveries, got ${delivered}`, 20_000);
  const eventsMs = performance.now() - startedAt;
  expect((residentBytes() - bytesAtStart) / MIB).toBeLessThan(400); // the events and their log lines are kept for tests

  // Then 10,000 others through the same sender alone, since this process keeps every job for the tests.
  const outcomes = new Set<string>();
  const send = async (upTo: number): Promise<void> => {
    while (made < upTo) {
      const url = new URL(nextUrl());
      const head = `Host: ${url.host}\r\nContent-Length: 2\r\n`;
      outcomes.add(
        errorCode(await system.sender.send({ url, head, body: Buffer.from("{}") }, url.host)) ?? "delivered",
      );
    }
  };
  const sendAll = (upTo: number) => Promise.all(Array.from({ length: SLOTS }, () => send(upTo)));
  await sendAll((EVENTS + ENDPOINTS) / 2);
  const bytesBefore = residentBytes();
  await sendAll(ENDPOINTS);
  const grownMiB = (residentBytes() - bytesBefore) / MIB;
  expect([...outcomes]).toEqual(["delivered"]);
  // Above the idle ones: those in use, and those whose closing the server has yet to see.
  expect(most).toBeLessThanOrEqual(MAX_IDLE + 4 * SLOTS);
  await eventually(
    () => sockets.size,
    (size) => size <= MAX_IDLE,
    1000,
  );
  const idleAt = performance.now();
  await eventually(
    () => sockets.size,
    (size) => size === 0,
    8_000,
  );
  const endedMs = performance.now() - idleAt;
  if (process.env.HOSTILE_FIGURES) console.error({ eventsMs, most, endedMs, grownMiB, rssMiB: bytesBefore / MIB });
  expect(grownMiB).toBeLessThan(64); // 13 KiB for each of the last 5,000 would be over it
  expect(await system.queue.getFailedCount()).toBe(0);
}, 50_000);
