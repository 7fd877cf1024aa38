/** The command on a queue and a log in which somebody has put what takes over a terminal. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { createCommand } from "./support/command.ts";
import { testValkeyUrl } from "./support/valkey.ts";

setDefaultTimeout(60_000); // each command is a process that starts

const HOSTILE = "a\x1b[2J\u009b31m\u0085\u202egpj.exe\u2066\u200b\u200f\u2028\u2029\u00ad\ufeff\u{e0041}\r\nfake\x07";
/** All that is not seen, but the line breaks of the output itself. */
const UNSEEN = /[^\P{Cc}\n]|[\p{Cf}\p{Zl}\p{Zp}]/u;

const name = `hostile-${crypto.randomUUID()}`;
const url = await testValkeyUrl();
const valkey = new Redis(url, { maxRetriesPerRequest: null });
const queue = new Queue(name, { connection: valkey });
const fluxhook = createCommand({ VALKEY_URL: url, WEBHOOK_QUEUE: name });

const USER = `usr_${crypto.randomUUID()}`;
const ATTEMPT = {
  ...{ id: HOSTILE, delivery: HOSTILE, attempt: HOSTILE, timestamp: new Date().toISOString(), endpoint: HOSTILE },
  ...{ event: HOSTILE, status_code: HOSTILE, duration_ms: HOSTILE, success: false, error: HOSTILE, job: HOSTILE },
};
const data = { userId: HOSTILE, endpoint: { url: `https://a.example/${HOSTILE}`, secret: "whsec_x" }, data: {} };

await valkey.zadd(`webhooks:log:${USER}`, Date.now(), JSON.stringify(ATTEMPT));
const failed = await queue.add(HOSTILE, data, { jobId: HOSTILE });
await valkey.lrem(queue.toKey("wait"), 0, HOSTILE);
await valkey.zadd(queue.toKey("failed"), Date.now(), HOSTILE);
await valkey.hset(queue.toKey(HOSTILE), { failedReason: HOSTILE, finishedOn: Date.now() });
const stray = await queue.add(HOSTILE, data, { jobId: `stray ${HOSTILE}` });
await valkey.lrem(queue.toKey("wait"), 0, stray.id as string);

await valkey.zadd(`webhooks:circuits:${name}`, Date.now() + 600_000, HOSTILE);

afterAll(async () => {
  await queue.obliterate({ force: true });
  await queue.close();
  await valkey.del(`webhooks:log:${USER}`, queue.toKey(stray.id as string), `webhooks:circuits:${name}`);
  valkey.disconnect();
});

describe("what others named", () => {
  test.each([
    [["attempts", USER], "fake"],
    [["redeliver", "--failed", "--dry-run"], "fake"],
    [["redeliver", "--dry-run", failed.id as string, `gone ${HOSTILE}`], "fake"],
    [["redeliver", `gone ${HOSTILE}`], "fake"],
    [["recover", "--dry-run"], "fake"],
    [["status"], "fake"],
    [["verify", `no file ${HOSTILE}`, "--secret", "x"], "fake"],
    [["attempts", HOSTILE], "visible ASCII"],
    [[HOSTILE], "unknown command"],
  ])("is escaped in the output for people and for programs of %j", async (args, expected) => {
    for (const options of [[], ["--json"]]) {
      const { out, err } = await fluxhook([...(args as string[]), ...options]);
      const text = out + err;
      expect(text).toContain(expected);
      expect(UNSEEN.exec(text)?.[0], text).toBeUndefined();
    }
  });

  test("is escaped even by a command that forgets to", async () => {
    const program = `import { createTerminal } from "./src/cli/terminal.ts";
      const terminal = createTerminal({}, {});
      terminal.print(terminal.paint("fine", "red") + ${JSON.stringify(HOSTILE)});
      terminal.printTable([[${JSON.stringify(HOSTILE)}, "b"]]);
      terminal.warn(${JSON.stringify(HOSTILE)});`;
    const child = Bun.spawn([process.execPath, "-e", program], {
      cwd: join(import.meta.dir, ".."),
      stdio: ["ignore", "pipe", "pipe"],
    });
    const text = (await child.stdout.text()) + (await child.stderr.text());
    expect(text.split("fake").length - 1).toBe(3);
    expect(UNSEEN.exec(text)?.[0], text).toBeUndefined();
  });

  test("is the same for a program that reads the JSON", async () => {
    const { out } = await fluxhook(["attempts", USER, "--json"]);
    expect(JSON.parse(out)).toEqual([ATTEMPT]);
  });
});
