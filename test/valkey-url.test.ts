import { describe, expect, test } from "bun:test";
import { addressOf, isValkeyUrl, maskValkeyUrl, placeOf } from "../src/valkey/url.ts";

const SECRET = "hush-hush";

describe("one Valkey", () => {
  test.each([
    ["redis://h", { host: "h", port: 6379, db: 0 }],
    ["redis://h:/", { host: "h", port: 6379, db: 0 }],
    ["redis://h:6380/0", { host: "h", port: 6380, db: 0 }],
    ["redis://h/15", { host: "h", port: 6379, db: 15 }],
    ["redis://h/3/", { host: "h", port: 6379, db: 3 }],
    ["redis://h/3\n", { host: "h", port: 6379, db: 3 }],
    [
      "redis://u:p%40s%2Bs+@127.0.0.1:6380/3",
      { host: "127.0.0.1", port: 6380, db: 3, username: "u", password: "p@s+s+" },
    ],
    ["redis://:p@h", { host: "h", port: 6379, db: 0, password: "p" }],
    ["redis://u@h", { host: "h", port: 6379, db: 0, username: "u" }],
    ["rediss://[::1]:6379", { host: "::1", port: 6379, db: 0, tls: {} }],
    ["redis://h?password=x+y%26", { host: "h", port: 6379, db: 0, password: "x+y&" }],
    ["redis://u@h/1?password=x", { host: "h", port: 6379, db: 1, username: "u", password: "x" }],
    [
      "redis://h/?username=u&password=x&family=6",
      { host: "h", port: 6379, db: 0, username: "u", password: "x", family: 6 },
    ],
  ])("%j is told to the client part by part", (url, address) => {
    expect(isValkeyUrl(url)).toBe(true);
    expect(addressOf(url)).toEqual(address);
  });
});

describe("Sentinels", () => {
  test("are asked in the order given, on their own port unless another is given", () => {
    expect(addressOf("redis+sentinel://a,b.internal:26380,[::1]/mymaster")).toEqual({
      sentinels: [
        { host: "a", port: 26379 },
        { host: "b.internal", port: 26380 },
        { host: "::1", port: 26379 },
      ],
      name: "mymaster",
      db: 0,
    });
  });

  test("and Valkey have logins of their own", () => {
    expect(addressOf("redis+sentinel://u:p%40%2Fss@a/my-primary.1/3?user=s&password=q%26w")).toEqual({
      sentinels: [{ host: "a", port: 26379 }],
      name: "my-primary.1",
      db: 3,
      username: "u",
      password: "p@/ss",
      sentinelUsername: "s",
      sentinelPassword: "q&w",
    });
    expect(addressOf("redis+sentinel://:p@a/m")).toMatchObject({ password: "p" });
    expect(addressOf("redis+sentinel://:a+b@a/m?password=c+d=")).toMatchObject({
      password: "a+b",
      sentinelPassword: "c+d=",
    });
    expect(addressOf("redis+sentinel://:p@a/m")).not.toHaveProperty("username");
  });

  test("and Valkey are both reached over TLS with rediss", () => {
    expect(addressOf("rediss+sentinel://a/m")).toMatchObject({
      tls: {},
      sentinelTLS: {},
      enableTLSForSentinelMode: true,
    });
  });
});

test.each([
  "",
  "redis://",
  "redis://h:x",
  "redis://:%zz@h",
  "http://h",
  "redis+sentinel://a",
  "redis+sentinel://a/",
  "redis+sentinel:///m",
  "redis+sentinel://a,/m",
  "redis+sentinel://a:x/m",
  "redis+sentinel://a/m/x",
  "redis+sentinel://a/m/1/2",
  "redis+sentinel://a/m?db=1",
  "redis+sentinel://a/m#x",
  "redis+sentinel://:%zz@a/m",
  "sentinel://a/m",
  "redis+sentinel://a/m/01",
  "redis+sentinel://a/m/-1",
  "redis+sentinel://a:0/m",
  "redis+sentinel://a/m?password=1&password=2",
  "redis+sentinel://a/m/1\n2",
  "redis://h:0",
  "redis://h/webhooks",
  "redis://h/-1",
  "redis://h/+1",
  "redis://h/1/2",
  "redis://h//",
  "redis://h//1",
  "redis://h/ 1",
  "redis://h/1\n2",
  "redis://h/1.5",
  "redis://h/1abc",
  "redis://h/01",
  "redis://h/%31",
  "redis://h/0x1",
  "redis://h/1e1",
  "redis://h/99999999999",
  "redis://h/\u0661", // a digit, elsewhere
  "redis://h?db=3",
  "redis://h/1?db=1",
  "redis://h?keyPrefix=x",
  "redis://h?tls=true",
  "redis://h?host=i",
  "redis://h?port=1",
  "redis://h?path=/tmp/x",
  "redis://h?family=5",
  "redis://h?family=",
  "redis://h?password=1&password=2",
  "redis://:p@h?password=q",
  "redis://u@h?username=v",
  "redis://h#1",
])("%j is none", (url) => {
  expect(isValkeyUrl(url)).toBe(false);
  expect(() => addressOf(url)).toThrow(RangeError);
});

test.each([
  ["redis://127.0.0.1:6379", "redis://127.0.0.1:6379", "127.0.0.1:6379"],
  [`rediss://user:${SECRET}@v.internal:6380/3`, "rediss://user:***@v.internal:6380/3", "v.internal:6380"],
  [`redis://:${SECRET}@h`, "redis://:***@h", "h"],
  [`redis://h/?password=${SECRET}`, "redis://h/?***", "h"],
  [`redis+sentinel://u:${SECRET}@a:1,b/m/2`, "redis+sentinel://u:***@a:1,b/m/2", "m of a:1,b"],
  [`redis+sentinel://a/m?password=${SECRET}`, "redis+sentinel://a/m?***", "m of a"],
  [SECRET, "***", ""],
])("%s is shown as %s, and leads to %j", (url, shown, place) => {
  expect(maskValkeyUrl(url)).toBe(shown);
  expect(placeOf(url)).toBe(place);
});
