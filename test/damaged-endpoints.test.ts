/** What is stored of endpoints, damaged in every way: it fails its own events with a reason, and nothing else. */
import { afterEach, expect, test } from "bun:test";
import { endpointsKey } from "../src/queue/own-keys.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { parseStored } from "../src/registry/stored.ts";
import { endAll, receiver, stack } from "./support/deliveries.ts";

afterEach(endAll);

const SECRET = "a-secret-of-this-test";
const newUser = () => `usr_${crypto.randomUUID()}`;

/** Every way to replace one value in a JSON, and to cut it off. */
function* damage(document: object): Generator<string> {
  const text = JSON.stringify(document);
  for (let at = 0; at < text.length; at += 7) yield text.slice(0, at);
  const values = [
    null,
    true,
    -1,
    Number.MAX_VALUE,
    "",
    "x",
    [],
    [null],
    [[]],
    {},
    { value: 1 },
    [{ secret: 7 }],
    [{ secret: "an-expired-secret", createdAt: 1, expiresAt: 2 }],
    { secret: "x" },
  ];
  for (const name of Object.keys(document)) {
    for (const value of values) yield JSON.stringify({ ...document, [name]: value });
    const { [name as never]: _, ...rest } = document;
    yield JSON.stringify(rest);
  }
  yield* ["", "null", "7", "[]", '"text"', "{}"];
}

const document = (url: string) => ({
  ...{
    url,
    events: ["file.*"],
    rateLimit: { perSecond: 5, burst: 2 },
    headers: { "X-Key": { value: "of the customer" } },
  },
  ...{ secrets: [{ secret: SECRET, createdAt: 1 }], metadata: { plan: "pro" }, createdAt: 1, updatedAt: 1 },
});

test("a document that is damaged in any way is read, shown and explained without an error", async () => {
  const { valkey } = await stack();
  const registry = createRegistry(valkey, { allowPlain: true });
  const userId = newUser();
  const damaged = [...damage(document("https://example.com/in"))];
  expect(damaged.length).toBeGreaterThan(100);
  for (const text of damaged) {
    for (const stored of [`v1 ${text}`, text, ` ${text}`]) {
      expect(() => parseStored({ main: stored, "main/state": text, "main/pauses": text })).not.toThrow();
    }
  }
  for (let from = 0; from < damaged.length; from += 40) {
    const fields = Object.fromEntries(damaged.slice(from, from + 40).map((text, at) => [`e${at}`, `v1 ${text}`]));
    await valkey.del(endpointsKey(userId));
    await valkey.hset(endpointsKey(userId), { "/version": crypto.randomUUID(), ...fields });
    const listed = await registry.list(userId);
    expect(listed.length).toBe(Object.keys(fields).length);
    const { endpoints } = await registry.explain(userId, "file.created");
    expect(endpoints.length).toBe(listed.length);
    expect(JSON.stringify([listed, endpoints])).not.toContain(SECRET);
  }
});

test("a damaged endpoint's events fail with a reason or are delivered signed, and the user's others are delivered", async () => {
  const customer = await receiver();
  const system = await stack({ policy: { attempts: 1, delaysMs: [], jitter: 0 } });
  const userId = newUser();
  const damaged = [...damage({ ...document(customer.url("/damaged")), rateLimit: null })].slice(0, 400);
  const fields = Object.fromEntries(damaged.map((text, at) => [`e${at}`, `v1 ${text}`]));
  const fine = `v1 ${JSON.stringify(document(customer.url("/fine")))}`;
  await system.valkey.hset(endpointsKey(userId), { "/version": crypto.randomUUID(), ...fields, fine });
  const add = (id: string) => system.queue.add("file.created", { userId, endpoint: { id }, data: {} });
  const jobs = await Promise.all(damaged.map((_, at) => add(`e${at}`)));
  const last = await add("fine");
  await system.settled(last);
  expect((await system.stored(last)).failedReason).toBeUndefined();
  for (const job of jobs) {
    const { state } = await system.settled(job);
    if (state === "failed") expect((await system.stored(job)).failedReason).toStartWith("endpoint e");
    else expect(state).toBe("completed");
  }
  for (const { headers } of customer.requests) expect(headers["webhook-signature"]).toMatch(/^v1,\S{44}/);
  expect(customer.requests.some(({ path }) => path === "/fine")).toBe(true);
});
