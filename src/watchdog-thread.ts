/**
 * The thread of watchdog.ts: it runs also while the process's loop hangs.
 */
import { writeSync } from "node:fs";
import type { Watch } from "./watchdog.ts";

const TICK_MS = 250;

globalThis.addEventListener("message", ({ data }: MessageEvent<Watch>) => {
  let last = 0;
  let silentMs = 0;
  setInterval(() => {
    if (data.parent !== undefined && process.ppid !== data.parent) process.kill(process.pid, "SIGKILL");
    if (data.loop === undefined) return;
    const turns = Atomics.load(data.loop.turns, 0);
    // Ticks, not a clock: while a process is stopped, its loop has no chance to turn.
    silentMs = turns === last ? silentMs + TICK_MS : 0;
    last = turns;
    if (silentMs < data.loop.hungMs) return;
    const time = new Date().toISOString();
    try {
      writeSync(1, `${JSON.stringify({ level: "fatal", time, hung_ms: silentMs, message: "worker.hung" })}\n`);
    } catch {} // nobody reads
    process.kill(process.pid, "SIGKILL");
  }, TICK_MS);
});
