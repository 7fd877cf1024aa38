/** Real egress proxies from the system's packages, each with a configuration of the test's: squid and tinyproxy. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findFreePort } from "../../src/dev/cluster.ts";
import { eventually } from "./stack.ts";

export interface SystemProxyOptions {
  /** As in `user:password`; anybody may use it otherwise. */
  readonly user?: string;
  /** To which CONNECT is allowed, in the place of 443. */
  readonly ports: readonly number[];
  /** Key and certificate, PEM: it speaks TLS. Squid alone can. */
  readonly tls?: string;
  /** Lines that come before all others, as an operator adds them. */
  readonly lines?: readonly string[];
}

export interface SystemProxy {
  readonly port: number;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** Start it again, on the same port. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

interface Kind {
  readonly command: (file: string) => string[];
  readonly configure: (port: number, directory: string, options: SystemProxyOptions) => string[];
}

/** The rules that squid comes with, for other ports than 443. Its helper for passwords is one of ours. */
const squid: Kind = {
  command: (file) => ["squid", "-N", "-f", file],
  configure(port, directory, { user, ports, tls, lines = [] }) {
    const certificate = join(directory, "certificate.pem");
    if (tls !== undefined) writeFileSync(certificate, tls);
    const helper = join(directory, "check-password");
    const verdict = `[ "$name:$password" = '${user ?? ""}' ] && echo OK || echo ERR`;
    writeFileSync(helper, `#!/bin/sh\nwhile read -r name password; do ${verdict}; done\n`, { mode: 0o755 });
    const authentication = [`auth_param basic program ${helper}`, "acl known proxy_auth REQUIRED"];
    return [
      ...lines,
      tls === undefined ? `http_port 127.0.0.1:${port}` : `https_port 127.0.0.1:${port} tls-cert=${certificate}`,
      "pid_filename none",
      "access_log none",
      "cache_log /dev/null",
      "cache deny all",
      "pinger_enable off",
      "shutdown_lifetime 0 seconds",
      "acl SSL_ports port 443",
      `acl SSL_ports port ${ports.join(" ")}`,
      "acl Safe_ports port 80 443 1025-65535",
      "http_access deny !Safe_ports",
      "http_access deny CONNECT !SSL_ports",
      ...(user === undefined ? [] : [...authentication, "http_access deny !known"]),
      "http_access allow localhost",
      "http_access deny all",
    ];
  },
};

const tinyproxy: Kind = {
  command: (file) => ["tinyproxy", "-d", "-c", file],
  configure: (port, directory, { user, ports, lines = [] }) => [
    ...lines,
    `Port ${port}`,
    "Listen 127.0.0.1",
    "Timeout 60",
    "MaxClients 200",
    "LogLevel Critical",
    `LogFile "${join(directory, "log")}"`,
    ...ports.map((each) => `ConnectPort ${each}`),
    ...(user === undefined ? [] : [`BasicAuth ${user.replace(":", " ")}`]),
  ],
};

const KINDS = { squid, tinyproxy } as const;
export type SystemProxyName = keyof typeof KINDS;

const PATH = `${process.env.PATH ?? ""}:/usr/sbin:/usr/local/sbin:/sbin`; // where Debian puts squid
const PORT_TRIES = 3;
const START_MS = 20_000; // on a busy machine; squid takes a second

/** Whether it is on this machine. */
export function isInstalled(name: SystemProxyName): boolean {
  return Bun.which(name, { PATH }) !== null;
}

export async function startSystemProxy(name: SystemProxyName, options: SystemProxyOptions): Promise<SystemProxy> {
  const { command, configure } = KINDS[name];
  const directory = mkdtempSync(join(tmpdir(), "fluxhook-proxy-"));
  chmodSync(directory, 0o755); // squid gives up root, and starts its helper after that
  const file = join(directory, "conf");
  let port = 0;

  let child: Bun.Subprocess | undefined;
  const killOnExit = (): void => child?.kill("SIGKILL");
  process.once("exit", killOnExit);
  const start = async (): Promise<void> => {
    child = Bun.spawn(command(file), { env: { PATH }, stdio: ["ignore", "ignore", "ignore"] });
    await eventually(() => child?.exitCode !== null || accepts(port), Boolean, START_MS);
    if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}`);
  };
  const kill = async (): Promise<void> => {
    child?.kill("SIGKILL");
    await child?.exited;
  };
  for (let tries = 1; ; tries++) {
    port = await findFreePort();
    writeFileSync(file, [...configure(port, directory, options), ""].join("\n"));
    try {
      await start();
      break;
    } catch (error) {
      await kill();
      if (tries === PORT_TRIES) throw error; // it was not that somebody else has the port
    }
  }
  return {
    port,
    kill,
    restart: start,
    async stop() {
      await kill();
      process.off("exit", killOnExit);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port });
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}
