/** Who gets an event that names no endpoint: explained without delivering anything, and enqueued with the package. */
import { afterEach, describe, expect, test } from "bun:test";
import { createFluxhook } from "../src/index.ts";
import type { StoredEndpoint } from "../src/registry/endpoint.ts";
import { explain } from "../src/registry/explain.ts";
import { matchEndpoints } from "../src/registry/matching.ts";
import { endAll, open, receiver, stack } from "./support/deliveries.ts";
import { testValkeyUrl } from "./support/valkey.ts";

afterEach(endAll);

const HOUR_MS = 60 * 60 * 1000;
const NOON = Date.parse("2026-06-01T12:00:00.000Z");

function endpoint(id: string, events: readonly string[] | null, more: Partial<StoredEndpoint> = {}, createdAt = NOON) {
  const url = `https://example.com/${id}?token=secret#part`;
  const document = { url, events, secrets: [], createdAt, updatedAt: createdAt };
  return { id, version: "1", document, state: { kind: "enabled" }, pauses: [], ...more } satisfies StoredEndpoint;
}

const MIXED: readonly StoredEndpoint[] = [
  endpoint("younger", null, {}, NOON + HOUR_MS),
  endpoint("all", null),
  endpoint("prefix", ["org.updated", "file.*"]),
  endpoint("other", ["org.*"]),
  endpoint("paused", null, { state: { kind: "paused", since: NOON } }),
  endpoint("manual", null, { state: { kind: "disabled", since: NOON, reason: "manual" } }),
  endpoint("failing", null, { state: { kind: "disabled", since: NOON, reason: "failing" } }),
  endpoint("damaged", null, { isDamaged: true }, 0),
];

describe("an explanation", () => {
  test("says of each endpoint, oldest first, whether it gets the event, and why not", () => {
    const { event, summary, endpoints } = explain(MIXED, "file.created", NOON + 1);
    expect([event, summary]).toEqual(["file.created", "to 4 of 8 endpoints, 2 missed"]);
    expect(endpoints.map(({ id, why }) => [id, why])).toEqual([
      ["damaged", "what is stored of it cannot be read: the event fails"],
      ["all", "gets it"],
      ["failing", "disabled, since its attempts kept failing, on 2026-06-01 12:00:00 UTC: the event is kept as missed"],
      ["manual", "disabled by hand, on 2026-06-01 12:00:00 UTC: the event is kept as missed"],
      ["other", "does not want it: wants org.*"],
      ["paused", "paused since 2026-06-01 12:00:00 UTC: the event waits"],
      ["prefix", "gets it"],
      ["younger", "created on 2026-06-01 13:00:00 UTC, after the event was enqueued"],
    ]);
  });

  test("never shows an endpoint's query", () => {
    expect(JSON.stringify(explain(MIXED, "file.created", NOON))).not.toContain("secret");
  });

  test("says when nobody gets it", () => {
    expect(explain([], "file.created", NOON).summary).toBe("the user has no endpoints");
    expect(explain([endpoint("a", ["org.*"])], "file.created", NOON).summary).toBe("no endpoint wants it");
    const younger = endpoint("a", null, {}, NOON + HOUR_MS);
    expect(explain([younger], "file.created", NOON).summary).toBe("only younger endpoints want it");
  });

  test("agrees with what workers do", () => {
    const { endpoints, younger } = matchEndpoints(MIXED, "file.created", NOON);
    const explained = explain(MIXED, "file.created", NOON).endpoints;
    const idsOf = (...kinds: string[]) =>
      explained.filter(({ reception }) => kinds.includes(reception.kind)).map(({ id }) => id);
    expect(endpoints.map(({ id }) => id)).toEqual(idsOf("gets", "waits", "missed", "damaged"));
    expect(younger).toEqual(idsOf("younger"));
  });
});

describe("a filter", () => {
  const isWanted = (events: readonly string[] | null, type: string) =>
    matchEndpoints([endpoint("a", events)], type, NOON).endpoints.length === 1;

  test("is an event type, or the beginning of some up to a dot", () => {
    expect(isWanted(["file.created"], "file.created")).toBe(true);
    expect(isWanted(["file.created"], "file.createdAgain")).toBe(false);
    expect(isWanted(["file.*"], "file.created")).toBe(true);
    expect(isWanted(["file.*"], "files.created")).toBe(false);
    expect(isWanted(["file.*"], "file")).toBe(false);
    expect(isWanted(null, "anything")).toBe(true);
  });

  test("an endpoint may seem five minutes younger than the event, since clocks differ", () => {
    const isGot = (laterMs: number) =>
      matchEndpoints([endpoint("a", null, {}, NOON + laterMs)], "file.created", NOON).endpoints.length === 1;
    expect([isGot(5 * 60 * 1000), isGot(5 * 60 * 1000 + 1)]).toEqual([true, false]);
  });
});

test("the package enqueues events without an endpoint, one and many, and explains where they go", async () => {
  const [customer, other] = [await receiver(), await receiver()];
  const system = await stack({ registry: true });
  const valkeyUrl = await testValkeyUrl();
  const fluxhook = createFluxhook({ valkeyUrl, queue: system.queue.name, allowPlainSecrets: true, registry: true });
  open.push({ stop: () => fluxhook.close() });
  const userId = `usr_${crypto.randomUUID()}`;
  await fluxhook.endpoints.create(userId, { id: "one", url: customer.url() });
  await fluxhook.endpoints.create(userId, { id: "other", url: other.url(), events: ["share.*"] });
  const data = { shareId: "shr_1", fileId: "file_1", reason: "expired", deletedBy: null } as const;
  const event = { event: "share.deleted", userId, data } as const;
  const { id } = await fluxhook.enqueue(event);
  const all = await fluxhook.enqueueMany([event, event]);
  const ids = [id, ...all.map((one) => one.id)].sort();
  for (const receiver of [customer, other]) {
    const requests = await receiver.waitFor(3);
    expect(requests.map(({ headers }) => headers["webhook-id"] as string).sort()).toEqual(ids);
  }
  const { summary, endpoints } = await fluxhook.endpoints.explain(userId, "file.created");
  expect(summary).toBe("to 1 of 2 endpoints");
  expect(endpoints.map(({ id, why }) => [id, why])).toEqual([
    ["one", "gets it"],
    ["other", "does not want it: wants share.*"],
  ]);
  const past = { enqueuedAt: Date.now() - HOUR_MS };
  expect((await fluxhook.endpoints.explain(userId, "share.deleted", past)).summary).toBe(
    "only younger endpoints want it",
  );
  await expect(fluxhook.endpoints.explain(userId, "file.creatd")).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  await expect(fluxhook.enqueue({ ...event, endpiont: { id: "one" } } as never)).rejects.toThrow(
    "endpiont: not a field of an event; did you mean endpoint?",
  );
});
