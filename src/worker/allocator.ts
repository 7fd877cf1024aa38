/**
 * Bun's allocator, told to keep what was freed. By itself it gives memory back to the system after 10 ms, to ask for the
 * same again with the next events, which is a quarter of what a busy worker costs (bench/RESULTS.md).
 */

/** Its own settings, which it reads before any program runs. */
const SETTINGS = {
  MIMALLOC_PURGE_DELAY: "1000", // 1 s, in ms: longer than from one collection to the next, and memory still goes back
  MIMALLOC_PURGE_HOLES: "0", // nor while it collects garbage
};

/**
 * Begin anew with the settings, unless they are there: the process replaces itself by the same program. Its id, files and
 * arguments stay, nothing else does: call it before anything else.
 *
 * @param env  what is set there already counts
 */
export function keepFreedMemory(env: NodeJS.ProcessEnv): void {
  if (process.platform === "win32" || Object.keys(SETTINGS).every((name) => env[name] !== undefined)) return;
  const { execPath, execArgv, argv } = process;
  try {
    process.execve?.(execPath, [execPath, ...execArgv, ...argv.slice(1)], { ...SETTINGS, ...env });
  } catch {} // a slower worker is better than none
}
