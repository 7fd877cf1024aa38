import { describe, expect, test } from "bun:test";
import { parseExact } from "../src/exact-json.ts";
import { collectSecrets, maskSecrets } from "../src/mask.ts";

const SECRET = "hunter2-of-the-customer";

describe("what is named a secret", () => {
  test.each([
    ["a string", { endpoint: { url: "https://a.example/", secret: SECRET } }],
    ["an array", { endpoint: { secret: ["new-secret", SECRET] } }],
    ["an object", { endpoint: { secret: { current: SECRET, [SECRET]: 1 } } }],
    ["at the top", { secret: SECRET }],
    ["plural", { secrets: [SECRET] }],
    ["in capitals", { Endpoint: { SECRET } }],
    ["in an array of arrays", [[{ secret: SECRET }]]],
  ])("is masked: %s", (_name, value) => {
    const masked = JSON.stringify(maskSecrets(value));
    expect(masked).not.toContain(SECRET);
    expect(masked).toContain('"***"');
  });

  test("is masked in JSON within a string, which stays JSON", () => {
    const masked = maskSecrets({ data: JSON.stringify({ endpoint: { secret: SECRET }, n: 1 }) }) as { data: string };
    expect(JSON.parse(masked.data)).toEqual({ endpoint: { secret: "***" }, n: 1 });
  });

  test("is masked in JSON within a string within a string, however deep", () => {
    let text = JSON.stringify({ secret: SECRET });
    for (let level = 1; level <= 8; level++) {
      text = JSON.stringify({ inner: text });
      expect(JSON.stringify(maskSecrets({ data: text }))).not.toContain(SECRET);
    }
  });

  test.each([
    [`refused {"endpoint":{"secret":"${SECRET}"}} at once`, 'refused {"endpoint":{"secret":"***"}} at once'],
    [`cut off {"secret": "${SECRET}`, 'cut off {"secret": "***"'],
    [`escaped {\\"secret\\":\\"${SECRET}\\\\\\"x\\"} end`, 'escaped {\\"secret\\":\\"***\\"} end'],
    [`{ secret: '${SECRET}' }`, '{ secret: "***" }'],
    [`"secrets":["a]b","${SECRET}"], more`, '"secrets":"***", more'],
    [`?secret=${SECRET}&a=b`, '?secret="***"&a=b'],
  ])("is masked in the middle of a text: %s", (text, expected) => {
    expect(maskSecrets({ failedReason: text })).toEqual({ failedReason: expected });
  });

  test("leaves prose about a secret as it is", () => {
    const job = { failedReason: "data.endpoint.secret: expected a string; data.endpoint.url: expected a string" };
    expect(maskSecrets(job)).toEqual(job);
  });
});

describe("the text of a secret", () => {
  const data = { endpoint: { url: "https://a.example/", secret: SECRET } };

  test("is removed wherever else it occurs in the answer", () => {
    const job = {
      data,
      name: `x${SECRET}`,
      failedReason: `bad ${SECRET}!`,
      stacktrace: [SECRET],
      opts: { note: SECRET },
    };
    const masked = maskSecrets({ queues: [{ jobs: [job, { failedReason: SECRET }] }] });
    expect(JSON.stringify(masked)).not.toContain(SECRET);
    expect(JSON.stringify(masked)).toContain("bad ***!");
  });

  test("is removed from the event's own data, keys included", () => {
    const masked = maskSecrets({ data: { ...data, data: { id: SECRET, [SECRET]: 1 } } });
    expect(JSON.stringify(masked)).not.toContain(SECRET);
  });

  test("is removed when it is escaped for JSON or a URL, or without its whsec_ prefix", () => {
    const secret = 'whsec_ab"cd/ef==';
    const masked = maskSecrets({
      data: { secret },
      logs: [JSON.stringify(secret), `?s=${encodeURIComponent(secret)}`, 'key ab"cd/ef=='],
    });
    expect(masked).toEqual({ data: { secret: "***" }, logs: ['"***"', "?s=***", "key ***"] });
  });

  test("leaves nothing of the longer of two secrets", () => {
    expect(maskSecrets({ data: { secret: ["abcd", "abcd-efgh"] }, failedReason: "abcd-efgh" })).toEqual({
      data: { secret: "***" },
      failedReason: "***",
    });
  });

  test("is removed when it is known from elsewhere", () => {
    expect(maskSecrets([`log ${SECRET}`], { secrets: collectSecrets({ data }) })).toEqual(["log ***"]);
  });

  test("does not break what the page needs when it is an ordinary word", () => {
    const names = new Set(["webhooks"]);
    const queue = { name: "webhooks", statuses: ["failed"], counts: { failed: 1 } };
    const jobs = [{ id: "failed-1", data: { secret: ["failed", "webhooks"] }, failedReason: "failed" }];
    expect(maskSecrets({ queues: [{ ...queue, jobs }] }, { names })).toEqual({
      queues: [{ ...queue, jobs: [{ id: "failed-1", data: { secret: "***" }, failedReason: "***" }] }],
    });
  });

  test("hides all free text when there are too many to search for", () => {
    const secrets = Array.from({ length: 10_000 }, (_, index) => `secret-${index}`);
    expect(maskSecrets({ data: { secrets }, failedReason: "anything" })).toEqual({
      data: { secrets: "***" },
      failedReason: "***",
    });
  });
});

describe("URLs", () => {
  test.each([
    ["https://user:passw0rd@a.example/x@y", "https://***@a.example/x@y"],
    ["https:user:passw0rd@a.example/", "https:***@a.example/"],
    ["https:\\\\user:passw0rd@a.example/", "https:\\\\***@a.example/"],
    ["https://user:pa/ssw0rd@a.example/", "https://***@a.example/"],
    ["https://a.example/@user?mail=a@b.example", "https://a.example/@user?mail=a@b.example"],
  ])("lose user name and password: %s", (url, expected) => {
    expect(maskSecrets({ endpoint: { url } })).toEqual({ endpoint: { url: expected } });
  });

  test("lose their password elsewhere too", () => {
    const masked = maskSecrets({ url: "https://user:passw0rd@a.example/", failedReason: "user: no passw0rd" });
    expect(masked).toEqual({ url: "https://***@a.example/", failedReason: "user: no ***" });
  });
});

describe("a number that JavaScript cannot hold", () => {
  test("is shown as a text, with every digit", () => {
    const text = '{"data":{"n":9007199254740993,"list":[1e400,[-0]],"price":1.10,"plain":1.5}}';
    const shown = { n: "9007199254740993", list: ["1e400", ["-0"]], price: "1.10", plain: 1.5 };
    expect(maskSecrets(parseExact(text))).toEqual({ data: shown });
    expect(maskSecrets(parseExact("9007199254740993"))).toBe("9007199254740993");
  });

  test("stays a number in JSON within a string that has a secret in it", () => {
    const data = `{"secret":"${SECRET}","n":[9007199254740993,1.10]}`;
    expect(maskSecrets({ data })).toEqual({ data: '{"secret":"***","n":[9007199254740993,1.10]}' });
  });

  test("is masked where it is named a secret, and wherever else it occurs", () => {
    const job = parseExact(
      '{"data":{"secret":9007199254740993,"n":9007199254740993},"text":"{\\"n\\":9007199254740993}"}',
    );
    const masked = { data: { secret: "***", n: "***" }, text: '{"n":"***"}' };
    expect(maskSecrets(job)).toEqual(masked);
    expect(collectSecrets(job)).toEqual(new Set(["9007199254740993"]));
  });
});

describe("what is odd", () => {
  test("keeps a __proto__ and its value", () => {
    const text = '{"data":{"__proto__":{"a":1,"secret":"***"},"constructor":2}}';
    expect(JSON.stringify(maskSecrets(JSON.parse(text)))).toBe(text);
  });

  test.each([[null], [true], [1.5], ["text"], [[]], [{}]])("keeps %p", (value: unknown) => {
    expect(maskSecrets(value)).toEqual(value);
  });

  test("changes nothing in what it is given", () => {
    const value = { data: { secret: SECRET } };
    maskSecrets(value);
    expect(value).toEqual({ data: { secret: SECRET } });
  });

  test.each(["[", '{"a":'])("bears any depth of %s, and finds the secret at the bottom", (open) => {
    const depth = 100_000;
    const text = open.repeat(depth) + JSON.stringify({ secret: SECRET }) + (open === "[" ? "]" : "}").repeat(depth);
    const masked = JSON.stringify(maskSecrets({ data: JSON.parse(text), text, failedReason: SECRET }));
    expect(masked).not.toContain(SECRET);
    expect(masked.length).toBeLessThan(2_000);
  });

  test("masks a large text in time that grows with its length", () => {
    const value = {
      data: { secret: SECRET },
      failedReason: `"secret":"${'\\"'.repeat(25_000)} secret: [ ${"secret=".repeat(6_000)}`,
    };
    const startedAt = performance.now();
    maskSecrets(value);
    expect(performance.now() - startedAt).toBeLessThan(1_000); // some 20 ms; looked through anew from each place: minutes
  });
});
