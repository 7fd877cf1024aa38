import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const readyWithinMs = 30_000; // on a busy machine, and with data to load
const pollMs = 20; // Valkey is up after about 50 ms
const freePortTries = 20;

/** Options of a throwaway Valkey; the defaults are those for production. */
export type ThrowawayValkeyOptions = {
  /** Keep an append-only file; true by default. */
  appendonly?: boolean;
  /** When that file is synced; "everysec" by default. */
  appendfsync?: "always" | "everysec" | "no";
  /** The maxmemory-policy; "noeviction" by default. */
  policy?: string;
  password?: string;
  /** A free loopback port by default. */
  port?: number;
  /** Any other setting, by its name in valkey.conf. */
  settings?: Readonly<Record<string, string>>;
};

/** A throwaway Valkey, with controls for outage tests. */
export type ThrowawayValkey = {
  readonly url: string;
  readonly port: number;
  /** Of the current or last process; changes on restart. */
  readonly pid: number;
  /** Its data directory, until stop(). */
  readonly directory: string;
  /** Stop it and remove its data. May be called again. */
  stop(): Promise<void>;
  /** SIGKILL, like a crash; the data stays. */
  kill(): Promise<void>;
  /** Restart it on the same port and data, shutting it down cleanly if it runs. Empty after stop(). */
  restart(): Promise<void>;
  /** SIGSTOP: connections stay open but get no replies. */
  pause(): void;
  /** SIGCONT. */
  resume(): void;
};

/**
 * Start a throwaway Valkey on loopback, for tests, benchmarks and `npm start`.
 *
 * It does not outlive this process, however that ends, and is detached from the terminal's Ctrl-C, since a worker that is
 * draining still needs it.
 *
 * @returns once it answers
 * @throws  when there is no server on PATH, or it does not answer within 30 s; the message has its last output
 */
export async function startValkey(options: ThrowawayValkeyOptions = {}): Promise<ThrowawayValkey> {
  const server = findServer();
  const directory = mkdtempSync(join(tmpdir(), "fluxhook-valkey-"));
  const removeDirectory = () => rmSync(directory, { recursive: true, force: true });
  const launch = (port: number) => launchServer(server, directory, port, options);

  let running: Running;
  let port = options.port ?? randomPort();
  try {
    for (let tries = 1; ; tries++) {
      const result = await launch(port);
      if (result !== "port taken") {
        running = result;
        break;
      }
      if (options.port !== undefined || tries === freePortTries) throw new Error(`port ${port} is taken`);
      port = randomPort();
    }
  } catch (error) {
    removeDirectory();
    throw error;
  }

  const onExit = () => {
    running.child.kill("SIGKILL");
    removeDirectory();
  };
  process.on("exit", onExit);
  const auth = options.password ? `:${encodeURIComponent(options.password)}@` : "";

  return {
    url: `redis://${auth}127.0.0.1:${port}`,
    port,
    directory,
    get pid() {
      return running.child.pid;
    },
    async stop() {
      process.off("exit", onExit);
      await end(running, "SIGKILL");
      removeDirectory();
    },
    async kill() {
      await end(running, "SIGKILL");
    },
    async restart() {
      await end(running, "SIGTERM");
      mkdirSync(directory, { recursive: true });
      const result = await launch(port);
      if (result === "port taken") throw new Error(`cannot restart Valkey: port ${port} was taken in the meantime`);
      running = result;
      process.off("exit", onExit).on("exit", onExit);
    },
    pause() {
      running.child.kill("SIGSTOP");
    },
    resume() {
      running.child.kill("SIGCONT");
    },
  };
}

/** A server, and the watchdog that kills it when this process dies. */
export type Running = { child: Bun.Subprocess; watchdog: Bun.Subprocess };

export function findServer(): string {
  const PATH = process.env.PATH ?? ""; // the current value: Bun.which uses the one from process start
  const server = Bun.which("valkey-server", { PATH }) ?? Bun.which("redis-server", { PATH });
  if (server) return server;
  throw new Error(
    "no valkey-server or redis-server on PATH. `npm start` and `npm test` install one; " +
      "to install it by hand, take valkey-server 7.2 or newer, or redis-server 7 or newer.",
  );
}

/**
 * A port below the kernel's range for outgoing connections (32768 on Linux). In that range, a client that keeps dialing a
 * dead Valkey can connect to itself and hold the port when Valkey returns.
 */
export function randomPort(): number {
  return 20_000 + Math.floor(Math.random() * 12_000);
}

async function launchServer(
  server: string,
  directory: string,
  port: number,
  {
    appendonly = true,
    appendfsync = "everysec",
    policy = "noeviction",
    password,
    settings: others,
  }: ThrowawayValkeyOptions,
): Promise<Running | "port taken"> {
  const settings = {
    port: String(port),
    bind: "127.0.0.1",
    dir: directory,
    daemonize: "no",
    save: "",
    appendonly: appendonly ? "yes" : "no",
    appendfsync,
    "maxmemory-policy": policy,
    ...(password ? { requirepass: password } : {}),
    ...others,
  };
  const logFile = join(directory, "valkey.log");
  const log = openSync(logFile, "w");
  const child = Bun.spawn([server, ...Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value])], {
    stdio: ["ignore", log, log],
    detached: true, // out of reach of the terminal's Ctrl-C
  });
  closeSync(log);
  child.unref();
  const running = { child, watchdog: startWatchdog(child.pid, directory) };

  const giveUpAt = performance.now() + readyWithinMs;
  while (child.exitCode === null && child.signalCode === null && performance.now() < giveUpAt) {
    if (await answers(port, child.pid, password)) return running;
    await Promise.race([child.exited, Bun.sleep(pollMs)]);
  }
  const ended = child.exitCode !== null || child.signalCode !== null;
  await end(running, "SIGKILL");
  const output = readFileSync(logFile, "utf8").trim().split("\n").slice(-10).join("\n");
  if (ended && output.includes("Address already in use")) return "port taken"; // this one, or a cluster node's second one
  throw new Error(`Valkey ${ended ? "ended at once" : `did not answer within ${readyWithinMs / 1000} s`}:\n${output}`);
}

/**
 * Start a shell that kills Valkey when its stdin closes, which happens when this process dies. Our exit handler does not run
 * when we are killed.
 */
export function startWatchdog(pid: number, directory: string): Bun.Subprocess {
  const watchdog = Bun.spawn(["sh", "-c", 'read -r _; kill -9 "$1"; rm -rf "$2"', "sh", String(pid), directory], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  watchdog.unref();
  return watchdog;
}

/** Ends the watchdog first: once Valkey is gone, its pid may be reused. */
export async function end({ child, watchdog }: Running, signal: "SIGTERM" | "SIGKILL"): Promise<void> {
  watchdog.kill("SIGKILL");
  await watchdog.exited;
  child.kill("SIGCONT"); // a paused one would not act on SIGTERM
  child.kill(signal);
  await child.exited;
}

/** Whether our server is up on the port, which another one may hold. Never throws. */
function answers(port: number, pid: number, password?: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port });
    let reply = "";
    const finish = (isUp: boolean) => {
      socket.destroy();
      resolve(isUp);
    };
    socket.setTimeout(1_000, () => finish(false));
    socket.on("error", () => finish(false));
    socket.on("close", () => resolve(false));
    socket.on("connect", () => {
      if (password) socket.write(buildCommand("AUTH", password));
      socket.write(buildCommand("PING") + buildCommand("INFO", "server"));
    });
    socket.on("data", (chunk) => {
      reply += chunk;
      const owner = reply.match(/^process_id:(\d+)\r$/m)?.[1];
      if (owner !== undefined) finish(Number(owner) === pid && /^\+PONG\r$/m.test(reply));
      else if (/^-/m.test(reply)) finish(false); // -LOADING, -NOAUTH
    });
  });
}

function buildCommand(...words: string[]): string {
  return `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("")}`;
}
