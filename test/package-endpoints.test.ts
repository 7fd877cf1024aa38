/** `fluxhook.endpoints`, as a backend calls it. */
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { createKey, isSealed } from "../src/delivery/seal.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { createFluxhook, type Endpoint, type FluxhookOptions, type NewEvent, ValkeyAwayError } from "../src/index.ts";
import { endpointsKey } from "../src/queue/own-keys.ts";
import { homeOf } from "../src/queue/shards.ts";
import { openValkey } from "../src/valkey/connection.ts";
import { verify } from "../src/verify.ts";
import { endAll, receiver, stack } from "./support/deliveries.ts";
import { eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const KEY = createKey();
const URL_A = "https://example.com/webhooks";
const valkeyUrl = await testValkeyUrl();
const valkey = openValkey(valkeyUrl, {});
const made: { close(): Promise<void> }[] = [];
const connect = (options: FluxhookOptions = {}) => {
  const fluxhook = createFluxhook({ valkeyUrl, sealingKey: KEY, timeoutMs: 10_000, ...options });
  made.push(fluxhook);
  return fluxhook;
};
const fluxhook = connect();
const { endpoints } = fluxhook;
afterEach(endAll);
afterAll(async () => {
  await Promise.all(made.map((one) => one.close()));
  valkey.disconnect();
});

const newUser = () => `usr_${crypto.randomUUID()}`;
const errorOf = (promise: Promise<unknown>): Promise<Error> =>
  promise.then(
    () => expect.unreachable("expected a rejection"),
    (error: Error) => error,
  );

describe("a backend", () => {
  test("registers an endpoint, enqueues for it by its id, and the customer verifies with the secret returned once", async () => {
    const customer = await receiver();
    const system = await stack({ secretKeys: [Buffer.from(KEY, "base64")] });
    const own = connect({ queue: system.queue.name });
    const userId = newUser();
    const { endpoint, secret } = await own.endpoints.create(userId, { url: customer.url("/in"), events: ["file.*"] });
    const { id } = await own.enqueue({ event: "file.created", userId, endpoint: { id: endpoint.id }, data: { n: 1 } });
    expect((await system.settled({ id })).state).toBe("completed");
    const { body, headers, path } = await customer.next();
    expect([path, verify(body, headers as Record<string, string>, secret).ok]).toEqual(["/in", true]);
    const job = await system.queue.getJob(id);
    expect(job?.data.endpoint).toEqual({ id: endpoint.id });
  });

  test("clears each optional setting with null, and registers with null as with nothing", async () => {
    const userId = newUser();
    const bare = await endpoints.create(userId, { url: URL_A, id: "bare" });
    const empty = { description: null, events: null, rateLimit: null, headers: null, metadata: null };
    const shown = ({ url, description, events, rateLimit, headers, metadata }: Endpoint) => ({
      ...{ url, description, events, rateLimit, headers, metadata },
    });
    const full = {
      ...{ url: URL_A, description: "CRM", events: ["file.*"], rateLimit: { perSecond: 5 } },
      ...{ headers: { "X-Key": "0123456789abcdef" }, metadata: { plan: "team" } },
    };
    await endpoints.create(userId, { ...full, id: "main" });
    for (const [name, value] of Object.entries(empty)) {
      const before = shown(await endpoints.get(userId, "main"));
      const after = shown(await endpoints.update(userId, "main", { [name]: value }));
      expect(after).toEqual({ ...before, [name]: shown(bare.endpoint)[name as keyof typeof empty] });
      expect(after).not.toEqual(before);
    }
    expect(shown(await endpoints.get(userId, "main"))).toEqual(shown(bare.endpoint));
    const { endpoint } = await endpoints.create(userId, { url: URL_A, ...empty });
    const put = await endpoints.put(userId, "put", { url: URL_A, ...empty });
    expect([shown(endpoint), shown(put.endpoint)]).toEqual([shown(bare.endpoint), shown(bare.endpoint)]);
    const refused = await errorOf(endpoints.update(userId, "main", { url: null } as never));
    expect(refused).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining("url: ") });
  });

  test("goes through an endpoint's whole life", async () => {
    const userId = newUser();
    const { endpoint, secret } = await endpoints.create(userId, { url: URL_A, id: "main" });
    expect(secret).toMatch(/^whsec_/);
    expect(await endpoints.get(userId, "main")).toMatchObject(endpoint);
    const updated = await endpoints.update(userId, "main", { description: "CRM" }, { ifVersion: endpoint.version });
    expect(updated.description).toBe("CRM");
    const stale = await errorOf(endpoints.update(userId, "main", { url: URL_A }, { ifVersion: endpoint.version }));
    expect(stale).toMatchObject({ name: "ConflictError", code: "CONFLICT" });
    const rotated = await endpoints.rotate(userId, "main", { graceSeconds: 60 });
    expect([rotated.secret === secret, rotated.endpoint.secrets.length]).toEqual([false, 2]);
    expect((await endpoints.pause(userId, "main")).state.kind).toBe("paused");
    expect((await endpoints.resume(userId, "main")).state.kind).toBe("enabled");
    expect((await endpoints.disable(userId, "main")).state).toMatchObject({ kind: "disabled", reason: "manual" });
    expect((await endpoints.enable(userId, "main")).state.kind).toBe("enabled");
    expect((await endpoints.put(userId, "main", { url: URL_A })).secret).toBeUndefined();
    expect(await endpoints.list(userId)).toHaveLength(1);
    expect(await endpoints.delete(userId, "main")).toBeUndefined();
    expect(await endpoints.list(userId)).toEqual([]);
    expect(await errorOf(endpoints.get(userId, "main"))).toMatchObject({ name: "NotFoundError", code: "NOT_FOUND" });
  });

  test("stores secrets sealed with its key, and without one only if it says so", async () => {
    const userId = newUser();
    await endpoints.create(userId, { url: URL_A, id: "sealed" });
    const refused = await errorOf(connect({ sealingKey: undefined }).endpoints.create(userId, { url: URL_A }));
    expect(refused).toMatchObject({ code: "INVALID_ARGUMENT" });
    expect(refused.message).toContain("allowPlainSecrets");
    const plain = connect({ sealingKey: undefined, allowPlainSecrets: true });
    await plain.endpoints.create(userId, { url: URL_A, id: "plain", secret: "a-plain-secret" });
    const stored = await valkey.hgetall(endpointsKey(userId));
    const secretOf = (id: string) => JSON.parse((stored[id] as string).replace(/^\S+ /, "")).secrets[0].secret;
    expect([isSealed(secretOf("sealed")), secretOf("plain")]).toEqual([true, "a-plain-secret"]);
  });

  test("with event types of its own filters by those alone", async () => {
    const own = connect({ events: ["invoice.paid"] });
    const userId = newUser();
    await own.endpoints.create(userId, { url: URL_A, events: ["invoice.*"] });
    const error = await errorOf(own.endpoints.create(userId, { url: URL_A, events: ["file.created"] }));
    expect(error.message).toContain("events.0: expected one of invoice.paid");
  });

  test("finds a user's endpoints in the user's home shard alone", async () => {
    const other = await startValkey();
    const clients = [valkey, openValkey(other.url, {})];
    try {
      const sharded = connect({ valkeyUrl: `${valkeyUrl} ${other.url}`, shards: 2 });
      const users = Array.from({ length: 8 }, newUser);
      for (const userId of users) {
        const { endpoint } = await sharded.endpoints.create(userId, { url: URL_A });
        expect(await sharded.endpoints.list(userId)).toMatchObject([endpoint]);
        const home = homeOf(userId, 2);
        const held = await Promise.all(
          clients.map((one, n) => one.exists(endpointsKey(userId, n === 0 ? "" : "{1}:"))),
        );
        expect(held).toEqual([home === 0 ? 1 : 0, home === 1 ? 1 : 0]);
      }
      await sharded.close();
    } finally {
      clients[1]?.disconnect();
      await other.stop();
    }
  });
});

describe("misuse", () => {
  const { endpoints } = connect({ valkeyUrl: "redis://127.0.0.1:1", timeoutMs: 60_000 }); // nothing listens there
  const CALLS: [what: string, call: () => Promise<unknown>, message: string][] = [
    ["no endpoint", () => endpoints.create("u", undefined as never), "expected the endpoint to be an object"],
    ["a typo", () => endpoints.create("u", { url: URL_A, secert: "x" } as never), "did you mean secret?"],
    ["a secret in an update", () => endpoints.update("u", "e", { secret: "x" } as never), "not a field of an endpoint"],
    ["an id in a put", () => endpoints.put("u", "e", { url: URL_A, id: "f" } as never), "id is not a field"],
    ["no user", () => endpoints.list(undefined as never), "expected userId to be 1 to 128 visible ASCII characters"],
    ["a user with a blank", () => endpoints.get("a b", "e"), "expected userId to be"],
    ["no id", () => endpoints.get("u", undefined as never), "expected the endpoint's id to be"],
    ["an id that is a path", () => endpoints.delete("u", "../e"), "expected the endpoint's id to be"],
    ["options that are none", () => endpoints.pause("u", "e", "now" as never), "expected the options to be an object"],
    ["null for options", () => endpoints.rotate("u", "e", null as never), "expected the options to be an object"],
    ["an unknown option", () => endpoints.rotate("u", "e", { grace: 5 } as never), "did you mean graceSeconds?"],
    [
      "a reason from outside",
      () => endpoints.disable("u", "e", { reason: "gone" } as never),
      "reason is not an option",
    ],
    ["a version that is none", () => endpoints.enable("u", "e", { ifVersion: 7 } as never), "expected ifVersion to be"],
    ["too long a grace", () => endpoints.rotate("u", "e", { graceSeconds: 1e9 }), "from 0 to 604800"],
  ];
  test.each(CALLS)("is refused at once, with Valkey away: %s", async (_, call, message) => {
    const error = await errorOf(call());
    expect(error).toMatchObject({ name: "UsageError", code: "INVALID_ARGUMENT" });
    expect(error.message).toContain(message);
  });

  test("of a closed connection is refused", async () => {
    const closed = connect();
    await closed.close();
    expect(await errorOf(closed.endpoints.list("u"))).toMatchObject({ code: "CLOSED" });
  });

  test("of the option is refused", () => {
    expect(() => createFluxhook({ allowPlainSecrets: "yes" as never })).toThrow(
      "allowPlainSecrets to be true or false",
    );
  });

  test("of an endpoint that is not there is refused, unless the backend uses the registry and leaves the field out", async () => {
    const missing = { event: "file.created", userId: newUser(), data: {} } as const;
    const expected = "endpoint: expected an object with url and secret, or with the id of a registered endpoint";
    for (const [backend, event] of [
      [fluxhook, missing],
      [connect({ registry: true }), { ...missing, endpoint: undefined }],
    ] as const) {
      const error = await errorOf(backend.enqueue(event));
      expect([(error as Error & { code: string }).code, error.message]).toEqual(["INVALID_EVENT", expected]);
    }
    expect(await connect({ registry: true }).enqueue(missing)).toMatchObject({ status: "new" });
  });

  const event = (endpoint: object) =>
    ({ event: "file.created", userId: "u", endpoint, data: {} }) as unknown as NewEvent;
  const EVENTS: [endpoint: object, message: string][] = [
    [{ id: "main", url: URL_A, secret: "a-secret-of-mine" }, "endpoint: expected url and secret, or id, not both"],
    [{ id: "main", secret: "a-secret-of-mine" }, "endpoint: expected url and secret, or id, not both"],
    [{ id: "a:b" }, "endpoint.id: expected 1 to 64 letters"],
    [{ id: 7 }, "endpoint.id: expected a string"],
    [{ di: "main" }, "endpoint.di: not a field of an endpoint"],
    [{}, "endpoint: expected an object with url and secret, or with the id of a registered endpoint"],
  ];
  test.each(EVENTS)("of an event's endpoint is refused: %j", async (endpoint, message) => {
    const error = await errorOf(fluxhook.enqueue(event(endpoint)));
    expect(error).toMatchObject({ name: "ContractError", code: "INVALID_EVENT" });
    expect(error.message).toContain(message);
    expect(error.message).not.toContain("a-secret");
  });
});

describe("a Valkey", () => {
  test("that is full or away fails a call within its time, says why, and loses nothing", async () => {
    const own = await startValkey();
    const client = openValkey(own.url, {});
    const userId = newUser();
    const patient = connect({ valkeyUrl: own.url });
    const hasty = connect({ valkeyUrl: own.url, timeoutMs: 300 });
    try {
      const { endpoint } = await patient.endpoints.create(userId, { url: URL_A });
      await client.config("SET", "maxmemory", 1);
      // It tries again and again. When time is up during a try, what comes of that is not known.
      await eventually(
        async () => {
          const full = await errorOf(hasty.endpoints.create(userId, { url: URL_A }));
          expect(full).toBeInstanceOf(ValkeyAwayError);
          expect(full.message).toContain("OOM");
          return (full as ValkeyAwayError).mayBeQueued;
        },
        (mayBeQueued) => mayBeQueued === false,
      );
      expect(await patient.endpoints.list(userId)).toMatchObject([endpoint]);
      await client.config("SET", "maxmemory", 0);
      client.disconnect();
      await own.kill();
      expect(await errorOf(hasty.endpoints.list(userId))).toMatchObject({ code: "VALKEY_AWAY" });
    } finally {
      client.disconnect();
      await Promise.all([patient.close(), hasty.close()]);
      await own.stop();
    }
  });

  test("whose key holds something else is reported at once", async () => {
    const userId = newUser();
    await valkey.set(endpointsKey(userId), "x");
    expect(await errorOf(endpoints.list(userId))).toMatchObject({ code: "VALKEY_REFUSED" });
  });

  test("with a damaged document shows which endpoint it is, beside the user's others", async () => {
    const userId = newUser();
    const { endpoint } = await endpoints.create(userId, { url: URL_A, id: "fine" });
    await valkey.hset(endpointsKey(userId), "damaged", "v1 {");
    const damaged = { id: "damaged", isDamaged: true, version: "", url: "", secrets: [] };
    expect(await endpoints.list(userId)).toMatchObject([damaged, { id: "fine" }]);
    expect(await endpoints.get(userId, "damaged")).toMatchObject(damaged);
    expect(await errorOf(endpoints.update(userId, "damaged", { url: URL_A }))).toMatchObject({ code: "CONFLICT" });
    expect(await endpoints.get(userId, "fine")).toMatchObject(endpoint);
    await endpoints.delete(userId, "damaged");
    expect(await endpoints.list(userId)).toMatchObject([endpoint]);
  });
});
