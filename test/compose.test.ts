import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import manifest from "../package.json";
import { SETTINGS } from "../src/settings/table.ts";

const read = (name: string) => Bun.file(join(import.meta.dir, "..", name)).text();

type Service = {
  image?: string;
  command?: string[];
  container_name?: string;
  ports?: string[];
  volumes?: string[];
  environment?: Record<string, string | null>;
  healthcheck?: { test: string[] };
  depends_on?: Record<string, { condition: string }>;
  stop_grace_period?: string;
  restart?: string;
};
type Compose = { services: { valkey: Service; worker: Service; board: Service }; volumes: Record<string, unknown> };

const { services, volumes } = Bun.YAML.parse(await read("docker-compose.yml")) as Compose;
const { valkey, worker, board } = services;
const dockerfile = await read("Dockerfile");

/** The value behind an option of Valkey's command line. */
const option = (name: string) => valkey.command?.[valkey.command.indexOf(`--${name}`) + 1];
const seconds = (duration: string | null | undefined) => Number(duration?.match(/^(\d+)s$/)?.[1]);

describe("docker-compose.yml", () => {
  test("gives Valkey an append-only file on a volume, and lets it evict nothing", () => {
    expect(valkey.image).toMatch(/^valkey\/valkey:\d+\.\d+-alpine$/);
    expect(option("appendonly")).toBe("yes");
    expect(option("maxmemory-policy")).toBe("noeviction");
    expect(option("hash-max-listpack-value")).toBe("2048"); // docs/sizing.md
    expect(valkey.volumes).toEqual(["valkey-data:/data"]);
    expect(volumes).toHaveProperty("valkey-data");
    expect(valkey.healthcheck?.test).toEqual(["CMD", "valkey-cli", "ping"]);
    expect(valkey.ports).toBeUndefined();
  });

  test("gives Valkey a password, and does not start without one", () => {
    expect(option("requirepass")).toMatch(/^\$\{VALKEY_PASSWORD:\?.+\}$/);
    expect(valkey.environment?.REDISCLI_AUTH).toMatch(/^\$\{VALKEY_PASSWORD\}$/); // for the health check
  });

  test("lets the worker run many times over", () => {
    expect(worker.container_name).toBeUndefined();
    expect(worker.ports).toBeUndefined();
    expect(worker.environment?.WORKER_HOST).toBe("0.0.0.0");
  });

  test("gives the worker longer to end than the worker gives itself", () => {
    expect(seconds(worker.environment?.SHUTDOWN_TIMEOUT)).toBe(20);
    expect(seconds(worker.stop_grace_period)).toBeGreaterThan(20);
  });

  test("does not run the board without a password, or for other machines", () => {
    expect(board.environment?.BOARD_PASSWORD).toMatch(/^\$\{BOARD_PASSWORD:\?.+\}$/);
    expect(board.ports).toEqual(["127.0.0.1:3000:3000"]);
    expect(board.environment?.BOARD_HOST).toBe("0.0.0.0");
  });

  test.each(["worker", "board"] as const)("starts the %s once Valkey is healthy, and again when it ends", (name) => {
    const service = services[name];
    expect(service.environment?.VALKEY_URL).toMatch(/^redis:\/\/:\$\{VALKEY_PASSWORD:\?.+\}@valkey:6379$/);
    expect(service.depends_on).toEqual({ valkey: { condition: "service_healthy" } });
    expect(service.restart).toBe("unless-stopped");
  });
});

describe("settings", () => {
  /** The settings that a source reads, as `config.name` or in a `Pick<Config, …>`. */
  const readBy = async (...files: string[]) => {
    const text = (await Promise.all(files.map(read))).join("");
    const picked = [...text.matchAll(/Pick<\s*Config,([^>]+)>/g)].flatMap(([, keys = ""]) => keys.match(/\w+/g) ?? []);
    const keys = new Set([...text.matchAll(/\bconfig\.(\w+)/g)].map(([, key]) => key as string).concat(picked));
    if (keys.has("valkeyUrl") || keys.has("shards"))
      for (const key of ["valkeyUrls", "shardCount", "shardsBefore", "drainUrl"]) keys.add(key);
    return Object.entries(SETTINGS).filter(([key]) => keys.has(key)).map(([, { name }]) => name); // biome-ignore format: one step a line
  };
  // Which others may read it too makes no difference there; a port inside a container is nobody's concern.
  const isGiven = (service: Service) => (name: string) => name in (service.environment ?? {}) || name.endsWith("_PORT");

  test("all reach the worker but the board's", () => {
    const names = Object.values(SETTINGS).map(({ name }) => name);
    expect(names.filter((name) => !name.startsWith("BOARD_")).filter((name) => !isGiven(worker)(name))).toEqual([]);
    expect(names.filter((name) => name.startsWith("BOARD_") && isGiven(worker)(name))).toEqual(["BOARD_PORT"]);
  });

  test("that the board reads reach the board, and no secret that it does not read", async () => {
    const names = await readBy("src/board.ts", "src/board/app.ts");
    expect(names).toContain("WEBHOOK_TIMEOUT");
    expect(names).toContain("BOARD_ENVIRONMENT");
    // Only where the board is to rotate endpoints' secrets: with the key it could open all of them.
    const optional = ["WEBHOOK_ALLOW_PLAIN", "WEBHOOK_SECRET_KEYS"];
    expect(names.filter((name) => !isGiven(board)(name))).toEqual(optional);
    const secrets = Object.values(SETTINGS).filter(({ isSecret }) => isSecret);
    expect(secrets.map(({ name }) => name).filter((name) => isGiven(board)(name) && !names.includes(name))).toEqual([]);
  });
});

describe("Dockerfile", () => {
  test("is built on the Bun that package.json pins", () => {
    expect(dockerfile).toContain(`\nFROM oven/bun:${manifest.devDependencies.bun}-slim\n`);
  });

  test("installs what the lock file says, for production", () => {
    expect(dockerfile).toContain("\nRUN bun install --frozen-lockfile --production\n");
  });

  test("starts the worker as process 1 and not as root", () => {
    expect(dockerfile).toMatch(/\nUSER bun\n(?:.*\n)*STOPSIGNAL SIGTERM\nCMD \["bun", "src\/worker\.ts"\]\n$/);
    expect(dockerfile).not.toContain("ENTRYPOINT");
  });

  test.each(["/healthz", "/other"])("has a health check that asks for /healthz: %s is served", async (served) => {
    const command = JSON.parse(dockerfile.match(/HEALTHCHECK[^\n]*\\\n\s+CMD (\[.*\])\n/)?.[1] ?? "null") as string[];
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: (request) => new Response("", { status: new URL(request.url).pathname === served ? 200 : 404 }),
    });
    try {
      const env = { WORKER_PORT: String(server.port) };
      const check = Bun.spawn([process.execPath, ...command.slice(1)], { env, stdio: ["ignore", "ignore", "ignore"] });
      expect(await check.exited).toBe(served === "/healthz" ? 0 : 1);
    } finally {
      await server.stop(true);
    }
  });

  test("leaves settings and tests out of the image", async () => {
    const lines = (await read(".dockerignore")).split("\n").filter((line) => line !== "" && !line.startsWith("#"));
    expect(lines).toEqual(["*", "!package.json", "!bun.lock", "!tsconfig.json", "!src", "!jobs", "src/dev"]);
  });
});
