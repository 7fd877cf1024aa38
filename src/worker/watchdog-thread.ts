/**
 * The thread of watchdog.ts: it runs also while the process's loop hangs. It waits without an event loop of its own, whose timers
 * would cost the process some hundredths of its time.
 */
import { writeSync } from "node:fs";
import type { Watch } from "./watchdog.ts";

globalThis.addEventListener("message", ({ data: { tickMs, parent, loop } }: MessageEvent<Watch>) => {
  const nothing = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  let last = 0;
  let silentMs = 0;
  for (;;) {
    Atomics.wait(nothing, 0, 0, tickMs);
    if (parent !== undefined && process.ppid !== parent) process.kill(process.pid, "SIGKILL");
    if (loop === undefined) continue;
    const turns = Atomics.load(loop.turns, 0);
    // Ticks, not a clock: while a process is stopped, its loop has no chance to turn.
    silentMs = turns === last ? silentMs + tickMs : 0;
    last = turns;
    if (silentMs < loop.hungMs) continue;
    const time = new Date().toISOString();
    try {
      writeSync(1, `${JSON.stringify({ level: "fatal", time, hung_ms: silentMs, message: "worker.hung" })}\n`);
    } catch {} // nobody reads
    process.kill(process.pid, "SIGKILL");
  }
});
