/**
 * The HTTP listener of a process, and the malformed requests that it refuses up front.
 */
const MAX_BODY_BYTES = 64 * 1024; // 64 KiB: forms with two ids, and a few settings of Bull Board
const MAX_PATH = 2_048; // characters: beyond 4,096, looking up a static file fails with an error
const HOST = /^(?:[\w.-]+|\[[\da-f:.]+\])(?::\d{1,5})?$/i;

export interface ServeOptions {
  readonly host: string;
  /** 0 for any free port. */
  readonly port: number;
  /** The setting to name in the error when the port is taken. */
  readonly setting: string;
}

/** Listen; on failure, print the reason to stderr and exit with 1. */
export function serve(
  fetch: (request: Request, server: Bun.Server<undefined>) => Response | Promise<Response>,
  { host, port, setting }: ServeOptions,
): Bun.Server<undefined> {
  try {
    return Bun.serve({
      fetch: (request, server) => refuseMalformed(request) ?? fetch(request, server),
      hostname: host,
      port,
      idleTimeout: 30,
      maxRequestBodySize: MAX_BODY_BYTES,
      development: false, // an error page would have a stack trace
    });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // Bun reports the same code for an address that this machine does not have.
    const reason = code === "EADDRINUSE" ? "the port is in use, or the address is not one of this machine's" : message;
    process.stderr.write(
      `fluxhook: cannot listen on ${host}:${port}: ${reason}. Set ${setting} to a different port for each process, or to 0 for any free port.\n`,
    );
    process.exit(1);
  }
}

/**
 * The response to a malformed request; undefined for any other.
 *
 * RFC 9112 section 3.2 requires 400 unless there is exactly one valid Host; several arrive here joined with commas. The
 * request's URL is built from it, and everything downstream relies on that.
 */
function refuseMalformed(request: Request): Response | undefined {
  const host = request.headers.get("host") ?? "";
  if (!HOST.test(host) || !URL.canParse(request.url))
    return refuse(400, "expected one Host, with a name or an address");
  const { pathname } = new URL(request.url);
  if (pathname.includes("%00")) return refuse(400, "expected a path without NUL");
  return pathname.length > MAX_PATH ? refuse(414, `expected a path of at most ${MAX_PATH} characters`) : undefined;
}

function refuse(status: number, error: string): Response {
  return Response.json({ error }, { status, headers: { "cache-control": "no-store" } });
}
