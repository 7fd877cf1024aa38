/**
 * Sentinels, as processes: they watch a Valkey and replace it by its replica when it is gone.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { freePort } from "../../src/dev/processes.ts";
import { end, findServer, type Running, randomPort, startWatchdog } from "../../src/dev/valkey.ts";
import { eventually } from "./stack.ts";

export const PRIMARY = "the-primary";
const DOWN_AFTER_MS = 1_000;

/** What a server needs to take connections over TLS: for `127.0.0.1`, and whoever trusts `ca.pem`. */
export const TLS = {
  "tls-cert-file": join(import.meta.dir, "right.pem"),
  "tls-key-file": join(import.meta.dir, "right.pem"),
  "tls-ca-cert-file": join(import.meta.dir, "ca.pem"),
  "tls-auth-clients": "no",
};

export interface SentinelOptions {
  /** Replicas that there are. */
  readonly replicas?: number;
  /** Of Valkey. */
  readonly password?: string;
  /** Of the Sentinels themselves. */
  readonly ownPassword?: string;
  /** The Valkey's port takes TLS alone, and so shall they. */
  readonly tls?: boolean;
}

export interface Sentinels {
  /** `host:port` of each, joined as in `VALKEY_URL`. */
  readonly hosts: string;
  stop(): Promise<void>;
}

/**
 * Start so many Sentinels for a Valkey on this machine; more than half of them have to agree that it is gone.
 *
 * @returns once each has found all the others and the replicas that there are
 */
export async function startSentinels(
  count: number,
  port: number,
  { replicas = 0, password, ownPassword, tls = false }: SentinelOptions = {},
): Promise<Sentinels> {
  const directory = mkdtempSync(join(tmpdir(), "fluxhook-sentinels-"));
  const server = findServer();
  const running: Running[] = [];
  const clients: Redis[] = [];
  const hosts: string[] = [];
  for (let index = 0; index < count; index++) {
    const own = await anyPort();
    const tlsPort = tls ? await anyPort() : 0;
    const settings = [
      `port ${own}`,
      "bind 127.0.0.1",
      `dir ${directory}`,
      `sentinel monitor ${PRIMARY} 127.0.0.1 ${port} ${Math.floor(count / 2) + 1}`,
      `sentinel down-after-milliseconds ${PRIMARY} ${DOWN_AFTER_MS}`,
      `sentinel failover-timeout ${PRIMARY} 5000`,
      ...(password ? [`sentinel auth-pass ${PRIMARY} ${password}`] : []),
      ...(ownPassword ? [`requirepass ${ownPassword}`, `sentinel sentinel-pass ${ownPassword}`] : []),
      ...(tls ? [`tls-port ${tlsPort}`, "tls-replication yes"] : []),
      ...(tls ? Object.entries(TLS).map((setting) => setting.join(" ")) : []),
    ];
    const file = join(directory, `${own}.conf`);
    writeFileSync(file, `${settings.join("\n")}\n`);
    const child = Bun.spawn([server, file, "--sentinel"], { stdio: ["ignore", "ignore", "ignore"] });
    running.push({ child, watchdog: startWatchdog(child.pid, directory) });
    hosts.push(`127.0.0.1:${tls ? tlsPort : own}`);
    const client = new Redis(own, { password: ownPassword, maxRetriesPerRequest: null, retryStrategy: () => 20 });
    clients.push(client.on("error", () => {})); // it is still starting
  }
  for (const client of clients) {
    const knows = async (): Promise<boolean> => {
      const [facts = []] = (await client.call("SENTINEL", "MASTERS")) as (string[] | Record<string, string>)[];
      const of = (name: string) => Number(Array.isArray(facts) ? facts[facts.indexOf(name) + 1] : facts[name]);
      return of("num-slaves") === replicas && of("num-other-sentinels") === count - 1;
    };
    await eventually(knows, (isReady) => isReady);
    client.disconnect();
  }
  return {
    hosts: hosts.join(","),
    async stop() {
      await Promise.all(running.map((sentinel) => end(sentinel, "SIGKILL")));
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** Free, and below those that the kernel gives to outgoing connections. */
export async function anyPort(): Promise<number> {
  for (;;) {
    const port = await freePort(randomPort(), "127.0.0.1");
    if (port !== 0) return port;
  }
}
