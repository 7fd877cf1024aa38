import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { startValkey } from "../src/dev/valkey.ts";
import { findUnknownSettings } from "../src/settings/misspelled.ts";
import { SETTINGS } from "../src/settings/table.ts";
import { startWorkerProcess } from "./support/process.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const root = join(import.meta.dir, "..");
const SECRET = "s3cr3t-that-must-not-leak";
const KEY = Buffer.alloc(32, 7).toString("base64");
const cwd = mkdtempSync(join(tmpdir(), "fluxhook-check-")); // Bun would read a .env of ours
const valkey = await startValkey(); // of its own: its eviction policy changes
const admin = new Redis(valkey.url);
afterAll(async () => {
  admin.disconnect();
  await valkey.stop();
  rmSync(cwd, { recursive: true });
});

async function run(program: string, args: string[], env: Record<string, string> = {}, directory = cwd) {
  const child = Bun.spawn([process.execPath, join(root, `src/${program}.ts`), ...args], {
    cwd: directory,
    env: { PATH: process.env.PATH ?? "", VALKEY_URL: valkey.url, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { out, err, code };
}

describe.each(["worker", "board"])("the %s", (program) => {
  test("tells every setting with its default, meaning and what may stand there", async () => {
    const { out, err, code } = await run(program, ["--help"], { WEBHOOK_TIMEOUT: "wrong" });
    expect([err, code]).toEqual(["", 0]);
    expect(out).toStartWith(`Usage: bun src/${program}.ts [--check | --help]\n`);
    for (const { name, default: value, meaning, expected } of Object.values(SETTINGS)) {
      const text = `  ${name} ${value || "(unset)"}\n      ${meaning}\n      expected: ${expected}\n`;
      expect(out.replaceAll(/(?<=[A-Z]) +/g, " ")).toContain(text);
    }
  });

  test("says which value of .env the runtime has changed, since a $ begins the name of a variable there", async () => {
    const own = mkdtempSync(join(tmpdir(), "fluxhook-env-"));
    const lines = [
      `BOARD_PASSWORD='pa$word-${SECRET}'`,
      "BOARD_ENVIRONMENT=a$b",
      "WEBHOOK_QUEUE=own",
      "BOARD_USER=a\\$b",
    ];
    writeFileSync(join(own, ".env"), lines.join("\n"));
    const { out, code } = await run(program, ["--check"], { BOARD_ENVIRONMENT: "set outside" }, own);
    rmSync(own, { recursive: true });
    expect(out).toContain("Notes\n  BOARD_PASSWORD in .env has a $ that was expanded as a variable");
    expect(out).not.toContain("BOARD_ENVIRONMENT in .env");
    expect(out).not.toContain("BOARD_USER in .env");
    expect(out).not.toContain(SECRET);
    expect(code).toBe(0);
  });

  test("names an option that it does not have", async () => {
    expect(await run(program, ["--chek"])).toEqual({
      out: "",
      err: "fluxhook: --chek is not an option; did you mean --check? Try --help.\n",
      code: 2,
    });
    expect((await run(program, ["--check", "start"])).err).toBe("fluxhook: start is not an option. Try --help.\n");
  });

  test("finds nothing wrong with what is right, and says what it took for what", async () => {
    const { out, err, code } = await run(program, ["--check"], { WEBHOOK_CONCURRENCY: "8", BOARD_PASSWORD: SECRET });
    expect([err, code]).toEqual(["", 0]);
    const rows = Object.fromEntries(
      [...out.matchAll(/^ {2}(\S+) +(.+)$/gm)].map((match) => match.slice(1) as [string, string]),
    );
    expect(rows).toMatchObject({
      VALKEY_URL: valkey.url,
      WEBHOOK_CONCURRENCY: "8",
      WEBHOOK_ENDPOINT_CONCURRENCY: "2  (default)",
      WEBHOOK_TIMEOUT: "10s  (default)",
      WEBHOOK_SECRET_KEYS: "(unset)",
      BOARD_PASSWORD: "***",
      version: expect.stringMatching(/^(Valkey|Redis) \d+\.\d+\.\d+$/),
      eviction: "noeviction",
      role: "primary",
    });
    for (const { name } of Object.values(SETTINGS)) expect(rows).toHaveProperty(name);
    expect(out).toEndWith("No problems found.\n");
  });
});

describe("--check ends with", () => {
  test("1 when Valkey may drop what is queued", async () => {
    await admin.config("SET", "maxmemory-policy", "allkeys-lru");
    const { out, code } = await run("worker", ["--check"]);
    await admin.config("SET", "maxmemory-policy", "noeviction");
    expect(out).toEndWith(
      "Problems\n  Valkey may drop queued events: expected maxmemory-policy noeviction, got allkeys-lru\n",
    );
    expect(code).toBe(1);
  });

  test("1 when Valkey is a replica", async () => {
    await admin.replicaof("127.0.0.1", 1);
    const { out, code } = await run("worker", ["--check"]);
    await admin.replicaof("NO", "ONE");
    expect(out).toContain("  role                          replica\n");
    expect(out).toEndWith("Problems\n  Valkey takes no writes: it is a replica\n");
    expect(code).toBe(1);
  });

  test.each([
    [
      "worker",
      ["-bzpopmin", "-xadd", "-multi", "-info", "resetkeys", "~bull:webhooks:*"],
      [
        "may not run XADD: grant +xadd",
        "may not use the keys webhooks:log:*: grant ~webhooks:log:*",
        "may not use the keys webhooks:responses:*: grant ~webhooks:responses:*",
        "may not use the keys webhooks:circuits:webhooks: grant ~webhooks:circuits:webhooks",
        "may not use the keys webhooks:strays:webhooks: grant ~webhooks:strays:webhooks",
        "may not use the keys webhooks:attempts:webhooks:*: grant ~webhooks:attempts:webhooks:*",
        "may not use the keys webhooks:paused:webhooks: grant ~webhooks:paused:webhooks",
        "may not use the keys webhooks:holds:webhooks: grant ~webhooks:holds:webhooks",
        "may not use the keys webhooks:endpoints:*: grant ~webhooks:endpoints:*",
        "may not use the keys webhooks:missed:*: grant ~webhooks:missed:*",
        "may not use the keys webhooks:missed-data:*: grant ~webhooks:missed-data:*",
        "may not use the keys webhooks:health:*: grant ~webhooks:health:*",
        "may not use the keys webhooks:endpoint-log:*: grant ~webhooks:endpoint-log:*",
        "may not use the keys webhooks:endpoint-changes*: grant ~webhooks:endpoint-changes*",
        "may not use the keys webhooks:endpoint-index*: grant ~webhooks:endpoint-index*",
        "may not use the keys webhooks:endpoint-off*: grant ~webhooks:endpoint-off*",
        "may not use the keys webhooks:backlog:webhooks:*: grant ~webhooks:backlog:webhooks:*",
        "may not use the keys webhooks:rate:*: grant ~webhooks:rate:*",
        "may not use the keys webhooks:rate-line:*: grant ~webhooks:rate-line:*",
        "may not use the keys webhooks:rate-released:*: grant ~webhooks:rate-released:*",
        "may not use the keys bull:webhooks-notices:*: grant ~bull:webhooks-notices:*",
        "may not run MULTI and EXEC: grant +multi +exec",
        "may not run BZPOPMIN: grant +bzpopmin",
      ],
    ],
    ["worker", ["-eval"], ["may not run EVAL: grant +eval"]],
    ["worker", ["resetkeys"], ["may not use the keys bull:webhooks:*: grant ~bull:webhooks:*"]],
    ["board", ["-bzpopmin", "-hscan"], ["may not run HSCAN: grant +hscan"]],
  ])(
    "1 when the %s's user may not do what is needed (%p), with what to grant, and leaves nothing",
    async (program, rules, lacks) => {
      await admin.acl("SETUSER", "limited", "reset", "on", ">pass", "~*", "&*", "+@all", ...rules);
      const keys = await admin.dbsize();
      const { out, code } = await run(program, ["--check"], {
        VALKEY_URL: valkey.url.replace("//", "//limited:pass@"),
      });
      const problems = out.slice(out.indexOf("Problems\n")).split("\n").slice(1, -1);
      expect(problems.slice(0, lacks.length)).toEqual(lacks.map((lack) => `  The Valkey user ${lack}`));
      expect([problems.length >= lacks.length, code, await admin.dbsize()]).toEqual([true, 1, keys]);
    },
  );

  test("0 when the user may not ask Valkey about itself, with a note of what is unknown then", async () => {
    await admin.acl("SETUSER", "limited", "reset", "on", ">pass", "~*", "&*", "+@all", "-@dangerous");
    const { out, code } = await run("worker", ["--check"], { VALKEY_URL: valkey.url.replace("//", "//limited:pass@") });
    expect(out).toContain("  eviction                      unknown\n");
    expect(out).toContain("  role                          primary\n");
    expect(out).toContain(
      "Notes\n  The Valkey user may not run INFO, so eviction, persistence and memory are unknown: grant +info\n",
    );
    expect([code, out.endsWith("No problems found.\n")]).toEqual([0, true]);
  });

  test("1 when a key of the queue holds something else", async () => {
    await admin.set("bull:webhooks:wait", "x");
    const { out, code } = await run("worker", ["--check"]);
    await admin.del("bull:webhooks:wait");
    expect(out).toEndWith(
      "Problems\n  The key bull:webhooks:wait is a string, but the queue needs a list there: rename or delete it\n",
    );
    expect(code).toBe(1);
  });

  test("69 when nothing listens, and after 2 s when what listens says nothing", async () => {
    const refused = await run("worker", ["--check"], { VALKEY_URL: `redis://u:${SECRET}@127.0.0.1:1` });
    expect(refused.out).toEndWith("Problems\n  Valkey cannot be used at 127.0.0.1:1: nothing listens there\n");
    expect([refused.code, refused.out.includes(SECRET)]).toEqual([69, false]);

    const silent: Server = createServer().listen(0, "127.0.0.1");
    const { port } = silent.address() as { port: number };
    const startedAt = performance.now();
    const { out, code } = await run("worker", ["--check"], { VALKEY_URL: `redis://127.0.0.1:${port}` });
    silent.close();
    expect(out).toContain(`Valkey cannot be used at 127.0.0.1:${port}: no answer\n`);
    expect(code).toBe(69);
    expect(performance.now() - startedAt).toBeLessThan(9_000); // 2 s to give up, the rest is the start on a busy machine
  });

  test("69 when Valkey does not let us in", async () => {
    const VALKEY_URL = valkey.url.replace("//", `//nobody:${SECRET}@`);
    const { out, code } = await run("worker", ["--check"], { VALKEY_URL });
    expect(out).toContain(": WRONGPASS ");
    expect([code, out.includes(SECRET)]).toEqual([69, false]);
  });

  test("78 when Valkey does not have the database, beside what else is wrong with the settings", async () => {
    const { out, code } = await run("worker", ["--check"], {
      VALKEY_URL: `${valkey.url}/16`,
      WEBHOOK_TIMEOUT: "ten",
      WEBHOOK_TIMOUT: "1s",
    });
    expect(out).toEndWith(`Problems
  expected WEBHOOK_TIMEOUT to be a duration of 100ms to 60s, got "ten"
  expected VALKEY_URL to name a database that exists: Valkey at 127.0.0.1:${valkey.port} has no database 16
  WEBHOOK_TIMOUT is not a setting; did you mean WEBHOOK_TIMEOUT?
`);
    expect(code).toBe(78);
  });

  test("78 when a setting is wrong, and still looks at all the rest", async () => {
    const { out, code } = await run("worker", ["--check"], {
      VALKEY_URL: "redis://127.0.0.1:1",
      WEBHOOK_TIMEOUT: "ten",
      WEBHOOK_CA_FILE: "/dev/null",
      WEBHOOK_PROXY: `http://user:${SECRET}@proxy.internal:3128`,
      WEBHOOK_SECRET_KEYS: `${KEY},${SECRET}`,
      WEBHOOK_TIMOUT: "1s",
    });
    expect(out).toContain("  WEBHOOK_TIMEOUT               ten  (not understood)\n");
    expect(out).toContain("  WEBHOOK_SECRET_KEYS           ***  (not understood)\n");
    expect(out).toContain("  WEBHOOK_PROXY                 ***\n");
    expect(out).toEndWith(`Problems
  expected WEBHOOK_TIMEOUT to be a duration of 100ms to 60s, got "ten"
  expected WEBHOOK_SECRET_KEYS to be keys of 32 bytes in base64, comma-separated, got something else
  expected WEBHOOK_CA_FILE to be a readable file of certificates in PEM, got "/dev/null", which holds no certificate
  WEBHOOK_TIMOUT is not a setting; did you mean WEBHOOK_TIMEOUT?
  Valkey cannot be used at 127.0.0.1:1: nothing listens there
`);
    expect([code, out.includes(SECRET), out.includes(KEY)]).toEqual([78, false, false]);
  });

  test.each([`valkey://x:${SECRET}@h`, `redis://:${SECRET}@h/webhooks`, `redis://:${SECRET}@h?db=1`])(
    "78 when VALKEY_URL is none, as %s, without printing it",
    async (url) => {
      const { out, code } = await run("board", ["--check"], { VALKEY_URL: url });
      expect(out).toContain(
        "expected VALKEY_URL to be a redis://, rediss://, redis+sentinel:// or redis+cluster:// URL, as in redis://user:password@host:6379/0, or several separated by blanks, got something else",
      );
      expect([code, out.includes(SECRET)]).toEqual([78, false]);
    },
  );
});

describe("a variable that is no setting", () => {
  const known = Object.values(SETTINGS).map(({ name }) => name);
  const hints = (names: string[]) =>
    findUnknownSettings(Object.fromEntries(names.map((name) => [name, "1"])), known).map(({ hint }) => hint);

  test.each([
    ["WEBHOOK_TIMOUT", "WEBHOOK_TIMEOUT"],
    ["WEBHOOK_TIMEOTU", "WEBHOOK_TIMEOUT"],
    ["WEBHOOK_RETRYDELAYS", "WEBHOOK_RETRY_DELAYS"],
    ["WEBHOOK_ALLOWED_NETWORK", "WEBHOOK_ALLOW_NETWORKS"],
    ["WEBHOOK_SECRET_KEY", "WEBHOOK_SECRET_KEYS"],
    ["WORKER_CONCURRENCY", "WEBHOOK_CONCURRENCY"],
    ["BOARD_PASSWROD", "BOARD_PASSWORD"],
    ["WORKER_PROT", "WORKER_PORT"],
  ])("%s is named, with %s as what was meant", (name, meant) => {
    expect(hints([name])).toEqual([`${name} is not a setting; did you mean ${meant}?`]);
  });

  test("that is like none is named without a guess", () => {
    expect(hints(["WEBHOOK_COLOUR", "BOARD_GAMES"])).toEqual([
      "WEBHOOK_COLOUR is not a setting",
      "BOARD_GAMES is not a setting",
    ]);
  });

  test("is not looked for among settings, other prefixes, empty variables and the service links of Kubernetes", () => {
    expect(hints([...known, "HOOK_TIMEOUT", "PATH", "VALKEY_URI"])).toEqual([]);
    expect(findUnknownSettings({ WEBHOOK_TIMOUT: "" }, known)).toEqual([]);
    const links = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_3000_TCP", "PORT_3000_TCP_ADDR"];
    expect(hints(links.map((link) => `BOARD_${link}`))).toEqual([]);
  });

  test("is a warning of a worker, which starts all the same", async () => {
    const env = { VALKEY_URL: await testValkeyUrl(), WEBHOOK_TIMOUT: "5s", BOARD_GAMES: "chess" };
    const worker = startWorkerProcess(env);
    await worker.line("worker.ready");
    const warnings = worker.lines.filter(({ message }) => message === "setting.unknown");
    await worker.stop();
    expect(warnings).toEqual([
      expect.objectContaining({
        level: "warn",
        setting: "WEBHOOK_TIMOUT",
        hint: "WEBHOOK_TIMOUT is not a setting; did you mean WEBHOOK_TIMEOUT?",
      }),
      expect.objectContaining({ level: "warn", setting: "BOARD_GAMES", hint: "BOARD_GAMES is not a setting" }),
    ]);
  });
});
