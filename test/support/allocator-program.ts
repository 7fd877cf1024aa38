/**
 * Prints what a program sees that begins anew with the allocator's settings, and what came on its standard input.
 */
import { keepFreedMemory } from "../../src/worker/allocator.ts";

keepFreedMemory(process.env);

const { MIMALLOC_PURGE_DELAY, MIMALLOC_PURGE_HOLES, OTHER } = process.env;
console.log(
  JSON.stringify({
    pid: process.pid,
    args: process.argv.slice(2),
    flags: process.execArgv,
    settings: [MIMALLOC_PURGE_DELAY, MIMALLOC_PURGE_HOLES, OTHER],
    input: await Bun.stdin.text(),
  }),
);
