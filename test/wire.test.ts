import { expect, test } from "bun:test";
import { join } from "node:path";
import { testValkeyUrl } from "./support/valkey.ts";

test("commands are written as ioredis writes them, and replies are what Valkey said", async () => {
  const program = join(import.meta.dir, "support/wire-program.ts");
  const child = Bun.spawn([process.execPath, program, await testValkeyUrl()], { stdout: "pipe", timeout: 20_000 });
  const output = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  expect(JSON.parse(output)).toEqual({
    differing: 0,
    text: "größe\r\n🦊\0",
    nothing: null,
    empty: "",
    number: Buffer.byteLength("größe\r\n🦊\0"),
    nested: [1, ["a", [], null], "OK"],
    error: "ReplyError: WRONGTYPE",
    noScript: "ReplyError: NOSCRIPT",
    transaction: ["OK", 2, "OK", "ReplyError: WRONGTYPE", "ü"],
    bytes: 3,
    mixed: [300, "größe🦊", "ascii", [1, "ü"]], // written in one turn
    isLongWhole: true,
    together: true,
  });
});
