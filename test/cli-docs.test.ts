/** docs/cli.md: it names what there is and nothing else, and its examples print what it shows. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildProgram } from "../src/cli/program.ts";
import { createKey } from "../src/delivery/seal.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { startWorkerProcess } from "./support/process.ts";
import { readSnippets } from "./support/snippets.ts";
import { eventually } from "./support/stack.ts";

setDefaultTimeout(180_000); // two dozen processes

const root = join(import.meta.dir, "..");
const text = readFileSync(join(root, "docs/cli.md"), "utf8");
const sections = new Map(
  text.split(/^## /m).map((section) => [section.split("\n")[0] as string, section.slice(section.indexOf("\n"))]),
);
const folder = mkdtempSync(join(tmpdir(), "fluxhook-docs-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** What is to end, however the test ends; the last first. */
const open: (() => unknown)[] = [];
afterAll(async () => {
  for (const stop of open.reverse()) await stop();
});

const { commands } = buildProgram({ env: {}, exitCode: 0 }, "0", () => {});

test("every command has its section, and there are no others", () => {
  expect([...sections.keys()].slice(1)).toEqual(commands.map((command) => command.name()));
});

test.each(commands.map((command) => [command.name(), command] as const))(
  "%s: all its options, as the command has them, and no others",
  (name, command) => {
    const section = sections.get(name) as string;
    const all = [command, ...command.commands].flatMap((one) => one.options.map(({ flags }) => flags));
    const options = [...new Set(all)];
    const rows = section.split("\n").filter((line) => line.startsWith("| `--"));
    const listed = rows.flatMap((row) =>
      [...(row.split(" | ")[0] as string).matchAll(/`([^`]+)`/g)].map((match) => match[1]),
    );
    for (const flags of options) expect(section).toContain(flags);
    if (rows.length > 0) expect(listed.sort()).toEqual([...options].sort());
    for (const [option] of section.matchAll(/(?<=[\s`])--[a-z][a-z-]*/g)) {
      if (section.includes(`listen ${option}`)) continue; // another command's, named with it
      expect(options.map((flags) => flags.split(" ")[0])).toContain(option);
    }
  },
);

interface Example {
  readonly command: string;
  readonly output: string;
}

/** What follows `$ ` in the examples, in their order, and what they print. */
function readExamples(): Example[] {
  const blocks = readSnippets("docs/cli.md").filter(({ language }) => language === "console");
  return blocks.flatMap(({ code }) =>
    code
      .split(/^\$ /m)
      .slice(1)
      .map((part) => {
        const lines = part.trimEnd().split("\n");
        const end = lines.findIndex((line) => !line.endsWith("\\")) + 1;
        return { command: lines.slice(0, end).join("\n"), output: lines.slice(end).join("\n") };
      }),
  );
}

/** Without what differs each time. */
function normalise(output: string): string {
  return output
    .trimEnd()
    .replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, "ID")
    .replaceAll(/sealed:v1:[\w-]+/g, "SEALED")
    .replaceAll(/^[A-Za-z0-9+/]{43}=$/gm, "KEY")
    .replaceAll(/\b(Valkey|Redis) [\d.]+, /g, "SERVER, ")
    .replaceAll(/just now|\d+ (s|min) ago/g, "AGO")
    .replaceAll(/\d+/g, "N")
    .replaceAll(/ {2,}/g, "  ");
}

test("the examples print what the page shows", async () => {
  const valkey = await startValkey();
  open.push(() => valkey.stop());
  const env = { VALKEY_URL: valkey.url, SECRET: "hush", WEBHOOK_SECRET_KEYS: createKey() };
  const worker = startWorkerProcess(env);
  open.push(() => worker.stop());
  const isReady = () => worker.lines.some(({ message }) => message === "worker.ready");
  await eventually(isReady, Boolean, 20_000);
  const examples = readExamples();
  const [listening] = examples.filter(({ command }) => command.startsWith("fluxhook listen"));
  const receiver = Bun.spawn(
    [process.execPath, `${root}/src/cli.ts`, ...(listening?.command.split(" ").slice(1) ?? []), "--port", "0"],
    { cwd: folder, env: { PATH: process.env.PATH ?? "", ...env }, stdio: ["ignore", "pipe", "ignore"] },
  );
  open.push(() => receiver.kill("SIGKILL"));
  const reader = receiver.stdout.getReader();
  const received = new TextDecoder().decode((await reader.read()).value);
  const port = /^Listening on \S+:(\d+)\/$/m.exec(received)?.[1] as string;
  let last = 0;
  const start = (command: string) =>
    Bun.spawn(
      [
        "bash",
        "-c",
        `fluxhook() { "${process.execPath}" "${root}/src/cli.ts" "$@"; }\n(exit ${last})\n${command.replaceAll("8080", port)}`,
      ],
      { cwd: folder, env: { PATH: process.env.PATH ?? "", ...env }, stdio: ["ignore", "pipe", "pipe"] },
    );

  for (const { command, output } of examples.filter((example) => example !== listening)) {
    const child = start(command);
    const [out, err, code] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    last = code;
    expect(`$ ${command}\n${normalise(out + err)}`).toBe(`$ ${command}\n${normalise(output)}`);
  }
  receiver.kill("SIGTERM");
  let rest = "";
  for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read())
    rest += new TextDecoder().decode(chunk.value);
  await receiver.exited;
  // The redelivered one arrives as well: the page shows the first.
  expect(normalise(received + rest)).toStartWith(normalise(listening?.output ?? ""));
});
