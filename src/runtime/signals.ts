/**
 * The signals that stop a process.
 */

const ECHO_MS = 400; // a terminal and npm may both forward one Ctrl-C or hangup

/**
 * Call `stop` on the first SIGTERM, SIGINT or SIGHUP (terminal closed), and exit with the code it resolves to. A second
 * signal calls `hurry`.
 */
export function onSignals(stop: (signal: string) => Promise<number>, hurry: () => void): void {
  let stoppingSince: number | undefined;
  const handle = (signal: string): void => {
    if (stoppingSince !== undefined) {
      const isEcho = signal !== "SIGTERM" && performance.now() - stoppingSince < ECHO_MS;
      if (!isEcho) hurry();
      return;
    }
    stoppingSince = performance.now();
    stop(signal).then(
      (code) => process.exit(code),
      () => process.exit(1),
    );
  };
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, handle);
}
