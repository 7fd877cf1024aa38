/**
 * A thread of suspect-process.ts: ends the process when its worker is gone, also while its own loop hangs.
 */
export {};

const PERIOD_MS = 250;
const parent = Number(process.argv[2]);

setInterval(() => {
  if (process.ppid !== parent) process.kill(process.pid, "SIGKILL");
}, PERIOD_MS);
