/** `fluxhook endpoints`: what it says, refuses and does. */
import { afterAll, afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createKey, isSealed, openSealed } from "../src/delivery/seal.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { listEndpoints } from "../src/operations/endpoint-list.ts";
import { type OpenShard, openShard } from "../src/queue/open-shard.ts";
import { endpointIndexKey, endpointOffKey, endpointsKey } from "../src/queue/own-keys.ts";
import { homeAmong, shardsOf } from "../src/queue/shards.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { parseStored } from "../src/registry/stored.ts";
import { openValkey } from "../src/valkey/connection.ts";
import { createCommand, type Said } from "./support/command.ts";
import { endAll, receiver, stack } from "./support/deliveries.ts";
import { testValkeyUrl } from "./support/valkey.ts";

setDefaultTimeout(60_000); // on a machine that may be busy

const KEY = createKey();
const server = await startValkey();
const valkey = openValkey(server.url, {});
const registry = createRegistry(valkey, { secretKeys: [KEY] });
const folder = mkdtempSync(join(tmpdir(), "fluxhook-endpoints-"));
afterEach(endAll);
afterAll(async () => {
  valkey.disconnect();
  await server.stop();
  rmSync(folder, { recursive: true });
});

const fluxhook = createCommand({ VALKEY_URL: server.url, WEBHOOK_SECRET_KEYS: KEY });

/** Run command lines in their order. */
async function runAll(lines: readonly (readonly string[])[], env: Record<string, string> = {}): Promise<Said[]> {
  const said: Said[] = [];
  for (const line of lines) said.push(await fluxhook(line, { env }));
  return said;
}

/** Run lines of `fluxhook endpoints` in their order. */
const run = (lines: readonly (readonly string[])[], env?: Record<string, string>) =>
  runAll(
    lines.map((line) => ["endpoints", ...line]),
    env,
  );

const json = ({ out, err, code }: Said | undefined = { out: "", err: "nothing ran", code: -1 }) => {
  if (code !== 0) throw new Error(`ended with ${code}: ${out}${err}`);
  return JSON.parse(out);
};
const newUser = () => `usr_${crypto.randomUUID()}`;
const documents = async (userId: string) => parseStored(await valkey.hgetall(endpointsKey(userId)));
const file = (name: string, lines: readonly object[]) => {
  const path = join(folder, name);
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  return path;
};

test("update removes what is given empty, and refuses an empty URL, and empty events and rates, for which there are all and none", async () => {
  const user = newUser();
  const settings = {
    ...{ description: "CRM", events: ["file.*"], rateLimit: { perSecond: 5 } },
    ...{ headers: { "X-Key": "0123456789abcdef" }, metadata: { plan: "team" } },
  };
  await registry.create(user, { id: "main", url: "https://hooks.example.com/in", ...settings });
  const empty = { description: "", headers: {}, metadata: {} };
  const options = ["--description", "--header", "--metadata"];
  const said = await run(options.map((option) => ["update", user, "main", option, "", "--json"]));
  for (const [index, [name, value]] of Object.entries(empty).entries()) {
    const cleared = Object.fromEntries(Object.entries(empty).slice(0, index + 1));
    expect(json(said[index]), name).toMatchObject(cleared);
    expect(json(said[index])[name]).toEqual(value);
    if (index > 0) expect(json(said[index - 1])[name]).not.toEqual(value);
  }
  const refusals = {
    "--url": "url: expected an http or https URL",
    "--events": "--events is empty: name event types, or all for all of them",
    "--rate": "--rate is empty: give a number, or none for no limit",
  };
  const refused = await run(Object.keys(refusals).map((option) => ["update", user, "main", option, ""]));
  expect(refused.map(({ code, err }) => [code, err])).toEqual(
    Object.values(refusals).map((message) => [2, expect.stringContaining(message)]),
  );
  expect(await registry.get(user, "main")).toMatchObject({ events: ["file.*"], rateLimit: { perSecond: 5 } });
});

test("what is wrong with a setting is said by its option's name", async () => {
  const create = ["create", newUser(), "--url", "https://a.example/"];
  const wrong = await run([
    ["create", newUser(), "--url", "a.example", "--description", "x".repeat(257)],
    [...create, "--events", "file.*,file.creatd"],
    [...create, "--rate", "0"],
    [...create, "--rate", "1", "--burst", "0"],
    [...create, "--header", "Host: a.example"],
    [...create, "--metadata", `my plan=${"x".repeat(513)}`],
  ]);
  expect(wrong.map(({ code }) => code)).toEqual([2, 2, 2, 2, 2, 2]);
  expect(wrong.map(({ err }) => err.split("\n").slice(0, -1))).toEqual([
    [expect.stringContaining("--url: expected an http"), "fluxhook: --description: expected at most 256 characters"],
    [expect.stringContaining("--events, type 2: expected one of file.created, ")],
    ["fluxhook: --rate: expected a number from 0.01 to 10000"],
    ["fluxhook: --burst: expected a whole number from 1 to 10000"],
    ["fluxhook: --header Host: not a header that an endpoint may have"],
    ["fluxhook: --metadata my plan: expected at most 512 characters"],
  ]);
});

test("a list cuts a long URL, show and --json have all of it", async () => {
  const user = newUser();
  const url = `https://hooks.example.com/${"x".repeat(2_000)}`;
  await registry.create(user, { id: "main", url });
  const [list, listed, show] = await run([
    ["list", user],
    ["list", user, "--json"],
    ["show", user, "main"],
  ]);
  expect(list?.out.trimEnd()).toEndWith(`  ${url.slice(0, 99)}…`);
  expect(json(listed).endpoints[0].url).toBe(url);
  expect(show?.out).toContain(`  ${url}\n`);
});

test("a list of nothing says of whom, and whether it was filtered; what was not missed is nothing", async () => {
  const user = newUser();
  const [none, all] = await run([
    ["list", user],
    ["list", "--host", "nowhere.example"],
  ]);
  await registry.create(user, { id: "main", url: "https://a.example/in" });
  const [filtered, missed] = await run([
    ["list", user, "--state", "paused"],
    ["missed", user, "main"],
  ]);
  expect([none, all, filtered, missed].map((said) => [said?.out, said?.code])).toEqual([
    [`No endpoints of user ${user} are registered.\n`, 0],
    ["No endpoint matches.\n", 0],
    [`No endpoint of user ${user} matches.\n`, 0],
    ["nothing\n", 0],
  ]);
});

describe("fluxhook endpoints", () => {
  test("creates, shows, changes and deletes an endpoint, and prints its secret only when it is made", async () => {
    const user = newUser();
    const url = "https://hooks.example.com/in?token=hush";
    const [made, given, shown, updated, rotated, wrong, listed] = await run([
      [
        "create",
        user,
        "--id",
        "main",
        "--url",
        url,
        "--events",
        "file.*,org.updated",
        "--header",
        "X-Key: 0123456789ab",
        "--json",
      ],
      [
        "create",
        user,
        "--id",
        "own",
        "--url",
        url,
        "--secret",
        "a-secret-of-theirs-own",
        "--rate",
        "5",
        "--burst",
        "2",
      ],
      ["show", user, "main"],
      ["update", user, "main", "--description", "CRM", "--rate", "none", "--events", "all", "--json"],
      ["rotate", user, "main", "--grace", "1h", "--json"],
      ["update", user, "main", "--if-version", "other", "--description", "x"],
      ["list", user],
    ]);
    const created = json(made);
    expect(created).toMatchObject({
      user,
      id: "main",
      url: "https://hooks.example.com/in?…",
      events: ["file.*", "org.updated"],
    });
    expect([created.state, created.headers]).toEqual([
      { kind: "enabled", since: null, reason: null },
      { "X-Key": "…89ab" },
    ]);
    expect(created.secret).toMatch(/^whsec_/);
    expect([given?.code, given?.out.includes("5 per second, burst 2")]).toEqual([0, true]);
    expect(shown?.out).toContain("hooks.example.com/in?…");
    expect(json(updated)).toMatchObject({ description: "CRM", events: null, rate_limit: null });
    const { secret, secrets } = json(rotated);
    const [, old] = secrets;
    expect([secrets.length, Date.parse(old.expires_at) - Date.parse(secrets[0].created_at)]).toEqual([2, 3_600_000]);
    expect([wrong?.code, wrong?.err]).toEqual([1, "fluxhook: endpoint main was changed meanwhile: read it again\n"]);
    expect(listed?.out.split("\n").map((line) => line.split(/ {2,}/).slice(1, 3))).toEqual([
      ["endpoint", "state"],
      ["main", "enabled"],
      ["own", "enabled"],
      [],
    ]);
    const all = [given, shown, updated, wrong, listed].map((said) => `${said?.out}${said?.err}`).join("");
    for (const hidden of ["hush", "0123456789", "a-secret-of", created.secret, secret, "sealed:"])
      expect(all).not.toContain(hidden);

    const [, stored] = [1, (await documents(user)).find(({ id }) => id === "own")];
    expect(openSealed(stored?.document.secrets[0]?.secret as string, [KEY], user)).toBe("a-secret-of-theirs-own");

    const [unanswered, deleted, again, gone] = await run([
      ["delete", user, "main"],
      ["delete", user, "main", "--yes"],
      ["delete", user, "main", "--yes", "--json"],
      ["show", user, "main"],
    ]);
    expect([unanswered?.code, deleted?.code, json(again)]).toEqual([2, 0, { user, id: "main", deleted: true }]);
    expect([gone?.code, gone?.err]).toEqual([1, "fluxhook: the user has no endpoint main\n"]);
  });

  test("pauses, resumes, disables and enables, and says what it missed", async () => {
    const user = newUser();
    await registry.create(user, { id: "main", url: "https://hooks.example.com/in" });
    const said = await run([
      ["pause", user, "main", "--json"],
      ["test", user, "main"],
      ["resume", user, "main", "--json"],
      ["disable", user, "main", "--json"],
      ["pause", user, "main"],
      ["replay", user, "main"],
      ["missed", user, "main", "--json"],
      ["explain", user, "file.created", "--json"],
      ["enable", user, "main", "--replay", "2d", "--json"],
      ["replay", user, "main", "--dry-run", "--since", "1h"],
      ["attempts", user, "main"],
    ]);
    const [paused, untested, resumed, disabled, refused, unplayed, missed, explained, enabled, replayed, attempts] =
      said;
    expect(json(paused).state).toMatchObject({ kind: "paused", since: expect.any(String) });
    expect([untested?.code, untested?.err]).toEqual([1, "fluxhook: endpoint main is paused: resume it to test it\n"]);
    expect(json(resumed).state.kind).toBe("enabled");
    expect(json(disabled).state).toMatchObject({ kind: "disabled", reason: "manual" });
    expect([refused?.code, refused?.err]).toEqual([1, "fluxhook: endpoint main is disabled: enable it first\n"]);
    expect(unplayed?.err).toContain("fluxhook endpoints enable --replay does both");
    expect(json(missed)).toMatchObject({ kept: 0, dropped: 0, events: [], cursor: null });
    expect(json(explained)).toMatchObject({
      summary: "to 0 of 1 endpoint, 1 missed",
      endpoints: [{ id: "main", reception: "missed" }],
    });
    expect(json(enabled)).toMatchObject({ state: { kind: "enabled" }, replay: { replayed: 0, skipped: 0, left: 0 } });
    expect(replayed?.out).toBe("0 would be replayed. Nothing was changed.\n");
    expect(attempts?.out).toBe(`No attempts to endpoint main of ${user} are kept.\n`);
  });

  test("tests an endpoint, and reports the outcome", async () => {
    const customer = await receiver();
    const system = await stack({ secretKeys: [Buffer.from(KEY, "base64")] });
    const user = newUser();
    const there = createRegistry(system.valkey, { secretKeys: [KEY] });
    await there.create(user, { id: "main", url: customer.url("/in"), events: ["org.*"] });
    await there.create(user, { id: "dead", url: "http://127.0.0.1:1/" });
    const env = { VALKEY_URL: await testValkeyUrl(), WEBHOOK_QUEUE: system.queue.name };
    const [good, bad, logged] = await run(
      [
        ["test", user, "main", "--json", "--wait", "15s"],
        ["test", user, "dead", "--wait", "15s"],
        ["attempts", user, "dead", "--json"],
      ],
      env,
    );
    expect(json(good)).toMatchObject({
      state: "delivered",
      attempt: { endpoint_id: "main", test: true, status_code: 200 },
    });
    expect(JSON.parse((await customer.next()).body.toString()).data.test).toBe(true);
    expect([bad?.code, bad?.out]).toEqual([1, expect.stringContaining("Failed: ")]);
    expect(json(logged)).toMatchObject([{ error: expect.any(String), success: false }]);

    await there.disable(user, "dead");
    const wait = ["--user", user, "--wait", "15s"];
    const [sent, held, unknown, both] = await runAll(
      [
        ["trigger", "org.updated", "--endpoint", "main", ...wait],
        ["send", "--event", "file.created", "--endpoint", "dead", ...wait],
        ["send", "--event", "file.created", "--endpoint", "other", ...wait],
        ["send", "--event", "file.created", "--endpoint", "main", "--url", "http://127.0.0.1/", ...wait],
      ],
      env,
    );
    expect([sent?.code, sent?.out]).toEqual([0, expect.stringMatching(/\nattempt 1 {2}200 .+\nDelivered\.\n$/)]);
    expect([held?.code, held?.out]).toEqual([1, expect.stringContaining("Failed: held: endpoint disabled")]);
    expect([unknown?.code, unknown?.err]).toEqual([1, "fluxhook: the user has no endpoint other\n"]);
    expect([both?.code, both?.err]).toEqual([2, "fluxhook: expected --url or --endpoint, not both\n"]);
  });
});

describe("the list of all users", () => {
  test("has the latest change first, in pages, by state and host", async () => {
    await valkey.flushall();
    const users = Array.from({ length: 5 }, (_, index) => `usr_${index}`);
    for (const user of users) await registry.create(user, { id: "main", url: `https://${user.slice(4)}.example.com/` });
    await Bun.sleep(2); // the times of changes are in ms
    await registry.pause("usr_1", "main");
    await Bun.sleep(2);
    await registry.disable("usr_2", "main");
    await valkey.hset("webhooks:health:usr_3", { "main.since": Date.now(), "main.n": 4 });
    const [first, off, paused, failing, host] = await run([
      ["list", "--limit", "2", "--json"],
      ["list", "--state", "off", "--json"],
      ["list", "--state", "paused", "--json"],
      ["list", "--state", "failing", "--json"],
      ["list", "--host", "4.example.com", "--json"],
    ]);
    const named = (said: Said | undefined) => json(said).endpoints.map(({ user }: { user: string }) => user);
    expect(named(first)).toEqual(["usr_2", "usr_1"]);
    const rest = (await run([["list", "--limit", "100", "--json", "--cursor", json(first).cursor]]))[0];
    expect([named(rest), json(rest).cursor]).toEqual([["usr_4", "usr_3", "usr_0"], null]);
    expect([off, paused, failing, host].map(named)).toEqual([["usr_2", "usr_1"], ["usr_1"], ["usr_3"], ["usr_4"]]);
  });

  test("is repaired by reindex, which leaves what is right", async () => {
    await valkey.flushall();
    await registry.create("a:b", { id: "main", url: "https://a.example.com/" });
    await Bun.sleep(2); // the times of changes are in ms
    await registry.create("a", { id: "b", url: "https://a.example.com/" });
    await registry.disable("a", "b");
    const keys = [endpointIndexKey(), endpointOffKey()];
    const right = await Promise.all(keys.map((key) => valkey.zrange(key, "0", "-1")));
    expect(right).toEqual([["a:b main", "a b"], ["a b"]]);
    expect(json((await run([["reindex", "--json"]]))[0])).toMatchObject({ users: 2, endpoints: 2, removed: 0 });
    await valkey.del(...keys);
    await valkey.zadd(endpointIndexKey(), 1, "gone main");
    await valkey.zadd(endpointOffKey(), 1, "a:b main", 2, "gone main");
    const [repaired, again] = await run([["reindex"], ["reindex", "--json"]]);
    expect(repaired?.out).toBe("2 endpoints of 2 users: 4 entries repaired, 1 removed.\n");
    expect(json(again)).toEqual({ users: 2, endpoints: 2, repaired: 0, removed: 0 });
    expect(await Promise.all(keys.map((key) => valkey.zrange(key, "0", "-1")))).toEqual(right);
    await registry.delete("a", "b");
    expect(await Promise.all(keys.map((key) => valkey.zrange(key, "0", "-1")))).toEqual([["a:b main"], []]);
  });
});

test("the list of all users goes through all shards in one order, page by page", async () => {
  await valkey.flushall();
  const shards = shardsOf({ queue: "listed", shards: 3, valkeyUrls: ["redis+cluster://a"] }).map((shard) =>
    openShard(shard, valkey),
  );
  const expected: string[] = [];
  for (let index = 0; index < 12; index++) {
    const user = `usr_${index}`;
    const { tag } = homeAmong(shards as [OpenShard], user);
    await createRegistry(valkey, { tag, secretKeys: [KEY] }).create(user, {
      id: "main",
      url: "https://a.example.com/",
    });
    // Several with the same time, in each shard.
    await valkey.zadd(endpointIndexKey(tag), Math.floor(index / 5), `${user} main`);
    expected.unshift(user);
  }
  expect(new Set(shards.map(({ tag }) => endpointIndexKey(tag))).size).toBe(3);
  const found: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await listEndpoints(shards as [OpenShard], { limit: 2, cursor });
    found.push(...page.endpoints.map(({ userId }) => userId));
    ({ cursor } = page);
  } while (cursor !== undefined);
  const groupOf = (user: string) => Math.floor(Number(user.slice(4)) / 5);
  const byTime = (a: string, b: string) => groupOf(b) - groupOf(a) || (a < b ? 1 : -1);
  expect(found).toEqual(expected.toSorted(byTime));
});

test("an index that cannot be written keeps no endpoint from being changed", async () => {
  await valkey.flushall();
  await Promise.all([endpointIndexKey(), endpointOffKey()].map((key) => valkey.set(key, "not a sorted set")));
  const user = newUser();
  await registry.create(user, { id: "main", url: "https://a.example.com/" });
  expect((await registry.pause(user, "main")).state.kind).toBe("paused");
  await registry.delete(user, "main");
  expect(await registry.list(user)).toEqual([]);
});

describe("a file of endpoints", () => {
  test("brings back all that export wrote, with secrets, states and times, and applying it again changes nothing", async () => {
    await valkey.flushall();
    const users = ["usr_1", "usr_2"];
    for (const user of users) {
      await registry.create(user, {
        id: "main",
        url: "https://a.example.com/?token=1",
        headers: { "X-Key": "0123456789ab" },
      });
      await registry.create(user, {
        id: "other",
        url: "https://b.example.com/",
        events: ["file.*"],
        rateLimit: { perSecond: 2 },
      });
      await registry.rotate(user, "main");
    }
    await registry.pause("usr_1", "main");
    await registry.disable("usr_2", "main");
    const before = await Promise.all(users.map(documents));
    const [exported] = await run([["export"]]);
    expect(exported?.out.split("\n").length).toBe(5);
    const backup = join(folder, "backup.jsonl");
    writeFileSync(backup, exported?.out as string);
    await valkey.flushall();
    const [dry, applied, again] = await run([
      ["apply", backup, "--dry-run", "--json"],
      ["apply", backup],
      ["apply", backup, "--json"],
    ]);
    expect(json(dry)).toMatchObject({ dry_run: true, created: 4, updated: 0, left: 0, deleted: 0 });
    expect(applied?.out).toBe("4 created, 0 updated, 0 deleted, 0 left as they are.\n");
    expect(json(again)).toMatchObject({ created: 0, updated: 0, left: 4, secrets: [] });
    const comparable = (all: typeof before) =>
      all
        .flat()
        .map(({ id, document, state }) => [id, { ...document, updatedAt: 0 }, state.kind])
        .sort();
    expect(comparable(await Promise.all(users.map(documents)))).toEqual(comparable(before));
    expect((await run([["export"]]))[0]?.out.replaceAll(/"updated_at":"[^"]+"/g, "")).toBeTruthy();
  });

  test("changes nothing when some lines are wrong, and says all that is wrong with them", async () => {
    const user = newUser();
    const wrong = file("wrong.jsonl", [
      { user, id: "good", url: "https://a.example.com/" },
      { user, id: "no/id", url: "ftp://x", events: [] },
      { user, id: "good", url: "https://a.example.com/" },
      { user, id: "typo", url: "https://a.example.com/", evnets: ["file.*"] },
      { user, id: "secret", url: "https://a.example.com/", secret: "whsec_%%%hush" },
    ]);
    writeFileSync(wrong, "{not JSON hush\n", { flag: "a" });
    const [said] = await run([["apply", wrong]]);
    expect([said?.code, said?.out]).toEqual([2, ""]);
    const lines = said?.err.split("\n") ?? [];
    for (const [index, text] of [
      "line 2: expected the endpoint's id",
      "line 2: url:",
      "line 2: events:",
      "line 3: the same endpoint as in line 1",
      "line 4: evnets:",
      "line 5: secret:",
      "line 6: expected a JSON object",
      "nothing was changed",
    ].entries()) {
      expect(lines[index]).toStartWith(`fluxhook: ${text}`);
    }
    expect(said?.err).not.toContain("hush");
    expect(await documents(user)).toEqual([]);
  });

  test("creates, updates and leaves, and deletes others only when asked", async () => {
    const user = newUser();
    for (const id of ["left", "changed", "other"]) await registry.create(user, { id, url: "https://a.example.com/" });
    const wanted = file("wanted.jsonl", [
      { user, id: "left", url: "https://a.example.com/" },
      { user, id: "changed", url: "https://b.example.com/", state: "paused" },
      { user, id: "made", url: "https://c.example.com/" },
    ]);
    const [made, dry, unanswered, deleted] = await run([
      ["apply", wanted, "--json"],
      ["apply", wanted, "--delete-others", "--dry-run"],
      ["apply", wanted, "--delete-others"],
      ["apply", wanted, "--delete-others", "--yes", "--json"],
    ]);
    expect(json(made)).toMatchObject({ created: 1, updated: 1, left: 1, deleted: 0, secrets: [{ user, id: "made" }] });
    expect(json(made).secrets[0].secret).toMatch(/^whsec_/);
    expect(dry?.out).toBe(
      `delete  ${user}  other\n0 would be created, 0 updated, 1 deleted, 3 left as they are. Nothing was changed.\n`,
    );
    expect([unanswered?.code, json(deleted).deleted]).toEqual([2, 1]);
    const states = (await documents(user)).map(({ id, state }) => `${id} ${state.kind}`).sort();
    expect(states).toEqual(["changed paused", "left enabled", "made enabled"]);
  });

  test("rotates to another secret with a day's grace, and never to an older one", async () => {
    const user = newUser();
    await registry.create(user, { id: "main", url: "https://a.example.com/", secret: "first-secret-of-theirs" });
    const [exported] = await run([["export", "--user", user]]);
    const backup = join(folder, "older.jsonl");
    writeFileSync(backup, exported?.out as string);
    const other = file("other.jsonl", [
      { user, id: "main", url: "https://a.example.com/", secret: "another-secret-of-it" },
    ]);
    const [rotated, older] = await run([
      ["apply", other, "--json"],
      ["apply", backup, "--json"],
    ]);
    expect([json(rotated).updated, json(older)]).toEqual([1, expect.objectContaining({ updated: 0, left: 1 })]);
    const [stored] = await documents(user);
    const open = stored?.document.secrets.map(({ secret }) => openSealed(secret, [KEY], user));
    expect(open).toEqual(["another-secret-of-it", "first-secret-of-theirs"]);
  });

  test("has secrets in the clear only if that is asked for, and with a warning", async () => {
    await valkey.flushall();
    const plain = createRegistry(valkey, { allowPlain: true });
    await plain.create("usr_1", { id: "main", url: "https://a.example.com/", secret: "unsealed-secret-here" });
    const [without, withPlain] = await run([["export"], ["export", "--with-plain"]]);
    expect([without?.code, without?.err]).toEqual([
      1,
      expect.stringContaining("1 secrets and headers are stored unsealed"),
    ]);
    expect(without?.out).not.toContain("unsealed-secret");
    expect([withPlain?.code, withPlain?.err]).toEqual([0, expect.stringContaining("keep it as safe as they are")]);
    expect(JSON.parse(withPlain?.out as string).secrets[0].secret).toBe("unsealed-secret-here");
  });
});

test("without a sealing key nothing is registered, unless WEBHOOK_ALLOW_PLAIN=1", async () => {
  const user = newUser();
  const create = ["create", user, "--id", "main", "--url", "https://a.example.com/"];
  const [refused] = await run([create], { WEBHOOK_SECRET_KEYS: "" });
  expect([refused?.code, refused?.err]).toEqual([
    78,
    expect.stringContaining("expected WEBHOOK_SECRET_KEYS to be set"),
  ]);
  const [allowed] = await run([create], { WEBHOOK_SECRET_KEYS: "", WEBHOOK_ALLOW_PLAIN: "1" });
  expect([allowed?.code, isSealed((await documents(user))[0]?.document.secrets[0]?.secret as string)]).toEqual([
    0,
    false,
  ]);
});

test("WEBHOOK_MAX_ENDPOINTS bounds what a user may have, also in a file before anything is changed", async () => {
  const user = newUser();
  const lines = ["a", "b", "c"].map((id) => ({ user, id, url: "https://a.example.com/" }));
  const [file3, one, two] = await run(
    [
      ["apply", file("three.jsonl", lines)],
      ["create", user, "--url", "https://a.example.com/"],
      ["create", user, "--url", "https://a.example.com/"],
    ],
    { WEBHOOK_MAX_ENDPOINTS: "1" },
  );
  expect([file3?.code, file3?.err]).toEqual([
    2,
    expect.stringContaining("expected at most 1 endpoints of a user, got 3"),
  ]);
  expect([one?.code, two?.code, two?.err]).toEqual([0, 1, "fluxhook: expected at most 1 endpoints of a user\n"]);
});
