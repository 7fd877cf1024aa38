/** The outbox of docs/producers.md: its snippets as they stand, on SQLite, with a relay that dies at the worst moment. */
import { Database } from "bun:sqlite";
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startReceiver } from "../src/dev/receiver.ts";
import { findSnippet } from "./support/snippets.ts";
import { eventually, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const snippet = (language: string, marker: string) =>
  findSnippet("docs/producers.md", language, { heading: "an outbox", marker });

const folder = mkdtempSync(join(tmpdir(), "fluxhook-outbox-"));
const stack = await startStack();
const receiver = await startReceiver();
const database = new Database(join(folder, "backend.sqlite"));
afterAll(async () => {
  await stack.stop();
  await receiver.stop();
  database.close();
  rmSync(folder, { recursive: true });
});

/** What `pg` has, over SQLite, which locks the whole database instead of rows. `onDelete` is called before each deletion. */
const CLIENT = `
import { Database } from "bun:sqlite";
export function connect(path, onDelete = () => {}) {
  const database = new Database(path);
  return {
    async query(sql, params = []) {
      if (sql.startsWith("DELETE")) onDelete();
      const text = sql.replace(" FOR UPDATE SKIP LOCKED", "").replaceAll("$", "?");
      return { rows: database.query(text).all(...params) };
    },
  };
}`;

const RELAY = `
import { createFluxhook } from ${JSON.stringify(join(import.meta.dir, "../src/index.ts"))};
import { connect } from "./client.ts";
import { relay } from "./relay.js";
const [path, mode] = process.argv.slice(2);
const client = connect(path, () => { if (mode === "die") process.kill(process.pid, "SIGKILL"); });
const fluxhook = createFluxhook({ valkeyUrl: process.env.VALKEY_URL, queue: process.env.QUEUE });
console.log(await relay(client, fluxhook));
await fluxhook.close();`;

async function runRelay(mode: "live" | "die"): Promise<{ out: string; signal: Bun.Subprocess["signalCode"] }> {
  const child = Bun.spawn([process.execPath, "program.ts", join(folder, "backend.sqlite"), mode], {
    cwd: folder,
    env: { PATH: process.env.PATH ?? "", VALKEY_URL: await testValkeyUrl(), QUEUE: stack.queue.name },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const out = await new Response(child.stdout).text();
  await child.exited;
  return { out: out.trim(), signal: child.signalCode };
}

test("a relay that is killed after the queue has its events delivers each once, and one that breaks the contract stays", async () => {
  writeFileSync(join(folder, "client.ts"), CLIENT);
  writeFileSync(join(folder, "backend.js"), snippet("js", "createFile"));
  writeFileSync(join(folder, "relay.js"), snippet("js", "relay"));
  writeFileSync(join(folder, "program.ts"), RELAY);
  database.run("CREATE TABLE files (id TEXT PRIMARY KEY, name TEXT NOT NULL)");
  database.run(snippet("sql", "webhook_outbox"));

  const { connect } = await import(join(folder, "client.ts"));
  const { createFile } = await import(join(folder, "backend.js"));
  const client = connect(join(folder, "backend.sqlite"));
  const endpoint = { url: receiver.url(), secret: "s3cret-of-the-test" };
  for (let i = 0; i < 20; i++)
    await createFile(client, { id: `file_${i}`, name: `${i}.pdf`, owner: "usr_42" }, endpoint);
  await createFile(client, { id: "file_x", name: "x.pdf", owner: "a user id with blanks" }, endpoint);
  // A transaction that fails leaves no event.
  const again = createFile(client, { id: "file_0", name: "again.pdf", owner: "usr_42" }, endpoint);
  expect(await again.catch(({ message }: Error) => message)).toContain("UNIQUE");
  const outbox = () => database.query("SELECT id, problem FROM webhook_outbox").all() as { problem: string | null }[];
  expect(outbox()).toHaveLength(21);

  expect(await runRelay("die")).toEqual({ out: "", signal: "SIGKILL" });
  expect(outbox()).toHaveLength(21);
  expect(await runRelay("live")).toEqual({ out: "20", signal: null });
  expect(outbox()).toMatchObject([{ problem: expect.stringContaining("userId: expected") }]);
  expect(await runRelay("live")).toEqual({ out: "0", signal: null });

  const delivered: string[] = [];
  while (delivered.length < 20)
    delivered.push(((await receiver.next()).json as { data: { fileId: string } }).data.fileId);
  expect(delivered.toSorted()).toEqual(Array.from({ length: 20 }, (_, i) => `file_${i}`).toSorted());
  await eventually(
    () => stack.queue.getJobCountByTypes("waiting", "active", "delayed", "failed"),
    (count) => count === 0,
  );
  expect(receiver.requests.length).toBe(20);
}, 60_000);
