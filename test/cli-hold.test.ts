/** The commands pause, resume, hold, release and holds: what they say, refuse and do. */
import { afterAll, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { startValkey } from "../src/dev/valkey.ts";
import { readHolds } from "../src/isolation/hold-store.ts";
import { createCommand, startCommand } from "./support/command.ts";
import { jobData } from "./support/stack.ts";

setDefaultTimeout(60_000); // each command is a process that starts

const valkey = await startValkey();
const client = new Redis(valkey.url, { maxRetriesPerRequest: null });
const queue = new Queue("holding", { connection: client });
const env = { VALKEY_URL: valkey.url, WEBHOOK_QUEUE: "holding", USER: "jo" };
const fluxhook = createCommand(env);
const json = async (...args: string[]) => JSON.parse((await fluxhook([...args, "--json"])).out);

beforeEach(() => client.flushall());
afterAll(async () => {
  await queue.close();
  client.disconnect();
  await valkey.stop();
});

test("pause and resume say what waits, change nothing in a dry run, and say when it is so already", async () => {
  await queue.add("file.created", jobData("https://a.example/"));
  expect(await json("pause", "--dry-run")).toEqual({
    ...{ dry_run: true, queue: "holding", paused: false, changed: false, waiting: 1, active: 0, delayed: 0 },
  });
  expect(await queue.isPaused()).toBe(false);
  const paused = await fluxhook(["pause", "--yes"]);
  expect(paused.out).toStartWith("Paused the queue holding: 1 waiting, 0 active, 0 delayed.");
  expect([paused.code, await queue.isPaused()]).toEqual([0, true]);
  expect((await fluxhook(["pause", "--yes"])).out).toStartWith("The queue holding is already paused:");
  expect((await fluxhook(["status"])).out).toContain("holding (paused)");
  expect(await json("resume", "--yes")).toMatchObject({ paused: false, changed: true, waiting: 1 });
  expect(await queue.isPaused()).toBe(false);
  expect((await fluxhook(["resume", "--yes"])).out).toStartWith("The queue holding is not paused:");
  expect((await fluxhook(["pause"])).err).toContain("no terminal to ask for confirmation: use --yes to pause");
});

test("pause asks at a terminal, and no is the answer by default", async () => {
  const command = startCommand(["pause"], env, { isTerminal: true });
  await command.until("[y/N] ");
  command.type("\n");
  expect([await command.exited, await queue.isPaused()]).toEqual([1, false]);
});

test("hold, holds, status and release name what is held, without a URL's query", async () => {
  const held = await fluxhook(["hold", "hooks.example.com", "--for", "2h", "--reason", "they asked"]);
  expect(held.out).toMatch(/^Held until .+ UTC: host hooks\.example\.com\.\n$/);
  expect(await json("hold", "HOOKS.example.com", "--for", "1h")).toMatchObject({ was_held: true, reason: null });
  const made = await json("hold", "https://a.example/in?token=hush", "--for", "30m", "--reason", "slow");
  expect(made).toMatchObject({ kind: "url", target: "https://a.example/in?…", by: "jo", reason: "slow" });
  expect(Date.parse(made.until) - Date.parse(made.from)).toBe(30 * 60 * 1000);
  await fluxhook(["hold", "--user", "b.example", "--for", "1d"]);

  const { out } = await fluxhook(["holds"]);
  expect(out.split("\n").map((line) => line.split(/ {2,}/).slice(1))).toEqual([
    ["kind", "target", "ends", "held", "by", "reason"],
    ["endpoint", "https://a.example/in?…", "in 29 min", expect.any(String), "jo", "slow"],
    ["host", "hooks.example.com", "in 59 min", expect.any(String), "jo", "-"],
    ["user", "b.example", "in 23 h", expect.any(String), "jo", "-"],
    [],
  ]);
  expect((await fluxhook(["status"])).out).toMatch(/\nheld +url https:\/\/a\.example\/in\?…, host hooks/);
  expect((await json("status")).holds).toHaveLength(3);

  expect((await fluxhook(["release", "https://a.example/in?token=hush"])).out).toBe(
    "Released: endpoint https://a.example/in?….\n",
  );
  expect((await fluxhook(["release", made.id])).code).toBe(1);
  expect((await fluxhook(["release", "--user", "b.example"])).code).toBe(0);
  expect(await json("release", "hooks.example.com")).toMatchObject({ released: [{ kind: "host" }] });
  expect((await fluxhook(["holds"])).out).toBe("Nothing is held.\n");
  expect(await readHolds(client, "holding")).toHaveLength(3); // they count for the age of events
});

test("a text that is a host and a user's id has to be told apart", async () => {
  await client.zadd("webhooks:log:jo.doe", 1, "{}");
  const { err, code } = await fluxhook(["hold", "jo.doe", "--for", "1h"]);
  expect([err, code]).toEqual(["fluxhook: jo.doe could be a host or a user: use --host or --user\n", 2]);
  await fluxhook(["hold", "--host", "jo.doe", "--for", "1h"]);
  await fluxhook(["hold", "--user", "jo.doe", "--for", "1h"]);
  expect((await fluxhook(["release", "jo.doe"])).err).toMatch(/names 2 holds: .*Use --host, --url, --user or an id\n$/);
});

test.each([
  [["hold", "usr_1"], "expected --for, as in --for 2h"],
  [["hold", "--for", "2h"], "expected one target"],
  [["hold", "usr_1", "--user", "usr_2", "--for", "2h"], "expected one target"],
  [["hold", "usr_1", "--for", "31d"], "expected --for to be a duration of at most 30d"],
  [["hold", "usr_1", "--for", "0s"], "expected --for to be a duration of at most 30d"],
  [["hold", "usr_1", "--for", "soon"], "expected --for to be a duration"],
  [
    ["hold", "--host", "a/b", "--for", "2h"],
    'expected a host, as in hooks.example.com or [2001:db8::1]:8080, got "a/b"',
  ],
  [["hold", "ftp://a.example/", "--for", "2h"], 'expected an http or https URL, got "ftp://a.example/"'],
  [["hold", "--user", "a b", "--for", "2h"], "expected the user to be 1 to 128 visible ASCII characters"],
  [["hold", "u", "--for", "2h", "--reason", "x".repeat(201)], "expected --reason to have at most 200 characters"],
  [["release"], "expected one target"],
])("%j is wrong usage", async (args, message) => {
  const { err, code } = await fluxhook(args);
  expect([err, code]).toEqual([expect.stringContaining(message), 2]);
});
