/** docker-compose.cluster.yml and docs/deploy/kubernetes-cluster.yml: what their nodes are run with, on real nodes, and how locked they are. */
import { afterEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { Redis } from "ioredis";
import { startValkey } from "../src/dev/valkey.ts";
import { SETTINGS } from "../src/settings/table.ts";
import { eventually } from "./support/stack.ts";

const read = (name: string) => Bun.file(join(import.meta.dir, "..", name)).text();
const PASSWORD = "of-the-test";
const endings: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

type Service = {
  image?: string;
  command?: string[];
  ports?: string[];
  volumes?: string[];
  environment?: Record<string, string | null>;
  healthcheck?: { test: string[] };
  depends_on?: Record<string, { condition: string }>;
  networks?: { default: { ipv4_address: string } };
  restart?: string;
};
type Compose = { services: Record<string, Service>; volumes: Record<string, unknown> };

const parse = async (name: string) => Bun.YAML.parse(await read(name)) as Compose;
const { services, volumes } = await parse("docker-compose.cluster.yml");
const { services: plain } = await parse("docker-compose.yml");
const NAMES = [1, 2, 3, 4, 5, 6].map((number) => `valkey-${number}`);
const serviceOf = (name: string): Service => services[name] as Service;
const nodes = NAMES.map(serviceOf);

/** Start a node as a file says, but for its place; what a file leaves out is set to what must not be. */
async function startNode(command: readonly string[]): Promise<{ port: number; client: Redis }> {
  const words = command.slice(1).map((word) => word.replace(/^\$\{VALKEY_PASSWORD.*\}$/, PASSWORD));
  const pairs = words.flatMap((word, index) => (index % 2 === 0 ? [[word.slice("--".length), words[index + 1]]] : []));
  const wrong = { appendonly: false, appendfsync: "no", policy: "allkeys-lru" } as const;
  const node = await startValkey({ ...wrong, password: PASSWORD, settings: Object.fromEntries(pairs) });
  const client = new Redis({ port: node.port, password: PASSWORD });
  endings.push(async () => {
    client.disconnect();
    await node.stop();
  });
  return { port: node.port, client };
}

async function settingsOf(client: Redis): Promise<Record<string, string>> {
  const pairs = (await client.config("GET", "*")) as string[];
  return Object.fromEntries(
    pairs.flatMap((name, index) => (index % 2 === 0 ? [[name, pairs[index + 1] as string]] : [])),
  );
}

const NODE_SETTINGS = {
  "cluster-enabled": "yes",
  "cluster-require-full-coverage": "no",
  "cluster-node-timeout": "5000",
  "cluster-replica-validity-factor": "0",
  appendonly: "yes",
  appendfsync: "everysec",
  "maxmemory-policy": "noeviction",
  "hash-max-listpack-value": "2048", // docs/sizing.md
  requirepass: PASSWORD,
  masterauth: PASSWORD,
};

describe("docker-compose.cluster.yml", () => {
  test("has six nodes, each with a volume and an address of its own, and no published port", () => {
    expect(nodes.map(({ volumes: own }) => own)).toEqual(NAMES.map((name) => [`${name}:/data`]));
    expect(Object.keys(volumes)).toEqual(NAMES);
    expect(new Set(nodes.map(({ networks }) => networks?.default.ipv4_address)).size).toBe(6);
    for (const { command, ports, image, healthcheck, restart } of nodes) {
      expect([command, ports, restart]).toEqual([nodes[0]?.command, undefined, "unless-stopped"]);
      expect([image, healthcheck]).toEqual([plain.valkey?.image, plain.valkey?.healthcheck]);
    }
  });

  test("has a password everywhere, and does not start without one", () => {
    const required = /^\$\{VALKEY_PASSWORD:\?.+\}$/;
    const { command = [] } = nodes[0] as Service;
    for (const name of ["requirepass", "masterauth"])
      expect(command[command.indexOf(`--${name}`) + 1]).toMatch(required);
    for (const name of ["worker", "board"]) {
      expect(serviceOf(name).environment?.VALKEY_URL).toMatch(
        /^redis\+cluster:\/\/:\$\{VALKEY_PASSWORD:\?.+\}@valkey-1,valkey-2,valkey-3$/,
      );
    }
  });

  test.each(["worker", "board"])("runs the %s as docker-compose.yml does, once the nodes are a cluster", (name) => {
    const { VALKEY_URL: _, WEBHOOK_SHARDS, ...environment } = serviceOf(name).environment ?? {};
    const { VALKEY_URL: __, WEBHOOK_SHARDS: ___, ...expected } = plain[name]?.environment ?? {};
    expect(environment).toEqual(expected);
    expect(WEBHOOK_SHARDS).toMatch(/^\$\{WEBHOOK_SHARDS:-12\}$/);
    const depends_on = { cluster: { condition: "service_completed_successfully" } };
    expect(serviceOf(name)).toEqual({ ...plain[name], environment: expect.anything(), depends_on });
  });

  test("makes its nodes a cluster with a replica each, once", async () => {
    const started = await Promise.all(nodes.map(({ command = [] }) => startNode(command)));
    const ports = started.map(({ port }) => port);
    const { client } = started[0] as (typeof started)[number];
    expect(await settingsOf(client)).toMatchObject(NODE_SETTINGS);
    const script = NAMES.reduce(
      (text, name, index) =>
        text
          .replaceAll(`${serviceOf(name).networks?.default.ipv4_address}:6379`, `127.0.0.1:${ports[index]}`)
          .replaceAll(`-h ${name} `, `-p ${ports[index]} `),
      (serviceOf("cluster").command?.[2] ?? "").replaceAll("$$", "$"),
    );
    const runs = [1, 2].map(() => () => {
      const env = { PATH: process.env.PATH, REDISCLI_AUTH: PASSWORD };
      return Bun.spawn(["sh", "-c", script], { env, stdio: ["ignore", "ignore", "ignore"] }).exited;
    });
    for (const run of runs) expect(await run()).toBe(0);
    const shape = async () => ((await client.cluster("NODES")) as string).match(/(?<=[ ,])(master|slave) /g)?.sort();
    await eventually(shape, (roles) => roles?.join("") === `${"master ".repeat(3)}${"slave ".repeat(3)}`, 40_000, 50);
  }, 60_000);
});

type KubernetesObject = {
  kind: string;
  metadata: { name: string };
  data?: Record<string, string>;
  spec: {
    replicas?: number;
    template?: { spec: { automountServiceAccountToken: boolean; containers: Record<string, unknown>[] } };
    ingress?: { from: unknown[]; ports: { port: number }[] }[];
  };
};

describe("docs/deploy/kubernetes-cluster.yml", async () => {
  const text = await read("docs/deploy/kubernetes-cluster.yml");
  const objects = Bun.YAML.parse(text) as KubernetesObject[];
  const find = (kind: string, name = "valkey") =>
    objects.find((object) => object.kind === kind && object.metadata.name === name) as KubernetesObject;

  test("runs its pods without a token and without rights, each behind a network policy", async () => {
    const workers = Bun.YAML.parse(await read("docs/deploy/kubernetes.yml")) as KubernetesObject[];
    const { securityContext } = workers[0]?.spec.template?.spec.containers[0] ?? {};
    for (const { metadata, spec } of [find("StatefulSet"), find("Job", "valkey-create")]) {
      expect(spec.template?.spec.automountServiceAccountToken).toBe(false);
      expect(spec.template?.spec.containers[0]?.securityContext).toEqual(securityContext);
      expect(objects).toContainEqual(expect.objectContaining({ kind: "NetworkPolicy", metadata }));
    }
    expect(find("NetworkPolicy", "valkey-create").spec.ingress).toBeUndefined();
    expect(find("NetworkPolicy").spec.ingress?.map(({ ports }) => ports.map(({ port }) => port))).toEqual([
      [6379, 16_379],
      [6379],
    ]);
  });

  test("has nodes with the settings of docker-compose.cluster.yml", async () => {
    const { data = {} } = find("ConfigMap");
    const fromFile = (data["valkey.conf"] ?? "")
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("dir "))
      .flatMap((line) => [`--${line.split(" ")[0]}`, line.split(" ").slice(1).join(" ")]);
    const given = ["--requirepass", PASSWORD, "--masterauth", PASSWORD];
    const { client } = await startNode(["valkey-server", ...fromFile, ...given]);
    expect(await settingsOf(client)).toMatchObject(NODE_SETTINGS);
    expect(data["start.sh"]).toContain('--requirepass "$REDISCLI_AUTH" --masterauth "$REDISCLI_AUTH"');
    for (const script of ["start.sh", "create.sh"]) {
      const check = Bun.spawnSync(["sh", "-n"], { stdin: Buffer.from(data[script] ?? "") });
      expect([script, check.exitCode]).toEqual([script, 0]);
    }
  });

  test("spreads six nodes over machines, and lets one go at a time", () => {
    expect(find("StatefulSet").spec.replicas).toBe(6);
    expect(text).toContain("requiredDuringSchedulingIgnoredDuringExecution");
    expect(find("PodDisruptionBudget").spec).toMatchObject({ maxUnavailable: 1 });
  });

  test("tells of settings that exist", () => {
    const names = Object.values(SETTINGS).map(({ name }) => name);
    const named = text.match(/\b(?:WEBHOOK|WORKER|BOARD|VALKEY)_[A-Z]+\b/g) ?? [];
    expect(named.filter((name) => !names.includes(name))).toEqual([]);
  });
});
