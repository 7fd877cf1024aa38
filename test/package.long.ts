/** Both packages as they are published: built, packed, installed by npm from the packed files, and used on Node without Bun. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import manifest from "../package.json";
import { signStandard } from "../src/delivery/signature.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import { startRegistry } from "./support/registry.ts";
import { findSnippet } from "./support/snippets.ts";
import { startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const ROOT = join(import.meta.dir, "..");
const BUILD_MS = 120_000;
const project = realpathSync(mkdtempSync(join(tmpdir(), "fluxhook-package-")));
const installed = join(project, "node_modules/fluxhook");
const PACKAGES = ["fluxhook", "fluxhook-verify"];
const packedFile = (name: string) => `./${name}-${manifest.version}.tgz`;

afterAll(() => rmSync(project, { recursive: true, force: true }));

async function run(command: string[], cwd = project, env: Record<string, string> = {}) {
  const { NODE_ENV: _, ...inherited } = process.env;
  const child = Bun.spawn(command, { cwd, env: { ...inherited, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  const [out, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { code: await child.exited, out, errors };
}

/** PATH without the folders that have this program. */
function pathWithout(program: string): string {
  const folders = (process.env.PATH ?? "").split(":");
  return folders.filter((folder) => !existsSync(join(folder, program))).join(":");
}

async function readUntil(stream: ReadableStream<Uint8Array>, pattern: RegExp): Promise<RegExpMatchArray> {
  let text = "";
  for await (const chunk of stream) {
    text += Buffer.from(chunk).toString();
    const match = text.match(pattern);
    if (match !== null) return match;
  }
  throw new Error(`expected ${pattern} in the output:\n${text}`);
}

/** `npm pack`, and `npm install` of what it made in a folder of their own, with a registry that has what is installed here. */
beforeAll(async () => {
  writeFileSync(join(project, "package.json"), '{ "type": "module" }');
  const packed = await run(["npm", "pack", "--pack-destination", project], ROOT);
  expect([packed.code, packed.errors.includes("npm error")]).toEqual([0, false]);
  const registry = startRegistry();
  const files = PACKAGES.map(packedFile);
  const others = ["@types/node", "express", "standardwebhooks"];
  const options = ["--no-audit", "--no-fund", `--registry=${registry.url}`, `--cache=${join(project, "cache")}`];
  const installing = await run(["npm", "install", ...options, ...files, ...others]);
  await registry.stop();
  expect([installing.code, installing.errors.includes("npm error")]).toEqual([0, false]);
}, BUILD_MS);

test("holds what was built, and no test", () => {
  for (const file of ["dist/src/index.js", "dist/src/verify.d.ts", "dist/src/events.js", "dist/src/cli.js"]) {
    expect(existsSync(join(installed, file))).toBe(true);
  }
  expect(readdirSync(installed)).not.toContain("test");
  expect(existsSync(join(installed, "src/dev"))).toBe(false);
});

test("both are of one version, and can be published: public, and with provenance", async () => {
  for (const name of PACKAGES) {
    const {
      version,
      publishConfig,
      private: isPrivate,
    } = await Bun.file(join(project, "node_modules", name, "package.json")).json();
    expect([version, publishConfig, isPrivate]).toEqual([
      manifest.version,
      { access: "public", provenance: true },
      undefined,
    ]);
    const nowhere = ["--registry=http://127.0.0.1:1", "--fetch-retries=0"];
    const { code, out } = await run(["npm", "publish", packedFile(name), "--dry-run", ...nowhere]);
    expect([code, out]).toEqual([0, `+ ${name}@${manifest.version}\n`]);
  }
  expect(manifest.engines.bun).toBe(`>=${manifest.devDependencies.bun}`);
}, 120_000);

test("fluxhook-verify is verify and what it needs, without dependencies; it verifies on Node and on Bun", async () => {
  const folder = join(project, "node_modules/fluxhook-verify");
  const { dependencies, main, types, exports } = await Bun.file(join(folder, "package.json")).json();
  expect(dependencies).toBeUndefined();
  for (const file of [main, types, exports["./events"].types, exports["./events"].default, "LICENSE"]) {
    expect(existsSync(join(folder, file))).toBe(true);
  }
  const code = await Promise.all(
    [...new Bun.Glob("**/*.js").scanSync(folder)].map((file) => Bun.file(join(folder, file)).text()),
  );
  const imports = code.flatMap((text) => [...text.matchAll(/^import .*"([^".\n][^"\n]*)"/gm)].map((match) => match[1]));
  expect([...new Set(imports)].sort()).toEqual(["node:buffer", "node:crypto"]);

  const body = JSON.stringify({ id: "1", event: "file.created", timestamp: "2026-11-23T08:59:50.851Z", data: {} });
  const time = Math.floor(Date.now() / 1000);
  const headers = {
    "webhook-id": "1",
    "webhook-timestamp": String(time),
    "webhook-signature": signStandard("1", time, body, ["right"]),
  };
  const verifying = `import { verify } from "fluxhook-verify";
const [body, headers] = ${JSON.stringify([body, headers])};
console.log(verify(body, headers, "right").payload.event, verify(body, new Headers(headers), "wrong").reason);`;
  writeFileSync(join(project, "verifying.mjs"), verifying);
  for (const runtime of ["node", process.execPath]) {
    expect(await run([runtime, "verifying.mjs"])).toEqual({
      code: 0,
      out: "file.created wrong_signature\n",
      errors: "",
    });
  }
});

test("npx fluxhook runs the command, and with a Bun also the worker and the board, which deliver and show an event", async () => {
  const help = await run(["npx", "fluxhook", "--help"]);
  expect([help.code, help.out]).toEqual([0, expect.stringContaining("Usage: fluxhook")]);
  const without = await run(["npx", "fluxhook", "worker"], project, { PATH: pathWithout("bun") });
  expect([without.code, without.errors]).toEqual([1, expect.stringContaining('Install it with "npm install bun".')]);

  symlinkSync(join(ROOT, "node_modules/bun"), join(project, "node_modules/bun")); // as npm install bun does
  const receiver = await startReceiver();
  const env = {
    PATH: pathWithout("bun"),
    VALKEY_URL: await testValkeyUrl(),
    WEBHOOK_QUEUE: `package-${crypto.randomUUID()}`,
    WEBHOOK_ALLOW_NETWORKS: "127.0.0.0/8",
    WORKER_PORT: "0",
    BOARD_PORT: "0",
  };
  // Not through npx, whose shell does not pass on a SIGTERM.
  const command = join(project, "node_modules/.bin/fluxhook");
  const start = (name: string) =>
    Bun.spawn([command, name], { cwd: project, env, stdio: ["ignore", "pipe", "inherit"] });
  const [worker, board] = [start("worker"), start("board")];
  try {
    const sent = await run(
      [...["npx", "fluxhook", "send", "--event", "file.created", "--user", "usr_1", "--secret", "s3cret"]].concat(
        ...["--url", receiver.url("/"), "--wait"],
      ),
      project,
      env,
    );
    expect([sent.code, sent.errors, sent.out]).toEqual([0, "", expect.stringContaining("Delivered.")]);
    const [, url] = await readUntil(board.stdout, /"url":"([^"]+)".*"board\.ready"/);
    const page = await fetch(`${url}/users/usr_1`);
    expect([page.status, await page.text()]).toEqual([200, expect.stringContaining("file.created")]);
  } finally {
    for (const child of [worker, board]) child.kill("SIGTERM");
    expect(await Promise.all([worker.exited, board.exited])).toEqual([0, 0]);
    await receiver.stop();
  }
}, 60_000);

test("what it cannot do without takes the Node that it promises; tracing's parts, which want a newer one, are optional", async () => {
  const { engines, dependencies } = await Bun.file(join(installed, "package.json")).json();
  const oldest = `${engines.node.replace(">=", "")}.0.0`;
  const seen = new Set<string>();
  const refusing: string[] = [];
  const visit = async (name: string, parent: string): Promise<void> => {
    const nested = join(parent, "node_modules", name);
    const folder = existsSync(nested) ? nested : join(ROOT, "node_modules", name);
    if (seen.has(folder)) return;
    seen.add(folder);
    const its = await Bun.file(join(folder, "package.json")).json();
    if (!Bun.semver.satisfies(oldest, its.engines?.node ?? "*")) refusing.push(`${name}: ${its.engines.node}`);
    for (const next of Object.keys(its.dependencies ?? {})) await visit(next, folder);
  };
  for (const name of Object.keys(dependencies)) await visit(name, ROOT);
  expect(seen.size).toBeGreaterThan(Object.keys(dependencies).length);
  expect(refusing).toEqual([]);
});

test("on Node, an event is enqueued, delivered by a worker, and verified in a receiver", async () => {
  const stack = await startStack();
  writeFileSync(
    join(project, "backend.mjs"),
    `
import { createServer } from "node:http";
import { createFluxhook } from "fluxhook";
import { EVENT_TYPES } from "fluxhook/events";
import { verify } from "fluxhook/verify";

let tell;
const result = new Promise((resolve) => { tell = resolve; });
const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const checks = ["right", "wrong"].map((secret) => verify(body, request.headers, secret));
  response.writeHead(204).end();
  tell(checks);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const fluxhook = createFluxhook({ valkeyUrl: process.env.VALKEY_URL, queue: process.env.QUEUE });
const { id } = await fluxhook.enqueue({
  event: EVENT_TYPES[0],
  userId: "usr_package",
  endpoint: { url: "http://127.0.0.1:" + server.address().port, secret: "right" },
  data: { text: "größe" },
});
console.log(JSON.stringify({ id, checks: await result }));
await fluxhook.close();
server.close();
`,
  );
  try {
    const env = { VALKEY_URL: await testValkeyUrl(), QUEUE: stack.queue.name };
    const { code, out, errors } = await run(["node", "backend.mjs"], project, env);
    expect([code, errors]).toEqual([0, ""]);
    const { id, checks } = JSON.parse(out);
    expect(checks).toEqual([
      { ok: true, payload: { id, event: "file.created", timestamp: expect.any(String), data: { text: "größe" } } },
      { ok: false, reason: "wrong_signature" },
    ]);
  } finally {
    await stack.stop();
  }
}, 120_000);

test("on Node, the command looks at the queue, and ends and erases events", async () => {
  const stack = await startStack({ isIdle: true });
  try {
    const data = { userId: "usr_node", endpoint: { url: "https://a.example/", secret: "right" }, data: {} };
    for (let i = 0; i < 3; i++) await stack.queue.add("file.created", data);
    const env = { VALKEY_URL: await testValkeyUrl(), WEBHOOK_QUEUE: stack.queue.name };
    const fluxhook = (...args: string[]) => run(["node", join(installed, "dist/src/cli.js"), ...args], project, env);
    expect((await fluxhook("status")).out).toContain("waiting        3");
    for (const [args, told] of [
      [["attempts", "usr_node"], "No attempts"],
      [["recover", "--dry-run"], "Every job is in one"],
      [["cancel", "--host", "a.example", "--yes"], "3 canceled"],
      [["redeliver", "--failed", "--user", "usr_node", "--yes"], "3 queued"],
      [["forget", "usr_node", "--yes"], "Erased."],
    ] as const) {
      const { code, out, errors } = await fluxhook(...args);
      expect([args[0], code, errors, out]).toEqual([args[0], 0, "", expect.stringContaining(told)]);
    }
  } finally {
    await stack.stop();
  }
}, 60_000);

test("the door loads neither hono nor prom-client nor Bull Board, and verify and events load nothing", async () => {
  writeFileSync(
    join(project, "hooks.mjs"),
    `export async function resolve(name, context, next) {
  const found = await next(name, context);
  if (/^[^.\\/]/.test(name) && !name.startsWith("file:") && !name.startsWith("node:")) console.log(name);
  return found;
}`,
  );
  writeFileSync(
    join(project, "loads.mjs"),
    'import { register } from "node:module"; register("./hooks.mjs", import.meta.url); await import(process.argv[2]);',
  );
  const loaded = async (name: string) => {
    const { code, out, errors } = await run(["node", "loads.mjs", name]);
    expect([code, errors]).toEqual([0, ""]);
    return out.trim().split("\n");
  };
  const door = await loaded("fluxhook");
  expect(door).toContain("bullmq");
  expect(door.filter((name) => /^(hono|prom-client|@bull-board|@opentelemetry|bullmq-otel)/.test(name))).toEqual([]);
  expect(await loaded("fluxhook/verify")).toEqual(["fluxhook/verify"]);
  expect(await loaded("fluxhook/events")).toEqual(["fluxhook/events"]);
}, 120_000);

const TYPED = `
import { ContractError, createFluxhook, type EnqueueStatus, type FluxhookOptions, type NewEvent, NoDatabaseError, seal } from "fluxhook";
import { EVENT_TYPES, type EventType } from "fluxhook/events";
import { verify } from "fluxhook/verify";

declare module "fluxhook/events" {
  interface EventData {
    "file.created": { fileId: string };
  }
}
const known: readonly EventType[] = EVENT_TYPES;
const target = { userId: "usr_1", endpoint: { url: "https://example.com", secret: ["a", "b"] } };
export const right: NewEvent[] = [
  { ...target, event: "file.created", data: { fileId: "f" } },
  { ...target, event: "file.deleted", data: { anything: 1 }, id: undefined },
];
// @ts-expect-error: a number is no fileId
export const wrong: NewEvent = { ...target, event: "file.created", data: { fileId: 7 } };
// @ts-expect-error: no such type
export const unknown: NewEvent = { ...target, event: "file.renamed", data: {} };
export const options: FluxhookOptions = { valkeyUrl: process.env.VALKEY_URL, queue: undefined };
export async function send(): Promise<EnqueueStatus[]> {
  await using fluxhook = createFluxhook(options);
  try {
    await fluxhook.enqueue(right[0]!, { delayMs: 1, attempts: 2, backoff: { type: "fixed", delay: 5, jitter: undefined } });
  } catch (error) {
    if (error instanceof ContractError) console.log(error.issues.map(({ path, message }) => path + message), error.code satisfies "INVALID_EVENT");
    if (error instanceof NoDatabaseError) console.log(error.code satisfies "VALKEY_NO_DATABASE");
  }
  return (await fluxhook.enqueueMany(right)).map(({ status }) => status);
}
const result = verify("", new Headers(), ["secret", process.env.OLD_SECRET], { toleranceSeconds: undefined });
if (result.ok && result.payload.event === "file.created") console.log(result.payload.data.fileId, known, seal);
if (!result.ok) console.log(result.reason === "stale_timestamp");
`;

test.each([
  ["node10", "typescript5", ["--module", "commonjs", "--moduleResolution", "node10"]],
  ["node16", "typescript5", ["--module", "node16", "--moduleResolution", "node16"]],
  ["bundler", "typescript5", ["--module", "esnext", "--moduleResolution", "bundler"]],
  ["nodenext", "typescript", ["--module", "nodenext", "--skipLibCheck", "false"]],
])(
  "its types hold under --strict and exactOptionalPropertyTypes with moduleResolution %s, of %s",
  async (_, compiler, resolution) => {
    writeFileSync(join(project, "typed.ts"), TYPED);
    const strict = ["--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess", "--skipLibCheck", "true"];
    const options = ["--noEmit", "--target", "es2022", "--lib", "es2022,dom", "--types", "node"];
    const tsc = join(ROOT, "node_modules", compiler, "bin/tsc");
    const ignoring = compiler === "typescript" ? ["--ignoreConfig"] : [];
    const { out } = await run(["node", tsc, ...ignoring, ...strict, ...options, ...resolution, "typed.ts"]);
    expect(out).toBe("");
  },
  BUILD_MS,
);

test("its command runs on Node", async () => {
  const { code, out } = await run(["node", join(installed, "dist/src/cli.js"), "--help"]);
  expect([code, out.includes("redeliver")]).toEqual([0, true]);
}, 120_000);

test("the guides' own snippets run on Node: a backend's, Express's, Hono's and Next's, and the library", async () => {
  const guide = (heading: string) => findSnippet("docs/receivers.md", "js", { heading });
  writeFileSync(join(project, "producer.mjs"), `${findSnippet("docs/producers.md", "js")}\nconsole.log(id);`);
  writeFileSync(join(project, "hono.mjs"), guide("Hono"));
  writeFileSync(join(project, "route.mjs"), guide("Next"));
  writeFileSync(join(project, "library.mjs"), guide("Library"));
  const express = guide("Express");
  expect(express).toContain("app.listen(8080);");
  writeFileSync(
    join(project, "receivers.mjs"),
    `${express.replace("app.listen(8080);", 'const server = app.listen(0, "127.0.0.1");')}
import hono from "./hono.mjs";
import { POST } from "./route.mjs";
import { read } from "./library.mjs";
import { createHmac } from "node:crypto";
await new Promise((resolve) => server.once("listening", resolve));
const url = "http://127.0.0.1:" + server.address().port + "/webhooks";
const data = { text: "ü".repeat(60_000) }; // more than the 100 kB that Express takes by default
const body = JSON.stringify({ id: "1", event: "file.created", timestamp: "2026-11-23T08:59:50.851Z", data });
for (const key of [process.env.SECRET, "whsec_YW5vdGhlcg=="]) {
  const time = Math.floor(Date.now() / 1000);
  const bytes = Buffer.from(key.slice("whsec_".length), "base64");
  const headers = {
    "content-type": "application/json",
    "webhook-id": "1",
    "webhook-timestamp": String(time),
    "webhook-signature": "v1," + createHmac("sha256", bytes).update("1." + time + "." + body).digest("base64"),
  };
  const sent = () => new Request(url, { method: "POST", headers, body });
  const answers = [await fetch(sent()), await hono.fetch(sent()), await POST(sent())];
  let library;
  try {
    library = read(body, headers).event;
  } catch (error) {
    library = error.name;
  }
  console.log(...answers.map(({ status }) => status), library);
}
server.close();
server.closeAllConnections();`,
  );
  const env = { VALKEY_URL: await testValkeyUrl(), SECRET: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" };
  expect(await run(["node", "receivers.mjs"], project, env)).toEqual({
    code: 0,
    out: "204 204 204 file.created\n401 401 401 WebhookVerificationError\n",
    errors: "",
  });
  const { code, out, errors } = await run(["node", "producer.mjs"], project, env);
  expect([code, errors, /^[0-9a-f-]{36}\n$/.test(out)]).toEqual([0, "", true]);
}, 120_000);

test("the README's sender runs on Node", async () => {
  const sender = findSnippet("README.md", "js", { heading: "Send one event" });
  const url = await testValkeyUrl();
  writeFileSync(join(project, "readme.mjs"), sender.replaceAll("redis://127.0.0.1:6379", url));
  const { code, errors } = await run(["node", "readme.mjs"], project, { VALKEY_URL: url });
  expect([code, errors]).toEqual([0, ""]);
}, 120_000);
