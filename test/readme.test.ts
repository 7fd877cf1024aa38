/**
 * The README's commands and snippets, as they stand there and in the order in which a reader meets them, then those of the
 * guides; in a clone, on a PATH without Bun.
 */
import { afterAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import manifest from "../package.json";
import { buildProgram } from "../src/cli/program.ts";
import { startReader } from "./support/reader.ts";
import { findSnippet, readSnippets, type Snippet } from "./support/snippets.ts";
import { eventually } from "./support/stack.ts";

const ROOT = join(import.meta.dir, "..");
const LIMIT_MS = 240_000; // some forty commands
const SHELL = ["", "sh", "bash", "console"];
const DATA = ["json", "mermaid", "squid"];

const text = (page: string) => readFileSync(join(ROOT, page), "utf8");

/** The README, the guides in the order of its links, and the rest. */
const pages = [
  ...new Set([
    "README.md",
    ...[...text("README.md").matchAll(/\((docs\/[\w/-]+\.md)[)#]/g)].map((match) => match[1] as string),
    ...[...new Bun.Glob("docs/**/*.md").scanSync(ROOT)].sort(),
  ]),
];

/** What is not run here, and why. */
const NOT_RUN: readonly [command: RegExp, reason: string][] = [
  [/\bdocker compose\b/, "needs Docker; compose.test.ts reads the file"],
  [/^kubectl /, "needs Kubernetes"],
  [/\bsystemctl\b|^cp docs\/deploy|^cd \/opt/, "needs systemd and root"],
  [/^ACL SETUSER /, "Valkey's, not the shell's; acl-recipe.test.ts runs it"],
  [/^valkey-cli /, "part of Valkey's own tools"],
  [/^npm install /, "package.long.ts installs both packages"],
  [/^npm (test|run (test:\w+|check|bench|screenshots))\b/, "would run this test, or take minutes"],
  [/^[A-Z_]+=\S+$/, "a setting, not a command"],
  [/^[a-z.\d]+: /, "what a worker says, not a command"],
  [/OTEL_EXPORTER_OTLP_ENDPOINT=/, "needs a collector; tracing.test.ts has one"],
  [/git\.example\.com/, "changes a file to the reader's own address"],
  [/^npm (publish|version|login|pack)\b|^git /, "publishes; package.long.ts packs, and publishes with --dry-run"],
];

/** Pages whose shell blocks are run by tests of their own, which also compare what they print. */
const COMPARED: Readonly<Record<string, string>> = {
  "docs/cli.md": "test/cli-docs.test.ts",
  "docs/endpoints.md": "test/endpoints-docs.test.ts",
};

/** Commands that do not end with 0, because they show a problem. */
const FAILS: readonly [command: RegExp, code: number][] = [
  [/^WEBHOOK_TIMEOUT=ten /, 78],
  [/^WEBHOOK_TIMOUT=5s /, 78],
];

/** Commands that go on until Ctrl-C, what they print when they are ready, and whether they stay up for what follows. */
const GOES_ON: readonly { command: RegExp; until: RegExp; stays: boolean; settings?: string }[] = [
  { command: /^npm start$/, until: /Press Ctrl-C/, stays: true },
  // npm start's have the default ports.
  { command: /^npm run worker$/, until: /"worker\.ready"/, stays: false, settings: "WORKER_PORT=0" },
  { command: /^npm run board$/, until: /"board\.ready"/, stays: false, settings: "BOARD_PORT=0" },
  { command: /npx bun receive\.mjs$/, until: /^/, stays: true }, // says nothing, but listens
];

/** The commands of a shell block: whole lines, or in examples with `$` what follows it. */
function commandsIn({ code }: Snippet): string[] {
  const lines = code.replaceAll("\\\n", " ").split("\n");
  const prompts = lines.filter((line) => line.startsWith("$ "));
  const commands = prompts.length > 0 ? prompts.map((line) => line.slice(2)) : lines;
  return commands.map((line) => line.replace(/\s+# .*/, "").trim()).filter(Boolean);
}

const reader = startReader();
afterAll(() => reader.stop());
const seen = new Set<string>(); // by npx
let valkeyUrl = "redis://127.0.0.1:6379"; // npm start's

/** npx takes a second to find a program that is right here: after the first time this does it. */
function withoutNpx(command: string): string {
  const [whole, program = ""] = /\bnpx (fluxhook|bun)\b/.exec(command) ?? [];
  if (whole === undefined || !seen.has(program)) {
    seen.add(program);
    return command;
  }
  return command.replace(whole, program === "bun" ? "node_modules/.bin/bun" : "node scripts/fluxhook.mjs");
}

async function paste(command: string): Promise<string> {
  const goesOn = GOES_ON.find((one) => one.command.test(command));
  if (goesOn !== undefined) {
    const started = await reader.start(`${goesOn.settings ?? ""} ${command}`, goesOn.until);
    if (!goesOn.stays) await started.stop();
    return started.output();
  }
  const { code, output } = await reader.run(withoutNpx(command));
  const expected = FAILS.find(([pattern]) => pattern.test(command))?.[1] ?? 0;
  expect(`$ ${command}\n${output}${code}`).toBe(`$ ${command}\n${output}${expected}`);
  return output;
}

const isTaken = (port: number) =>
  new Promise<boolean>((resolve) => {
    const socket = connect(port, "127.0.0.1", () => resolve(true)).on("error", () => resolve(false));
    socket.on("connect", () => socket.destroy());
  });

function freePort(): number {
  const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  probe.stop();
  return probe.port;
}

/** The name under which the page says to save a snippet. */
function nameOf({ code }: Snippet, page: string): string | undefined {
  const before = text(page).slice(0, text(page).indexOf(code));
  return [...before.slice(before.lastIndexOf("\n```\n") + 1).matchAll(/`([\w-]+\.mjs)`/g)].at(-1)?.[1];
}

test(
  "the README, from npm start to the last command",
  async () => {
    const port = (await isTaken(8080)) ? freePort() : 8080;
    reader.replace("8080", String(port));
    const printed = new Map<string, string>();
    let send = "npm run send"; // or as npm start shows it
    for (const snippet of readSnippets("README.md")) {
      if (snippet.language === "js") {
        const name = nameOf(snippet, "README.md");
        if (name === undefined) throw new Error(`expected the README to say where to save:\n${snippet.code}`);
        reader.save(name, snippet.code);
        const command = `npx bun ${name}`;
        if (text("README.md").includes(`\`${command}\``)) printed.set(name, await paste(command));
      } else if (SHELL.includes(snippet.language)) {
        for (const command of commandsIn(snippet)) {
          if (NOT_RUN.some(([pattern]) => pattern.test(command))) continue;
          const output = await paste(command === "npm run send" ? send : command);
          printed.set(command, output);
          if (command.endsWith("receive.mjs")) await eventually(() => isTaken(port), Boolean);
          if (command !== "npm start") continue;
          // As npm start asks for where ports are taken.
          const exported = /^ {2}export VALKEY_URL=(\S+)$/m.exec(output)?.[1];
          if (exported !== undefined) {
            valkeyUrl = exported;
            reader.set("VALKEY_URL", exported);
          }
          const endpoint = /use the endpoint (\S+)\.$/m.exec(output)?.[1];
          if (endpoint !== undefined) reader.replace("http://127.0.0.1:8484/webhooks", endpoint);
          send = /^ {2}(npm run send.*)$/m.exec(output)?.[1] ?? send;
        }
      } else expect(DATA).toContain(snippet.language);
    }
    expect(printed.get("npx fluxhook attempts usr_demo")).toMatch(/^200 .*file\.created/m);
    expect(printed.get("add.mjs")).toBe("");
    expect(printed.get("send.mjs")).toMatch(/status_code: 200/);
    const triggered = [...printed].find(([command]) => command.startsWith("npx fluxhook trigger"));
    expect(triggered?.[1]).toContain("Delivered.");
    expect(printed.get("npx fluxhook attempts usr_42")?.match(/^20[04] /gm)?.length).toBeGreaterThanOrEqual(3);
  },
  LIMIT_MS,
);

test(
  "the commands of the guides, in the order of the README's links",
  async () => {
    const ran: string[] = [];
    for (const page of pages.slice(1).filter((page) => COMPARED[page] === undefined)) {
      for (const snippet of readSnippets(page).filter(({ language }) => SHELL.includes(language))) {
        for (const command of commandsIn(snippet)) {
          if (NOT_RUN.some(([pattern]) => pattern.test(command))) continue;
          ran.push(command);
          await paste(command);
        }
      }
    }
    expect(ran.length).toBeGreaterThan(5);

    const tracing = findSnippet("docs/monitoring/tracing.md", "js");
    reader.save("tracing.mjs", `${tracing.replace("redis://127.0.0.1:6379", valkeyUrl)}\nawait queue.close();`);
    await paste("npx bun tracing.mjs");
  },
  LIMIT_MS,
);

test("every page with snippets is named in the test that runs them", () => {
  const files = readdirSync(join(ROOT, "test"), { recursive: true, encoding: "utf8" });
  const tests = files.filter((file) => file.endsWith(".ts")).map((file) => text(`test/${file}`));
  for (const page of pages) {
    const isProgram = ({ language }: Snippet) => ![...SHELL, ...DATA].includes(language);
    if (!readSnippets(page).some(isProgram)) continue;
    expect([page, tests.some((code) => code.includes(page))]).toEqual([page, true]);
  }
  for (const file of Object.values(COMPARED)) expect(existsSync(join(ROOT, file))).toBe(true);
});

test("commands in a page's text exist: of npm, and of fluxhook", () => {
  const commands = buildProgram({ env: {}, exitCode: 0 }, "0", () => {}).commands.map((command) => command.name());
  const scripts = Object.keys(manifest.scripts);
  for (const page of [...pages, "CONTRIBUTING.md"]) {
    for (const [, script] of text(page).matchAll(/\bnpm run (?:-s )?([\w:]+)/g))
      expect(scripts).toContain(script as string);
    for (const [, name] of text(page).matchAll(/\bnpx fluxhook ([a-z]+)/g)) expect(commands).toContain(name as string);
  }
});
