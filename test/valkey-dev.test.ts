import { afterEach, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Redis } from "ioredis";
import { startValkey, type ThrowawayValkey, type ThrowawayValkeyOptions } from "../src/dev/valkey.ts";

const started: ThrowawayValkey[] = [];
const clients: Redis[] = [];

afterEach(async () => {
  for (const client of clients.splice(0)) client.disconnect();
  await Promise.all(started.splice(0).map((valkey) => valkey.stop()));
});

async function start(options?: ThrowawayValkeyOptions) {
  const valkey = await startValkey(options);
  started.push(valkey);
  return valkey;
}

function dial(url: string) {
  const client = new Redis(url, { retryStrategy: () => null, maxRetriesPerRequest: 0 });
  client.on("error", () => {}); // the command that fails says it
  clients.push(client);
  return client;
}

const isRunning = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

// Its pid would not do: an orphan that has ended keeps it until init gets round to it.
const isListening = async (port: number) => {
  try {
    (await Bun.connect({ hostname: "127.0.0.1", port, socket: { data() {} } })).end();
    return true;
  } catch {
    return false;
  }
};

describe("a throwaway Valkey", () => {
  test("answers, keeps an append-only file and evicts nothing", async () => {
    const client = dial((await start()).url);
    expect(await client.ping()).toBe("PONG");
    expect(await client.config("GET", "appendonly")).toEqual(["appendonly", "yes"]);
    expect(await client.config("GET", "appendfsync")).toEqual(["appendfsync", "everysec"]);
    expect(await client.config("GET", "maxmemory-policy")).toEqual(["maxmemory-policy", "noeviction"]);
    expect(await client.config("GET", "save")).toEqual(["save", ""]);
  });

  test("takes a policy, a password and no append-only file when told so", async () => {
    const { url, port } = await start({ appendonly: false, policy: "allkeys-lru", password: "p@ss/word" });
    const client = dial(url);
    expect(await client.config("GET", "appendonly")).toEqual(["appendonly", "no"]);
    expect(await client.config("GET", "maxmemory-policy")).toEqual(["maxmemory-policy", "allkeys-lru"]);
    await expect(dial(`redis://127.0.0.1:${port}`).get("x")).rejects.toThrow("NOAUTH");
  });

  test("keeps its data and its port over a kill and a restart", async () => {
    const valkey = await start({ appendfsync: "always" });
    const { port, pid } = valkey;
    await dial(valkey.url).set("kept", "yes");
    await valkey.kill();
    expect(isRunning(pid)).toBe(false);
    await valkey.restart();
    expect(valkey.port).toBe(port);
    expect(valkey.pid).not.toBe(pid);
    expect(await dial(valkey.url).get("kept")).toBe("yes");
  });

  test("restarts in good order while it runs", async () => {
    const valkey = await start();
    await dial(valkey.url).set("kept", "yes");
    await valkey.restart();
    expect(await dial(valkey.url).get("kept")).toBe("yes");
  });

  test("is gone after stop, with its directory, and stops once only", async () => {
    const valkey = await start();
    expect(existsSync(valkey.directory)).toBe(true);
    await valkey.stop();
    await valkey.stop();
    expect(existsSync(valkey.directory)).toBe(false);
    expect(isRunning(valkey.pid)).toBe(false);
  });

  test("comes back empty on the same port after stop", async () => {
    const valkey = await start();
    await dial(valkey.url).set("gone", "yes");
    await valkey.stop();
    await valkey.restart();
    expect(await dial(valkey.url).get("gone")).toBeNull();
  });

  test("answers nothing while it is paused, and stops even so", async () => {
    const valkey = await start();
    const client = dial(valkey.url);
    await client.ping();
    valkey.pause();
    const answer = client.ping();
    expect(await Promise.race([answer, Bun.sleep(150).then(() => "silence")])).toBe("silence");
    valkey.resume();
    expect(await answer).toBe("PONG");
    valkey.pause();
    await valkey.stop();
    expect(isRunning(valkey.pid)).toBe(false);
  });

  test("says so when the port it was given is taken", async () => {
    const { port } = await start();
    await expect(startValkey({ port })).rejects.toThrow(`port ${port} is taken`);
  });

  test("says so when the second port of a cluster's node is taken", async () => {
    const taken = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const port = taken.port - 10_000; // the second is 10,000 higher
    const settings = { "cluster-enabled": "yes" };
    await expect(startValkey({ port, settings })).rejects.toThrow(`port ${port} is taken`);
    taken.stop();
  });

  test("shows Valkey's own words when it does not start", async () => {
    await expect(startValkey({ policy: "no-such-policy" })).rejects.toThrow("maxmemory-policy");
  });

  test("says what to do when no server is installed", async () => {
    const path = process.env.PATH;
    process.env.PATH = "/nonexistent";
    try {
      await expect(startValkey()).rejects.toThrow("npm start");
    } finally {
      process.env.PATH = path;
    }
  });

  test.each(["exit", "SIGTERM", "SIGKILL"] as const)("ends with its parent: %s", async (way) => {
    const script = `
      const { startValkey } = await import(${JSON.stringify(join(import.meta.dir, "../src/dev/valkey.ts"))});
      const { port, directory } = await startValkey();
      await Bun.write(Bun.stdout, JSON.stringify({ port, directory }));
      ${way === "exit" ? "process.exit()" : `process.kill(process.pid, "${way}")`};`;
    const parent = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
    const { port, directory } = JSON.parse(await new Response(parent.stdout).text());
    await parent.exited;
    while (existsSync(directory) || (await isListening(port))) await Bun.sleep(5); // bounded by the test's time limit
    expect(parent.exitCode === 0).toBe(way === "exit");
  });
});
