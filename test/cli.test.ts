/** The command as an operator runs it, against a real Valkey, a real worker and real receivers. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { createHmac } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { join } from "node:path";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { openSealed } from "../src/delivery/seal.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { commandFolder, createCommand, createCommandProcess, startCommand } from "./support/command.ts";
import { startWorkerProcess, type WorkerProcess } from "./support/process.ts";
import { eventually } from "./support/stack.ts";

setDefaultTimeout(60_000); // processes that start, on a machine that may be busy

const SECRET = "s3cret-of-the-customer";
const KEY = Buffer.alloc(32, 7).toString("base64");
const valkey = await startValkey(); // of its own: its settings change
const receiver = await startReceiver();
const env = { VALKEY_URL: valkey.url, WEBHOOK_QUEUE: "cli", SECRET };
const fluxhook = createCommand(env);
const fluxhookProcess = createCommandProcess(env);
const client = new Redis(valkey.url, { maxRetriesPerRequest: null });
const queue = new Queue("cli", { connection: client });
let worker: WorkerProcess;

beforeAll(async () => {
  worker = startWorkerProcess({ ...env, WEBHOOK_RETRY_DELAYS: "50ms", WEBHOOK_SECRET_KEYS: KEY });
  const isReady = () => worker.lines.some(({ message }) => message === "worker.ready");
  await eventually(isReady, Boolean, 20_000); // a process that starts, on a machine that may be busy
});
afterAll(async () => {
  await worker.stop();
  await receiver.stop();
  await queue.close();
  client.disconnect();
  await valkey.stop();
});

/** A user of its own, and the start of a `send` to the receiver. */
function sending(overrides: Record<string, string> = {}) {
  const user = `usr_${crypto.randomUUID()}`;
  const options = { "--event": "file.created", "--url": receiver.url("/in"), "--user": user, ...overrides };
  return { user, args: ["send", ...Object.entries(options).flat()] };
}

function lastPayload() {
  const { json } = receiver.requests.at(-1) as { json: unknown };
  return json as Record<string, unknown>;
}

describe("send", () => {
  test("queues an event that arrives as it was given, and waits until it has", async () => {
    receiver.answer({ status: 204 });
    const { user, args } = sending({ "--data": '{"path":"/a.txt"}', "--secret-env": "SECRET" });
    const { out, err, code } = await fluxhook([...args, "--wait"]);
    expect(out).toMatch(
      new RegExp(`^Queued file.created for ${user} as job \\d+.\nattempt 1  204  \\d+ ms\nDelivered.\n$`),
    );
    expect([err, code]).toEqual(["", 0]);
    expect(lastPayload()).toMatchObject({ event: "file.created", data: { path: "/a.txt" } });
  });

  test("ends with 1 when it failed, and says of each attempt what happened", async () => {
    receiver.answer({ status: 503 });
    const { out, code } = await fluxhook([...sending({ "--secret": SECRET }).args, "--wait", "20s"]);
    expect(
      out
        .replaceAll(/\d+ ms/g, "… ms")
        .split("\n")
        .slice(1),
    ).toEqual([
      "attempt 1  503  … ms  http_503: Service unavailable",
      "attempt 2  503  … ms  http_503: Service unavailable",
      "Failed: HTTP 503 in … ms, no attempts left",
      "",
    ]);
    expect(code).toBe(1);
  });

  test("answers programs with one document", async () => {
    receiver.answer({ status: 410 });
    const { user, args } = sending({ "--secret": SECRET });
    const waited = await fluxhook([...args, "--json", "--wait"]);
    expect(JSON.parse(waited.out)).toEqual({
      job: expect.any(String),
      event: "file.created",
      user,
      status: "new",
      state: "failed",
      attempts: [expect.objectContaining({ attempt: 1, status_code: 410, error: "http_410" })],
    });
    expect(waited.code).toBe(1);
    const queued = await fluxhook([...args, "--json", "--delay", "1h"]);
    expect(JSON.parse(queued.out)).toEqual({
      job: expect.any(String),
      event: "file.created",
      user,
      status: "new",
      state: "delayed",
    });
  });

  test("gives up waiting when the time is up, which is no delivery", async () => {
    const { out, code } = await fluxhook([...sending({ "--secret": SECRET }).args, "--delay", "1h", "--wait", "300ms"]);
    expect(out).toEndWith("Not delivered within 300 ms: the job is delayed.\n");
    expect(code).toBe(1);
  });

  test("twice with one id is one delivery", async () => {
    receiver.answer({ status: 204 });
    const before = receiver.requests.length;
    const { args } = sending({ "--secret": SECRET, "--id": "0b9b6d6e-5f5a-4b0e-9f43-7c1f4f1d2a11" });
    expect((await fluxhook([...args, "--wait"])).code).toBe(0);
    const again = await fluxhook([...args, "--wait"]);
    expect(again.out).toStartWith("An event with this id already exists as job 0b9b6d6e");
    expect(again.code).toBe(0);
    expect(receiver.requests.length - before).toBe(1);
  });

  test("reads data from a file and from stdin, and secrets from a file", async () => {
    receiver.answer({ status: 204 });
    writeFileSync(join(commandFolder, "data.json"), '{"from":"file"}\n');
    writeFileSync(join(commandFolder, "secrets"), `\ufeff${SECRET}\r\n\r\nolder-secret\r\n`); // as some editors write it
    const file = sending({ "--secret-file": "secrets", "--data": "@data.json" });
    expect((await fluxhookProcess([...file.args, "--wait"])).code).toBe(0);
    const { body, headers } = receiver.requests.at(-1) as (typeof receiver.requests)[number];
    expect(headers["webhook-signature"]?.split(" ")).toHaveLength(2);
    expect(headers["x-fluxdrop-signature"]).toBe(createHmac("sha256", SECRET).update(body).digest("hex"));
    expect(lastPayload().data).toEqual({ from: "file" });
    const stdin = sending({ "--secret": SECRET, "--data": "-" });
    expect((await fluxhook([...stdin.args, "--wait"], { input: '{"from":"stdin"}' })).code).toBe(0);
    expect(lastPayload().data).toEqual({ from: "stdin" });
  });

  test("refuses what the worker would refuse, in its words, and queues nothing", async () => {
    const before = await queue.getJobCounts();
    const { out, err, code } = await fluxhook(
      sending({ "--url": "ftp://x", "--user": "usr 42", "--secret": `whsec_%%${SECRET}`, "--data": "[]", "--id": "7" })
        .args,
    );
    expect(err.split("\n")).toEqual([
      "fluxhook: data.userId: expected 1 to 128 visible ASCII characters",
      "fluxhook: data.endpoint.url: expected an http or https URL without user name and password",
      "fluxhook: data.endpoint.secret: expected base64 after whsec_",
      "fluxhook: data.data: expected a JSON object",
      "fluxhook: data.id: expected a UUID",
      "",
    ]);
    expect([out, code]).toEqual(["", 2]);
    const large = sending({ "--secret": SECRET, "--data": "-" });
    const tooLarge = await fluxhook(large.args, { input: JSON.stringify({ text: "x".repeat(300_000) }) });
    expect(tooLarge.err).toStartWith("fluxhook: data.data: expected a body of at most 262144 bytes, got ");
    expect(await queue.getJobCounts()).toEqual(before);
  });

  test.each([
    [["--event", "file.creatd"], "fluxhook: file.creatd is not an event type; did you mean file.created?\n"],
    [["--data", "{"], /^fluxhook: --data: expected JSON: /],
    [["--data", "@nowhere"], "fluxhook: --data: cannot read nowhere: no such file\n"],
    [["--delay", "soon"], 'fluxhook: expected --delay to be a duration, as in 30s, 5m or 2h, got "soon"\n'],
    [["--secret-env", "NOWHERE"], "fluxhook: --secret-env: the variable NOWHERE is not set\n"],
  ])("says what is wrong with %p", async (wrong, expected) => {
    const { err, code } = await fluxhook([...sending({ "--secret": SECRET }).args, ...wrong]);
    expect(err).toMatch(expected);
    expect(code).toBe(2);
  });

  test.each([
    [["--secret-env", "BROKEN"], "data.endpoint.secret: expected no blank or line break at its ends: trim it"],
    [["--secret-file", "-"], "data.endpoint.secret.1: expected no quotes around it: leave them out"],
    [
      ["--secret", "sealed:v2:AAAA"],
      "data.endpoint.secret: expected a sealed secret to be sealed:v1: and base64url, with nothing around it",
    ],
    [["--secret", "sealed:v1:AAAA"], "data.endpoint.secret: expected a sealed secret whole: this one is cut off"],
  ])("says what is wrong with a secret, and does not print it: %p", async (secret, expected) => {
    const { args } = sending();
    const input = `${SECRET}\n"${SECRET}"\n`;
    const { out, err, code } = await fluxhook([...args, ...secret], { env: { BROKEN: `${SECRET}\n` }, input });
    expect([out, err, code]).toEqual(["", `fluxhook: ${expected}\n`, 2]);
  });

  test("seals nothing that is no secret", async () => {
    const sealing = { env: { WEBHOOK_SECRET_KEYS: KEY, BROKEN: ` ${SECRET}`, SEALED: `sealed:v1:${"A".repeat(60)}` } };
    const { out, err, code } = await fluxhook(
      ["seal", "--user", "usr_1", "--secret-env", "SECRET", "--secret-env", "BROKEN", "--secret-env", "SEALED"],
      sealing,
    );
    expect(err.split("\n")).toEqual([
      "fluxhook: secret 2: expected no blank or line break at its ends: trim it",
      "fluxhook: secret 3: expected a plain secret: this one is sealed already",
      "",
    ]);
    expect([out, code]).toEqual(["", 2]);
    const alone = await fluxhook(["seal", "--user", "usr_1", "--secret", `'${SECRET}'`], sealing);
    expect(alone.err).toBe("fluxhook: the secret: expected no quotes around it: leave them out\n");
  });

  test("seals with seal, and sends what is sealed", async () => {
    receiver.answer({ status: 204 });
    const { user, args } = sending();
    const sealed = await fluxhook(["seal", "--user", user], {
      env: { WEBHOOK_SECRET_KEYS: KEY },
      input: `${SECRET}\n`,
    });
    expect(openSealed(sealed.out.trim(), [KEY], user)).toBe(SECRET);
    // Without the key here: only the worker can open it.
    expect((await fluxhook([...args, "--secret", sealed.out.trim(), "--wait"])).code).toBe(0);
    const json = await fluxhook(["seal", "--user", user, "--secret-env", "SECRET", "--json"], {
      env: { WEBHOOK_SECRET_KEYS: KEY },
    });
    expect(JSON.parse(json.out)).toEqual({ user, sealed: [expect.stringMatching(/^sealed:v1:/)] });
    expect((await fluxhook(["seal", "--user", user], { input: SECRET })).code).toBe(78);
  });
});

describe("attempts", () => {
  test("shows what happened, in words, and the same to programs as the API", async () => {
    receiver.answer((_, index) => ({ status: index % 2 === 0 ? 500 : 204 }));
    const { user, args } = sending({ "--secret": SECRET, "--url": receiver.url("/in?token=hush") });
    await fluxhook([...args, "--wait"]);
    const { out, code } = await fluxhook(["attempts", user]);
    const [heading, ...rows] = out.split("\n");
    expect(heading?.split(/ +/)).toEqual(["status", "attempt", "ms", "age", "event", "job", "endpoint", "error"]);
    expect(rows.find((row) => row.startsWith("500"))).toContain(`${receiver.url("/in")}  http_500: Server error`);
    expect(out).toContain("\n\nhttp_500: Check the endpoint's log for the exception.");
    expect([code, out.includes("hush"), out.includes("\x1b")]).toEqual([0, false, false]);
    const { out: json } = await fluxhook(["attempts", user, "--json"]);
    expect(JSON.parse(json)).toEqual(
      (await client.zrevrange(`webhooks:log:${user}`, 0, -1)).map((member) => JSON.parse(member)),
    );
  });

  test("tell causes of TLS failures apart, in words and as JSON", async () => {
    const tried = {
      ...{ id: "i", event: "file.created", attempt: 1, duration_ms: 1, endpoint: "https://h/", job: "1" },
      ...{ status_code: null, success: false, error: "tls", timestamp: new Date().toISOString() },
    };
    const attempts = [
      { ...tried, delivery: "1" },
      ...["expired", "wrong_host", "new\x07"].map((cause) => ({ ...tried, cause, delivery: cause })),
    ];
    for (const [n, attempt] of attempts.entries()) {
      await client.zadd("webhooks:log:secure", Date.now() + n, JSON.stringify(attempt));
    }
    const { out } = await fluxhook(["attempts", "secure"]);
    expect(out).toContain("  tls (expired): ");
    expect(out).toContain("  tls (wrong_host): ");
    expect(out).toContain("  tls (new\\u0007): ");
    expect(out).toContain("\ntls (expired): ");
    expect(out).toContain("\ntls: ");
    const { out: json } = await fluxhook(["attempts", "secure", "--json"]);
    expect(JSON.parse(json)).toEqual(attempts.toReversed());
  });

  test("come with the responses to failed ones, escaped, when asked for", async () => {
    receiver.answer({ status: 500, headers: { "x-request-id": "r-1" }, body: "<b>broken</b>\r\nline \x1b[2J two" });
    const { user, args } = sending({ "--secret": SECRET, "--url": receiver.url("/in") });
    await fluxhook([...args, "--wait"]);
    const { out, code } = await fluxhook(["attempts", user, "--responses"]);
    const [, response = ""] = out.split("\nThe response to delivery ");
    expect(response).toContain(":\n  HTTP/1.1 500 Internal Server Error\n");
    expect(response).toContain("\n  x-request-id: r-1\n");
    expect(response).toEndWith("\n\n  <b>broken</b>\n  line \\u001b[2J two\n");
    expect(code).toBe(0);
    const { out: json } = await fluxhook(["attempts", user, "--responses", "--json"]);
    expect(JSON.parse(json)[0].response.body).toContain("broken");
    expect((await fluxhook(["attempts", user, "--json"])).out).not.toContain("broken");
    await client.zadd("webhooks:responses:odd", 5, JSON.stringify({ delivery: "1" }));
    await client.zadd(
      "webhooks:log:odd",
      Date.now(),
      JSON.stringify({ delivery: "1", response: { status_line: "x", headers: null } }),
    );
    expect((await fluxhook(["attempts", "odd", "--responses"])).code).toBe(0);
  });

  test("of nobody are none", async () => {
    expect(await fluxhook(["attempts", "nobody"])).toEqual({
      out: "No attempts for nobody in the last 7 days.\n",
      err: "",
      code: 0,
    });
    expect((await fluxhook(["attempts", "nobody", "--json"])).out).toBe("[]\n");
    expect((await fluxhook(["attempts", "no body"])).code).toBe(2);
  });

  test("cannot move the cursor with what a producer wrote", async () => {
    const attempt = {
      delivery: "d",
      timestamp: new Date().toISOString(),
      event: "\x1b[2Jx",
      attempt: 1,
      duration_ms: 1,
    };
    const rest = {
      endpoint: "http://h/\r\nfake",
      success: false,
      status_code: null,
      error: "dns\x07",
      job: "1",
      id: "i",
    };
    await client.zadd("webhooks:log:hostile", Date.now(), JSON.stringify({ ...attempt, ...rest }));
    const { out } = await fluxhook(["attempts", "hostile"]);
    expect(out).toContain("\\u001b[2Jx");
    // biome-ignore lint/suspicious/noControlCharactersInRegex: none of them may be there
    expect(out).not.toMatch(/[\x00-\x09\x0b-\x1f]/);
  });
});

describe("status", () => {
  test("is 0 when all is well", async () => {
    const { out, code } = await fluxhook(["status"]);
    const rows = Object.fromEntries(out.split("\n").map((line) => [line.slice(0, 13).trim(), line.slice(15)]));
    expect(rows).toMatchObject({ queue: "cli", waiting: "0", active: "0", workers: "1", eviction: "noeviction" });
    expect(rows["last 5 min"]).toMatch(/^\d+ completed, \d+ failed$/);
    expect(rows.attempts).toMatch(/^\d+ in the last 5 min, \d+ answered with 2xx$/);
    expect(rows.Valkey).toMatch(/^(Valkey|Redis) [\d.]+, primary$/);
    expect(code).toBe(0);
  });

  test("tells programs the same", async () => {
    const { out } = await fluxhook(["status", "--json"]);
    expect(JSON.parse(out)).toMatchObject({
      ok: true,
      problems: [],
      queue: "cli",
      depth: { waiting: 0, active: 0, delayed: expect.any(Number), failed: expect.any(Number) },
      oldest_waiting_ms: null,
      lately: { minutes: 5, completed: { count: expect.any(Number), at_least: false } },
      workers: 1,
      paused: false,
      open_circuits: expect.any(Array),
      valkey: { eviction: "noeviction", role: "primary", append_only: expect.any(Boolean) },
    });
    expect(JSON.parse(out).lately.completed.count).toBe(await queue.getCompletedCount());
  });

  test("is 1 with every reason when something is wrong", async () => {
    await client.config("SET", "maxmemory-policy", "volatile-lru");
    await queue.pause();
    const { out, code } = await fluxhook(["status"]);
    await queue.resume();
    await client.config("SET", "maxmemory-policy", "noeviction");
    expect(out.split("\n\n")[1]).toBe(
      "The queue is paused: nothing is being delivered. Run fluxhook resume to continue.\n" +
        "Valkey may drop queued events: expected maxmemory-policy noeviction, got volatile-lru. " +
        "Set Valkey's maxmemory-policy to noeviction.\n",
    );
    expect(code).toBe(1);
  });

  test("is 1 without a worker, and on a replica", async () => {
    const lonely = await fluxhook(["status", "--json"], { env: { WEBHOOK_QUEUE: "nobody-serves" } });
    const text = "No workers are connected: nothing is being delivered";
    const problem = { code: "no_worker", severity: "critical", text, todo: "Start a worker" };
    expect(JSON.parse(lonely.out)).toMatchObject({ ok: false, problems: [problem] });
    expect(lonely.code).toBe(1);
  });

  test("is 1 when events wait for more than a minute, also with a worker", async () => {
    const idle = new Redis(valkey.url, { connectionName: `bull:${btoa("late")}:w:stuck` }); // looks like a worker, takes nothing
    const late = new Queue("late", { connection: client });
    await late.add("file.created", {}, { timestamp: Date.now() - 5 * 60_000 });
    const { out, code } = await fluxhook(["status"], { env: { WEBHOOK_QUEUE: "late" } });
    idle.disconnect();
    await late.close();
    expect(out).toEndWith("Events are waiting for a worker, the next one for 5 min. Start more workers.\n");
    expect(code).toBe(1);
  });
});

describe("listen", () => {
  test("prints, verifies and saves what arrives; verify reads it again", async () => {
    const folder = join(commandFolder, "requests");
    mkdirSync(folder);
    const listening = startCommand(
      ["listen", "--port", "0", "--secret-env", "SECRET", "--count", "2", "--save", folder],
      env,
    );
    const url = /http:\S+/.exec(await listening.until("\n"))?.[0] as string;
    await fluxhook([...sending({ "--secret": SECRET, "--url": `${url}in`, "--data": '{"n":1}' }).args, "--wait"]);
    const { out } = await fluxhook([...sending({ "--secret": "another", "--url": `${url}in` }).args, "--wait"]);
    expect(out).toContain("attempt 1  401"); // told as a true receiver would
    expect(await listening.exited).toBe(1); // one was not verified
    expect(listening.output()).toContain("#1 POST /in  file.created  answered 204\n");
    expect(listening.output()).toContain('"data":{"n":1}}\n');
    expect(listening.output()).toContain("#2 POST /in  file.created  answered 401\n");
    expect(listening.output()).toMatch(/\nVerified\.\n.*\nNot verified\.\n/s);
    expect(readdirSync(folder).sort()).toEqual(["1-file.created.http", "2-file.created.http"]);

    const saved = join(folder, "1-file.created.http");
    const verified = await fluxhook(["verify", saved, "--secret-env", "SECRET"]);
    expect(verified.out).toMatch(
      /^ {2}webhook-signature +passed {2}matches\n {2}x-fluxdrop-signature +passed {2}matches\n/,
    );
    expect(verified.out).toEndWith("\nVerified.\n");
    expect(verified.code).toBe(0);
    const wrong = await fluxhook(["verify", saved, "--secret", "wrong", "--json"]);
    expect(JSON.parse(wrong.out)).toMatchObject({
      ok: false,
      hint: null,
      checks: [
        { check: "webhook-signature", ok: false },
        { check: "x-fluxdrop-signature", ok: false },
        { check: "timestamp", ok: true },
        { check: "body", ok: true },
      ],
    });
    expect(wrong.code).toBe(1);

    const text = readFileSync(saved, "utf8");
    const piped = await fluxhook(["verify", "-", "--secret-env", "SECRET"], { input: text });
    expect(piped.code).toBe(0);
    const [headers, body] = text.split("\r\n\r\n") as [string, string];
    writeFileSync(join(commandFolder, "headers"), headers);
    writeFileSync(join(commandFolder, "body"), `${body}\n`); // an editor's
    const split = await fluxhookProcess(["verify", "--headers", "headers", "--body", "body", "--secret-env", "SECRET"]);
    expect(split.out).toEndWith(
      "Not verified.\nThe signature matches without the line break at the end of the body: save the body without it.\n",
    );
  });

  test("answers as told, a document a line for programs, until it is stopped", async () => {
    const listening = startCommand(["listen", "--port", "0", "--status", "503", "--retry-after", "7", "--json"], env);
    const { url } = JSON.parse((await listening.until("\n")).split("\n")[0] as string);
    const response = await fetch(url, { method: "POST", body: "not json" });
    expect([response.status, response.headers.get("retry-after")]).toEqual([503, "7"]);
    const [, line] = (await listening.until('"number":1')).split("\n");
    expect(JSON.parse(line as string)).toMatchObject({
      number: 1,
      method: "POST",
      target: "/",
      body: "not json",
      answer: 503,
      headers: { "content-length": "8" },
    });
    const tooLarge = await fetch(url, { method: "POST", body: new Uint8Array(17 * 1024 * 1024) }).catch(
      () => undefined,
    );
    expect(tooLarge?.status ?? 413).toBe(413); // or cut off in the middle of it
    listening.signal("SIGTERM");
    expect(await listening.exited).toBe(0);
    expect(listening.output().trim().split("\n")).toHaveLength(2);
  });

  test("outlives a sender that hangs up, and ends when it cannot save", async () => {
    const listening = startCommand(["listen", "--port", "0", "--count", "1"], env);
    const url = new URL(/http:\S+/.exec(await listening.until("\n"))?.[0] as string);
    const hungUp = Promise.withResolvers<void>();
    const socket = connect(Number(url.port), url.hostname, () => {
      socket.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf", () => socket.resetAndDestroy());
    });
    socket.once("close", () => hungUp.resolve());
    await hungUp.promise;
    expect((await fetch(url, { method: "POST", body: "whole" })).status).toBe(204);
    expect(await listening.exited).toBe(0);
    expect(listening.output()).not.toContain("half");

    const directory = join(commandFolder, "vanishing");
    const saving = startCommand(["listen", "--port", "0", "--save", directory], env);
    const other = /http:\S+/.exec(await saving.until("\n"))?.[0] as string;
    rmdirSync(directory);
    await fetch(other, { method: "POST", body: "x" }).catch(() => undefined);
    expect(await saving.exited).toBe(1);
  });

  test("says when it cannot have the port", async () => {
    const { err, code } = await fluxhook(["listen", "--port", String(receiver.port)]);
    expect(err).toBe(
      `fluxhook: cannot listen on 127.0.0.1:${receiver.port}: another process listens there. Use --port 0 for any free port.\n`,
    );
    expect(code).toBe(1);
  });
});

describe("without a Valkey", () => {
  const commands = [
    ["attempts", "u"],
    ["status"],
    ["redeliver", "1"],
    ["redeliver", "--failed", "--yes"],
    ["cancel", "--user", "u", "--yes"],
    ["forget", "u", "--yes"],
    ["send", "--event", "file.created", "--url", "http://h/", "--user", "u", "--secret", "s"],
  ];
  test.each(commands.map((args) => [args]))("%p ends with 69 and says why", async (args) => {
    const VALKEY_URL = `redis://u:${SECRET}@127.0.0.1:1`;
    const { out, err, code } = await fluxhook(args, { env: { VALKEY_URL } });
    expect(err).toBe("fluxhook: cannot use Valkey at 127.0.0.1:1: nothing listens there. Check VALKEY_URL.\n");
    expect([out, code]).toEqual(["", 69]);
  });

  test("it tells programs as JSON on stderr", async () => {
    const { out, err, code } = await fluxhook(["status", "--json"], { env: { VALKEY_URL: "redis://127.0.0.1:1" } });
    expect(JSON.parse(err)).toEqual({
      error: { code: "unavailable", message: expect.stringContaining("nothing listens there"), exit_code: 69 },
    });
    expect([out, code]).toEqual(["", 69]);
  });

  test("from one moment to the next, waiting ends with 69", async () => {
    const other = await startValkey();
    const { args } = sending({ "--secret": SECRET, "--delay": "1h", "--wait": "1h" });
    const command = startCommand(args, { ...env, VALKEY_URL: other.url });
    await command.until("Queued");
    await other.stop();
    expect(await command.exited).toBe(69);
  });

  test("that answers, it gives up after 2 s", async () => {
    const silent: Server = createServer().listen(0, "127.0.0.1");
    const { port } = silent.address() as { port: number };
    const startedAt = performance.now();
    const { err, code } = await fluxhook(["status"], { env: { VALKEY_URL: `redis://127.0.0.1:${port}` } });
    const tookMs = performance.now() - startedAt;
    silent.close();
    expect([err, code]).toEqual([expect.stringContaining(": no answer."), 69]);
    expect(tookMs).toBeLessThan(9_000); // 2 s, and the start of a process on a busy machine
  });
});
