/**
 * The HTTP listener of a process.
 */
export interface ServeOptions {
  readonly host: string;
  /** 0 takes a free port. */
  readonly port: number;
  /** The setting to name when the port cannot be had. */
  readonly setting: string;
}

/** Listen, or say on stderr why not and end the process with 1. */
export function serve(
  fetch: (request: Request) => Response | Promise<Response>,
  { host, port, setting }: ServeOptions,
): Bun.Server<undefined> {
  try {
    return Bun.serve({ fetch, hostname: host, port, idleTimeout: 30 });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const reason = code === "EADDRINUSE" ? "another process listens there" : message;
    process.stderr.write(
      `fluxhook: cannot listen on ${host}:${port}: ${reason}. Set ${setting} to a free port, or 0.\n`,
    );
    process.exit(1);
  }
}
