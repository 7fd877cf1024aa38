/** The board as a process: what it refuses to start with, and how it ends. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { becomesReady } from "./support/refusing-valkey.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const QUEUE = `board-${crypto.randomUUID()}`;
const ROOT = join(import.meta.dir, "..");
const url = await testValkeyUrl();

describe("the process", () => {
  const PATIENCE_MS = 20_000; // a process starts, on a machine that may be busy
  const start = (env: Record<string, string>, cwd = ROOT) =>
    Bun.spawn([process.execPath, join(ROOT, "src/board.ts")], {
      cwd,
      env: { PATH: process.env.PATH ?? "", VALKEY_URL: url, WEBHOOK_QUEUE: QUEUE, BOARD_PORT: "0", ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
  const ready = async (child: ReturnType<typeof start>): Promise<{ url: string }> => {
    let text = "";
    for await (const chunk of child.stdout) {
      text += Buffer.from(chunk).toString();
      const line = text.split("\n").find((one) => one.includes("board.ready"));
      if (line !== undefined) return JSON.parse(line);
    }
    throw new Error(`expected board.ready, got ${text}`);
  };

  test(
    "refuses to start on a public address without a password",
    async () => {
      const child = start({ BOARD_HOST: "0.0.0.0", BOARD_USER: "a:b" });
      expect(await child.exited).toBe(78);
      const lines = (await child.stderr.text()).trim().split("\n");
      expect(lines).toHaveLength(2);
      expect(lines.join()).toContain("expected BOARD_PASSWORD to be set");
    },
    PATIENCE_MS,
  );

  test(
    "refuses to start with a password that is guessed, on loopback too, and does not say it",
    async () => {
      const child = start({ BOARD_PASSWORD: "h" });
      expect(await child.exited).toBe(78);
      expect(await child.stderr.text()).toBe(
        "fluxhook: expected BOARD_PASSWORD to be a password of at least 8 characters, got something else\n",
      );
    },
    PATIENCE_MS,
  );

  test(
    "says when its port is taken",
    async () => {
      const taken = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
      const child = start({ BOARD_PORT: String(taken.port) });
      expect(await child.exited).toBe(1);
      const errors = await child.stderr.text();
      expect(errors).toContain("BOARD_PORT");
      expect(errors.trim().split("\n")).toHaveLength(1);
      await taken.stop(true);
    },
    PATIENCE_MS,
  );

  test(
    "serves from any directory, and ends at once on SIGTERM",
    async () => {
      const child = start({}, "/");
      const { url: origin } = await ready(child);
      const html = await (await fetch(`${origin}/board`)).text();
      const script = /src="(static\/js\/main[^"]+)"/.exec(html)?.[1];
      expect((await fetch(`${origin}/board/${script}`)).status).toBe(200);
      await becomesReady(`${origin}/readyz`);
      child.kill("SIGTERM");
      expect(await child.exited).toBe(0);
      expect(await child.stderr.text()).toBe("");
    },
    PATIENCE_MS,
  );

  test(
    "starts and ends without Valkey",
    async () => {
      const child = start({ VALKEY_URL: "redis://127.0.0.1:1" });
      const { url: origin } = await ready(child);
      const [health, readiness, attempts] = await Promise.all(
        ["/healthz", "/readyz", "/users/u/attempts"].map((path) => fetch(origin + path)),
      );
      expect([health?.status, readiness?.status, attempts?.status]).toEqual([200, 503, 503]);
      const askedAt = performance.now();
      child.kill("SIGINT");
      expect(await child.exited).toBe(0);
      expect(performance.now() - askedAt).toBeLessThan(6_000);
      expect(await child.stderr.text()).toBe("");
    },
    PATIENCE_MS,
  );
});
