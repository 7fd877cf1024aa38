/** What the README says to paste, as it stands there: an event of its sender, through a worker, to its receiver. */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { Queue } from "bullmq";
import type { JobData } from "../src/delivery/contract.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { startWorkerProcess } from "./support/process.ts";
import { findSnippet, readSnippets } from "./support/snippets.ts";
import { eventually } from "./support/stack.ts";

const ROOT = join(import.meta.dir, "..");

/** What is to end, however the test ends; the last first. */
const open: (() => unknown)[] = [];
afterAll(async () => {
  for (const stop of open.reverse()) await stop();
});

function freePort(): number {
  const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  probe.stop();
  return probe.port;
}

/** In the repository, where `fluxhook` and its doors are the sources. */
function run(code: string, env: Record<string, string>) {
  const child = Bun.spawn([process.execPath, "run", "-"], {
    cwd: ROOT,
    env: { PATH: process.env.PATH ?? "", ...env },
    stdio: [new Blob([code]), "pipe", "pipe"],
  });
  open.push(() => child.kill("SIGKILL"));
  return child;
}

test("both of the README's senders enqueue the same event", async () => {
  const valkey = await startValkey();
  open.push(() => valkey.stop());
  const senders = readSnippets("README.md").filter(
    ({ language, headings }) => language === "js" && headings.some((text) => text.includes("Send one event")),
  );
  expect(senders).toHaveLength(2);
  for (const { code } of senders) {
    const sender = run(code.replaceAll("redis://127.0.0.1:6379", valkey.url), {});
    expect([await sender.exited, await new Response(sender.stderr).text()]).toEqual([0, ""]);
  }
  const queue = new Queue<JobData>("webhooks", { connection: { url: valkey.url } });
  open.push(() => queue.close());
  const jobs = await queue.getWaiting();
  expect(jobs.map(({ name, data }) => [name, data.userId, data.data])).toEqual(
    Array(2).fill(["file.created", "usr_42", { fileId: "file_7", name: "report.pdf" }]),
  );
}, 60_000);

test("what the README sends arrives at what the README receives with, and nothing else passes there", async () => {
  const valkey = await startValkey();
  open.push(() => valkey.stop());
  const port = freePort();
  const receiver = `http://127.0.0.1:${port}`;

  const sending = findSnippet("README.md", "js", { heading: "Send one event" });
  expect(sending).toContain("https://example.com/");
  expect(sending).toMatch(/redis:\/\/127\.0\.0\.1:6379|VALKEY_URL/);
  const sender = run(
    sending.replaceAll("redis://127.0.0.1:6379", valkey.url).replaceAll("https://example.com", receiver),
    { VALKEY_URL: valkey.url },
  );
  expect([await sender.exited, await new Response(sender.stderr).text()]).toEqual([0, ""]);
  const queue = new Queue<JobData>("webhooks", { connection: { url: valkey.url } });
  open.push(() => queue.close());
  const waiting = await queue.getWaiting();
  expect(waiting).toHaveLength(1);
  const { url, secret } = (waiting as [(typeof waiting)[0]])[0].data.endpoint;

  const receiving = findSnippet("README.md", "js", { heading: "Receive and verify it" });
  expect(receiving).toContain("8080");
  const current = [secret].flat()[0] as string;
  run(receiving.replaceAll("8080", String(port)), { SECRET: current });
  const forged = () => fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: "{}" });
  const status = await eventually(() => forged().then((answer) => answer.status, String), Number.isInteger);
  expect(status).toBe(401);

  const worker = startWorkerProcess({ VALKEY_URL: valkey.url });
  open.push(() => worker.stop());
  expect(await worker.line("delivery.attempted")).toMatchObject({ attempt: 1, success: true });
}, 60_000);
