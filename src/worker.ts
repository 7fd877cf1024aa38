/**
 * The worker: `bun src/worker.ts`. Run one per core.
 */
import { keepFreedMemory } from "./worker/allocator.ts";

keepFreedMemory(process.env);
await import("./worker/process.ts"); // imported after, since keepFreedMemory may restart the process
