/** The registry of endpoints, in a real Valkey. */
import { afterAll, describe, expect, test } from "bun:test";
import { createKey, isSealed, openSealed, seal } from "../src/delivery/seal.ts";
import { secretProblem } from "../src/delivery/secret.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { endpointChangesKey, endpointsKey, missedDataKey, missedKey } from "../src/queue/own-keys.ts";
import type { EndpointDocument } from "../src/registry/endpoint.ts";
import { ConflictError, LimitError, NotFoundError } from "../src/registry/refusals.ts";
import { createRegistry, type Endpoint } from "../src/registry/registry.ts";
import { rotateSecrets } from "../src/registry/secrets.ts";
import { parseStored } from "../src/registry/stored.ts";
import { UsageError } from "../src/runtime/usage-error.ts";
import { openValkey } from "../src/valkey/connection.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const KEY = createKey();
const URL_A = "https://example.com/webhooks";
const valkey = openValkey(await testValkeyUrl(), {});
const registry = createRegistry(valkey, { secretKeys: [KEY] });
afterAll(() => valkey.disconnect());

const newUser = () => `usr_${crypto.randomUUID()}`;
const errorOf = (promise: Promise<unknown>): Promise<Error> =>
  promise.then(
    () => expect.unreachable("expected a rejection"),
    (error: Error) => error,
  );
const stored = (userId: string) => valkey.hgetall(endpointsKey(userId));
const documentOf = async (userId: string, id: string): Promise<EndpointDocument> => {
  const found = parseStored(await stored(userId)).find((one) => one.id === id);
  if (found === undefined) throw new Error(`expected an endpoint ${id}`);
  return found.document;
};

describe("an endpoint", () => {
  test("created is shown with all its settings, and without its secret", async () => {
    const userId = newUser();
    const settings = { url: URL_A, description: "CRM", events: ["file.*", "org.updated"], metadata: { plan: "pro" } };
    const { endpoint, secret } = await registry.create(userId, settings);
    expect(endpoint).toMatchObject({ ...settings, state: { kind: "enabled" } });
    expect(endpoint.id).toMatch(/^ep_[A-Za-z0-9]{22}$/);
    expect(endpoint.secrets).toEqual([{ createdAt: endpoint.createdAt }]);
    expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
    expect(secretProblem(secret)).toBeUndefined();
    expect(await registry.get(userId, endpoint.id)).toMatchObject(endpoint);
    expect(await registry.list(userId)).toMatchObject([endpoint]);
  });

  test("has its secret sealed in Valkey, for its user alone, and nothing that is read has it in any form", async () => {
    const userId = newUser();
    const created = await registry.create(userId, { url: URL_A, id: "main" });
    const rotated = await registry.rotate(userId, "main");
    const { secrets } = await documentOf(userId, "main");
    expect(secrets.map(({ secret }) => openSealed(secret, [KEY], userId))).toEqual([rotated.secret, created.secret]);
    expect(openSealed(secrets[0]?.secret as string, [KEY], "another")).toBeUndefined();
    const everything = JSON.stringify(await stored(userId));
    const read = JSON.stringify([
      await registry.get(userId, "main"),
      await registry.list(userId),
      await registry.update(userId, "main", { description: "x" }),
      await registry.pause(userId, "main"),
      await registry.put(userId, "main", { url: URL_A }),
      rotated.endpoint,
    ]);
    for (const { secret } of [created, rotated]) {
      expect(everything).not.toContain(secret.slice("whsec_".length));
      expect(read).not.toContain(secret.slice("whsec_".length));
    }
    expect(read).not.toContain("sealed:");
  });

  test("takes a secret that is given, plain or sealed", async () => {
    const userId = newUser();
    const sealed = seal("a-sealed-secret-of-mine", KEY, userId);
    await registry.create(userId, { url: URL_A, id: "plain", secret: "a-plain-secret-of-mine" });
    await registry.create(userId, { url: URL_A, id: "sealed", secret: sealed });
    const [plain] = (await documentOf(userId, "plain")).secrets;
    expect(isSealed(plain?.secret as string)).toBe(true);
    expect(openSealed(plain?.secret as string, [KEY], userId)).toBe("a-plain-secret-of-mine");
    expect((await documentOf(userId, "sealed")).secrets[0]?.secret).toBe(sealed);
  });

  test("is refused without a key, unless plain secrets are allowed or its secret is sealed already", async () => {
    const userId = newUser();
    const keyless = createRegistry(valkey);
    for (const refused of [
      () => keyless.create(userId, { url: URL_A }),
      () => keyless.put(userId, "main", { url: URL_A }),
      () => keyless.create(userId, { url: URL_A, secret: "a-plain-secret-of-mine" }),
    ]) {
      const error = await errorOf(refused());
      expect(error).toBeInstanceOf(UsageError);
      expect(error.message).toContain("WEBHOOK_SECRET_KEYS");
      expect(error.message).toContain("WEBHOOK_ALLOW_PLAIN=1");
      expect(error.message).not.toContain("a-plain");
    }
    expect(await stored(userId)).toEqual({});
    const secret = seal("a-sealed-secret-of-mine", KEY, userId);
    await keyless.create(userId, { url: URL_A, id: "sealed", secret });
    await createRegistry(valkey, { allowPlain: true }).create(userId, { url: URL_A, id: "plain", secret: "plain-one" });
    expect((await documentOf(userId, "plain")).secrets[0]?.secret).toBe("plain-one");
  });

  test("updated keeps what the change leaves out, and gets a new version only if something changed", async () => {
    const userId = newUser();
    const before = (await registry.create(userId, { url: URL_A, description: "CRM", events: ["file.created"] }))
      .endpoint;
    const same = await registry.update(userId, before.id, { description: "CRM" });
    expect(same).toEqual(before);
    const after = await registry.update(userId, before.id, { events: null, url: undefined });
    expect(after).toMatchObject({ url: URL_A, description: "CRM", events: null, createdAt: before.createdAt });
    expect(after.version).not.toBe(before.version);
    expect((await registry.update(userId, before.id, { description: "" })).description).toBe("");
  });

  test("put twice is written once, and keeps its secret", async () => {
    const userId = newUser();
    const settings = { url: URL_A, metadata: { a: "1", b: "2" } };
    const first = await registry.put(userId, "main", settings);
    expect(first.secret).toMatch(/^whsec_/);
    const before = await stored(userId);
    const second = await registry.put(userId, "main", { url: URL_A, metadata: { b: "2", a: "1" } });
    expect(second).toEqual({ endpoint: first.endpoint });
    expect(await stored(userId)).toEqual(before);
    const same = await registry.put(userId, "main", { ...settings, secret: first.secret });
    expect(same.endpoint.version).toBe(first.endpoint.version);
    const other = await registry.put(userId, "main", { url: URL_A, secret: "another-secret-of-mine" });
    expect(other.endpoint.metadata).toEqual({});
    expect(other.endpoint.secrets).toHaveLength(2);
  });

  test("whose id is taken is not created again", async () => {
    const userId = newUser();
    await registry.create(userId, { url: URL_A, id: "main" });
    const before = await stored(userId);
    expect(await errorOf(registry.create(userId, { url: URL_A, id: "main" }))).toBeInstanceOf(ConflictError);
    expect(await stored(userId)).toEqual(before);
  });
});

describe("a refusal", () => {
  const SETTINGS: [what: string, given: object, message: string][] = [
    ["no URL", { url: undefined }, "url: expected a string"],
    ["another scheme", { url: "ftp://example.com" }, "url: expected an http or https URL"],
    ["a user name", { url: "https://me:pw@example.com" }, "url: expected an http or https URL without user name"],
    ["a long URL", { url: `https://example.com/${"x".repeat(2048)}` }, "url: expected at most 2048 characters"],
    ["a long description", { description: "x".repeat(257) }, "description: expected at most 256 characters"],
    ["no array of events", { events: "file.created" }, "events: expected null for all events, or an array"],
    ["no events", { events: [] }, "events: expected null for all events, or an array of 1 to 50"],
    ["51 events", { events: Array(51).fill("file.*") }, "events: expected null for all events, or an array of 1 to 50"],
    ["an unknown event type", { events: ["file.created", "file.creatd"] }, "events.1: expected one of file.created, "],
    ["an unknown prefix", { events: ["files.*"] }, "events.0: expected one of file.created, "],
    ["half a word as prefix", { events: ["fil.*"] }, "events.0: expected one of"],
    ["a star alone", { events: ["*"] }, "events.0: expected one of"],
    ["metadata that is no string", { metadata: { a: 1 } }, "metadata.a: expected a string"],
    ["21 notes", { metadata: Object.fromEntries(Array.from({ length: 21 }, (_, n) => [n, ""])) }, "metadata: expected"],
    ["an unknown field", { urll: "x" }, "urll: not a field of an endpoint; expected one of url, description"],
    ["an id with a colon", { id: "a:b" }, "expected the endpoint's id to be 1 to 64 letters"],
    ["an id with a slash", { id: "a/state" }, "expected the endpoint's id to be 1 to 64 letters"],
    ["an empty secret", { secret: "" }, "secret: expected a non-empty string"],
    ["a quoted secret", { secret: '"my-quoted-secret"' }, "secret: expected no quotes around it"],
  ];
  test.each(SETTINGS)("names the field that is wrong, and stores nothing: %s", async (_, given, message) => {
    const userId = newUser();
    const error = await errorOf(registry.create(userId, { url: URL_A, ...given } as never));
    expect(error).toMatchObject({ name: "UsageError", code: "INVALID_ARGUMENT" });
    expect(error.message).toContain(message);
    expect(error.message).not.toContain("pw@");
    expect(await stored(userId)).toEqual({});
  });

  test("lists everything that is wrong", async () => {
    const error = await errorOf(registry.create(newUser(), { url: "x", description: 1 } as never));
    expect(error.message).toContain("url: ");
    expect(error.message).toContain("; description: ");
  });

  test("comes for a document above 16 KiB", async () => {
    const userId = newUser();
    const metadata = Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`note-${n}`, "ü".repeat(512)]));
    const error = await errorOf(registry.create(userId, { url: URL_A, metadata }));
    expect(error.message).toMatch(/^expected an endpoint of at most 16384 bytes with its secrets, got \d+$/);
    expect(await stored(userId)).toEqual({});
  });

  test("comes for the 51st endpoint of a user, also when many are created at once, but not after one was deleted", async () => {
    const userId = newUser();
    const results = await Promise.allSettled(Array.from({ length: 60 }, () => registry.create(userId, { url: URL_A })));
    const refused = results.filter((result) => result.status === "rejected");
    expect(refused.map(({ reason }) => reason)).toEqual(Array(10).fill(expect.any(LimitError)));
    const all = await registry.list(userId);
    expect(all).toHaveLength(50);
    await registry.delete(userId, all[0]?.id as string);
    await registry.create(userId, { url: URL_A });
    expect(await registry.list(userId)).toHaveLength(50);
  });

  test("comes for users and versions that are none, and for endpoints that are not there", async () => {
    for (const userId of ["", "a b", "x".repeat(129), 7, undefined]) {
      expect(await errorOf(registry.list(userId as string))).toBeInstanceOf(UsageError);
      expect(await errorOf(registry.create(userId as string, { url: URL_A }))).toBeInstanceOf(UsageError);
    }
    const userId = newUser();
    expect(await errorOf(registry.update(userId, "main", {}, { ifVersion: "a b" }))).toBeInstanceOf(UsageError);
    for (const missing of [
      () => registry.get(userId, "main"),
      () => registry.update(userId, "main", { description: "x" }),
      () => registry.rotate(userId, "main"),
      () => registry.pause(userId, "main"),
      () => registry.resume(userId, "main"),
      () => registry.enable(userId, "main"),
      () => registry.disable(userId, "main"),
      () => registry.delete(userId, "main"),
    ])
      expect(await errorOf(missing())).toBeInstanceOf(NotFoundError);
    expect(await registry.list(userId)).toEqual([]);
    expect(await stored(userId)).toEqual({});
  });
});

describe("changes at the same time", () => {
  test("two writers: one gets a conflict, nothing is lost", async () => {
    const userId = newUser();
    const { endpoint } = await registry.create(userId, { url: URL_A });
    const { id, version: ifVersion } = endpoint;
    const results = await Promise.allSettled([
      registry.update(userId, id, { description: "one" }, { ifVersion }),
      registry.update(userId, id, { url: `${URL_A}/two` }, { ifVersion }),
    ]);
    const [won] = results.filter((result) => result.status === "fulfilled");
    const lost = results.filter((result) => result.status === "rejected");
    expect(lost.map(({ reason }) => reason.code)).toEqual(["CONFLICT"]);
    expect(await registry.get(userId, id)).toMatchObject(won?.value as Endpoint);
    for (const late of [
      () => registry.rotate(userId, id, { ifVersion }),
      () => registry.put(userId, id, { url: URL_A }, { ifVersion }),
      () => registry.pause(userId, id, { ifVersion }),
      () => registry.disable(userId, id, { ifVersion }),
      () => registry.delete(userId, id, { ifVersion }),
    ])
      expect(await errorOf(late())).toBeInstanceOf(ConflictError);
    expect(await registry.get(userId, id)).toMatchObject(won?.value as Endpoint);
  });

  test("without a version are all kept, whatever field each is about", async () => {
    const userId = newUser();
    const { id } = (await registry.create(userId, { url: URL_A })).endpoint;
    await Promise.all([
      registry.update(userId, id, { description: "one" }),
      registry.update(userId, id, { url: `${URL_A}/two` }),
      registry.rotate(userId, id),
      registry.pause(userId, id),
    ]);
    const { description, url, secrets, state } = await registry.get(userId, id);
    expect([description, url, secrets.length, state.kind]).toEqual(["one", `${URL_A}/two`, 2, "paused"]);
  });

  test("each give the user's endpoints a version that there never was", async () => {
    const userId = newUser();
    const seen: (string | undefined)[] = [];
    const look = async () => seen.push((await stored(userId))["/version"]);
    for (let round = 0; round < 3; round++) {
      await registry.create(userId, { url: URL_A, id: "main" });
      await look();
      for (const change of ["pause", "resume", "disable", "enable"] as const) {
        await registry[change](userId, "main");
        await look();
      }
      await registry.delete(userId, "main");
      await look();
    }
    expect(new Set(seen).size).toBe(18);
    expect(seen).not.toContain(undefined);
  });

  test("that are sent again after a lost reply are made once", async () => {
    const userId = newUser();
    const twice = createRegistry(valkey, {
      secretKeys: [KEY],
      async run(work) {
        await work();
        return await work();
      },
    });
    const { endpoint, secret } = await twice.create(userId, { url: URL_A });
    const { id } = endpoint;
    expect(openSealed((await documentOf(userId, id)).secrets[0]?.secret as string, [KEY], userId)).toBe(secret);
    const rotated = await twice.rotate(userId, id);
    expect(rotated.endpoint.secrets).toHaveLength(2);
    const put = await twice.put(userId, "own", { url: URL_A });
    expect(put.secret).toMatch(/^whsec_/);
    await twice.pause(userId, id);
    expect((await twice.resume(userId, id)).state).toEqual({ kind: "enabled" });
    expect(parseStored(await stored(userId)).find((one) => one.id === id)?.pauses).toHaveLength(1);
    await twice.delete(userId, id);
    expect((await registry.list(userId)).map((one) => one.id)).toEqual(["own"]);
  });
});

describe("rotation", () => {
  const secret = (name: string, createdAt: number, expiresAt?: number) => ({ secret: name, createdAt, expiresAt });

  test("puts the new secret first, and lets no other sign for longer than it would or than the grace", () => {
    const before = [secret("c", 30), secret("b", 20, 1_500), secret("a", 10, 900_000), secret("gone", 1, 1_000)];
    expect(rotateSecrets(before, "d", 1_000, 2_000)).toEqual([
      { secret: "d", createdAt: 1_000 },
      secret("c", 30, 3_000),
      secret("b", 20, 1_500),
      secret("a", 10, 3_000),
    ]);
  });

  test("without grace leaves the new secret alone", () => {
    expect(rotateSecrets([secret("b", 20), secret("a", 10, 9_000)], "c", 1_000, 0)).toEqual([
      { secret: "c", createdAt: 1_000 },
    ]);
  });

  test("that would leave six secrets which sign is refused, unless it is without grace", async () => {
    const userId = newUser();
    await registry.create(userId, { url: URL_A, id: "main" });
    for (let n = 0; n < 4; n++) await registry.rotate(userId, "main");
    const before = await stored(userId);
    expect(await errorOf(registry.rotate(userId, "main"))).toMatchObject({ code: "LIMIT" });
    expect(await stored(userId)).toEqual(before);
    const { endpoint } = await registry.rotate(userId, "main", { graceSeconds: 0 });
    expect(endpoint.secrets).toHaveLength(1);
  });

  test("has a day's grace by default, and up to a week", async () => {
    const userId = newUser();
    await registry.create(userId, { url: URL_A, id: "main" });
    const [current, old] = (await registry.rotate(userId, "main")).endpoint.secrets;
    expect(old?.expiresAt).toBe((current?.createdAt as number) + 86_400_000);
    const weekly = await registry.rotate(userId, "main", { graceSeconds: 604_800, secret: "a-new-secret-of-mine" });
    expect(weekly.secret).toBe("a-new-secret-of-mine");
    expect(weekly.endpoint.secrets[2]?.expiresAt).toBe(old?.expiresAt);
    for (const graceSeconds of [-1, 604_801, 1.5, "60", Number.NaN, null]) {
      const error = await errorOf(registry.rotate(userId, "main", { graceSeconds } as never));
      expect(error.message).toBe("expected graceSeconds to be a whole number from 0 to 604800");
    }
  });

  test("drops secrets that have expired from what is stored, at the next change", async () => {
    const userId = newUser();
    await registry.create(userId, { url: URL_A, id: "main" });
    const document = await documentOf(userId, "main");
    const spent = { ...document, secrets: [...document.secrets, secret("spent-one", 1, 2)] };
    await valkey.hset(endpointsKey(userId), { main: `v ${JSON.stringify(spent)}` });
    expect((await registry.get(userId, "main")).secrets).toHaveLength(1);
    await registry.update(userId, "main", { description: "x" });
    expect(JSON.stringify(await stored(userId))).not.toContain("spent-one");
  });
});

describe("a state", () => {
  test("paused and resumed leaves the pause behind, by Valkey's clock", async () => {
    const userId = newUser();
    await registry.create(userId, { url: URL_A, id: "main" });
    const { state, version } = await registry.pause(userId, "main");
    expect(state.kind).toBe("paused");
    expect((await registry.pause(userId, "main")).state).toEqual(state);
    const resumed = await registry.resume(userId, "main");
    expect([resumed.state.kind, resumed.version]).toEqual(["enabled", version]);
    const [stands] = parseStored(await stored(userId));
    const from = (state as { since: number }).since;
    expect(stands?.pauses.map((pause) => pause.from)).toEqual([from]);
    expect(stands?.pauses[0]?.until).toBeGreaterThanOrEqual(from);
    expect((await registry.resume(userId, "main")).state.kind).toBe("enabled");
  });

  test("remembers 20 pauses, of which the oldest covers those before", async () => {
    const userId = newUser();
    await registry.create(userId, { url: URL_A, id: "main" });
    const now = Date.now();
    const past = Array.from({ length: 20 }, (_, n) => `${now - 100_000 + n * 10}-${now - 100_000 + n * 10 + 5}`);
    await valkey.hset(endpointsKey(userId), "main/pauses", past.join(" "));
    await registry.pause(userId, "main");
    await registry.enable(userId, "main");
    const [stands] = parseStored(await stored(userId));
    expect(stands?.pauses).toHaveLength(20);
    expect(stands?.pauses[0]).toEqual({ from: now - 100_000, until: now - 100_000 + 15 });
    await valkey.hset(endpointsKey(userId), "main/pauses", "1-2 3-4");
    await registry.pause(userId, "main");
    await registry.disable(userId, "main");
    expect(parseStored(await stored(userId))[0]?.pauses).toHaveLength(1); // those of 1970 are forgotten
  });

  test("disabled is neither paused nor resumed, keeps its first reason, and is enabled again", async () => {
    const userId = newUser();
    await registry.create(userId, { url: URL_A, id: "main" });
    const { state } = await registry.disable(userId, "main", { reason: "gone" });
    expect(state).toEqual({ kind: "disabled", reason: "gone", since: expect.any(Number) });
    expect((await registry.disable(userId, "main")).state).toEqual(state);
    expect(await errorOf(registry.pause(userId, "main"))).toBeInstanceOf(ConflictError);
    expect(await errorOf(registry.resume(userId, "main"))).toBeInstanceOf(ConflictError);
    expect((await registry.get(userId, "main")).state).toEqual(state);
    expect((await registry.enable(userId, "main")).state).toEqual({ kind: "enabled" });
  });

  test("stays when the endpoint is changed", async () => {
    const userId = newUser();
    await registry.create(userId, { url: URL_A, id: "main", events: null });
    await registry.pause(userId, "main");
    expect((await registry.update(userId, "main", { description: "x" })).state.kind).toBe("paused");
  });
});

describe("a deleted endpoint", () => {
  test("leaves a mark for 30 days, and nothing it missed; deleting it again changes nothing", async () => {
    const userId = newUser();
    const { secret } = await registry.create(userId, { url: URL_A, id: "main" });
    await registry.create(userId, { url: URL_A, id: "other" });
    for (const id of ["main", "other"]) {
      await valkey.zadd(missedKey(userId, id), 1, "event");
      await valkey.hset(missedDataKey(userId, id), "event", "{}");
    }
    await registry.pause(userId, "main");
    await registry.resume(userId, "main");
    await registry.delete(userId, "main");
    const left = await stored(userId);
    expect(Object.keys(left).sort()).toEqual(["/version", "main/state", "other"]);
    expect(left["main/state"]).toMatch(/^deleted \d{13}$/);
    expect(await valkey.exists(missedKey(userId, "main"), missedDataKey(userId, "main"))).toBe(0);
    expect(await valkey.exists(missedKey(userId, "other"), missedDataKey(userId, "other"))).toBe(2);
    await registry.delete(userId, "main");
    expect(await stored(userId)).toEqual(left);
    expect(await errorOf(registry.get(userId, "main"))).toBeInstanceOf(NotFoundError);
    expect((await registry.list(userId)).map(({ id }) => id)).toEqual(["other"]);
    const again = await registry.create(userId, { url: URL_A, id: "main" });
    expect(again.secret).not.toBe(secret);
    expect(again.endpoint.state.kind).toBe("enabled");
    expect(await registry.list(userId)).toHaveLength(2);
  });

  test("is forgotten after 30 days, and when 200 others were deleted since", async () => {
    const userId = newUser();
    const now = Date.now();
    const DAY_MS = 86_400_000;
    const marks = Array.from({ length: 210 }, (_, n) => [`ep${n}/state`, `deleted ${now - n * 1000}`] as const);
    const old = [
      ["old/state", `deleted ${now - 31 * DAY_MS}`],
      ["kept/state", "paused 5"],
    ] as const;
    await valkey.hset(endpointsKey(userId), Object.fromEntries([...marks, ...old]));
    await registry.create(userId, { url: URL_A, id: "main" });
    const fields = Object.keys(await stored(userId));
    expect(fields.filter((field) => /^ep\d+\/state$/.test(field))).toHaveLength(200);
    expect(fields).toContain("ep0/state");
    expect(fields).not.toContain("ep209/state");
    expect(fields).not.toContain("old/state");
    expect(fields).toContain("kept/state");
  });
});

describe("users", () => {
  test("whose ids hold colons, or words of keys, never meet", async () => {
    const base = crypto.randomUUID();
    const users = ["", ":b", ":b:c", "/state", "/version", ":main", "{1}:", "*"].map((end) => `${base}${end}`);
    for (const [n, userId] of users.entries()) {
      for (const id of ["main", "b", "c"]) await registry.create(userId, { url: `${URL_A}/${n}/${id}`, id });
    }
    await registry.delete(`${base}:b`, "c");
    for (const [n, userId] of users.entries()) {
      const expected = ["main", "b", "c"].filter((id) => userId !== `${base}:b` || id !== "c");
      const urls = (await registry.list(userId)).map(({ url }) => url);
      expect(urls.sort()).toEqual(expected.map((id) => `${URL_A}/${n}/${id}`).sort());
    }
    const names = users.flatMap((userId) => [
      endpointsKey(userId),
      ...["main", "b", "c"].flatMap((id) => [missedKey(userId, id), missedDataKey(userId, id)]),
    ]);
    expect(new Set(names).size).toBe(names.length);
  });

  test("of another shard are others, by the shard's tag", async () => {
    const userId = newUser();
    const tagged = createRegistry(valkey, { tag: "{1}:", secretKeys: [KEY] });
    await tagged.create(userId, { url: URL_A });
    expect(await registry.list(userId)).toEqual([]);
    expect(await valkey.exists(endpointsKey(userId, "{1}:"))).toBe(1);
  });
});

describe("a Valkey", () => {
  test("that is full refuses what would grow, loses nothing, and still pauses, disables and deletes", async () => {
    const full = await startValkey();
    const client = openValkey(full.url, {});
    try {
      const own = createRegistry(client, { secretKeys: [KEY] });
      const userId = newUser();
      const { endpoint } = await own.create(userId, { url: URL_A, id: "main" });
      await own.create(userId, { url: URL_A, id: "other" });
      const before = await client.hgetall(endpointsKey(userId));
      await client.config("SET", "maxmemory", 1);
      for (const refused of [
        () => own.create(userId, { url: URL_A }),
        () => own.update(userId, "main", { description: "x" }),
        () => own.rotate(userId, "main"),
      ])
        expect((await errorOf(refused())).message).toStartWith("OOM ");
      expect(await client.hgetall(endpointsKey(userId))).toEqual(before);
      expect(await own.get(userId, "main")).toMatchObject(endpoint);
      expect((await own.pause(userId, "main")).state.kind).toBe("paused");
      expect((await own.disable(userId, "main")).state.kind).toBe("disabled");
      await own.delete(userId, "other");
      expect((await own.list(userId)).map(({ id }) => id)).toEqual(["main"]);
    } finally {
      client.disconnect();
      await full.stop();
    }
  });

  test("whose user may not tell workers of a change refuses it, and nothing is changed", async () => {
    const userId = newUser();
    for (const id of ["main", "paused", "other"]) await registry.create(userId, { url: URL_A, id });
    await registry.pause(userId, "paused");
    const before = await stored(userId);
    const rules = ["on", ">pass", "+@all", "~webhooks:*", "resetkeys", "%RW~webhooks:endpoints:*", "~webhooks:[hmr]*"];
    await valkey.call("ACL", "SETUSER", "untold", ...rules, "~webhooks:endpoint-[io]*", "%R~webhooks:endpoint-changes");
    const client = openValkey((await testValkeyUrl()).replace("//", "//untold:pass@"), {});
    const own = createRegistry(client, { secretKeys: [KEY] });
    for (const refused of [
      () => own.create(userId, { url: URL_A }),
      () => own.update(userId, "main", { description: "x" }),
      () => own.pause(userId, "main"),
      () => own.resume(userId, "paused"),
      () => own.disable(userId, "main"),
    ])
      expect((await errorOf(refused())).message).toContain("NOPERM");
    expect(await stored(userId)).toEqual(before);
    client.disconnect();
  });

  test("whose list of changes holds something else takes changes all the same: workers then remember nothing", async () => {
    const other = await startValkey();
    const client = openValkey(other.url, {});
    try {
      await client.set(endpointChangesKey(), "text");
      const own = createRegistry(client, { secretKeys: [KEY] });
      const userId = newUser();
      await own.create(userId, { url: URL_A, id: "main" });
      expect((await own.pause(userId, "main")).state.kind).toBe("paused");
      expect(await client.get(endpointChangesKey())).toBe("text");
      await client.del(endpointChangesKey());
      for (let n = 0; n < 1_010; n++) await own[n % 2 === 0 ? "disable" : "enable"](userId, "main");
      expect(await client.llen(endpointChangesKey())).toBe(1_000);
    } finally {
      client.disconnect();
      await other.stop();
    }
  });

  test("whose key holds something else says so", async () => {
    const userId = newUser();
    await valkey.set(endpointsKey(userId), "x");
    expect((await errorOf(registry.list(userId))).message).toStartWith("WRONGTYPE ");
    expect((await errorOf(registry.create(userId, { url: URL_A }))).message).toStartWith("WRONGTYPE ");
    expect(await valkey.get(endpointsKey(userId))).toBe("x");
  });
});
