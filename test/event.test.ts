import { describe, expect, test } from "bun:test";
import {
  ContractError,
  DEFAULT_EVENTS,
  EVENT_TYPES,
  parseEvent as parse,
  type StoredJob,
} from "../src/delivery/contract.ts";

const LIMITS = { maxBodyBytes: 2 ** 20, secretKeys: [], events: DEFAULT_EVENTS };
const parseEvent = (stored: StoredJob) => parse(stored, LIMITS);
const SECRET = "s3cr3t-that-must-not-leak";
const data = {
  userId: "usr_42",
  endpoint: { url: "https://hooks.example.com/in", secret: SECRET },
  data: { fileId: "f_1" },
};
const job: StoredJob = {
  id: "1",
  name: "file.created",
  data,
  timestamp: 1_760_000_000_000,
  queueName: "webhooks",
};
const withData = (changes: object): StoredJob => ({ ...job, data: { ...data, ...changes } });
const withEndpoint = (changes: object): StoredJob => withData({ endpoint: { ...data.endpoint, ...changes } });

/** The reason a job is refused with. Fails when it is not refused. */
function reasonOf(broken: StoredJob): string {
  try {
    parseEvent(broken);
  } catch (error) {
    if (error instanceof ContractError) return error.message;
    throw error;
  }
  throw new Error("expected a ContractError, got an event");
}

test("turns a job with nothing but name and data into an event", () => {
  const event = parseEvent(job);
  expect(event.endpoint.url.href).toBe("https://hooks.example.com/in");
  expect(event).toEqual({
    id: "6bdb6e68-cbdf-5dc8-b23e-60dfe2b74f4d",
    type: "file.created",
    timestampMs: 1_760_000_000_000,
    userId: "usr_42",
    endpoint: { url: expect.any(URL), secrets: [SECRET] },
    body: Buffer.from(
      '{"id":"6bdb6e68-cbdf-5dc8-b23e-60dfe2b74f4d","event":"file.created",' +
        '"timestamp":"2025-10-09T08:53:20.000Z","data":{"fileId":"f_1"}}',
    ),
  });
});

test("takes the event types that the settings name; of many, a reason names 20", () => {
  const types = Array.from({ length: 25 }, (_, index) => `type.${index}`);
  const limits = { ...LIMITS, events: new Set(types) };
  for (const name of types) expect(parse({ ...job, name }, limits).type).toBe(name);
  const refusal = (name: unknown) => {
    try {
      parse({ ...job, name: name as string }, limits);
    } catch (error) {
      return (error as ContractError).message;
    }
  };
  const listed = `name: expected one of ${types.slice(0, 20).join(", ")} and 5 more in WEBHOOK_EVENTS`;
  for (const name of ["file.created", "type.0 ", "", undefined, null, 7, ["type.0"]])
    expect(refusal(name)).toBe(listed);
});

test("knows the event types of the contract and no other", () => {
  expect([...EVENT_TYPES].sort()).toEqual([
    "file.created",
    "file.deleted",
    "file.downloaded",
    "org.permissionChanged",
    "org.updated",
    "org.userAdded",
    "org.userRemoved",
    "share.deleted",
    "share.linked",
    "storage.exceeded",
  ]);
  for (const name of EVENT_TYPES) expect(parseEvent({ ...job, name }).type).toBe(name);
  for (const name of ["", "FILE.CREATED", "file.created ", "file", "toString", "__proto__", "org.useradded"]) {
    expect(reasonOf({ ...job, name })).toStartWith("name: expected one of file.created, ");
  }
});

describe("takes", () => {
  test.each(["a", "!", "~", "usr:42/@[]", "x".repeat(128)])("the user id %p", (userId) => {
    expect(parseEvent(withData({ userId })).userId).toBe(userId);
  });

  test.each([
    ["http://example.com", "http://example.com/"],
    ["https://example.com:8443/a?b=c#d", "https://example.com:8443/a?b=c#d"],
    ["HTTPS://EXAMPLE.COM", "https://example.com/"],
    ["http://127.0.0.1:1/", "http://127.0.0.1:1/"], // the guard's business, not the contract's
    ["https://münchen.example/ü", "https://xn--mnchen-3ya.example/%C3%BC"],
    [`https://example.com/${"x".repeat(2028)}`, `https://example.com/${"x".repeat(2028)}`],
  ])("the URL %s", (url, expected) => {
    expect(parseEvent(withEndpoint({ url })).endpoint.url.href).toBe(expected);
  });

  test.each<[string, string | string[], string[]]>([
    ["one secret", "a", ["a"]],
    ["a whsec_ secret", "whsec_YWJj", ["whsec_YWJj"]],
    ["several, current first", ["new", "old"], ["new", "old"]],
    ["ten", [..."abcdefghij"], [..."abcdefghij"]],
    ["a long one", "x".repeat(512), ["x".repeat(512)]],
    ["one with any visible characters", "ü ' \" 🔑", ["ü ' \" 🔑"]],
  ])("as secret %s", (_, secret, expected) => {
    expect(parseEvent(withEndpoint({ secret })).endpoint.secrets).toEqual(expected as [string]);
  });

  test("fields it does not know, and leaves them out", () => {
    const event = parseEvent(withData({ extra: 1, endpoint: { ...data.endpoint, extra: 2 } }));
    expect(JSON.stringify(event)).not.toContain("extra");
  });
});

describe("the reason names", () => {
  test.each<[string, StoredJob, string]>([
    ["data that is not there", { ...job, data: undefined }, "data: expected an object with userId, endpoint and data"],
    ["data that is null", { ...job, data: null }, "data: expected an object with userId, endpoint and data"],
    ["data that is a list", { ...job, data: [data] }, "data: expected an object with userId, endpoint and data"],
    ["data that is text", { ...job, data: SECRET }, "data: expected an object with userId, endpoint and data"],
    ["a missing user id", withData({ userId: undefined }), "data.userId: expected a string"],
    ["a user id that is a number", withData({ userId: 42 }), "data.userId: expected a string"],
    ["an empty user id", withData({ userId: "" }), "data.userId: expected 1 to 128 visible ASCII characters"],
    ["a space in it", withData({ userId: "a b" }), "data.userId: expected 1 to 128 visible ASCII characters"],
    ["a line break at its end", withData({ userId: "a\n" }), "data.userId: expected 1 to 128 visible ASCII characters"],
    ["letters beyond ASCII", withData({ userId: "ü" }), "data.userId: expected 1 to 128 visible ASCII characters"],
    [
      "129 characters",
      withData({ userId: "x".repeat(129) }),
      "data.userId: expected 1 to 128 visible ASCII characters",
    ],
    [
      "a missing endpoint",
      withData({ endpoint: undefined }),
      "data.endpoint: expected an object with url and secret, or with the id of a registered endpoint",
    ],
    [
      "an endpoint that is text",
      withData({ endpoint: "x" }),
      "data.endpoint: expected an object with url and secret, or with the id of a registered endpoint",
    ],
    ["a missing URL", withEndpoint({ url: undefined }), "data.endpoint.url: expected a string"],
    [
      "a URL that is too long",
      withEndpoint({ url: `https://example.com/${"x".repeat(2029)}` }),
      "data.endpoint.url: expected at most 2048 characters",
    ],
    [
      "an empty list of secrets",
      withEndpoint({ secret: [] }),
      "data.endpoint.secret: expected a secret, or an array of 1 to 10 of them",
    ],
    [
      "eleven secrets",
      withEndpoint({ secret: [..."abcdefghijk"] }),
      "data.endpoint.secret: expected a secret, or an array of 1 to 10 of them",
    ],
    [
      "a missing secret",
      withEndpoint({ secret: undefined }),
      "data.endpoint.secret: expected a secret, or an array of 1 to 10 of them",
    ],
    [
      "a secret that is an object",
      withEndpoint({ secret: { SECRET } }),
      "data.endpoint.secret: expected a secret, or an array of 1 to 10 of them",
    ],
    ["missing event data", withData({ data: undefined }), "data.data: expected a JSON object"],
    ["event data that is a list", withData({ data: [] }), "data.data: expected a JSON object"],
    ["event data that is null", withData({ data: null }), "data.data: expected a JSON object"],
    ["event data that is text", withData({ data: "{}" }), "data.data: expected a JSON object"],
    ["an id that is no UUID", withData({ id: "42" }), "data.id: expected a UUID"],
    ["an id that is nearly one", withData({ id: `${crypto.randomUUID()}0` }), "data.id: expected a UUID"],
    ["an id in braces", withData({ id: `{${crypto.randomUUID()}}` }), "data.id: expected a UUID"],
    ["an id that is null", withData({ id: null }), "data.id: expected a UUID"],
    ["an id with a line break", withData({ id: `${crypto.randomUUID()}\n` }), "data.id: expected a UUID"],
    ["a timestamp that is NaN", { ...job, timestamp: Number.NaN }, "timestamp: expected epoch milliseconds"],
    ["a timestamp no date can hold", { ...job, timestamp: 8.64e15 + 1 }, "timestamp: expected epoch milliseconds"],
    [
      "an infinite timestamp",
      { ...job, timestamp: Number.POSITIVE_INFINITY },
      "timestamp: expected epoch milliseconds",
    ],
  ])("%s", (_, broken, expected) => {
    expect(reasonOf(broken)).toBe(expected);
  });

  test.each([
    "",
    "example.com",
    "/in",
    "//example.com",
    "ftp://example.com",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "data:text/plain,x",
    "http://",
    "http://exa mple.com",
    "http://[::1",
    "http://1.2.3.4.5",
    "http://256.1.1.1",
    "http://example.com:65536",
    `https://user:${SECRET}@example.com`,
    "https://user@example.com",
    `https://:${SECRET}@example.com`,
  ])("the URL %p", (url) => {
    expect(reasonOf(withEndpoint({ url }))).toBe(
      "data.endpoint.url: expected an http or https URL without user name and password",
    );
  });

  test.each<[unknown, string]>([
    ["", "data.endpoint.secret: expected a non-empty string"],
    ["whsec_", "data.endpoint.secret: expected base64 after whsec_"],
    [`whsec_${SECRET}!`, "data.endpoint.secret: expected base64 after whsec_"],
    [SECRET.repeat(50), "data.endpoint.secret: expected at most 1024 characters"],
    [`${SECRET}\n`, "data.endpoint.secret: expected no blank or line break at its ends: trim it"],
    [` sealed:v1:${SECRET.repeat(3)}`, "data.endpoint.secret: expected no blank or line break at its ends: trim it"],
    [
      `Sealed:v1:${SECRET.repeat(3)}`,
      "data.endpoint.secret: expected a sealed secret to be sealed:v1: and base64url, with nothing around it",
    ],
    [[SECRET, ""], "data.endpoint.secret.1: expected a non-empty string"],
    [[SECRET, 7], "data.endpoint.secret.1: expected a string"],
    [[SECRET, [SECRET]], "data.endpoint.secret.1: expected a string"],
    [[SECRET, `"${SECRET}"`], "data.endpoint.secret.1: expected no quotes around it: leave them out"],
    [
      [null, `${SECRET} `, SECRET, ""],
      "data.endpoint.secret.0: expected a string; " +
        "data.endpoint.secret.1: expected no blank or line break at its ends: trim it; " +
        "data.endpoint.secret.3: expected a non-empty string",
    ],
  ])("the secret, what is wrong with it and where, and does not print it", (secret, expected) => {
    const reason = reasonOf(withEndpoint({ secret }));
    expect(reason).toBe(expected);
    expect(reason).not.toContain(SECRET);
  });

  test("every bad field at once, and no value of any", () => {
    const reason = reasonOf({
      id: "1",
      name: "file.renamed",
      data: {
        userId: " ",
        endpoint: { url: `https://u:${SECRET}@h`, secret: `whsec_${SECRET}` },
        data: [SECRET],
        id: SECRET,
      },
      timestamp: Number.NaN,
      queueName: "webhooks",
    });
    expect(reason.split("; ").map((part) => part.split(":")[0])).toEqual([
      "name",
      "data.userId",
      "data.endpoint.url",
      "data.endpoint.secret",
      "data.data",
      "data.id",
      "timestamp",
    ]);
    expect(reason).not.toContain(SECRET);
    expect(reason).not.toContain("file.renamed");
  });

  test("is short, however large the job", () => {
    const huge = "x".repeat(1_000_000);
    const reason = reasonOf(
      withData({ userId: huge, id: huge, data: huge, endpoint: { url: huge, secret: Array(1000).fill(huge) } }),
    );
    expect(reason.length).toBeLessThan(2000);
  });
});

describe("the id", () => {
  const idOf = (changes: Partial<StoredJob>) => parseEvent({ ...job, ...changes }).id;

  test.each([
    "018f9c5e-7a10-7bbb-8ccc-2f4b6d8e0a11",
    "018F9C5E-7A10-7BBB-8CCC-2F4B6D8E0A11", // as SQL Server and .NET write them
    "6F9619FF-8B86-D011-B42D-00C04FC964FF", // of Microsoft's variant
    "00112233-4455-f677-0899-aabbccddeeff", // of no version that is known
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
  ])("is the one in the data, as it stands there: %s", (id) => {
    const { id: parsed, body } = parseEvent(withData({ id }));
    expect([parsed, JSON.parse(String(body)).id]).toEqual([id, id]);
  });

  test("is otherwise a UUID of version 5 that stays the same for the same job", () => {
    expect(idOf({})).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    // From Python: uuid.uuid5(UUID("5b6cf1d6-0c8e-4a53-9d0f-6a1f3c1f7a52"), "webhooks:1:1760000000000").
    // Pinned: a release that derived another would make receivers take the retries of waiting events for new ones.
    expect(idOf({})).toBe("6bdb6e68-cbdf-5dc8-b23e-60dfe2b74f4d");
    expect(parseEvent(withData({ data: { other: true } })).id).toBe(idOf({}));
  });

  test("differs by job, queue and time", () => {
    const ids = [
      idOf({}),
      idOf({ id: "2" }),
      idOf({ queueName: "other" }),
      idOf({ timestamp: 1_760_000_000_001 }),
      idOf({ id: "11", timestamp: 760_000_000_000 }),
    ];
    expect(new Set(ids).size).toBe(ids.length);
  });
});

describe("event data", () => {
  const dataIn = (json: string) => {
    const event = parseEvent({ ...job, data: { ...data, data: JSON.parse(json) } });
    return event.body.toString().slice(0, -1).split('"data":').slice(1).join('"data":');
  };

  test.each([
    ['{"__proto__":{"polluted":true},"a":1}'],
    ['{"constructor":{"prototype":{"polluted":true}}}'],
    ['{"a":{"__proto__":null}}'],
    ['{"a":"x\\ud800y"}'],
    ['{"\\udc00":1}'],
    ['{"b":1,"a":[[{"c":null}],1e+21,-0.5,"größe-文件-🦊"]}'],
    ['{"secret":"s","url":"u","":{}}'],
    ["{}"],
  ])("comes out as it went in: %s", (json) => {
    expect(dataIn(json)).toBe(json);
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });

  test("may be nested deeply", () => {
    const json = `${'{"a":'.repeat(1000)}1${"}".repeat(1000)}`;
    expect(dataIn(json)).toBe(json);
  });

  test("keeps an own __proto__ of the job out of the contract's fields", () => {
    const forged = JSON.parse(JSON.stringify({ PROTO: data }).replace("PROTO", "__proto__"));
    expect(reasonOf({ ...job, data: forged })).toStartWith("data.userId: expected a string; ");
  });
});
