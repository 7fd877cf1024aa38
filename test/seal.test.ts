import { afterEach, describe, expect, test } from "bun:test";
import { createCipheriv, createHmac } from "node:crypto";
import { join } from "node:path";
import { Registry } from "prom-client";
import { createBoardApp } from "../src/board/app.ts";
import { createKey, isSealed, openSealed, seal } from "../src/delivery/seal.ts";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import type { Logger } from "../src/runtime/logger.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { onlyShard } from "./support/only-shard.ts";
import { jobData, type Stack, type StackOptions, startStack } from "./support/stack.ts";

const USER = "usr_42";
const KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="; // bytes 0 to 31
const OTHER_KEY = createKey();
const SECRET = "the-opened-secret-of-the-customer";
const PREFIX = "sealed:v1:";

const bytesOf = (sealed: string) => Buffer.from(sealed.slice(PREFIX.length), "base64url");
const textOf = (bytes: Uint8Array) => PREFIX + Buffer.from(bytes).toString("base64url");

/** Seal by the recipe of docs/sealed-secrets.md, as code does that checks nothing. */
function sealUnchecked(secret: string, key: string, userId: string): string {
  const nonce = crypto.getRandomValues(Buffer.alloc(12));
  const cipher = createCipheriv("aes-256-gcm", Buffer.from(key, "base64"), nonce);
  cipher.setAAD(Buffer.from(`fluxhook:${PREFIX}${userId}`));
  return textOf(Buffer.concat([nonce, cipher.update(secret, "utf8"), cipher.final(), cipher.getAuthTag()]));
}

describe("a sealed secret", () => {
  test.each([SECRET, "x", "whsec_Zmx1eGhvb2s=", "größe 🔑", "ü".repeat(1024), "漢".repeat(1024)])(
    "opens to what it was: %p",
    (secret) => {
      const sealed = seal(secret, KEY, USER);
      expect(isSealed(sealed)).toBe(true);
      expect(openSealed(sealed, [KEY], USER)).toBe(secret);
      expect(openSealed(sealed, [Buffer.from(KEY, "base64")], USER)).toBe(secret);
      expect(sealed.length).toBeLessThanOrEqual(4_200); // what the contract takes
    },
  );

  // Made with AESGCM of Python's cryptography 48.0.0: nonce bytes 100 to 111, associated data "fluxhook:sealed:v1:usr_42".
  test.each([
    ["sealed:v1:ZGVmZ2hpamtsbW5vP3OtAxq2DPNGUzqvshMIzzH_Uyfw0N5-RevognkYTWEmBQ", "whsec_Zmx1eGhvb2s="],
    ["sealed:v1:ZGVmZ2hpamtsbW5vL2kd0Lp2M77O_ct5bw-OBsb1GDX8rac0usPAFQ", "größe 🔑"],
  ])("made by code that is not ours opens: %s", (sealed, secret) => {
    expect(openSealed(sealed, [KEY], USER)).toBe(secret);
    expect(openSealed(`${sealed}==`, [KEY], USER)).toBe(secret); // padded, as many languages do
  });

  test("differs each time, and does not contain the secret", () => {
    const sealed = Array.from({ length: 100 }, () => seal(SECRET, KEY, USER));
    expect(new Set(sealed).size).toBe(100);
    expect(new Set(sealed.map((text) => bytesOf(text).toString("hex", 0, 12))).size).toBe(100);
    expect(sealed.map((text) => bytesOf(text).toString("latin1")).join()).not.toContain(SECRET.slice(0, 8));
  });

  test("does not open with another key, without one, or for another user", () => {
    const sealed = seal(SECRET, KEY, USER);
    expect(openSealed(sealed, [OTHER_KEY], USER)).toBeUndefined();
    expect(openSealed(sealed, [], USER)).toBeUndefined();
    for (const user of ["usr_43", "usr_4", "usr_422", "", "USR_42"]) {
      expect(openSealed(sealed, [KEY], user)).toBeUndefined();
    }
  });

  test("opens with any of the worker's keys, so that keys can be changed", () => {
    const [current, old] = [seal(SECRET, KEY, USER), seal("older", OTHER_KEY, USER)];
    expect([current, old].map((sealed) => openSealed(sealed, [KEY, OTHER_KEY], USER))).toEqual([SECRET, "older"]);
    expect([current, old].map((sealed) => openSealed(sealed, [KEY], USER))).toEqual([SECRET, undefined]);
  });

  test("does not open when any bit of it was changed", () => {
    const bytes = bytesOf(seal(SECRET, KEY, USER));
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const changed = Buffer.from(bytes);
      changed[bit >> 3] = (changed[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(openSealed(textOf(changed), [KEY], USER)).toBeUndefined();
    }
  });

  test("does not open when it was cut off, lengthened or put together anew", () => {
    const bytes = bytesOf(seal(SECRET, KEY, USER));
    const other = bytesOf(seal(SECRET, KEY, USER));
    for (let length = 0; length < bytes.length; length++) {
      expect(openSealed(textOf(bytes.subarray(0, length)), [KEY], USER)).toBeUndefined();
      expect(openSealed(textOf(bytes.subarray(bytes.length - length)), [KEY], USER)).toBeUndefined();
    }
    expect(openSealed(textOf(Buffer.concat([bytes, Buffer.from([0])])), [KEY], USER)).toBeUndefined();
    expect(openSealed(textOf(Buffer.concat([bytes.subarray(0, 12), other.subarray(12)])), [KEY], USER)).toBeUndefined();
  });

  test.each(["", PREFIX, `${PREFIX}!!!`, `${PREFIX}${"!".repeat(100)}`, `${PREFIX}größe`, "sealed:v2:AAAA", SECRET])(
    "is not %p",
    (text) => expect(openSealed(text, [KEY], USER)).toBeUndefined(),
  );
});

test.each<[unknown, string]>([
  ["", "expected a non-empty string"],
  ["x".repeat(1025), "expected at most 1024 characters"],
  [`${SECRET}\n`, "expected no blank or line break at its ends: trim it"],
  [`"${SECRET}"`, "expected no quotes around it: leave them out"],
  [`v1,whsec_${btoa(SECRET)}`, "expected whsec_ at its beginning: take away the v1, before it"],
  [`${PREFIX}${"A".repeat(60)}`, "expected a plain secret: this one is sealed already"],
  ["sealed:v2:AAAA", "expected a sealed secret to be sealed:v1: and base64url, with nothing around it"],
  [undefined, "expected a string"],
])("what is no secret is not sealed: %p", (secret, reason) => {
  const refused = expect(() => seal(secret as string, KEY, USER));
  refused.toThrow(new RangeError(`the secret to seal: ${reason}`));
});

describe("a sealing key", () => {
  test("is 32 random bytes in base64, as WEBHOOK_SECRET_KEYS takes them", () => {
    const keys = Array.from({ length: 50 }, createKey);
    for (const key of keys) expect(key).toMatch(/^[A-Za-z0-9+/]{43}=$/);
    expect(new Set(keys).size).toBe(50);
  });

  test.each(["", "short", KEY.slice(0, -4), `AAAA${KEY}`, "!".repeat(44)])("of another size is refused: %p", (key) => {
    expect(() => seal(SECRET, key, USER)).toThrow(RangeError);
    expect(() => openSealed(seal(SECRET, KEY, USER), [key], USER)).toThrow(RangeError);
  });

  test("is printed by `bun src/cli.ts key`", async () => {
    const child = Bun.spawn([process.execPath, "src/cli.ts", "key"], {
      cwd: join(import.meta.dir, ".."),
      timeout: 5_000,
    });
    const key = (await new Response(child.stdout).text()).trimEnd();
    expect(await child.exited).toBe(0);
    expect(openSealed(seal(SECRET, key, USER), [key], USER)).toBe(SECRET);
  });
});

describe("a delivery with a sealed secret", () => {
  const open: { stop(): Promise<void> }[] = [];
  const keys = (...texts: string[]) => texts.map((text) => Buffer.from(text, "base64"));

  afterEach(async () => {
    for (const { stop } of open.splice(0).reverse()) await stop();
  });

  async function start(options: StackOptions): Promise<{ customer: Receiver; system: Stack }> {
    const customer = await startReceiver();
    open.push(customer);
    const system = await startStack(options);
    open.push(system);
    return { customer, system };
  }

  const sealedFor = (customer: Receiver, secret: string | string[], userId: string) =>
    jobData(customer.url(), { userId, endpoint: { url: customer.url(), secret } });

  /** Everything that is kept of a job, and everything that anybody is shown. */
  async function trail({ valkey, queue, lines, metrics }: Stack, id: string, userId: string): Promise<string> {
    const app = createBoardApp({
      config: BOARD_DEFAULTS,
      shards: onlyShard(queue.name, valkey),
      registry: new Registry(),
      logger: { info() {}, error() {} } as unknown as Logger,
    });
    const paths = [
      `/board/api/queues?activeQueue=${queue.name}&status=latest`,
      `/board/api/queues/${queue.name}/${id}`,
      `/board/api/queues/${queue.name}/${id}/logs`,
      `/users/${userId}/attempts`,
    ];
    const answers = await Promise.all(paths.map(async (path) => (await app.request(path)).text()));
    const stored = await valkey.hgetall(queue.toKey(id));
    const events = await valkey.xrange(queue.toKey("events"), "-", "+");
    return JSON.stringify([answers, stored, events, lines, await metrics.registry.metrics()]);
  }

  test.each([200, 500])("is signed with what was sealed, which is nowhere to be seen (%p)", async (status) => {
    const { customer, system } = await start({ secretKeys: keys(KEY, OTHER_KEY) });
    customer.answer({ status });
    const userId = `usr_${crypto.randomUUID()}`;
    const sealed = [seal(SECRET, KEY, userId), seal("whsec_b2xkZXItc2VjcmV0", OTHER_KEY, userId)];
    const job = await system.queue.add("file.created", sealedFor(customer, sealed, userId));
    const { state } = await system.settled(job);
    expect(state).toBe(status === 200 ? "completed" : "failed");
    expect(customer.requests).toHaveLength(status === 200 ? 1 : 3);
    for (const { body, headers } of customer.requests) {
      const mac = (key: string | Buffer) =>
        createHmac("sha256", key).update(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`).update(body);
      const old = Buffer.from("b2xkZXItc2VjcmV0", "base64");
      expect(headers["x-fluxdrop-signature"]).toBe(createHmac("sha256", SECRET).update(body).digest("hex"));
      expect(headers["webhook-signature"]).toBe(`v1,${mac(SECRET).digest("base64")} v1,${mac(old).digest("base64")}`);
    }
    const all = await trail(system, job.id as string, userId);
    expect(all).toContain(userId);
    for (const secret of [SECRET, "b2xkZXItc2VjcmV0", "older-secret", KEY]) expect(all).not.toContain(secret);
  });

  test.each<[string, StackOptions, (userId: string) => string, string]>([
    ["no keys", {}, (userId) => seal(SECRET, KEY, userId), "sealed, but WEBHOOK_SECRET_KEYS is not set"],
    [
      "another key",
      { secretKeys: keys(OTHER_KEY) },
      (userId) => seal(SECRET, KEY, userId),
      "sealed with another key or for another user, or damaged",
    ],
    [
      "another user's",
      { secretKeys: keys(KEY) },
      () => seal(SECRET, KEY, "usr_other"),
      "sealed with another key or for another user, or damaged",
    ],
    [
      "too long a one",
      { secretKeys: keys(KEY) },
      (userId) => sealUnchecked("x".repeat(1025), KEY, userId),
      "once opened, expected at most 1024 characters",
    ],
    [
      "an empty one",
      { secretKeys: keys(KEY) },
      (userId) => sealUnchecked("", KEY, userId),
      "once opened, expected a non-empty string",
    ],
    [
      "one with a line break",
      { secretKeys: keys(KEY) },
      (userId) => sealUnchecked(`${SECRET}\n`, KEY, userId),
      "once opened, expected no blank or line break at its ends: trim it",
    ],
    [
      "one that was sealed twice",
      { secretKeys: keys(KEY) },
      (userId) => sealUnchecked(seal(SECRET, KEY, userId), KEY, userId),
      "once opened, expected a plain secret: this one is sealed already",
    ],
    [
      "one of another form",
      { secretKeys: keys(KEY) },
      (userId) => seal(SECRET, KEY, userId).replace("v1", "v2"),
      "expected a sealed secret to be sealed:v1: and base64url, with nothing around it",
    ],
    [
      "one with a blank before it",
      { secretKeys: keys(KEY) },
      (userId) => ` ${seal(SECRET, KEY, userId)}`,
      "expected no blank or line break at its ends: trim it",
    ],
  ])("that does not open (%s) fails at once, says why, and sends nothing", async (_, options, sealedBy, reason) => {
    const { customer, system } = await start(options);
    const userId = `usr_${crypto.randomUUID()}`;
    const sealed = sealedBy(userId);
    const job = await system.queue.add("file.created", sealedFor(customer, ["current", sealed], userId));
    const { state, job: ended } = await system.settled(job);
    expect([state, ended.attemptsMade]).toEqual(["failed", 1]);
    expect(ended.failedReason).toBe(`data.endpoint.secret.1: ${reason}`);
    expect(customer.connections).toBe(0);
    const { data, ...rest } = await system.stored(job);
    expect(data).toContain(sealed);
    expect(JSON.stringify([rest, system.lines])).not.toContain(sealed.slice(PREFIX.length, PREFIX.length + 20));
    expect(await trail(system, job.id as string, userId)).not.toContain(SECRET);
  });

  test("is retried by hand once the worker has the key", async () => {
    const { customer, system } = await start({});
    const userId = `usr_${crypto.randomUUID()}`;
    const job = await system.queue.add("file.created", sealedFor(customer, seal(SECRET, KEY, userId), userId));
    await system.settled(job);
    await system.worker.close();
    const restarted = await startStack({ queue: system.queue.name, secretKeys: keys(KEY) });
    open.push(restarted);
    const again = restarted.settled(job);
    await (await restarted.queue.getJob(job.id as string))?.retry("failed");
    expect((await again).state).toBe("completed");
    expect(customer.requests).toHaveLength(1);
  });
});
