/**
 * The HTTP listener of a process, and what it refuses before anything else looks at it.
 */
const MAX_BODY_BYTES = 64 * 1024; // 64 KiB: forms with two ids, and Bull Board's few settings
const MAX_PATH = 2_048; // characters: beyond 4,096 the operating system has no such file name, and says so with an error
const HOST = /^(?:[\w.-]+|\[[\da-f:.]+\])(?::\d{1,5})?$/i;

export interface ServeOptions {
  readonly host: string;
  /** 0 takes a free port. */
  readonly port: number;
  /** The setting to name when the port cannot be had. */
  readonly setting: string;
}

/** Listen, or say on stderr why not and end the process with 1. */
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
    // Bun says the same of an address that is none of this machine's.
    const reason = code === "EADDRINUSE" ? "another process listens there, or it is not this machine's" : message;
    process.stderr.write(
      `fluxhook: cannot listen on ${host}:${port}: ${reason}. Set ${setting} to another port for each process, or to 0, which takes a free one.\n`,
    );
    process.exit(1);
  }
}

/**
 * The answer to a request that nobody sends who means well; undefined for any other.
 *
 * RFC 9112 3.2 asks for 400 where there is not exactly one valid Host; several of them arrive here as one, with commas. The request's
 * URL is made of it, and everything behind reads that.
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
