/** The least rights of docs/operations.md, with registered endpoints: worker, board, backend and command each under its own. */

import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { Redis } from "ioredis";
import { createKey } from "../src/delivery/seal.ts";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { startValkey, type ThrowawayValkey } from "../src/dev/valkey.ts";
import { createFluxhook } from "../src/index.ts";
import { homesKey } from "../src/queue/own-keys.ts";
import { applyRecipe, readRefusals, urlFor } from "./support/acl.ts";
import { createCommand } from "./support/command.ts";
import { startWorkerProcess } from "./support/process.ts";
import { becomesReady } from "./support/refusing-valkey.ts";
import { eventually } from "./support/stack.ts";

setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");
const KEY = createKey();

let valkey: ThrowawayValkey;
let admin: Redis;
let receiver: Receiver;
beforeAll(async () => {
  [valkey, receiver] = await Promise.all([startValkey({ appendonly: false }), startReceiver()]);
  receiver.answer(({ path }) => ({ status: path === "/dead" ? 503 : path === "/gone" ? 410 : 200 }));
  admin = new Redis(valkey.url);
  await applyRecipe(admin);
});
afterAll(async () => {
  admin.disconnect();
  await valkey.stop();
  await receiver.stop();
});

const urlOf = (name: string) => urlFor(valkey.url, name);
const SETTINGS = { WEBHOOK_SECRET_KEYS: KEY, WEBHOOK_REGISTRY: "1" };

const USER = "usr_42";

test("the backend's rights cover all of fluxhook.endpoints, and the worker's all that becomes of the events", async () => {
  const worker = startWorkerProcess({
    ...{ VALKEY_URL: urlOf("worker"), WEBHOOK_RETRY_DELAYS: "100ms", ...SETTINGS },
    ...{ WEBHOOK_NOTICE_URL: receiver.url("/notices"), WEBHOOK_NOTICE_SECRET: "secret-of-the-operator" },
  });
  const fluxhook = createFluxhook({ valkeyUrl: urlOf("producer"), sealingKey: KEY, registry: true });
  const { endpoints } = fluxhook;
  const enqueue = (id: string) =>
    fluxhook.enqueue({ event: "file.created", userId: USER, endpoint: { id }, data: { n: 1 } });
  const idle = () =>
    eventually(
      () =>
        admin.exists(
          "bull:webhooks:wait",
          "bull:webhooks:active",
          "bull:webhooks:delayed",
          "bull:webhooks:prioritized",
        ),
      (count) => count === 0,
    );
  try {
    await worker.line("worker.ready");
    await endpoints.create(USER, { id: "main", url: receiver.url("/in") });
    await endpoints.put(USER, "dead", { url: receiver.url("/dead") });
    await endpoints.put(USER, "gone", { url: receiver.url("/gone") });
    await endpoints.update(USER, "main", { rateLimit: { perSecond: 50 }, headers: { "X-Key": "of the customer" } });
    await endpoints.rotate(USER, "main");
    for (const id of ["main", "dead", "gone"]) await enqueue(id);
    await idle();
    await fluxhook.enqueue({ event: "file.created", userId: USER, data: { n: 2 } }); // to all, of which one is disabled by now
    await idle();
    await endpoints.create("usr_single", { id: "only", url: receiver.url("/in") });
    await fluxhook.enqueue({ event: "file.created", userId: "usr_single", data: { n: 3 } });
    await idle();
    await endpoints.pause(USER, "main");
    await endpoints.resume(USER, "main");
    await endpoints.disable(USER, "main");
    await enqueue("main");
    await idle();
    expect((await endpoints.missed(USER, "main")).kept).toBe(1);
    expect((await endpoints.enable(USER, "main", { replay: true })).replay?.replayed).toBe(1);
    await endpoints.put(USER, "dead", { url: receiver.url("/in") });
    await endpoints.replay(USER, "dead");
    await idle();
    expect((await endpoints.list(USER)).length).toBe(3);
    expect((await endpoints.attempts(USER, "main")).length).toBe(3);
    expect((await endpoints.get(USER, "gone")).state.kind).toBe("disabled");
    await endpoints.explain(USER, "file.created");
    await endpoints.update(USER, "main", { rateLimit: null });
    await endpoints.delete(USER, "gone");
    await becomesReady(await worker.url("/readyz"));
    const paths = await eventually(
      () => receiver.requests.map(({ path }) => path).toSorted(),
      (all) => all.includes("/notices"),
    );
    expect(paths).toEqual([...Array(4).fill("/dead"), "/gone", ...Array(6).fill("/in"), "/notices"]);
  } finally {
    await fluxhook.close();
    await worker.stop();
  }
  expect([await readRefusals(admin), worker.lines.filter(({ level }) => level === "error")]).toEqual([[], []]);
});

test("the board's rights cover the pages of registered endpoints, and what can be done there", async () => {
  const board = Bun.spawn([process.execPath, join(ROOT, "src/board.ts")], {
    env: { PATH: process.env.PATH ?? "", VALKEY_URL: urlOf("board"), BOARD_PORT: "0", ...SETTINGS },
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    const url = await readyUrl(board);
    const page = `/users/${USER}/endpoints/main`;
    for (const path of ["/endpoints", `/users/${USER}`, page, `${page}/replay`]) {
      expect([path, (await fetch(url + path, { headers: { accept: "text/html" } })).status]).toEqual([path, 200]);
    }
    for (const action of ["pause", "resume", "disable", "enable", "replay", "test"]) {
      const body = new URLSearchParams({ user: USER, endpoint: "main" });
      const headers = { origin: url, "sec-fetch-site": "same-origin" };
      const { status } = await fetch(`${url}/actions/endpoint-${action}`, {
        method: "POST",
        body,
        headers,
        redirect: "manual",
      });
      expect([action, status]).toEqual([action, 303]);
    }
  } finally {
    board.kill();
    await board.exited;
  }
  expect(await readRefusals(admin)).toEqual([]);
});

async function readyUrl(board: { readonly stdout: ReadableStream<Uint8Array> }): Promise<string> {
  let text = "";
  for await (const chunk of board.stdout) {
    text += new TextDecoder().decode(chunk);
    const line = text.split("\n").find((one) => one.includes("board.ready"));
    if (line !== undefined) return JSON.parse(line).url;
  }
  throw new Error(`expected board.ready, got ${text}`);
}

test("the backend may read among how many shards endpoints may be", async () => {
  expect(await admin.call("ACL", "DRYRUN", "fluxhook-producer", "GET", homesKey("webhooks"))).toBe("OK");
});

test("the command's rights cover events of registered endpoints", async () => {
  const run = createCommand({ VALKEY_URL: urlOf("command"), ...SETTINGS });
  for (const args of [
    ["cancel", "--host", "127.0.0.1", "--dry-run"],
    ["redeliver", "--failed", "--user", USER, "--endpoint", "dead", "--dry-run"],
    ["endpoints", "list"],
    ["endpoints", "create", USER, "--id", "cli", "--url", receiver.url("/in"), "--rate", "10"],
    ["endpoints", "rotate", USER, "cli"],
    ["endpoints", "test", USER, "cli", "--wait", "0s"],
    ["endpoints", "disable", USER, "cli"],
    ["endpoints", "missed", USER, "cli"],
    ["endpoints", "enable", USER, "cli", "--replay"],
    ["endpoints", "attempts", USER, "cli"],
    ["endpoints", "explain", USER, "file.created"],
    ["endpoints", "export"],
    ["endpoints", "reindex"],
    ["endpoints", "delete", USER, "cli", "--yes"],
    ["forget", USER, "--dry-run"],
    ["forget", USER, "--yes"],
  ]) {
    const { code, err } = await run(args);
    if (args[1] === "test") continue; // no worker runs, so its outcome is not known
    expect([args, code, err]).toEqual([args, 0, expect.any(String)]);
  }
  expect(await readRefusals(admin)).toEqual([]);
});
