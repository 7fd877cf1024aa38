/** docs/endpoints.md: its JavaScript from top to bottom, then its commands, as they stand, with a worker and a receiver. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Queue } from "bullmq";
import { createKey } from "../src/delivery/seal.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import { createFluxhook } from "../src/index.ts";
import { verify } from "../src/verify.ts";
import { startOwnQueue } from "./support/own-queue.ts";
import { startWorkerProcess } from "./support/process.ts";
import { findSnippet, readSnippets } from "./support/snippets.ts";
import { eventually } from "./support/stack.ts";

const CLI = join(import.meta.dir, "../src/cli.ts");
const SEALING_KEY = createKey();
const { client, env, key } = await startOwnQueue("webhooks");
const receiver = await startReceiver();
const worker = startWorkerProcess({ ...env, WEBHOOK_SECRET_KEYS: SEALING_KEY, WEBHOOK_REGISTRY: "1" });
afterAll(async () => {
  await worker.stop();
  await receiver.stop();
});

const HOSTS = ["https://hooks.example.com", "https://audit.example.com"];

const AsyncFunction = (async () => {}).constructor as new (...text: string[]) => (...given: unknown[]) => Promise<void>;

interface Block {
  readonly heading: string;
  readonly code: string;
}

/** The page's blocks, for this receiver. */
function readBlocks(): Block[] {
  const blocks = readSnippets("docs/endpoints.md").filter(({ language }) => language === "js");
  return blocks.map(({ code, headings }) => ({
    heading: headings.at(-1) as string,
    code: HOSTS.reduce((text, host) => text.replaceAll(host, receiver.url("")), code).replace(
      /^import .* from "fluxhook";$/m,
      "",
    ),
  }));
}

const idle = () =>
  eventually(
    async () =>
      (
        await Promise.all([client.llen(key("wait")), client.llen(key("active")), client.zcard(key("prioritized"))])
      ).join(),
    (counts) => counts === "0,0,0",
  );

/** What must be true after the blocks under a heading, all that waits being done. */
const CHECKS: Readonly<Record<string, (said: readonly string[]) => Promise<void>>> = {
  async "Register an endpoint"(said) {
    expect(said).toEqual([
      expect.stringMatching(/^enabled whsec_/),
      `main ${receiver.url("/in")} enabled`,
      `audit ${receiver.url("/events")} enabled`,
    ]);
  },
  async "Send to one endpoint"(said) {
    const { path, body, headers } = await receiver.next();
    expect([path, verify(body, headers, secretIn(said[0]) ?? "").ok]).toEqual(["/in", true]);
    expect(JSON.parse(body.toString()).data).toEqual({ fileId: "file_7", name: "report.pdf" });
  },
  async "Send to all endpoints of a user"(said) {
    const both = [await receiver.next(), await receiver.next()];
    expect(both.map(({ path }) => path).toSorted()).toEqual(["/events", "/in"]);
    expect(new Set(both.map(({ body }) => body.toString())).size).toBe(1);
    expect(said.slice(-3)).toEqual([
      "to 1 of 2 endpoints",
      "main gets it",
      "audit does not want it: wants org.*, share.deleted",
    ]);
  },
  async "What an endpoint missed"(said) {
    const [kept, event, replayed, dryRun] = said.slice(-4);
    expect([kept, replayed]).toEqual(["1 kept, 0 older ones not", "1"]);
    expect(event).toMatch(/^file\.deleted \S+Z disabled$/);
    expect(JSON.parse(dryRun as string)).toEqual({ replayed: 0, skipped: 0, left: 0 });
    const { path, body, headers } = await receiver.next();
    const secrets = said.flatMap((line) => secretIn(line) ?? []);
    expect([path, ...secrets.map((secret) => verify(body, headers, secret).ok)]).toEqual(["/v2", true, true]);
  },
  async "Rate limit and headers"(said) {
    expect(said.at(-1)).toBe('{"perSecond":10,"burst":20} {"Authorization":"…5a36"}');
  },
  async "Endpoints that keep failing"(said) {
    expect(said.slice(-4)).toEqual([
      "0 undefined",
      expect.stringMatching(/^\S+Z file\.deleted 200$/),
      expect.stringMatching(/^\S+Z share\.deleted 200$/),
      expect.stringMatching(/^\S+Z file\.created 200$/),
    ]);
  },
};

const secretIn = (text = ""): string | undefined => /whsec_\S+/.exec(text)?.[0];

test("every block of the page does what the page says", async () => {
  const said: string[] = [];
  const blocks = readBlocks();
  const checkpoint = async (at: number): Promise<void> => {
    await idle();
    const { heading } = blocks[at] as Block;
    if (heading !== blocks[at + 1]?.heading) await CHECKS[heading]?.(said);
  };
  const log = (...words: unknown[]) =>
    said.push(words.map((word) => (typeof word === "object" ? JSON.stringify(word) : String(word))).join(" "));
  const code = blocks.map(({ code }, at) => `${code}\nawait checkpoint(${at});\n`).join("");
  const program = new AsyncFunction("createFluxhook", "process", "checkpoint", "console", code);
  await program(createFluxhook, { env: { VALKEY_URL: env.VALKEY_URL, SEALING_KEY } }, checkpoint, { log });
  expect(receiver.requests).toHaveLength(4);

  // Python's dict is JSON, but for comments and the last comma.
  const python = findSnippet("docs/endpoints.md", "python").replaceAll(/ {2}#.*$/gm, "");
  const [, name = "", data = ""] = /queue\.add\("([\w.]+)", (\{.*\})\)/s.exec(python) ?? [];
  const queue = new Queue("webhooks", { connection: client });
  await queue.add(name, JSON.parse(data.replaceAll(/,\s*\}/g, "}")));
  await queue.close();
  expect((await receiver.next()).path).toBe("/v2");
}, 60_000);

test("every command of the page does what the page says", async () => {
  const folder = mkdtempSync(join(tmpdir(), "fluxhook-endpoints-docs-"));
  const blocks = readSnippets("docs/endpoints.md").filter(({ language }) => language === "");
  const commands = blocks.flatMap(({ code }) => code.trimEnd().split("\n"));
  expect(commands.length).toBeGreaterThan(5);
  for (const command of commands) {
    const child = Bun.spawn(["sh", "-c", command.replace("npx fluxhook", `"${process.execPath}" "${CLI}"`)], {
      cwd: folder,
      env: { PATH: process.env.PATH ?? "", ...env, WEBHOOK_SECRET_KEYS: SEALING_KEY },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const [out, err] = await Promise.all([child.stdout, child.stderr].map((stream) => new Response(stream).text()));
    expect([command, await child.exited, `${out}${err}`]).toEqual([command, 0, expect.any(String)]);
    if (command.includes("create")) expect(JSON.parse(out as string).secret).toMatch(/^whsec_/);
  }
  const [first] = readFileSync(join(folder, "endpoints.jsonl"), "utf8").split("\n");
  expect(first).toContain("sealed:v1:");
  expect(receiver.requests.some(({ body }) => body.includes('"test":true'))).toBe(true);
  rmSync(folder, { recursive: true });
}, 60_000);
