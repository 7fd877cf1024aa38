import { expect, test } from "bun:test";
import { join } from "node:path";

/** Run a program that has a logger; `level` is that logger's, `within` what runs it. */
function start(level: string, code: string, within: readonly string[] = []) {
  const script = `
    import { createLogger } from "./src/runtime/logger.ts";
    const { logger, flush } = createLogger("${level}");
    ${code}`;
  return Bun.spawn([...within, process.execPath, "-e", script], {
    cwd: join(import.meta.dir, ".."),
    stdio: ["pipe", "pipe", "pipe"],
    timeout: 10_000,
  });
}

test("a line is JSON with level, time, fields and message, in order, and all are out after flush", async () => {
  const child = start(
    "info",
    `logger.debug({ n: 0 }, "not.written");
     logger.info({ n: 1, text: "a\\nb 🦊", none: undefined }, "first");
     setImmediate(() => logger.warn({ n: 2 }, "second"));
     await Bun.sleep(20);
     logger.fatal({ n: 3 }, "last");
     await flush();
     process.exit(0);`,
  );
  const lines = (await new Response(child.stdout).text()).trimEnd().split("\n");
  expect(lines.map((line) => JSON.parse(line))).toEqual([
    { level: "info", time: expect.stringMatching(/^\d{4}-.*\.\d{3}Z$/), n: 1, text: "a\nb 🦊", message: "first" },
    { level: "warn", time: expect.any(String), n: 2, message: "second" },
    { level: "fatal", time: expect.any(String), n: 3, message: "last" },
  ]);
  expect(await child.exited).toBe(0);
});

test("a line has nothing in it that a terminal would act on or not show, and the same meaning", async () => {
  const text = "a\x1b[2J\u009b31m\u202egpj.exe\u200b\u2028\u{e0041}";
  const child = start("info", `logger.info({ text: ${JSON.stringify(text)} }, "x"); await flush();`);
  const line = (await new Response(child.stdout).text()).trimEnd();
  expect(line).toMatch(/^[\x20-\x7e]+$/);
  expect(JSON.parse(line).text).toBe(text);
});

test("at level silent nothing is written", async () => {
  const child = start("silent", `logger.fatal({}, "x"); await flush();`);
  expect(await new Response(child.stdout).text()).toBe("");
});

test("many lines to a slow reader all arrive, and hold up nobody", async () => {
  const child = start(
    "info",
    `const startedAt = performance.now();
     for (let n = 0; n < 20_000; n++) logger.info({ n, text: "x".repeat(100) }, "line");
     const tookMs = performance.now() - startedAt;
     await Bun.sleep(0);
     logger.info({ tookMs }, "done");
     for (let i = 0; i < 20; i++) await flush();`,
  );
  const reader = child.stdout.getReader();
  await Bun.sleep(500); // it is not read meanwhile
  let text = "";
  for (let part = await reader.read(); !part.done; part = await reader.read())
    text += new TextDecoder().decode(part.value);
  const lines = text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(lines.slice(0, -1).map(({ n }) => n)).toEqual(Array.from({ length: 20_000 }, (_, n) => n));
  expect(lines.at(-1).tookMs).toBeLessThan(400);
});

test("of a reader that stops reading no more is kept than has its place, and it is told how many lines it missed", async () => {
  const child = start(
    "error",
    `const text = "x".repeat(100_000);
     for (let n = 0; n < 1_000; n++) { logger.error({ n, text }, "line"); if (n % 10 === 9) await Bun.sleep(1); }
     console.error("100 MB");
     let startedAt;
     do {
       startedAt = performance.now();
       await flush();
     } while (performance.now() - startedAt > 400); // 500 ms while nobody reads
     await Bun.sleep(10);
     await flush();
     process.exit(0);`,
    ["sh", "-c", `exec 3<&0; "$@" | { read go <&3; cat; }`, "sh"],
  );
  await child.stderr.getReader().read();
  child.stdin.write("go\n");
  child.stdin.flush();
  const lines = (await new Response(child.stdout).text()).trimEnd().split("\n");
  const [notice, ...kept] = lines.map((line) => JSON.parse(line)).reverse();
  expect(notice).toMatchObject({ level: "warn", message: "output.dropped", lines: 1_000 - kept.length });
  expect(kept.reverse().map(({ n }) => n)).toEqual(Array.from({ length: kept.length }, (_, n) => n));
  expect(kept.length).toBeGreaterThan(300);
  expect(kept.length).toBeLessThan(400);
});

test("a reader that has gone stops nothing", async () => {
  const child = start(
    "info",
    `for (let n = 0; n < 50; n++) { logger.info({ text: "x".repeat(10_000) }, "line"); await Bun.sleep(2); }
     await flush();
     process.exit(7);`,
  );
  await child.stdout.cancel();
  expect(await child.exited).toBe(7);
});
