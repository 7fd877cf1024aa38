/**
 * The worker: `bun src/worker.ts`, as many side by side as there are cores.
 */
import { keepFreedMemory } from "./worker/allocator.ts";

keepFreedMemory(process.env);
await import("./worker/process.ts"); // not before: it is much to load twice
