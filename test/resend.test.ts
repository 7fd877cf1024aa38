/** Commands that Valkey refuses for now, many at once: they wait in order, and few are refused again. */
import { afterAll, expect, test } from "bun:test";
import { Redis } from "ioredis";
import { startValkey } from "../src/dev/valkey.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { eventually } from "./support/stack.ts";

const COMMANDS = 500;

const valkey = await startValkey({ appendonly: false });
const admin = new Redis(valkey.url);
const lines: [message: string, fields: object][] = [];
const log = (fields: object, message: string) => void lines.push([message, fields]);
const connection = connectValkey(valkey.url, "test:resend", { info: log, warn: log });
afterAll(async () => {
  connection.disconnect();
  admin.disconnect();
  await valkey.stop();
});

const refused = async () => Number(/errorstat_NOREPLICAS:count=(\d+)/.exec(await admin.info("errorstats"))?.[1] ?? 0);

test("five hundred refused commands are not sent again until one was taken, then all are, each once and in order", async () => {
  await admin.config("SET", "min-replicas-to-write", 1);
  const pushes = Array.from({ length: COMMANDS }, (_, index) => connection.rpush("list", index));
  const sets = Array.from({ length: COMMANDS }, () =>
    connection.eval('return redis.call("INCR", KEYS[1])', 1, "count"),
  );
  await eventually(refused, (count) => count > 2 * COMMANDS + 4); // all, and two tries of the two kinds
  expect(await refused()).toBeLessThan(2 * COMMANDS + 20);
  await admin.config("SET", "min-replicas-to-write", 0);
  expect(await Promise.all(pushes)).toEqual(Array.from({ length: COMMANDS }, (_, index) => index + 1));
  expect(await Promise.all(sets)).toEqual(Array.from({ length: COMMANDS }, (_, index) => index + 1));
  expect(await admin.lrange("list", 0, -1)).toEqual(Array.from({ length: COMMANDS }, (_, index) => String(index)));
  expect(lines).toEqual([
    ["valkey.refuses", { connection: "test:resend", reason: expect.stringMatching(/^NOREPLICAS /) }],
    ["valkey.accepts", { connection: "test:resend" }],
  ]);
});
