/**
 * Makes Bun's allocator keep freed memory longer. By default it returns memory to the system after 10 ms, and requests it again
 * for the next events, which accounts for a quarter of a busy worker's CPU time (bench/RESULTS.md).
 */

/** Settings of mimalloc, which reads them when the process starts. */
const SETTINGS = {
  MIMALLOC_PURGE_DELAY: "1000", // 1 s, in ms: longer than the time between two garbage collections
  MIMALLOC_PURGE_HOLES: "0", // do not purge during garbage collection
};

/**
 * Restart the process with the settings, unless they are already set. The process is replaced by the same program (execve): only
 * its id, open files and arguments survive, so call this before anything else.
 *
 * @param env  values already set here win
 */
export function keepFreedMemory(env: NodeJS.ProcessEnv): void {
  if (process.platform === "win32" || Object.keys(SETTINGS).every((name) => env[name] !== undefined)) return;
  const { execPath, execArgv, argv } = process;
  try {
    process.execve?.(execPath, [execPath, ...execArgv, ...argv.slice(1)], { ...SETTINGS, ...env });
  } catch {} // run anyway, only slower
}
