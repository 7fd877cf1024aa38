/** `fluxhook listen --forward-to`: a user's events arrive at a local server, as they are enqueued. */
import { afterAll, afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { eventIdOf } from "../src/delivery/request.ts";
import { seal } from "../src/delivery/seal.ts";
import { verify } from "../src/delivery/signature.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { redeliver } from "../src/operations/redeliver.ts";
import { openQueue } from "../src/queue/worker.ts";
import { createCommand, type RunningCommand, startCommand } from "./support/command.ts";
import { dumpAll } from "./support/dump.ts";
import { jobData } from "./support/stack.ts";

setDefaultTimeout(60_000); // each command is a process that starts

const KEY = Buffer.alloc(32, 7).toString("base64");
const USER = "usr_42";
const valkey = await startValkey();
const receiver = await startReceiver();
const client = new Redis(valkey.url, { maxRetriesPerRequest: null });
const queue = new Queue("forward", { connection: client });
const env = { VALKEY_URL: valkey.url, WEBHOOK_QUEUE: "forward", SECRET: "dev-secret-of-the-test" };
const fluxhook = createCommand(env);
const running: RunningCommand[] = [];

afterEach(async () => {
  for (const command of running.splice(0)) {
    command.signal("SIGTERM");
    await command.exited;
  }
  receiver.answer({});
});
afterAll(async () => {
  await queue.close();
  client.disconnect();
  await receiver.stop();
  await valkey.stop();
});

async function start(...args: string[]): Promise<RunningCommand> {
  const command = startCommand(["listen", "--forward-to", receiver.url("/dev?a=1"), "--user", USER, ...args], {
    ...env,
    WEBHOOK_SECRET_KEYS: KEY,
  });
  running.push(command);
  await command.until("\n"); // it has said what it does, and follows the stream
  return command;
}

const add = (data = jobData("https://unreachable.example/", { userId: USER }), opts = {}) =>
  queue.add("file.created", data, opts);

test("posts each event of the user once, signed with the given secret, and leaves the queue as it is", async () => {
  const seen = receiver.requests.length;
  await add(); // before it starts
  const command = await start("--secret-env", "SECRET", "--count", "3");
  expect(command.output()).toMatch(/^Forwarding events of usr_42 to http:\S+\/dev, signed with the given secret\.\n$/);
  await add(jobData("https://unreachable.example/", { userId: "usr_4" }));
  const id = crypto.randomUUID();
  await add(jobData("https://unreachable.example/", { userId: USER, id }));
  const sealed = { url: "https://unreachable.example/", secret: "sealed:v1:another-key" };
  await add({ ...jobData(""), userId: USER, endpoint: sealed }, { delay: 60_000 });
  const unnamed = await add();
  const before = await dumpAll(client);
  expect(await command.exited).toBe(0);
  const arrived = receiver.requests.slice(seen);
  expect(arrived.map(({ method, path }) => `${method} ${path}`)).toEqual(Array(3).fill("POST /dev?a=1"));
  for (const { body, headers } of arrived) expect(verify(body, headers, env.SECRET)).toEqual({ ok: true });
  const [first, , last] = arrived.map(({ headers }) => headers["webhook-id"]);
  expect(first).toBe(id);
  expect(last).toBe(
    eventIdOf({ queueName: "forward", id: unnamed.id as string, timestamp: unnamed.timestamp }, undefined),
  );
  expect(arrived[0]?.headers["x-fluxdrop-event"]).toBe("file.created");
  expect(command.output()).toMatch(new RegExp(`\n#1 file.created {2}${id} {2}200 {2}\\d+ ms\n#2 `));
  expect(await dumpAll(client)).toEqual(before);
});

test("signs with an event's own secret, opened if it is sealed, and says which it cannot open", async () => {
  const seen = receiver.requests.length;
  const command = await start("--json");
  const withSecret = (secret: string) =>
    add({ ...jobData(""), userId: USER, endpoint: { url: "https://x.example/", secret } });
  await withSecret(seal("own-secret-of-the-test", KEY, USER));
  await withSecret(seal("own-secret-of-the-test", KEY, "usr_other"));
  const output = await command.until('"number":2');
  const [start1, ok, broken] = output
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(start1).toEqual({ forward_to: receiver.url("/dev"), user: USER, queue: "forward", signed_with: "own" });
  expect(ok).toMatchObject({ number: 1, event: "file.created", status: 200, error: null });
  expect(broken).toMatchObject({
    status: null,
    error: expect.stringContaining("not sent: data.endpoint.secret: sealed"),
  });
  const [request, ...others] = receiver.requests.slice(seen);
  expect(others).toEqual([]);
  expect(verify(request?.body as Buffer, request?.headers ?? {}, "own-secret-of-the-test")).toEqual({ ok: true });
});

test("posts events of registered endpoints, whose secrets it does not know, only with a given one", async () => {
  const seen = receiver.requests.length;
  const registered = { userId: USER, endpoint: { id: "main" }, data: { n: 1 } };
  const without = await start("--count", "1");
  await add(registered as never);
  expect(await without.exited).toBe(1);
  expect(without.output()).toContain(
    "not sent: its endpoint is registered, and so is the secret: give one with --secret-env",
  );
  const command = await start("--secret-env", "SECRET", "--count", "3");
  await add(registered as never);
  const event = await queue.add("file.created", { userId: USER, data: { n: 2 } }); // to all of the user's endpoints
  await add({ ...registered, data: { n: 2 } } as never, { jobId: `${event.id}.main` }); // its delivery to one of them
  await add({ ...registered, data: { n: 3 } } as never);
  expect(await command.exited).toBe(0);
  const arrived = receiver.requests.slice(seen);
  expect(arrived.map(({ body }) => JSON.parse(body.toString()).data.n)).toEqual([1, 2, 3]);
  for (const { body, headers } of arrived) expect(verify(body, headers, env.SECRET)).toEqual({ ok: true });
});

test("tells failures and goes on, forwards a redelivered event again, and ends cleanly on Ctrl-C", async () => {
  const command = await start("--secret-env", "SECRET");
  receiver.answer({ status: 500 });
  const job = await add();
  await command.until("  500  "); // an id may have these digits, too
  receiver.answer("close");
  await add();
  await command.until("#2");
  receiver.answer({ status: 302, headers: { location: "http://127.0.0.1:1/" } });
  await add();
  await command.until("  302  ");
  receiver.answer({ status: 204 });
  const mine = openQueue("forward", client);
  const [key, now] = [queue.toKey(job.id as string), `${Date.now()}`];
  await client
    .multi()
    .lrem(queue.toKey("wait"), 0, job.id as string)
    .zadd(queue.toKey("failed"), now, job.id as string)
    .exec();
  await client.hset(key, "finishedOn", now, "failedReason", "HTTP 500");
  expect(await redeliver(mine, job.id as string)).toBe("queued");
  await command.until("  204  ");
  expect(command.output().match(/^#/gm)).toHaveLength(4);
  command.signal("SIGINT");
  expect(await command.exited).toBe(1); // some were not accepted
});

test("says that no server listens", async () => {
  const command = startCommand(["listen", "--forward-to", "http://127.0.0.1:1/", "--user", USER], env);
  running.push(command);
  await command.until("\n");
  await add();
  expect(await command.until("#1")).toContain("connection refused: is the server running?");
  command.signal("SIGINT");
  expect(await command.exited).toBe(1);
});

test.each([
  [["--forward-to", "http://127.0.0.1/"], "expected --forward-to and --user together"],
  [["--user", USER], "expected --forward-to and --user together"],
  [["--forward-to", "localhost:3000", "--user", USER], "expected --forward-to to be an http or https URL"],
  [["--forward-to", "http://h/", "--user", USER, "--port", "1", "--save", "x"], "leave out --port, --save"],
])("%j is wrong usage", async (args, message) => {
  const { err, code } = await fluxhook(["listen", ...args]);
  expect([err, code]).toEqual([expect.stringContaining(message), 2]);
});

test("an event without an id has the same derived one on Node as on Bun", async () => {
  const folder = mkdtempSync(join(tmpdir(), "fluxhook-node-"));
  try {
    const entry = join(import.meta.dir, "../src/delivery/request.ts");
    await Bun.build({ entrypoints: [entry], target: "node", outdir: folder, naming: "[name].mjs" });
    const job = { queueName: "webhooks", id: "4711", timestamp: 1_795_765_432_100 };
    const script = `import { eventIdOf } from "${join(folder, "request.mjs")}"; console.log(eventIdOf(${JSON.stringify(job)}))`;
    const node = Bun.spawnSync(["node", "--input-type=module", "-e", script]);
    expect(node.stdout.toString().trim()).toBe(eventIdOf(job, undefined));
  } finally {
    rmSync(folder, { recursive: true });
  }
});
