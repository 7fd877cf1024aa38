/** The board as tests start it, and talk to it. */
import { connect } from "node:net";
import { join } from "node:path";
import { DEFAULT_EVENTS } from "../../src/delivery/contract.ts";

/** The settings of a board as they are by default: no password, everything allowed. */
export const BOARD_DEFAULTS = {
  boardUser: "admin",
  boardPassword: undefined,
  boardEnvironment: "",
  boardReadonly: false,
  boardTrustProxy: [],
  timeoutMs: 10_000,
  events: DEFAULT_EVENTS,
  logSize: 10,
  logAgeMs: 7 * 24 * 60 * 60 * 1000,
  keepCompleted: 1_000,
  keepFailed: 10_000,
};

/** What came back over a socket; status 0 when it was closed without an answer. */
export interface RawAnswer {
  readonly status: number;
  readonly head: string;
  readonly body: string;
  readonly tookMs: number;
}

export interface BoardProcess {
  readonly port: number;
  /**
   * Send bytes, a character each, over a connection of their own, and read until it is closed or silent.
   *
   * @param slowly  what follows, a byte a second
   */
  send(bytes: string, options?: { slowly?: string }): Promise<RawAnswer>;
  /** What it printed on stdout. */
  output(): string;
  /** What it printed on stderr. */
  errors(): string;
  stop(): Promise<void>;
}

const ROOT = join(import.meta.dir, "../..");
const SILENCE_MS = 20_000; // an answer that does not come

/** `bun src/board.ts` as a child process, on a free port. */
export async function startBoardProcess(env: Record<string, string>): Promise<BoardProcess> {
  const child = Bun.spawn([process.execPath, "src/board.ts"], {
    cwd: ROOT,
    env: { PATH: process.env.PATH ?? "", BOARD_PORT: "0", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stdout = "";
  let stderr = "";
  const { promise: port, resolve, reject } = Promise.withResolvers<number>();
  const readOut = async () => {
    for await (const chunk of child.stdout) {
      stdout += new TextDecoder().decode(chunk);
      const url = /"url":"[^"]*:(\d+)".*"board\.ready"/.exec(stdout)?.[1];
      if (url !== undefined) resolve(Number(url));
    }
  };
  const readErrors = async () => {
    for await (const chunk of child.stderr) stderr += new TextDecoder().decode(chunk);
  };
  const ended = Promise.all([readOut(), readErrors(), child.exited]);
  ended.then(() => reject(new Error(`the board ended: ${stdout}${stderr}`)));
  const where = await port;
  return {
    port: where,
    send: (bytes, options) => sendRaw(where, bytes, options?.slowly ?? ""),
    output: () => stdout,
    errors: () => stderr,
    async stop() {
      child.kill("SIGTERM");
      await ended;
    },
  };
}

function sendRaw(port: number, bytes: string, slowly: string): Promise<RawAnswer> {
  const { promise, resolve } = Promise.withResolvers<RawAnswer>();
  const startedAt = performance.now();
  let text = "";
  const socket = connect(port, "127.0.0.1", () => socket.write(bytes, "latin1"));
  const drip = [...slowly];
  const timer = setInterval(() => drip.length > 0 && socket.write(drip.shift() as string), 1000);
  socket.setTimeout(SILENCE_MS, () => socket.destroy());
  socket.on("data", (data) => {
    text += data.toString("latin1");
    if (drip.length > 0) socket.destroy(); // answered in the middle of it
  });
  socket.on("error", () => {}); // it is closed then, too
  socket.on("close", () => {
    clearInterval(timer);
    const [head = "", ...body] = text.split("\r\n\r\n");
    const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(head)?.[1] ?? 0);
    resolve({ status, head, body: body.join("\r\n\r\n"), tookMs: performance.now() - startedAt });
  });
  return promise;
}
