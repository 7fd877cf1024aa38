/** Every option and argument of every command, with what cannot be meant: refused before anything is done, with a reason. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import { buildProgram } from "../src/cli/program.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { commandFolder, createCommand, startCommand } from "./support/command.ts";
import { bounded } from "./support/stack.ts";

setDefaultTimeout(120_000); // processes that start, on a machine that may be busy

const AWAY = "redis://127.0.0.1:1"; // what is not refused ends with 69 there
const folder = mkdtempSync(join(tmpdir(), "fluxhook-nonsense-"));
const request = join(folder, "request.http");
writeFileSync(request, "webhook-id: 1\n\n{}");
const file = join(folder, "file");
writeFileSync(file, "");

const TEXTS = ["", " ", "\0", "💥", "x\r\nX-Injected: yes", "[object Object]", "9".repeat(400)];
const NUMBERS = [...TEXTS, "-1", "NaN", "Infinity", "1e3", "0x10", "1.5", " 80", "80 ", "+80", "٣"];
const DURATIONS = [
  ...NUMBERS,
  "soon",
  "5",
  "5 m",
  "-5m",
  "1h30m",
  "5M",
  "5mm",
  "٣s",
  "999999999d",
  `${"9".repeat(40)}s`,
];
const MOMENTS = [
  ...TEXTS,
  "yesterday",
  "2026-02-30",
  "2026-02-29",
  "2026-13-01",
  "2026-00-10",
  "2026-11-00",
  "2026-11-31",
];
const MORE_MOMENTS = ["2026-11-24T25:00:00Z", "2026-11-24T08:61", "2026-11-24 foo", "20261124", "1764000000000", "-5m"];
const TYPES = [...TEXTS, "file", "FILE.CREATED", "file.created ", "toString", "__proto__"];
const URLS = [
  ...TEXTS,
  "example.com",
  "ftp://x",
  "http://",
  "http://a:b@c",
  "javascript:alert(1)",
  "file:///etc/passwd",
];
const HOSTS = ["", " ", "\0", "💥 💥", "x\r\nX: y", "a b", "http://x", "x/y", "h:99999", "a@b", "h:80:80"];
const IDS = [...TEXTS, "7", "{5b6cf1d6-0c8e-4a53-9d0f-6a1f3c1f7a52}", "5b6cf1d60c8e4a539d0f6a1f3c1f7a52"];
const USERS = ["", " ", "\0", "💥", "a b", "ü", "x".repeat(129), "x\r\nX: y"];
const SECRETS = ["", " ", "\0", "x\n", '"x"', "whsec_", "whsec_%", "WHSEC_YQ==", "sealed:v2:x", "x".repeat(5000)];
const PATHS = ["", "\0", "/nowhere/at/all", "/", "x".repeat(5000)];
const NAMES = ["", " ", "NOWHERE", "\0", "💥", "PATH=x"];
const DATA = [...TEXTS, "{", "[]", "null", "7", '"x"', "@", "@/nowhere", "@/", "{'a':1}", `${"[".repeat(50_000)}`];
const DATES = [
  "",
  " ",
  "soon",
  "-1",
  "1.5",
  "30\r\nX: y",
  "Tue, 99 Nov 2026 08:00:00 GMT",
  "x".repeat(10_000),
  "\0",
  "💥",
];

const ENDPOINT_IDS = [...TEXTS, "-x", "a:b", "a/b", "x".repeat(65)];
const VERSIONS = [...TEXTS, "x".repeat(65)];
const endpointSettings = {
  ...{ "--url": [...URLS, `https://a.example/${"x".repeat(2048)}`], "--description": ["x".repeat(257)] },
  ...{
    "--events": [...TYPES.filter((type) => type.trim() !== "file.created"), "file.created,", "*", "nothing.*"],
    "--rate": [...NUMBERS.filter((text) => text !== "1.5"), "0", "0.001", "10001"],
  },
  ...{
    "--header": [...TEXTS.filter((text) => text !== ""), "Host: x", "no colon", "X-Key:", "X: 💥"],
    "--header-file": PATHS,
  },
  ...{ "--burst": NUMBERS, "--metadata": ["x", "=x", `a=${"x".repeat(513)}`] },
};

const secrets = { "--secret": SECRETS, "--secret-env": NAMES, "--secret-file": PATHS };
/** For `verify` and `listen` a secret may be anything but empty: their user wants to know whether it fits. */
const anySecrets = { "--secret": [], "--secret-env": NAMES, "--secret-file": PATHS };

interface Table {
  /** What makes the command line right without the option. */
  readonly base: readonly string[];
  readonly options: Readonly<Record<string, readonly string[]>>;
  /** In place of its arguments. */
  readonly args?: readonly string[];
}

const TABLE: Readonly<Record<string, Table>> = {
  send: {
    base: ["--event", "file.created", "--url", "http://127.0.0.1/", "--user", "u", "--secret", "s"],
    options: {
      ...{ "--event": TYPES, "--url": URLS, "--endpoint": ENDPOINT_IDS, "--user": USERS, "--data": DATA, "--id": IDS },
      ...{ "--delay": DURATIONS, "--wait": DURATIONS.filter((text) => !text.startsWith("-")), ...secrets },
    },
  },
  trigger: {
    base: ["--url", "http://127.0.0.1/", "--user", "u", "--secret", "s", "file.created"],
    options: {
      ...{ "--url": URLS, "--endpoint": ENDPOINT_IDS, "--user": USERS, "--data": DATA, "--id": IDS },
      ...{ "--delay": DURATIONS, "--wait": DURATIONS.filter((text) => !text.startsWith("-")), ...secrets },
    },
  },
  attempts: { base: [], options: {}, args: USERS },
  find: { base: ["x"], options: { "--for": DURATIONS }, args: ["", " "] },
  status: { base: [], options: {} },
  redeliver: {
    base: ["--failed", "--yes"],
    options: {
      ...{ "--since": [...MOMENTS, ...MORE_MOMENTS], "--user": USERS, "--host": HOSTS, "--event": TYPES },
      "--endpoint": ENDPOINT_IDS,
    },
  },
  recover: { base: ["--yes"], options: {} },
  cancel: {
    base: ["--yes", "--event", "file.created"],
    options: {
      "--user": USERS,
      "--host": HOSTS,
      "--endpoint": URLS.filter((url) => !url.includes("@")),
      "--event": TYPES,
    },
  },
  pause: { base: ["--yes"], options: {} },
  resume: { base: ["--yes"], options: {} },
  hold: {
    base: ["--for", "1h"],
    options: { "--host": HOSTS, "--url": URLS, "--user": USERS, "--for": DURATIONS, "--reason": ["x".repeat(201)] },
  },
  release: { base: [], options: { "--host": HOSTS, "--url": URLS, "--user": USERS } },
  holds: { base: [], options: {} },
  "endpoints list": {
    base: [],
    options: {
      ...{ "--state": [...TEXTS, "enabled"], "--host": HOSTS, "--limit": [...NUMBERS, "0", "1001"] },
      "--cursor": TEXTS,
    },
    args: USERS,
  },
  "endpoints show": { base: ["u"], options: {}, args: ENDPOINT_IDS },
  "endpoints create": {
    base: ["u", "--url", "https://a.example/"],
    options: { "--id": ENDPOINT_IDS, ...endpointSettings, ...secrets },
  },
  "endpoints update": { base: ["u", "e"], options: { "--if-version": VERSIONS, ...endpointSettings } },
  "endpoints rotate": {
    base: ["u", "e"],
    options: { "--if-version": VERSIONS, "--grace": [...DURATIONS, "8d", "500ms"], ...secrets },
  },
  "endpoints pause": { base: ["u", "e"], options: { "--if-version": VERSIONS } },
  "endpoints resume": { base: ["u", "e"], options: { "--if-version": VERSIONS } },
  "endpoints disable": { base: ["u", "e"], options: { "--if-version": VERSIONS } },
  "endpoints enable": {
    base: ["u", "e"],
    options: {
      "--if-version": VERSIONS,
      "--replay": [...MOMENTS, ...MORE_MOMENTS].filter((text) => !text.startsWith("-")),
    },
  },
  "endpoints test": { base: ["u", "e"], options: { "--event": TYPES, "--wait": DURATIONS } },
  "endpoints missed": {
    base: ["u", "e"],
    options: { "--limit": [...NUMBERS, "0", "1001"], "--cursor": TEXTS },
  },
  "endpoints replay": {
    base: ["u", "e"],
    options: { "--since": [...MOMENTS, ...MORE_MOMENTS], "--until": [...MOMENTS, ...MORE_MOMENTS] },
  },
  "endpoints delete": { base: ["u", "e", "--yes"], options: { "--if-version": VERSIONS } },
  "endpoints explain": {
    base: ["u", "file.created"],
    options: { "--at": [...MOMENTS, ...MORE_MOMENTS] },
  },
  "endpoints attempts": { base: ["u"], options: {}, args: ENDPOINT_IDS },
  "endpoints export": { base: [], options: { "--user": USERS } },
  "endpoints apply": { base: [], options: {}, args: [...PATHS, request] },
  "endpoints reindex": { base: [], options: {} },
  "endpoints rehome": { base: [], options: { "--from": [...NUMBERS, "0", "257"] } },
  forget: { base: ["--yes"], options: {}, args: USERS },
  verify: {
    base: [request, "--secret", "s"],
    options: { "--headers": PATHS, "--body": PATHS, "--tolerance": DURATIONS, ...anySecrets },
    args: PATHS,
  },
  listen: {
    base: ["--port", "0"],
    options: {
      ...{ "--host": [" ", "💥", "x\r\nX: y", "999.1.1.1", "http://127.0.0.1"], "--port": [...NUMBERS, "65536"] },
      ...{ "--status": [...NUMBERS, "99", "199", "600", "2xx"], "--retry-after": DATES },
      ...{ "--count": [...NUMBERS, "0", "99999999999"], "--save": ["", "\0", file, join(file, "x"), "/proc/nowhere"] },
      ...{ "--forward-to": URLS, "--user": USERS, ...anySecrets },
    },
  },
  seal: { base: ["--user", "u", "--secret", "s"], options: { "--user": USERS, ...secrets } },
  key: { base: [], options: {} },
  worker: { base: [], options: {} },
  board: { base: [], options: {} },
  completion: { base: [], options: {}, args: [...TEXTS, "csh", "toString", "__proto__"] },
};

interface Said {
  readonly args: readonly string[];
  readonly out: string;
  readonly err: string;
  readonly code: number | string;
}

async function runAll(lines: readonly (readonly string[])[]): Promise<Said[]> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "support/command-batch.ts")], {
    cwd: commandFolder,
    env: { PATH: process.env.PATH ?? "", VALKEY_URL: AWAY, WEBHOOK_SECRET_KEYS: Buffer.alloc(32).toString("base64") },
    stdio: [new Blob([JSON.stringify(lines)]), "pipe", "inherit"],
  });
  const said = new Response(child.stdout).json() as Promise<Said[]>;
  return await bounded(said, () => "all command lines to end", 100_000).finally(() => child.kill("SIGKILL"));
}

/** Every command that does something, by its full name. */
const optionsOf = () =>
  commandsOf(buildProgram({ env: {}, exitCode: 0 }, "test", () => {})).map(({ name, command }) => ({
    name,
    taking: command.options.filter(({ required, optional }) => required || optional).map(({ long }) => long as string),
  }));

function commandsOf(parent: Command, prefix = ""): { readonly name: string; readonly command: Command }[] {
  return parent.commands.flatMap((command) => {
    const name = `${prefix}${command.name()}`;
    return command.commands.length > 0 ? commandsOf(command, `${name} `) : [{ name, command }];
  });
}

test("the table has every command, and every option that takes a value", () => {
  const inTable = Object.entries(TABLE).map(([name, { options }]) => ({ name, taking: Object.keys(options).sort() }));
  const present = optionsOf().map(({ name, taking }) => ({ name, taking: taking.sort() }));
  const byName = (a: { name: string }, b: { name: string }) => a.name.localeCompare(b.name);
  expect(inTable.sort(byName)).toEqual(present.sort(byName));
});

/** What is wrong with what a command said to nonsense; undefined when nothing is. */
function judge({ args, out, err, code }: Said): string | undefined {
  const isHost = args.includes("--host"); // only the system knows that
  if (code !== 2 && !(isHost && code === 1)) return `ended with ${code}`;
  if (out !== "") return `printed ${out}`;
  const isTold =
    err.endsWith("\n") &&
    err
      .trimEnd()
      .split("\n")
      .every((line) => /^fluxhook: \S/.test(line));
  if (!isTold || /\n {4}at |undefined|\[object Object\]: /.test(err)) return `said ${JSON.stringify(err)}`;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: none of them may reach the terminal
  if (/[\x00-\x09\x0b-\x1f]/.test(err)) return "said it with a control character";
  return err.length > 12_000 ? `said it in ${err.length} characters` : undefined;
}

test("every option and argument refuses nonsense, with a reason and 2", async () => {
  const lines = Object.entries(TABLE).flatMap(([name, { base, options, args = [] }]) => [
    ...Object.entries(options).flatMap(([option, values]) =>
      values.map((value) => {
        const isOwn = option === "--headers" || option === "--body";
        return isOwn
          ? [...name.split(" "), "--secret", "s", "--headers", request, "--body", request, option, value]
          : [...name.split(" "), ...base, option, value];
      }),
    ),
    ...args.map((value) => [...name.split(" "), ...base.filter((part) => part !== request), value]),
  ]);
  const said = await runAll(lines);
  expect(said.length).toBe(lines.length);
  expect(lines.length).toBeGreaterThan(300);
  const wrong = said.flatMap((command) => {
    const problem = judge(command);
    return problem === undefined ? [] : [`${JSON.stringify(command.args).slice(0, 200)} ${problem.slice(0, 500)}`];
  });
  expect(wrong).toEqual([]);
});

test("a moment in the future is taken, with a hint", async () => {
  const [future, past] = await runAll([
    ["redeliver", "--failed", "--yes", "--since", "2099-01-01"],
    ["redeliver", "--failed", "--yes", "--since", "2024-02-29 08:00"],
  ]);
  const away = "fluxhook: cannot use Valkey at 127.0.0.1:1: nothing listens there. Check VALKEY_URL.\n";
  expect([future?.err, future?.code]).toEqual([
    `fluxhook: --since is in the future: nothing has failed since\n${away}`,
    69,
  ]);
  expect([past?.err, past?.code]).toEqual([away, 69]);
});

test.each(["seconds", "a date"])("listen answers with a Retry-After of %s", async (kind) => {
  const value = kind === "seconds" ? "30" : "Tue, 24 Nov 2026 08:00:00 GMT";
  const listening = startCommand(
    ["listen", "--port", "0", "--status", "503", "--retry-after", value, "--count", "1"],
    {},
  );
  const [url] = /http:\S+\//.exec(await listening.until("without verification")) as RegExpExecArray;
  const response = await fetch(url, { method: "POST", body: "{}" });
  expect([response.status, response.headers.get("retry-after")]).toEqual([503, value]);
  expect(await listening.exited).toBe(0);
});

test("listen --save makes its directory", async () => {
  const directory = join(folder, "new/below");
  const listening = startCommand(["listen", "--port", "0", "--save", directory, "--count", "1"], {});
  const [url] = /http:\S+\//.exec(await listening.until("without verification")) as RegExpExecArray;
  await fetch(url, { method: "POST", body: "{}" });
  expect(await listening.exited).toBe(0);
  expect(readFileSync(join(directory, "1-request.http"), "utf8")).toEndWith("\r\n\r\n{}");
});

async function sh(script: string, env: Record<string, string> = {}) {
  const child = Bun.spawn(["bash", "-c", `set -o pipefail; ${script}`], {
    cwd: commandFolder,
    env: {
      PATH: process.env.PATH ?? "",
      FLUXHOOK: `${process.execPath} ${join(import.meta.dir, "../src/cli.ts")}`,
      ...env,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const said = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text(), child.exited]);
  const [out, err, code] = await bounded(said, () => `${script} to end`, 30_000).finally(() => child.kill("SIGKILL"));
  return { out, err, code };
}

test("output that cannot be written is a failure, of every command; output that nobody wants is none", async () => {
  const valkey = await startValkey();
  const receiver = await startReceiver();
  mkdirSync(join(commandFolder, "nonsense"), { recursive: true });
  const env = { VALKEY_URL: valkey.url, SECRET: "s", WEBHOOK_SECRET_KEYS: Buffer.alloc(32).toString("base64") };
  const full = "cannot write the output: ENOSPC: no space left on device";
  try {
    const sent = await createCommand(env)([
      ...[
        "send",
        "--event",
        "file.created",
        "--url",
        receiver.url(),
        "--user",
        "u",
        "--secret-env",
        "SECRET",
        "--json",
      ],
    ]);
    const { job } = JSON.parse(sent.out);
    const commands = [
      `send --event file.created --url ${receiver.url()} --user u --secret-env SECRET`,
      `trigger file.created --url ${receiver.url()} --user u --secret-env SECRET`,
      "attempts u",
      "status",
      `redeliver ${job} --dry-run`,
      `redeliver ${job}`,
      "recover --dry-run",
      "find u",
      "hold --user u --for 1h",
      "holds",
      "release --user u",
      "pause --dry-run",
      "resume --dry-run",
      "cancel --user u --dry-run",
      "endpoints list",
      "endpoints explain u file.created",
      "endpoints reindex",
      "forget u --dry-run",
      `verify ${request} --secret-env SECRET`,
      "listen --port 0",
      "seal --user u --secret-env SECRET",
      "key",
      "completion zsh",
    ];
    const present = new Set(commands.map((command) => command.split(" ")[0] as string));
    const processes = ["worker", "board"]; // have their own output
    expect(Object.keys(TABLE).filter((name) => !present.has(name.split(" ")[0] as string))).toEqual(processes);
    for (const command of commands) {
      const { err, code } = await sh(`$FLUXHOOK ${command} --json >/dev/full`, env);
      const told = err
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line));
      expect([command, told, code]).toEqual([
        command,
        [{ error: { code: "failed", message: expect.stringContaining(full), exit_code: 1 } }],
        1,
      ]);
    }
    expect(await sh("$FLUXHOOK --help >/dev/full")).toEqual({
      out: "",
      err: expect.stringContaining(`fluxhook: ${full}`),
      code: 1,
    });
    expect(await sh("$FLUXHOOK completion zsh | head -1")).toEqual({ out: "#compdef fluxhook\n", err: "", code: 0 });
  } finally {
    await receiver.stop();
    await valkey.stop();
  }
});
