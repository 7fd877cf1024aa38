/** Headers of registered endpoints: which are refused, how they are kept, and that receivers get them. */
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { createKey, openSealed, sealText } from "../src/delivery/seal.ts";
import { endpointsKey } from "../src/queue/own-keys.ts";
import { DENIED_HEADERS, isDenied } from "../src/registry/headers.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { UsageError } from "../src/runtime/usage-error.ts";
import { openValkey } from "../src/valkey/connection.ts";
import { endAll, HOUR_MS, inTurn, receiver, stack, trail } from "./support/deliveries.ts";
import { eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

afterEach(endAll);
const valkey = openValkey(await testValkeyUrl(), {});
afterAll(() => valkey.disconnect());

const KEY = createKey();
const KEYS = [Buffer.from(KEY, "base64")];
const registry = createRegistry(valkey, { secretKeys: [KEY] });
const newUser = () => `usr_${crypto.randomUUID()}`;
const URL_A = "https://example.com/webhooks";
const refusalOf = async (headers: unknown): Promise<string> => {
  const error = await registry.create(newUser(), { url: URL_A, headers: headers as Record<string, string> }).then(
    () => expect.unreachable("expected a refusal"),
    (reason: Error) => reason,
  );
  expect(error).toBeInstanceOf(UsageError);
  return error.message;
};

describe("a header that an endpoint may not have", () => {
  const examples = DENIED_HEADERS.flatMap((name) => {
    const endings: Record<string, string[]> = {
      "content-*": ["Content-Type", "Content-Length", "content-encoding"],
      "x-forwarded-*": ["X-Forwarded-For", "x-forwarded-host"],
      "proxy-*": ["Proxy-Authorization", "proxy-connection"],
      "sec-*": ["Sec-Fetch-Mode"],
      "webhook-*": ["webhook-id", "Webhook-Signature"],
      "x-fluxdrop-*": ["X-Fluxdrop-Signature"],
      "x-aws-ec2-metadata-*": ["X-aws-ec2-metadata-token"],
      "x-goog-*": ["X-Goog-Metadata-Request"],
      "x-amz-*": ["X-Amz-Security-Token"],
    };
    return endings[name] ?? [name, name.toUpperCase()];
  });

  test.each(examples)("refuses %s", async (name) => {
    const message = await refusalOf({ "X-Fine": "fine", [name]: "a-secret-value" });
    expect(message).toBe(`headers.${name}: not a header that an endpoint may have`);
  });

  test("is none that customers need", () => {
    for (const name of [
      "Authorization",
      "X-Api-Key",
      "X-Tenant",
      "Accept",
      "Date",
      "X-Forwarded",
      "Securely",
      "Host-Id",
    ]) {
      expect([name, isDenied(name)]).toEqual([name, false]);
    }
  });
});

describe("an endpoint's headers", () => {
  test.each([
    ["a line break", "a\r\nX-Injected: 1"],
    ["a null byte", "a\0b"],
    ["a tab", "a\tb"],
    ["another alphabet", "Schlüssel"],
    ["a space at its end", "token "],
    ["nothing", ""],
    ["1,025 characters", "x".repeat(1025)],
    ["a number", 7],
  ])("are refused with a value that has %s, which the message does not show", async (_, value) => {
    const message = await refusalOf({ "X-Token": value });
    expect(message).toStartWith("headers.X-Token: expected");
    if (typeof value === "string" && value !== "") expect(message).not.toContain(value);
  });

  test.each(["X Token", "X_Token", "X-Tökén", "", "X:Token", "X\r\nY", "x".repeat(65)])(
    "are refused with the name %j",
    async (name) => {
      expect(await refusalOf({ [name]: "value" })).toBe(
        "headers: expected names of 1 to 64 letters, digits and hyphens",
      );
    },
  );

  test("are refused when there are too many, too much, or one of them twice", async () => {
    const many = Object.fromEntries(Array.from({ length: 21 }, (_, n) => [`X-${n}`, "value"]));
    expect(await refusalOf(many)).toBe("headers: expected at most 20 headers");
    const large = Object.fromEntries(Array.from({ length: 5 }, (_, n) => [`X-${n}`, "v".repeat(1000)]));
    expect(await refusalOf(large)).toBe("headers: expected at most 4096 bytes together");
    expect(await refusalOf({ "X-Token": "one", "x-token": "two" })).toContain("expected each header once");
    expect(await refusalOf("X-Token: one")).toBe("headers: expected an object of at most 20 strings");
  });

  test("are sealed in Valkey, and shown without their values: the last four characters of long ones", async () => {
    const userId = newUser();
    const headers = { Authorization: 'Bearer "a-long-token" 9f2c', "X-Pin": "1234567" };
    const { endpoint } = await registry.create(userId, { url: URL_A, id: "main", headers });
    expect(endpoint.headers).toEqual({ Authorization: "…9f2c", "X-Pin": "…" });
    expect(await registry.get(userId, "main")).toMatchObject({ headers: endpoint.headers });
    const stored = (await valkey.hget(endpointsKey(userId), "main")) as string;
    for (const part of ["long-token", "Bearer", "1234567"]) expect(stored).not.toContain(part);
    const sealed = stored
      .match(/sealed:v1:[\w-]+/g)
      ?.slice(-2)
      .map((text) => openSealed(text, [KEY], userId));
    expect(sealed).toEqual(Object.values(headers));
  });

  test("are refused without a key, unless they are sealed already or plain ones are allowed", async () => {
    const userId = newUser();
    const [keyless, open] = [createRegistry(valkey), createRegistry(valkey, { allowPlain: true })];
    await registry.create(userId, { url: URL_A, id: "main" });
    const refused = keyless.update(userId, "main", { headers: { "X-Token": "a-secret-value" } });
    await expect(refused).rejects.toThrow("headers.X-Token: expected a key to seal it with");
    const sealed = sealText("a-secret-value", KEY, userId);
    await keyless.update(userId, "main", { headers: { "X-Token": sealed } });
    expect((await registry.get(userId, "main")).headers).toEqual({ "X-Token": "…" });
    await open.update(userId, "main", { headers: { "X-Token": "a-plain-value" } });
    expect((await registry.get(userId, "main")).headers).toEqual({ "X-Token": "…alue" });
    const evil = registry.update(userId, "main", { headers: { "X-Token": sealText("a\r\nHost: b", KEY, userId) } });
    await expect(evil).rejects.toThrow("headers.X-Token: expected visible ASCII");
  });

  test("put twice are written once, and a changed one leaves the others as they are", async () => {
    const userId = newUser();
    const settings = { url: URL_A, headers: { "X-One": "first-value", "X-Two": "second-value" } };
    const first = await registry.put(userId, "main", settings);
    const before = await valkey.hgetall(endpointsKey(userId));
    const swapped = { "X-Two": "second-value", "X-One": "first-value" };
    expect((await registry.put(userId, "main", { ...settings, headers: swapped })).endpoint).toEqual(first.endpoint);
    expect(await registry.update(userId, "main", { description: "" })).toEqual(first.endpoint);
    expect(await valkey.hgetall(endpointsKey(userId))).toEqual(before);
    const headers = { ...settings.headers, "X-Two": "another-value" };
    const changed = await registry.update(userId, "main", { headers });
    expect(changed.version).not.toBe(first.endpoint.version);
    const now = (await valkey.hget(endpointsKey(userId), "main"))?.match(/sealed:v1:[\w-]+/g) ?? [];
    const all = before.main?.match(/sealed:v1:[\w-]+/g) ?? []; // of the secret and the two headers
    expect(now.slice(0, 2)).toEqual(all.slice(0, 2));
    expect(now[2]).not.toBe(all[2]);
    expect((await registry.put(userId, "main", { url: URL_A })).endpoint.headers).toEqual({});
  });
});

describe("a receiver", () => {
  test("gets them with each attempt, as they are by then, beside ours and signed as ever", async () => {
    const customer = await receiver();
    customer.answer(inTurn(500, 200));
    const policy = { attempts: 2, delaysMs: [HOUR_MS], jitter: 0 };
    const system = await stack({ secretKeys: KEYS, policy });
    const userId = newUser();
    const headers = { Authorization: "Bearer the-first-token", "X-Tenant": "acme and sons" };
    await registry.create(userId, { url: customer.url(), id: "main", headers });
    const job = await system.queue.add("file.created", { userId, endpoint: { id: "main" }, data: { n: 1 } });
    await eventually(
      () => system.queue.getDelayedCount(),
      (count) => count === 1,
    );
    await registry.update(userId, "main", { headers: { ...headers, Authorization: "Bearer the-second-token" } });
    await (await system.queue.getJob(job.id as string))?.promote();
    expect((await system.settled(job)).state).toBe("completed");
    const got = customer.requests.map(({ headers }) => [headers.authorization, headers["x-tenant"]]);
    expect(got).toEqual([
      ["Bearer the-first-token", "acme and sons"],
      ["Bearer the-second-token", "acme and sons"],
    ]);
    expect(customer.requests[0]?.headers["user-agent"]).toBe("Fluxhook/1.0");
    expect(customer.requests[0]?.rawHeaders).toContain("X-Tenant");
  });

  test("gets nothing that was smuggled into a sealed value: the event fails, and says which header it is", async () => {
    const customer = await receiver();
    const system = await stack({ secretKeys: KEYS });
    const userId = newUser();
    const sealed = sealText("a\r\nX-Injected: 1", KEY, userId);
    await createRegistry(valkey, { allowPlain: true }).create(userId, {
      ...{ url: customer.url(), id: "main", headers: { "X-Token": sealed } },
    });
    const job = await system.queue.add("file.created", { userId, endpoint: { id: "main" }, data: { n: 1 } });
    const settled = await system.settled(job);
    expect([settled.state, settled.job.failedReason]).toEqual([
      "failed",
      "endpoint main: header X-Token: expected visible ASCII characters, with spaces only between them",
    ]);
    expect(customer.connections).toBe(0);
  });

  test("that echoes them has them masked, and nothing that is stored or printed has them", async () => {
    const customer = await receiver();
    customer.answer(({ headers }) => ({ status: 400, body: JSON.stringify({ headers, again: "leak-token-7f" }) }));
    const system = await stack({ secretKeys: KEYS, policy: { attempts: 1, delaysMs: [], jitter: 0 } });
    const userId = newUser();
    const headers = { Authorization: "Bearer leak-token-7f", "X-Pin": "leak" };
    await registry.create(userId, { url: customer.url(), id: "main", headers });
    const job = await system.queue.add("file.created", { userId, endpoint: { id: "main" }, data: { n: 1 } });
    expect((await system.settled(job)).state).toBe("failed");
    expect(customer.requests[0]?.headers["x-pin"]).toBe("leak");
    const log = await system.attempts(userId);
    expect(log).toMatchObject([{ status_code: 400 }]);
    const kept = (await Promise.all((await valkey.keys(`*${userId}*`)).map((key) => valkey.dump(key)))).join();
    for (const text of [await trail(system, job), JSON.stringify([log, await system.stored(job)]), kept]) {
      expect(text).not.toContain("leak");
    }
  });
});
