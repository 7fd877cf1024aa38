/** The shards that settings make, their names, and whose events go where. */
import { describe, expect, test } from "bun:test";
import { circuitsKey, logKey } from "../src/queue/own-keys.ts";
import { homeAmong, homeOf, parseJobName, shardsOf, tagOf } from "../src/queue/shards.ts";
import { loadConfig } from "../src/settings/config.ts";

const PLAIN = "redis://a";
const CLUSTER = "redis+cluster://a,b,c";
const namesOf = (shards: number, ...valkeyUrls: string[]) =>
  shardsOf({ queue: "webhooks", shards, valkeyUrls }).map(({ queue, tag, url, label }) => [
    queue,
    logKey("u", tag),
    label,
    url,
  ]);

describe("the names of", () => {
  test("one shard without a cluster are those of version 0.1.0", () => {
    expect(namesOf(1, PLAIN)).toEqual([["webhooks", "webhooks:log:u", "", PLAIN]]);
    expect(circuitsKey("webhooks")).toBe("webhooks:circuits:webhooks");
  });

  test("shards in a cluster have their number in braces, which decides the node", () => {
    expect(namesOf(2, CLUSTER)).toEqual([
      ["webhooks-{0}", "webhooks:log:{0}:u", "0/", CLUSTER],
      ["webhooks-{1}", "webhooks:log:{1}:u", "1/", CLUSTER],
    ]);
    expect(namesOf(1, CLUSTER)).toEqual([["webhooks-{0}", "webhooks:log:{0}:u", "", CLUSTER]]);
  });

  test("shards on Valkeys of their own are the same, but for the first, which may have events already", () => {
    expect(namesOf(2, PLAIN, "redis://b")).toEqual([
      ["webhooks", "webhooks:log:u", "0/", PLAIN],
      ["webhooks-{1}", "webhooks:log:{1}:u", "1/", "redis://b"],
    ]);
  });

  test("the queue that a move into a cluster left behind are its old ones, and it is the last of the shards", () => {
    const shards = shardsOf({ queue: "webhooks", shards: 2, valkeyUrls: [CLUSTER], drainUrl: PLAIN });
    expect(shards.map(({ queue, label, tag }) => [queue, label, tag])).toEqual([
      ["webhooks-{0}", "0/", "{0}:"],
      ["webhooks-{1}", "1/", "{1}:"],
      ["webhooks", "old/", ""],
    ]);
    expect(shards[2]).toMatchObject({ index: 2, url: PLAIN, isDrained: true });
    const homes = Array.from({ length: 50 }, (_, index) => homeAmong(shards, `usr_${index}`).index);
    expect(new Set(homes)).toEqual(new Set([0, 1]));
    const moved = shardsOf({ queue: "webhooks", shards: 1, valkeyUrls: [CLUSTER], drainUrl: PLAIN });
    expect(moved.map(({ label }) => label)).toEqual(["0/", "old/"]);
  });

  test("a user with braces stay in the shard's slot", () => {
    expect(logKey("{7}", "{1}:")).toBe("webhooks:log:{1}:{7}");
  });
});

test("a shard's tag is known from its queue's name", () => {
  expect(["webhooks", "webhooks-{0}", "a-{12}", "{a}", "a-{b}"].map(tagOf)).toEqual(["", "{0}:", "{12}:", "", ""]);
});

test("a job's name says its shard; without one it is in the first", () => {
  expect(["4711", "3/4711", "12/a/b", "a/b", "1234/x", "old/4711"].map(parseJobName)).toEqual([
    { label: "0/", id: "4711" },
    { label: "3/", id: "4711" },
    { label: "12/", id: "a/b" },
    { label: "0/", id: "a/b" },
    { label: "0/", id: "1234/x" },
    { label: "old/", id: "4711" },
  ]);
});

test("a user's home is the CRC-32 of the id, as zlib computes it", () => {
  for (const user of ["usr_1", "usr_2", "", "Zoë", "x".repeat(128)]) {
    expect(homeOf(user, 24)).toBe(Bun.hash.crc32(user) % 24);
    expect(homeOf(user, 1)).toBe(0);
  }
});

describe("settings that do not go together are refused by name:", () => {
  const problemsOf = (env: Record<string, string>) => {
    const loaded = loadConfig(env);
    return loaded.ok ? [] : loaded.problems;
  };

  test.each<[Record<string, string>, string]>([
    [
      { WEBHOOK_SHARDS: "6" },
      'expected WEBHOOK_SHARDS to be 1, since VALKEY_URL names one Valkey without a cluster, got "6"',
    ],
    [
      { VALKEY_URL: "redis://a redis://b" },
      'expected WEBHOOK_SHARDS or WEBHOOK_SHARDS_BEFORE to be 2, since VALKEY_URL names 2 Valkeys, got "1"',
    ],
    [
      { VALKEY_URL: "redis+cluster://a redis://b", WEBHOOK_SHARDS: "2" },
      "expected VALKEY_URL to be one cluster or several Valkeys, got 2 URLs with a cluster among them",
    ],
    [
      { VALKEY_URL: "redis://a redis://a", WEBHOOK_SHARDS: "2" },
      "expected the URLs in VALKEY_URL to differ, got one twice",
    ],
    [
      { VALKEY_URL: PLAIN, WEBHOOK_DRAIN_URL: "redis://b" },
      "expected WEBHOOK_DRAIN_URL to be unset, since VALKEY_URL is not a cluster's, got something",
    ],
    [
      { VALKEY_URL: CLUSTER, WEBHOOK_DRAIN_URL: "redis+cluster://b" },
      "expected WEBHOOK_DRAIN_URL to be a redis://, rediss:// or redis+sentinel:// URL, as VALKEY_URL was, got something else",
    ],
    [
      { VALKEY_URL: CLUSTER, WEBHOOK_QUEUE: "{wh}" },
      'expected WEBHOOK_QUEUE to have no braces, since shards add their own, got "{wh}"',
    ],
  ])("%j", (env, problem) => {
    expect(problemsOf(env)).toEqual([problem]);
  });

  test("those that do are taken", () => {
    expect(problemsOf({ VALKEY_URL: CLUSTER, WEBHOOK_SHARDS: "256" })).toEqual([]);
    expect(problemsOf({ VALKEY_URL: " redis://a  rediss+sentinel://s/m ", WEBHOOK_SHARDS: "2" })).toEqual([]);
    expect(problemsOf({ VALKEY_URL: CLUSTER, WEBHOOK_DRAIN_URL: "redis://b" })).toEqual([]);
    expect(problemsOf({ WEBHOOK_QUEUE: "{wh}" })).toEqual([]);
  });
});
