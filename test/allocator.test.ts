import { expect, test } from "bun:test";
import { join } from "node:path";

async function run(env: Record<string, string>) {
  const program = join(import.meta.dir, "support/allocator-program.ts");
  const child = Bun.spawn([process.execPath, "--smol", program, "a word", "--flag"], {
    env,
    stdin: new Blob(["what was piped in"]),
    stdout: "pipe",
    stderr: "pipe",
    timeout: 20_000,
  });
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  expect(errors).toBe("");
  const { pid, ...seen } = JSON.parse(output);
  return { isSame: pid === child.pid, ...seen };
}

const SAME = { isSame: true, args: ["a word", "--flag"], flags: ["--smol"], input: "what was piped in" };

test("the process goes on with the allocator's settings: same id, arguments, flags, input and environment", async () => {
  expect(await run({ OTHER: "stays" })).toEqual({ ...SAME, settings: ["1000", "0", "stays"] });
});

test("a setting of the operator's counts", async () => {
  const own = { MIMALLOC_PURGE_DELAY: "50" };
  expect(await run(own)).toEqual({ ...SAME, settings: ["50", "0", null] });
  const both = { MIMALLOC_PURGE_DELAY: "50", MIMALLOC_PURGE_HOLES: "1" };
  expect(await run(both)).toEqual({ ...SAME, settings: ["50", "1", null] });
});
