/** What the command says about itself, and about wrong usage and settings; with a Valkey that holds nothing. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startValkey } from "../src/dev/valkey.ts";
import { commandFolder, createCommand, createCommandProcess, startCommand } from "./support/command.ts";

setDefaultTimeout(60_000); // processes that start, on a machine that may be busy

const SECRET = "s3cret-of-the-customer";
const valkey = await startValkey();
const env = { VALKEY_URL: valkey.url, WEBHOOK_QUEUE: "cli", SECRET };
const fluxhook = createCommand(env);
const fluxhookProcess = createCommandProcess(env);
afterAll(() => valkey.stop());

describe("settings", () => {
  test("that are wrong are all named: 78", async () => {
    const { err, code } = await fluxhook(["status"], { env: { WEBHOOK_TIMEOUT: "ten", WEBHOOK_SECRET_KEYS: SECRET } });
    expect(err).toBe(
      'fluxhook: expected WEBHOOK_TIMEOUT to be a duration of 100ms to 60s, got "ten"\n' +
        "fluxhook: expected WEBHOOK_SECRET_KEYS to be keys of 32 bytes in base64, comma-separated, got something else\n",
    );
    expect(code).toBe(78);
  });

  test("that are misspelled are a warning", async () => {
    const { err, code } = await fluxhook(["attempts", "nobody"], { env: { WEBHOOK_QUEU: "other" } });
    expect(err).toBe("fluxhook: WEBHOOK_QUEU is not a setting; did you mean WEBHOOK_QUEUE?\n");
    expect(code).toBe(0);
  });

  test("do not matter to what needs none", async () => {
    const wrong = { VALKEY_URL: "nonsense" };
    expect((await fluxhook(["key"], { env: wrong })).code).toBe(0);
    expect((await fluxhook(["completion", "bash"], { env: wrong })).code).toBe(0);
  });
});

describe("usage", () => {
  test.each([
    [["snd"], "fluxhook: unknown command 'snd' (Did you mean send?)\nfluxhook: Try fluxhook --help.\n"],
    [
      ["send", "--evnt", "x"],
      "fluxhook: unknown option '--evnt' (Did you mean --event?)\nfluxhook: Try fluxhook send --help.\n",
    ],
    [["send", "--event", "x"], "fluxhook: expected --url, --user\n"],
    [["attempts"], "fluxhook: missing required argument 'user'\nfluxhook: Try fluxhook attempts --help.\n"],
    [["status", "now"], /too many arguments/],
    [
      ["send", "--event", "file.created", "--url", "http://h/", "--user", "u"],
      /^fluxhook: expected a secret: --secret-env/,
    ],
    [["trigger"], "fluxhook: missing required argument 'event'\nfluxhook: Try fluxhook trigger --help.\n"],
    [["trigger", "file.creatd"], "fluxhook: file.creatd is not an event type; did you mean file.created?\n"],
    [["trigger", "toString"], /^fluxhook: expected the event to be one of file.created, .*storage.exceeded\n$/],
    [["trigger", "file.created", "--url", "http://h/"], "fluxhook: expected --user\n"],
    [["redeliver", "--failed", "--event", "file.creatd"], /did you mean file.created\?\n$/],
    [["cancel", "--event", "x"], /^fluxhook: expected --event to be one of file.created, /],
    [["redeliver"], "fluxhook: expected either job ids or --failed\n"],
    [["redeliver", "1", "--failed"], "fluxhook: expected either job ids or --failed\n"],
    [["redeliver", "1", "--user", "u"], "fluxhook: --since, --user, --host, --endpoint and --event require --failed\n"],
    [["redeliver", "--failed"], /^fluxhook: no terminal to ask for confirmation: use --yes/],
    [["redeliver", "--failed", "--yes", "--since", "noon"], /^fluxhook: expected --since to be a duration/],
    [["verify", "--secret", "s"], /^fluxhook: expected either a file with a raw request/],
    [["listen", "--port", "99999"], /^fluxhook: expected --port to be a whole number from 0 to 65535/],
    [["completion", "csh"], 'fluxhook: expected the shell to be one of bash, zsh, fish, got "csh"\n'],
  ])("%p is 2, and told", async (args, expected) => {
    const { out, err, code } = await fluxhook(args);
    expect(err).toMatch(expected);
    expect([out, code]).toEqual(["", 2]);
  });

  test("is told to programs as JSON", async () => {
    const { err, code } = await fluxhook(["send", "--evnt", "x", "--json"]);
    expect(JSON.parse(err)).toEqual({
      error: { code: "usage", message: "unknown option '--evnt' (Did you mean --event?)", exit_code: 2 },
    });
    expect(code).toBe(2);
  });

  test("help is enough: every command has examples; the version is the package's", async () => {
    const { out, code } = await fluxhook(["--help"]);
    const names = [...out.matchAll(/^ {2}([a-z]+) (?:\[|<)/gm)]
      .map((match) => match[1] as string)
      .filter((name) => name !== "help");
    expect(names).toEqual([
      "send",
      "trigger",
      "attempts",
      "find",
      "status",
      "redeliver",
      "recover",
      "cancel",
      "pause",
      "resume",
      "hold",
      "release",
      "holds",
      "forget",
      "verify",
      "listen",
      "seal",
      "key",
      "worker",
      "board",
      "completion",
    ]);
    expect(out).toContain("69  Valkey unavailable");
    for (const name of names) {
      const help = await fluxhook([name, "--help"]);
      expect(help.out).toContain(`Usage: fluxhook ${name} `);
      expect(help.out).toContain(`Examples:\n  $ `);
      expect([help.err, help.code]).toEqual(["", 0]);
    }
    expect(code).toBe(0);
    const { version } = JSON.parse(readFileSync(join(import.meta.dir, "../package.json"), "utf8"));
    expect((await fluxhookProcess(["--version"])).out).toBe(`${version}\n`);
    expect((await fluxhook([])).code).toBe(2);
  });
});

describe("completion", () => {
  test("for bash parses, and completes commands, options and event types", async () => {
    const { out } = await fluxhook(["completion", "bash"]);
    const script = join(commandFolder, "completion.bash");
    writeFileSync(script, out);
    expect(Bun.spawnSync(["bash", "-n", script]).exitCode).toBe(0);
    const complete = (words: string[]) =>
      Bun.spawnSync([
        "bash",
        "-c",
        `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _fluxhook; echo "\${COMPREPLY[@]}"`,
        "bash",
        script,
        ...words,
      ])
        .stdout.toString()
        .trim();
    expect(complete(["fluxhook", "se"])).toBe("send seal");
    expect(complete(["fluxhook", "redeliver", "--d"])).toBe("--dry-run");
    expect(complete(["fluxhook", "send", "--event", "org.user"])).toBe("org.userAdded org.userRemoved");
    expect(complete(["fluxhook", "completion", "z"])).toBe("zsh");
    expect(complete(["fluxhook", "verify", "--secret-file", script.slice(0, -2)])).toBe(script);
  });

  test.each(["zsh", "fish"])("for %s names every command and option", async (shell) => {
    const { out, code } = await fluxhook(["completion", shell]);
    expect(code).toBe(0);
    for (const word of ["redeliver", "dry-run", "secret-env", "tolerance", "org.userAdded"])
      expect(out).toContain(word);
    if (Bun.which(shell)) {
      const script = join(commandFolder, `completion.${shell}`);
      writeFileSync(script, out);
      expect(Bun.spawnSync([shell, "-n", script]).exitCode).toBe(0);
    }
  });
});

test("the command colours what it prints for terminals, and not for those who want none", async () => {
  const coloured = startCommand(["status"], env, { isTerminal: true });
  await coloured.exited;
  const { NO_COLOR, ...plainEnv } = { ...env, NO_COLOR: "1" };
  const plain = startCommand(["status"], { ...plainEnv, NO_COLOR }, { isTerminal: true });
  await plain.exited;
  expect(await coloured.until("noeviction")).toContain("\x1b[32mnoeviction\x1b[0m");
  expect(await plain.until("noeviction")).not.toContain("\x1b[32m");
});
