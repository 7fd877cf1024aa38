/** The board's API, held against its own description. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Registry } from "prom-client";
import { z } from "zod";
import { createBoardApp } from "../src/board/app.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import { type Attempt, createAttemptLog } from "../src/log/attempts.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { onlyShard } from "./support/only-shard.ts";
import { jobData, type Stack, startStack } from "./support/stack.ts";

interface Json {
  readonly [name: string]: Json;
}

const spec = JSON.parse(readFileSync(join(import.meta.dir, "../src/board/openapi.json"), "utf8")) as Json;
const operation = spec.paths?.["/users/{userId}/attempts"]?.get as Json;

/** The schema as written, which allows what it does not mention, and with nothing else allowed. */
function schemaOf(name: string): z.ZodType {
  const closed = JSON.stringify(spec.components?.schemas, (_, value) =>
    value?.type === "object" ? { additionalProperties: false, ...value } : value,
  );
  const $defs = JSON.parse(closed.replaceAll("#/components/schemas/", "#/$defs/"));
  return z.fromJSONSchema({ $ref: `#/$defs/${name}`, $defs });
}

/** What a status is described to answer with. */
const schemaFor = (status: number) => {
  const described = operation.responses?.[`${status}`]?.content?.["application/json"]?.schema;
  return schemaOf(`${described?.$ref}`.replace("#/components/schemas/", ""));
};

let stack: Stack;
let app: ReturnType<typeof createBoardApp>;
const userId = `usr/${crypto.randomUUID()}?`;
const kept: Attempt[] = []; // newest first

beforeAll(async () => {
  stack = await startStack({ retention: { logSize: 50 } });
  const { valkey, queue, logger } = stack;
  const config = { ...BOARD_DEFAULTS, logSize: 50 };
  app = createBoardApp({ config, shards: onlyShard(queue.name, valkey), registry: new Registry(), logger });
  const log = createAttemptLog(valkey, { logSize: 50 });
  const startMs = Date.now() - 60_000;
  for (let n = 0; n < 30; n++) {
    const isFailed = n % 3 === 0;
    const attempt: Attempt = {
      id: crypto.randomUUID(),
      delivery: crypto.randomUUID(),
      attempt: 1,
      timestamp: new Date(startMs + n * 1000).toISOString(),
      endpoint: n % 2 === 0 ? "https://even.example/hook" : "https://odd.example/hook",
      event: n % 5 === 0 ? "file.deleted" : "file.created",
      status_code: isFailed ? 503 : 200,
      duration_ms: 12,
      success: !isFailed,
      error: isFailed ? "http_503" : null,
      job: `${n}`,
      ...(isFailed && { response: { status_line: "HTTP/1.1 503 x", headers: { server: "y" }, body: "z" } }),
    };
    await log.record(userId, attempt);
    kept.unshift(attempt);
  }
});
afterAll(() => stack.stop());

const bare = ({ response: _, ...attempt }: Attempt): Attempt => attempt;

/** Ask, and hold the answer against its description. */
async function get(query = "", user = userId) {
  const response = await app.request(`/users/${encodeURIComponent(user)}/attempts${query}`);
  const json = (await response.json()) as { attempts: Attempt[]; next?: string; error?: string };
  expect(schemaFor(response.status).safeParse(json).error).toBeUndefined();
  return { status: response.status, ...json };
}

describe("the attempts of a user", () => {
  test("are all that the log keeps, without their responses unless asked for", async () => {
    expect(await get()).toEqual({ status: 200, attempts: kept.map(bare) });
    expect(await get("?include=response")).toEqual({ status: 200, attempts: kept });
  });

  test("come in pages", async () => {
    const pages: Attempt[] = [];
    for (let next: string | undefined = ""; next !== undefined; ) {
      const page = await get(`?limit=7${next && `&before=${next}`}`);
      expect(page.attempts.length).toBeLessThanOrEqual(7);
      pages.push(...page.attempts);
      next = page.next;
    }
    expect(pages).toEqual(kept.map(bare));
    expect((await get("?limit=30")).next).toBeUndefined();
    const [middle] = kept.slice(10) as [Attempt];
    expect((await get(`?before=${middle.timestamp}`)).attempts).toEqual(kept.slice(11).map(bare));
    expect((await get(`?before=${crypto.randomUUID()}`)).attempts).toEqual([]);
  });

  test.each<[string, (attempt: Attempt) => boolean]>([
    ["outcome=failed", ({ success }) => !success],
    ["outcome=delivered", ({ success }) => success],
    ["event=file.deleted", ({ event }) => event === "file.deleted"],
    [
      `endpoint=${encodeURIComponent("https://even.example/hook?token=1#x")}`,
      ({ endpoint }) => endpoint.includes("even"),
    ],
    ["outcome=failed&event=file.deleted", ({ success, event }) => !success && event === "file.deleted"],
    ["event=no.such", () => false],
  ])("are filtered by %s", async (query, isMeant) => {
    expect((await get(`?${query}`)).attempts).toEqual(kept.filter(isMeant).map(bare));
    const meant = kept.filter(isMeant);
    const page = await get(`?${query}&limit=1&include=response`);
    expect(page.attempts).toEqual(meant.slice(0, 1));
    expect(page.next).toBe(meant.length > 1 ? meant[0]?.delivery : undefined);
  });

  test("are filtered by the event's id, in upper or lower case", async () => {
    const [one] = kept.slice(4) as [Attempt];
    expect((await get(`?id=${one.id.toUpperCase()}`)).attempts).toEqual([bare(one)]);
  });

  test.each([
    ["?limit=0", "limit: expected a whole number from 1 to 1000"],
    ["?limit=1001", "limit: expected a whole number from 1 to 1000"],
    ["?limit=1e2", "limit: expected a whole number from 1 to 1000"],
    ["?limit=", "limit: expected a whole number from 1 to 1000"],
    ["?limit=1&limit=2", "limit: expected it once"],
    ["?before=yesterday", "before: expected a delivery's id, or a time as in 2026-11-24T09:00:00Z"],
    ["?before=2026-11-24", "before: expected a delivery's id, or a time as in 2026-11-24T09:00:00Z"],
    ["?before=2026-13-24T09:00:00Z", "before: expected a delivery's id, or a time as in 2026-11-24T09:00:00Z"],
    ["?endpoint=even.example", "endpoint: expected an http or https URL"],
    ["?endpoint=ftp://even.example", "endpoint: expected an http or https URL"],
    ["?event=", "event: expected an event type"],
    ["?outcome=ok", "outcome: expected delivered or failed"],
    ["?id=97f2", "id: expected a UUID"],
    ["?include=secrets", "include: expected response"],
    ["?outcom=failed", "outcom: not a parameter; expected one of limit, before, endpoint, event, outcome, id, include"],
    ["?id=1&limit=x", "limit: expected a whole number from 1 to 1000; id: expected a UUID"],
  ])("are refused for %s", async (query, error) => {
    expect(await get(query)).toEqual({ status: 400, error } as never);
  });

  test("are described as they are, with responses of real receivers", async () => {
    const receiver = await startReceiver();
    receiver.answer({ status: 500, headers: { "content-encoding": "gzip" }, body: "x" });
    const data = jobData(receiver.url());
    await stack.settled(await stack.queue.add("file.created", data));
    receiver.answer({});
    await stack.settled(await stack.queue.add("file.created", data));
    await receiver.stop();
    const { attempts } = await get("?include=response", data.userId);
    expect(attempts.map(({ success }) => success)).toEqual([true, false, false, false]);
    expect(attempts[1]?.response?.omitted).toBe("compressed");
    const page = await (await app.request(`/users/${data.userId}`)).text();
    expect(page).toContain("The body was compressed: not shown.");
  });
});

describe("the description", () => {
  test("is served as it is in the repository, behind the login like everything else", async () => {
    const response = await app.request("/openapi.json");
    expect([response.status, await response.json()]).toEqual([200, spec]);
    const { valkey, queue, logger } = stack;
    const config = { ...BOARD_DEFAULTS, boardPassword: "a long password" };
    const locked = createBoardApp({ config, shards: onlyShard(queue.name, valkey), registry: new Registry(), logger });
    expect((await locked.request("/openapi.json")).status).toBe(401);
  });

  test("names every parameter that is taken, with the values that are", async () => {
    const parameters = operation.parameters as unknown as { name: string; in: string; schema: never }[];
    const inQuery = parameters.filter((parameter) => parameter.in === "query");
    const { error } = await get("?nothing=1");
    expect(error).toEndWith(inQuery.map(({ name }) => name).join(", "));
    const limit = z.fromJSONSchema(inQuery.find(({ name }) => name === "limit")?.schema as never);
    for (const [value, isTaken] of [
      [1, true],
      [1_000, true],
      [0, false],
      [1_001, false],
    ] as const) {
      expect(limit.safeParse(value).success).toBe(isTaken);
      expect((await get(`?limit=${value}`)).status).toBe(isTaken ? 200 : 400);
    }
  });

  test("refers to nothing that it lacks", () => {
    const refs = [...JSON.stringify(spec).matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g)].map(
      ([, name]) => name as string,
    );
    expect(new Set(refs)).toEqual(new Set(Object.keys(spec.components?.schemas ?? {})));
  });
});
