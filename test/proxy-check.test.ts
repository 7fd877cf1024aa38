/** What `--check` of the worker says about the egress proxy. */
import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ConnectAnswer, type ConnectRequest, startConnectProxy } from "./support/connect-proxy.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const stops: (() => unknown)[] = [];
afterEach(async () => {
  await Promise.all(stops.splice(0).map((stop) => stop()));
});

async function proxying(answer: (request: ConnectRequest) => ConnectAnswer) {
  const proxy = await startConnectProxy(answer);
  stops.push(() => proxy.stop());
  return proxy;
}

async function check(env: Record<string, string>) {
  const cwd = mkdtempSync(join(tmpdir(), "fluxhook-check-")); // Bun would read a .env of ours
  stops.push(() => rmSync(cwd, { recursive: true }));
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "../src/worker.ts"), "--check"], {
    cwd,
    env: { PATH: process.env.PATH ?? "", VALKEY_URL: await testValkeyUrl(), ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  expect(err).toBe("");
  return { out: out.replace(/^[\s\S]*?(?=^(?:Proxy|Problems|All))/m, "").replaceAll(/ {2,}/g, "  "), all: out, code };
}

const status = (of443: ConnectAnswer, of80: ConnectAnswer) => (request: ConnectRequest) =>
  request.authority.endsWith(":443") ? of443 : of80;

test("--check finds a proxy well that allows both ports, and names it without its password", async () => {
  const proxy = await proxying(status(503, 504));
  const { out, all, code } = await check({ WEBHOOK_PROXY: `http://user:s3cret@127.0.0.1:${proxy.port}` });
  expect(out).toBe(
    `Proxy at http://127.0.0.1:${proxy.port}\n  CONNECT 192.0.2.1:443  allowed: 503\n  CONNECT 192.0.2.1:80  allowed: 504\n\nNo problems found.\n`,
  );
  expect(code).toBe(0);
  expect(all).not.toContain("s3cret");
});

test("--check says that a proxy refuses what http:// endpoints need, and that it is silent about nobody's address", async () => {
  const proxy = await proxying(status("silence", 403));
  const { out, code } = await check({ WEBHOOK_PROXY: `http://127.0.0.1:${proxy.port}` });
  expect(out).toContain("  CONNECT 192.0.2.1:443  allowed: no refusal within 2 s\n");
  expect(out).toContain("  CONNECT 192.0.2.1:80  refused: 403; events to http:// endpoints would wait\n");
  expect(code).toBe(0);
});

test("--check asks a proxy that resolves for a name, and for no port 80 where https is required", async () => {
  const proxy = await proxying(status(500, 500));
  const env = { WEBHOOK_PROXY_RESOLVES: "1", WEBHOOK_REQUIRE_HTTPS: "1" };
  const { code } = await check({ WEBHOOK_PROXY: `http://127.0.0.1:${proxy.port}`, ...env });
  expect(proxy.requests.map(({ authority }) => authority)).toEqual(["fluxhook.invalid:443"]);
  expect(code).toBe(0);
});

test("--check names a proxy that does not let us in", async () => {
  const proxy = await proxying(status(407, 407));
  const { out, code } = await check({ WEBHOOK_PROXY: `http://127.0.0.1:${proxy.port}` });
  const problem = "does not let us in (407): wrong user or password, or its rules";
  expect(out).toContain(`Problems\n  The proxy at http://127.0.0.1:${proxy.port} ${problem}\n`);
  expect(code).toBe(69);
});

test("--check names a proxy that cannot be reached", async () => {
  const proxy = await proxying(status("hang up", "hang up"));
  const place = `http://127.0.0.1:${proxy.port}`;
  expect((await check({ WEBHOOK_PROXY: place })).out).toBe(
    `Problems\n  The proxy at ${place} cannot be reached: connection_reset\n`,
  );
  await proxy.stop();
  stops.pop();
  const { out, code } = await check({ WEBHOOK_PROXY: place });
  expect(out).toBe(`Problems\n  The proxy at ${place} cannot be reached: connection_refused\n`);
  expect(code).toBe(69);
});
