/**
 * Sentinels, as processes: they watch a Valkey and replace it by its replica when it is gone.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { findFreePort } from "../../src/dev/cluster.ts";
import { end, findServer, type Running, startWatchdog } from "../../src/dev/valkey.ts";
import { eventually } from "./stack.ts";

export const PRIMARY = "the-primary";
const DOWN_AFTER_MS = 1_000;
const PORT_TRIES = 5; // beyond those that there are to be

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
  const monitor = [
    "bind 127.0.0.1",
    `dir ${directory}`,
    `sentinel monitor ${PRIMARY} 127.0.0.1 ${port} ${Math.floor(count / 2) + 1}`,
    `sentinel down-after-milliseconds ${PRIMARY} ${DOWN_AFTER_MS}`,
    `sentinel failover-timeout ${PRIMARY} 5000`,
    ...(password ? [`sentinel auth-pass ${PRIMARY} ${password}`] : []),
    ...(ownPassword ? [`requirepass ${ownPassword}`, `sentinel sentinel-pass ${ownPassword}`] : []),
  ];
  const sentinels: Sentinel[] = [];
  for (let tries = 0; sentinels.length < count; tries++) {
    if (tries === count + PORT_TRIES) throw new Error("a Sentinel ends as soon as it is started");
    const sentinel = await startSentinel(directory, monitor, { ownPassword, tls });
    if (sentinel !== "port taken") sentinels.push(sentinel);
  }
  for (const { client } of sentinels) {
    const knows = async (): Promise<boolean> => {
      const [facts = []] = (await client.call("SENTINEL", "MASTERS")) as (string[] | Record<string, string>)[];
      const of = (name: string) => Number(Array.isArray(facts) ? facts[facts.indexOf(name) + 1] : facts[name]);
      return of("num-slaves") === replicas && of("num-other-sentinels") === count - 1;
    };
    await eventually(knows, (isReady) => isReady);
    client.disconnect();
  }
  return {
    hosts: sentinels.map(({ host }) => host).join(","),
    async stop() {
      await Promise.all(sentinels.map(({ running }) => end(running, "SIGKILL")));
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

type Sentinel = { readonly host: string; readonly client: Redis; readonly running: Running };

/** Start one on ports that were free a moment ago; somebody else may be faster. */
async function startSentinel(
  directory: string,
  monitor: readonly string[],
  { ownPassword, tls }: Pick<SentinelOptions, "ownPassword" | "tls">,
): Promise<Sentinel | "port taken"> {
  const port = await findFreePort();
  const tlsPort = tls ? await findFreePort() : 0;
  const secure = [`tls-port ${tlsPort}`, "tls-replication yes", ...Object.entries(TLS).map((pair) => pair.join(" "))];
  const file = join(directory, `${port}.conf`);
  writeFileSync(file, `${[`port ${port}`, ...monitor, ...(tls ? secure : [])].join("\n")}\n`);
  const child = Bun.spawn([findServer(), file, "--sentinel"], { stdio: ["ignore", "ignore", "ignore"] });
  const running = { child, watchdog: startWatchdog(child.pid, directory) };
  const client = new Redis(port, { password: ownPassword, maxRetriesPerRequest: null, retryStrategy: () => 20 });
  client.on("error", () => {}); // it is still starting
  const answers = client.call("SENTINEL", "MYID").then(
    () => true,
    () => false, // it is somebody else's
  );
  if (await Promise.race([answers, child.exited.then(() => false)]))
    return { host: `127.0.0.1:${tls ? tlsPort : port}`, client, running };
  client.disconnect();
  await end(running, "SIGKILL");
  return "port taken";
}
